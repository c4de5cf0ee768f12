"""Studies as plain data: one tree of settings per stage, named arms, axes and filters, all through
dotted paths.

A study is a function `study() -> Grid`. Its first path component names a stage (`data`,
`extractor`, `tokenizer`, `codes`, `generator`, `evaluations.NAME`), the rest a field below it:

    Grid(
        data={"dataset": part("digits"), "resolution": 32},
        tokenizer={"tokenizer": part("vqgan"), "quantizer": part("vq"), ...},
        generator={"model": {"width": 64, "layers": 2, "heads": 2}, "iterations": 100},
        evaluations={"samples": {"subject": "generator", "metrics": [part("fcd")]}},
        arms={"vq": {}, "crt": {"tokenizer.regularizer": part("crt")}},
        axes=(Axis("iterations", (100, 200, 400), path="generator.iterations"),),
    )

No torch here: a study is read without importing the parts it names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..trainer.parts import nearest

Tree = Mapping[str, Any]
Scalar = str | int | float | bool | None

STAGES = ("data", "extractor", "tokenizer", "codes", "generator", "evaluations")
# Columns of the table of results that an axis may not shadow.
RESERVED = ("study", "arm", "run_id", "tokenizer_id", "codes_id", "status", "kind", "commit")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def part(name: str, **options: Any) -> dict[str, Any]:
    """Name a part by its file, with options other than its defaults.

    Example: `part("vq", codebook_size=1024)`.
    """
    return {"name": name, **options}


@dataclass(frozen=True, slots=True)
class Level:
    """One point of an axis: the value that tables show, and what it sets."""

    value: Scalar
    assignments: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """Named values of one thing that varies.

    Either labels that each set one or more paths, `Axis("size", {"S": {"generator.model.width": 64,
    ...}})`, or values of one path (or of several that move together), `Axis("iterations", (100,
    200), path="generator.iterations")`.
    """

    name: str
    levels: Mapping[Any, Tree] | Sequence[Scalar]  # labels are text or numbers
    path: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_name("axis", self.name)
        if hasattr(self.levels, "tolist"):  # an array of numpy
            object.__setattr__(self, "levels", tuple(self.levels.tolist()))
        if self.name in RESERVED or "." in self.name:
            raise ValueError(f"axis: {self.name!r} is taken; allowed: any other name without a dot")
        listed = isinstance(self.levels, Mapping | Sequence) and not isinstance(self.levels, str)
        if not listed or not self.levels:
            raise ValueError(f"axes.{self.name}: needs at least one value")
        labelled = isinstance(self.levels, Mapping)
        if labelled == (self.path is not None):
            raise ValueError(
                f"axes.{self.name}: give either labels with the paths they set, or values and path="
            )
        seen: set[Any] = set()
        for value in (level.value for level in self.points):
            if not isinstance(value, Scalar):
                raise ValueError(
                    f"axes.{self.name}: {value!r} cannot be a column of a table; "
                    "allowed: numbers, text, or labels that set paths"
                )
            if isinstance(value, str):
                _check_label(self.name, value)
            if value in seen:
                raise ValueError(f"axes.{self.name}: {value!r} is given twice")
            seen.add(value)

    @property
    def points(self) -> tuple[Level, ...]:
        if isinstance(self.levels, Mapping):
            return tuple(
                Level(_plain(label), tuple((path, _plain(value)) for path, value in sets.items()))
                for label, sets in self.levels.items()
            )
        paths = (self.path,) if isinstance(self.path, str) else tuple(self.path or ())
        values = [_plain(value) for value in self.levels]
        return tuple(Level(value, tuple((path, value) for path in paths)) for value in values)


@dataclass(frozen=True, slots=True)
class Zipped:
    """Axes of equal length that move together."""

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        sizes = {axis.name: len(axis.levels) for axis in self.axes}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"zipped axes: lengths {sizes} differ; allowed: equal lengths")


def zipped(*axes: Axis) -> Zipped:
    """Join axes that move together, value by value, instead of in a product."""
    return Zipped(axes)


@dataclass(frozen=True, slots=True)
class Where:
    """A filter over cells. Dropped cells are listed in the plan with the reason."""

    keep: Callable[[Mapping[str, Scalar]], bool]
    reason: str


def where(keep: Callable[[Mapping[str, Scalar]], bool], reason: str) -> Where:
    """Keep the cells for which `keep(cell)` holds.

    A cell maps `arm` and each axis name to its value.
    """
    return Where(keep, reason)


@dataclass(frozen=True, slots=True)
class Arm:
    """Settings of one line of a figure, and its axes in place of the study's of the same name."""

    sets: Tree = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A study: settings of each stage, and what varies."""

    data: Tree  # dataset, resolution; counts and digest where the data are not at hand
    tokenizer: Tree  # trainer.accounting.config.TokenizerConfig without its data
    codes: Tree | None = None  # CodesConfig; None: its defaults where there is a generator
    generator: Tree | None = None  # GeneratorConfig; None: no stage 2
    extractor: Tree | None = None  # ExtractorConfig, for metrics that need a classifier of our own
    evaluations: Mapping[str, Tree] = field(default_factory=dict)  # name -> EvaluationConfig
    primary: tuple[
        str, ...
    ] = ()  # the evaluations that tables join; default: first of each subject
    arms: Mapping[str, Tree | Arm] = field(default_factory=lambda: {"base": {}})
    axes: tuple[Axis | Zipped, ...] = ()
    where: tuple[Where, ...] = ()
    # What jobs ask of a cluster, as `--resource`: {"partition": "gpu", "tokenizer.gpus": 8}; no id
    # depends on it, and local launches leave it aside.
    resources: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[tuple[str, Any], ...] = ()  # set last, over arms and axes: --set
    share_trunks: bool = True  # wsd: train what runs of any length have in common once
    name: str = ""  # the study's name; default: its file's

    def __post_init__(self) -> None:
        if self.name:
            _check_name("study", self.name)
        if not self.arms:
            raise ValueError("arms: a study needs at least one; allowed: any name")
        for name in self.arms:
            _check_name("arm", name)
        for name in self.evaluations:
            _check_name("evaluation", name)
        for name in self.primary:
            if name not in self.evaluations:
                hint = nearest(name, tuple(self.evaluations))
                raise ValueError(
                    f"primary: there is no evaluation {name!r}{hint}; "
                    f"allowed: {', '.join(self.evaluations)}"
                )
        known = tuple(axis.name for axis in self.flat_axes())
        for name in known:
            if known.count(name) > 1:
                raise ValueError(f"axes: {name!r} is given twice")
        for arm_name, arm in self.arms.items():
            for axis in arm.axes if isinstance(arm, Arm) else ():
                if axis.name not in known:
                    raise ValueError(
                        f"arms.{arm_name}.axes: {axis.name!r} is not an axis of the study"
                        f"{nearest(axis.name, known)}; allowed: {', '.join(known)}"
                    )
        for where_set, path in self._all_paths():
            self.check_path(path, where_set)

    def flat_axes(self) -> tuple[Axis, ...]:
        """Return all axes in order, zipped ones one after another."""
        flat: list[Axis] = []
        for entry in self.axes:
            flat += entry.axes if isinstance(entry, Zipped) else (entry,)
        return tuple(flat)

    def arm(self, name: str) -> Arm:
        arm = self.arms[name]
        return arm if isinstance(arm, Arm) else Arm(arm)

    def groups(self, arm_name: str) -> list[tuple[Axis, ...]]:
        """Return the axes of an arm, its own in place of the study's; zipped ones share a group."""
        own = {axis.name: axis for axis in self.arm(arm_name).axes}
        groups = []
        for entry in self.axes:
            axes = entry.axes if isinstance(entry, Zipped) else (entry,)
            groups.append(Zipped(tuple(own.get(axis.name, axis) for axis in axes)).axes)
        return groups

    def stage_names(self) -> tuple[str, ...]:
        """Return the stages of this study, evaluations by their full name."""
        present = ["data", "tokenizer"]
        present += ["extractor"] if self.extractor is not None else []
        present += ["codes"] if self.codes is not None or self.generator is not None else []
        present += ["generator"] if self.generator is not None else []
        return (*present, *(f"evaluations.{name}" for name in self.evaluations))

    def check_path(self, path: str, where_set: str) -> None:
        """Raise ValueError unless `path` starts with a stage of this study and goes on."""
        stages = self.stage_names()
        stage, rest = split_path(path)
        if stage not in stages:
            raise ValueError(
                f"{where_set}: {path!r} names no stage of this study{nearest(stage, stages)}; "
                f"allowed to start with: {', '.join(stages)}"
            )
        if not rest:
            raise ValueError(
                f"{where_set}: {path!r} names a whole stage; allowed: a field below it"
            )

    def _all_paths(self) -> Iterable[tuple[str, str]]:
        for arm_name in self.arms:
            arm = self.arm(arm_name)
            yield from ((f"arms.{arm_name}", path) for path in arm.sets)
            for axis in arm.axes:
                yield from ((f"arms.{arm_name}.axes.{axis.name}", p) for p in paths_of(axis))
        for axis in self.flat_axes():
            yield from ((f"axes.{axis.name}", path) for path in paths_of(axis))
        yield from (("--set", path) for path, _ in self.fixed)


