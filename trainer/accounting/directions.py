"""Read which way each recorded metric is better from the source of its part."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

DIRECTIONS = ("lower", "higher")  # what BETTER may say of a metric


# A part that gives one metric may call it after what it measures: rfid of reconstructions, gfid of
# generated images.
STAGE_LETTERS = ("", "r", "g")


def better(declared: str | Mapping[str, str | None], metric: str) -> str | None:
    """Return the direction of `metric` by the `BETTER` of the module that records it, or None."""
    return declared if isinstance(declared, str) else declared.get(metric)


@cache
def directions() -> Mapping[str, str | None]:
    """Return what each recorded metric is better: "lower", "higher", or None for neither.

    Every module of this package that records metrics declares them in a constant `BETTER`. The
    source is read, nothing is imported. ValueError: a declaration that is no literal or holds
    another word, or two that differ.
    """
    found: dict[str, str | None] = {}
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        for metric, direction in declared_in(path).items():
            if found.setdefault(metric, direction) != direction:
                raise ValueError(
                    f"{path.name}: BETTER: {metric!r} is {direction!r}, but another part declares "
                    f"{found[metric]!r}; allowed: one direction for a name"
                )
    return MappingProxyType(found)


def declared_in(path: Path) -> dict[str, str | None]:
    """Return metric -> direction as the module at `path` declares it; empty without `BETTER`."""
    source = path.read_text()
    if "\nBETTER" not in source:
        return {}
    value: Any = None
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == "BETTER" for target in targets):
            try:
                value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            except ValueError:
                raise ValueError(
                    f"{path.name}: BETTER: is computed; allowed: a literal, read without importing"
                ) from None
    allowed = f"{' or '.join(DIRECTIONS)}, or a dict of these (None: neither) by metric"
    if isinstance(value, str):
        value = {f"{letter}{path.stem}": value for letter in STAGE_LETTERS}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path.name}: BETTER: {value!r}; allowed: {allowed}")
    for metric, direction in value.items():
        if not isinstance(metric, str) or direction not in (*DIRECTIONS, None):
            raise ValueError(f"{path.name}: BETTER: {metric!r}: {direction!r}; allowed: {allowed}")
    return value
