"""Make the id of a run: a hash of all that can change its result, and of nothing else.

The planner, the trainer and those who read run folders make their ids here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cache
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from ...results_db.state import TRUNK
from ...results_db.strict_json import canonical_json
from .config import Part, TokenizerConfig, is_segment

SCHEME = 1  # number of the identity scheme: raised only if the hashed text changes its form

_ALWAYS = object()  # instead of an id_default: the field is never left out


class RunIds:
    """Make the ids of many runs; a config, and a value that many configs hold, becomes text once.

    They are known by their addresses, which is fast and tells 0.0 from -0.0. They are kept, so that
    nothing else takes these addresses.
    """

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._kept: list[Any] = []

    def of(self, kind: str, config: Any, parents: Mapping[str, str]) -> str:
        """Return the first 16 hex digits of sha256 over kind, config, parents and scheme number.

        The parent `trunk` of a segment is left out: training to an iteration at a constant rate
        gives the same state from wherever on the way it goes on.
        """
        roles = sorted(parents)
        if TRUNK in parents and is_segment(config):
            roles.remove(TRUNK)
        above = ",".join([f"{quoted(role)}:{quoted(parents[role])}" for role in roles])
        text = (
            f'{{"config":{self._config_text(config)},"kind":"{kind}",'
            f'"parents":{{{above}}},"scheme":{SCHEME}}}'
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _config_text(self, config: Any) -> str:
        known = self._texts
        text = known.get(id(config))
        if text is None:
            pairs = [
                prefix + (known.get(id(value)) or self._value_text(value))
                for prefix, value in _hashed(config)
            ]
            text = "{" + ",".join(pairs) + "}"
            self._keep(config, text)
        return text

    def _value_text(self, value: Any) -> str:
        text = canonical_json(id_tree(value), check_keys=False)
        self._keep(value, text)
        return text

    def _keep(self, value: Any, text: str) -> None:
        self._texts[id(value)] = text
        self._kept.append(value)


def run_id(kind: str, config: Any, parents: Mapping[str, str]) -> str:
    """Return the id of one run."""
    return RunIds().of(kind, config, parents)


def id_tree(value: Any) -> Any:
    """Return plain data of a config, or of a value in it, without what is in no id."""
    if isinstance(value, Part):
        return {"name": value.name, "version": value.version, **id_tree(value.config)}
    if dataclasses.is_dataclass(value):
        return {prefix[1:-2]: id_tree(inner) for prefix, inner in _hashed(value)}
    if isinstance(value, list | tuple):
        return [id_tree(item) for item in value]
    return value


def _hashed(config: Any) -> list[tuple[str, Any]]:
    """Return the fields of a config that are in its id, sorted: each name as JSON begins it, and
    the value.

    A field is left out while it holds its frozen `id_default`, and where `in_id` is False: it tells
    how a result is reached and not which.
    """
    cls: type = type(config)
    fields = [
        (prefix, value)
        for name, prefix, default in _fields(cls)
        for value in (getattr(config, name),)
        if default is _ALWAYS or value != default
    ]
    if isinstance(config, TokenizerConfig) and _clips_parts(config):
        fields = sorted([*fields, ('"clips_parts":', True)], key=lambda pair: pair[0])
    return fields


def _clips_parts(config: TokenizerConfig) -> bool:
    """Tell if gradients of a discriminator or regulariser are clipped.

    The code that made the first ids never clipped them, whatever the settings. The mark gives new
    ids to the runs that clipping changes, and leaves all others theirs.
    """
    parts = [part.config for part in (config.regularizer, config.adversarial) if part is not None]
    # A part in the wrong place, which has no optimiser, is refused when the run begins.
    trained = [part for part in parts if hasattr(part, "optim_for")]
    return any(part.optim_for(config.optim).clip > 0 for part in trained)


@cache
def _fields(cls: type) -> list[tuple[str, str, Any]]:
    return [
        (field.name, f'"{field.name}":', field.metadata.get("id_default", _ALWAYS))
        for field in sorted(dataclasses.fields(cls), key=lambda field: field.name)
        if field.metadata.get("in_id", True)
    ]
