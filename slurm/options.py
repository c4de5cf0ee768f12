"""The options of an executor: what a user gives as `name=value`, checked against its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, TypeVar

from ..results_db.endpoint import KINDS
from ..trainer.parts import nearest
from .base import Context
from .resources import Resources, from_options

_Options = TypeVar("_Options")


def names(defaults: object, refused: Collection[str] = ()) -> frozenset[str]:
    """Return all names that `parse_options` takes."""
    found = {field.name for kind in (defaults, Resources()) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return frozenset(found - set(refused))


def parse_options(
    defaults: _Options,
    context: Context,
    *,
    fractions: bool = False,
    refused: Collection[str] = (),
) -> tuple[_Options, dict[str, Resources]]:
    """Parse `context` into the executor's own options and the resources of each kind of run.

    A name is a field of `defaults` (a dataclass) or of `Resources`; `KIND.field` sets the latter
    for one kind. Without `fractions` GPUs are whole; `refused` are fields that mean nothing to the
    executor. Raises ValueError for anything else.
    """
    own: dict[str, Any] = {}
    common: dict[str, object] = {}
    extra: list[tuple[str, str | bool]] = []
    special: dict[str, dict[str, object]] = {kind: {} for kind in KINDS}
    fields = {field.name for field in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    known = sorted(names(defaults, refused))
    for name, value in (context.options or {}).items():
        kind, dot, field = name.rpartition(".")
        if kind == "extra" and "extra" in known:
            extra.append((field, value if value is True else str(value)))
            continue
        if dot and kind not in special:
            raise ValueError(
                f"resource: {name!r}: {kind!r} is no kind of run{nearest(kind, KINDS)}; "
                f"allowed: {', '.join(KINDS)}"
            )
        if (field not in known) or (dot and field in fields):
            raise ValueError(
                f"resource: {name!r} is unknown{nearest(field, known)}; allowed: {', '.join(known)}"
            )
        if dot:
            special[kind][field] = value
        elif name in fields:
            own[name] = _checked(name, value, type(getattr(defaults, name)))
        else:
            common[name] = value
    gpus = 0 if not context.use_gpu else context.gpus if context.gpus is not None else 1
    if extra:
        common["extra"] = tuple(extra)
    base = from_options(common, Resources(gpus=gpus))
    resources = {kind: from_options(special[kind], base) for kind in KINDS}
    for kind, wanted in resources.items():
        if "cpus" not in common and "cpus" not in special[kind]:
            cpus = max(context.threads, 2 if wanted.gpus else 1) * wanted.group_size
            resources[kind] = dataclasses.replace(wanted, cpus=cpus // wanted.nodes)
        elif wanted.nodes > 1 and wanted.cpus * wanted.nodes < wanted.group_size:
            raise ValueError(
                f"{kind}.cpus: {wanted.cpus} is not allowed with {wanted.group_size} processes on "
                f"{wanted.nodes} nodes; each needs one of its own"
            )
        if not fractions and wanted.gpus != int(wanted.gpus):
            raise ValueError(f"{kind}.gpus: {wanted.gpus} is not allowed; must be a whole number")
    return dataclasses.replace(defaults, **own), resources  # type: ignore[type-var]


def _checked(name: str, value: object, kind: type) -> object:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"resource: {name}: {value!r} is not allowed; must be a {kind.__name__}")
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"resource: {name}: {value!r} is not allowed; must be printable")
    if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
        raise ValueError(f"resource: {name}: {value!r} is not allowed; must be above 0")
    return value
