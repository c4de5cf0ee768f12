"""`--set`: settings from the command line, by the same paths as arms and axes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..trainer.parts import nearest
from .grid import Axis, Grid, Zipped, paths_of


def parse_value(text: str) -> Any:
    """Parse a JSON literal; return the text itself when it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_set(text: str) -> tuple[str, Any]:
    """Parse `path=value` into a pair."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ValueError(f"--set: {text!r}; allowed: path=value, e.g. generator.iterations=100")
    return path.strip(), parse_value(value)


def overridden(grid: Grid, overrides: Iterable[tuple[str, Any]]) -> Grid:
    """Apply `--set` to the grid.

    `STAGE.path` wins over arms and axes, `arms.NAME.STAGE.path` counts in one arm, and `axes.NAME`
    takes the new values of an axis (for labelled axes: which labels to keep). A path that an axis
    sets is refused, because all its points would become one.
    """
    for path, value in overrides:
        root, _, rest = path.partition(".")
        if root == "axes":
            grid = _with_axis(grid, rest, value)
        elif root == "arms":
            grid = _with_arm(grid, rest, value)
        else:
            grid.check_path(path, "--set")
            _refuse_axis_path(grid, path, grid.arms)
            grid = dataclasses.replace(grid, fixed=(*grid.fixed, (path, value)))
    return grid


def _with_axis(grid: Grid, name: str, value: Any) -> Grid:
    known = tuple(axis.name for axis in grid.flat_axes())
    if name not in known:
        raise ValueError(
            f"--set: axes.{name} is not an axis of the study{nearest(name, known)}; "
            f"allowed: {', '.join(known)}"
        )
    values = value if isinstance(value, list) else [value]

    def change(axis: Axis) -> Axis:
        if axis.name != name:
            return axis
        if not isinstance(axis.levels, Mapping):
            return dataclasses.replace(axis, levels=tuple(values))
        for label in values:
            if label not in axis.levels:
                labels = tuple(axis.levels)
                raise ValueError(
                    f"--set: axes.{name} has no {label!r}{nearest(str(label), labels)}; "
                    f"allowed: {', '.join(labels)}"
                )
        return dataclasses.replace(axis, levels={label: axis.levels[label] for label in values})

    axes = tuple(
        Zipped(tuple(change(axis) for axis in entry.axes))
        if isinstance(entry, Zipped)
        else change(entry)
        for entry in grid.axes
    )
    arms = {
        arm_name: dataclasses.replace(arm, axes=tuple(change(axis) for axis in arm.axes))
        for arm_name, arm in ((arm_name, grid.arm(arm_name)) for arm_name in grid.arms)
    }
    return dataclasses.replace(grid, axes=axes, arms=arms)


def _with_arm(grid: Grid, rest: str, value: Any) -> Grid:
    # Arm names may hold dots: the longest name that fits is meant.
    names = [name for name in grid.arms if rest.startswith(f"{name}.")]
    if not names:
        known = tuple(grid.arms)
        name = rest.split(".")[0]
        raise ValueError(
            f"--set: arms.{name} is not an arm of the study{nearest(name, known)}; "
            f"allowed: {', '.join(known)}"
        )
    name = max(names, key=len)
    path = rest[len(name) + 1 :]
    grid.check_path(path, "--set")
    _refuse_axis_path(grid, path, (name,))
    arm = grid.arm(name)
    sets = {old: v for old, v in arm.sets.items() if not _covers(path, old)}
    arms = {**grid.arms, name: dataclasses.replace(arm, sets={**sets, path: value})}
    return dataclasses.replace(grid, arms=arms)


def _refuse_axis_path(grid: Grid, path: str, arms: Iterable[str]) -> None:
    for arm_name in arms:
        for axis in (axis for group in grid.groups(arm_name) for axis in group):
            if any(_covers(path, axis_path) for axis_path in paths_of(axis)):
                raise ValueError(
                    f"--set: {path} is what the axis {axis.name!r} varies; "
                    f"allowed: --set axes.{axis.name}=[...]"
                )


def _covers(path: str, other: str) -> bool:
    """Tell if setting `path` overwrites the value at `other`."""
    return other == path or other.startswith(f"{path}.")