def paths_of(axis: Axis) -> tuple[str, ...]:
    """Return all paths that some level of `axis` sets."""
    return tuple(dict.fromkeys(path for level in axis.points for path, _ in level.assignments))


def split_path(path: str) -> tuple[str, str]:
    """Split a dotted path into (stage, rest).

    `evaluations.samples.seed` gives (`evaluations.samples`, `seed`).
    """
    steps = path.split(".")
    head = 2 if steps[0] == "evaluations" else 1
    return ".".join(steps[:head]), ".".join(steps[head:])


def assigned(tree: Tree, path: str, value: Any) -> dict[str, Any]:
    """Return a copy of `tree` with `value` at the dotted `path`, sharing all other branches.

    A bare part name on the way becomes a part with options; ValueError when something else stands
    in the way.
    """
    step, _, rest = path.partition(".")
    copy = dict(tree)
    if not rest:
        copy[step] = value
        return copy
    below = copy.get(step)
    if isinstance(below, str):
        below = {"name": below}
    if below is not None and not isinstance(below, Mapping):
        raise ValueError(f"{path}: {step} holds {below!r}; allowed: paths to fields that exist")
    copy[step] = assigned(below or {}, rest, value)
    return copy


def _plain(value: Any) -> Any:
    """Return a scalar of numpy as Python's own, and anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _check_label(axis: str, label: str) -> None:
    """Refuse text that a terminal or a spreadsheet would take for more than a name."""
    if not label.isprintable() or len(label) > 100 or label.startswith(("=", "@")):
        raise ValueError(
            f"axes.{axis}: {ascii(label)[:60]} cannot be a label; allowed: at most 100 printable "
            "characters, not beginning with = or @"
        )


def _check_name(field_name: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{field_name}: {name!r} is not a name; allowed: {_NAME.pattern}")
