"""Configs of one stage of one arm, cell by cell.

The axes of a study are few and its cells many, so a field of a config is decoded once for each
combination of the axes that set something in it, and a config is put together from decoded fields.
Checks across fields (`__post_init__`) run every time. Configs that agree in a field then hold the
same object there, which is what makes their ids fast (`trainer.accounting.identity.RunIds`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ..trainer.accounting.config import CONFIGS, decode, field_names
from .data_facts import DataFacts
from .grid import Axis, Grid, Tree, assigned, paths_of, split_path

_ABSENT = object()


class StageConfigs:
    """The configs of one stage; a cell is one index into the values of each group of axes."""

    def __init__(
        self,
        stage: str,
        kind: str,
        *,
        grid: Grid,
        arm: str,
        facts: DataFacts,
        groups: Sequence[Sequence[Axis]],
    ) -> None:
        self._stage, self._kind, self._arm = stage, kind, arm
        self._cls = CONFIGS[kind]
        self._data, self._facts = grid.data, facts
        self._base = _base(grid, stage)
        self._first = tuple(grid.arm(arm).sets.items())
        self._levels = [[axis.points for axis in group] for group in groups]
        self._last = grid.fixed
        self._groups = self._groups_by_field()
        # Groups of axes, and names of axes, that change the config.
        self.groups = tuple(sorted({group for found in self._groups.values() for group in found}))
        self.axes = {axis.name for members in groups for axis in members if self._touches(axis)}
        self._names = sorted(field_names(self._cls))
        # Fields that axes set, with their place among the names.
        self._moving = [
            (place, name, self._groups[name])
            for place, name in enumerate(self._names)
            if name in self._groups
        ]
        self._seen: dict[tuple[str, tuple[int, ...]], Any] = {}  # decoded values
        self._first_values: list[Any] = []

    def at(self, cell: Sequence[int]) -> Any:
        """Return the decoded config of a cell.

        ValueError in one line, with the arm, when the cell's settings are refused.
        """
        values = self._known(cell)
        try:
            if values is not None:
                return self._cls(**dict(zip(self._names, values, strict=True)))
            config = decode(self._cls, self.tree(cell), where=self._stage)
        except ValueError as error:
            raise ValueError(f"{error} (arm {self._arm})") from None
        self._remember(cell, [getattr(config, name) for name in self._names])
        return config

    def _known(self, cell: Sequence[int]) -> list[Any] | None:
        """Return the values of the fields of a cell, if each of them was decoded before."""
        if not self._first_values:
            return None
        values = self._first_values.copy()
        for place, name, groups in self._moving:
            value = self._seen.get((name, tuple([cell[group] for group in groups])), _ABSENT)
            if value is _ABSENT:
                return None
            values[place] = value
        return values

    def _remember(self, cell: Sequence[int], values: list[Any]) -> None:
        self._first_values = self._first_values or values
        for place, name, groups in self._moving:
            self._seen[name, tuple([cell[group] for group in groups])] = values[place]

    def tree(self, cell: Sequence[int]) -> Tree:
        """The settings of a cell as plain data: base, then the arm, the axes, and `--set`."""
        tree, data = self._base, self._data
        for path, value in self._assignments(cell):
            head, rest = split_path(path)
            if head == self._stage:
                tree = assigned(tree, rest, value)
            elif head == "data":
                data = assigned(data, rest, value)
        if self._kind == "generator":
            return tree
        own = tree.get("data", {})
        for name in own:
            if name != "resolution":
                raise ValueError(
                    f"{self._stage}.data.{name}: every stage follows the study's data; "
                    f"allowed: data.{name}, or {self._stage}.data.resolution"
                )
        return {**tree, "data": {**self._facts.filled(data), **own}}

    def values_of(self, name: str) -> list[Any]:
        """What the field `name` is set to, over all cells (None where it is not set)."""
        moving = self._groups.get(name, ())
        values = []
        for indices in itertools.product(*(range(len(self._levels[g][0])) for g in moving)):
            cell = [0] * len(self._levels)
            for group, index in zip(moving, indices, strict=True):
                cell[group] = index
            values.append(self.tree(cell).get(name))
        return values

    def _touches(self, axis: Axis) -> bool:
        heads = {split_path(path)[0] for path in paths_of(axis)}
        return self._stage in heads or ("data" in heads and self._kind != "generator")

    def _assignments(self, cell: Sequence[int]) -> Iterable[tuple[str, Any]]:
        yield from self._first
        for group, axes in enumerate(self._levels):
            for points in axes:
                yield from points[cell[group]].assignments
        yield from self._last

    def _groups_by_field(self) -> dict[str, tuple[int, ...]]:
        """For each field of the config: the groups of axes that set something in it."""
        found: dict[str, set[int]] = {}
        for group, axes in enumerate(self._levels):
            for path in (p for points in axes for point in points for p, _ in point.assignments):
                head, rest = split_path(path)
                if head == self._stage:
                    found.setdefault(rest.split(".")[0], set()).add(group)
                elif head == "data" and self._kind != "generator":
                    found.setdefault("data", set()).add(group)
        return {name: tuple(sorted(groups)) for name, groups in found.items()}


def _base(grid: Grid, stage: str) -> Tree:
    if stage.startswith("evaluations."):
        return grid.evaluations[stage.partition(".")[2]]
    trees = {
        "extractor": grid.extractor,
        "tokenizer": grid.tokenizer,
        "codes": grid.codes,
        "generator": grid.generator,
    }
    return trees[stage] or {}
