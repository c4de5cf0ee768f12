"""The work graph of a study: its runs with ids, parents and costs, shared ones made once.

Each arm is walked cell by cell. A stage's run depends on the axes that touch the stage or one of
its ancestors, so cells that agree on those share it; equal ids of several arms are one run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..trainer import parts
from ..trainer.accounting.config import TRAINED_KINDS
from ..trainer.accounting.identity import RunIds
from . import cost
from .data_facts import DataFacts
from .grid import Axis, Grid, Tree
from .stage_configs import StageConfigs
from .trunks import Trunks

# Roles of the parents of each kind; an evaluation's depend on its subject.
PARENTS = {
    "extractor": (),
    "tokenizer": (),
    "codes": ("tokenizer",),
    "generator": ("codes",),
}
SUBJECT_PARENTS = {"tokenizer": ("tokenizer",), "generator": ("generator", "codes", "tokenizer")}


@dataclass(frozen=True, slots=True)
class Member:
    """That a run belongs to an arm of the study, at these values of the axes that touch it."""

    arm: str
    axes: dict[str, Any]
    primary: bool  # whether tables show it: not of segments, nor of secondary evaluations
    evaluation: str | None = None  # the study's name for an evaluation


@dataclass(slots=True)
class Draft:
    """A run of the graph before its state is known."""

    kind: str
    config: Any
    parents: dict[str, str]
    work: cost.Work
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of one arm."""

    name: str  # tokenizer, evaluations.samples, ...
    kind: str
    parents: tuple[str, ...]  # roles, which are stage names too
    configs: StageConfigs
    lineage: tuple[int, ...]  # groups of axes that change its id
    axes: tuple[tuple[int, str, tuple[Any, ...]], ...]  # (group, name, values) listed for its runs
    primary: bool

    @property
    def evaluation(self) -> str | None:
        return self.name.partition(".")[2] or None


class Graph:
    """The runs of all arms of a study; `drafts` is in order of discovery, parents first.

    `home` is where segments of trunks may lie that earlier plans made.
    """

    def __init__(self, grid: Grid, facts: DataFacts, home: str | os.PathLike[str]) -> None:
        self.drafts: dict[str, Draft] = {}
        self.dropped: list[tuple[dict[str, Any], str]] = []
        self.warnings: list[str] = []
        self._grid = grid
        self._facts = facts
        self._subjects = {name: _subject(name, tree) for name, tree in grid.evaluations.items()}
        self.primary = _primary(grid, self._subjects)
        self._ids = RunIds()
        self._trunks = Trunks(self._ids)
        for arm in grid.arms:
            self._add_arm(arm)
        self._add_segments(home)

    def _add_arm(self, arm: str) -> None:
        groups = self._grid.groups(arm)
        stages: dict[str, _Stage] = {}
        for name in _stage_order(self._grid):
            stages[name] = self._stage(name, arm, groups, stages)
        axes = [
            (group, axis.name, [point.value for point in axis.points])
            for group, members in enumerate(groups)
            for axis in members
        ]
        memo: dict[str, dict[tuple[int, ...], str]] = {name: {} for name in stages}
        configs: dict[str, dict[tuple[int, ...], Any]] = {name: {} for name in stages}
        kept = False
        for cell in itertools.product(*(range(len(members[0].levels)) for members in groups)):
            if self._grid.where and self._is_dropped(arm, axes, cell):
                continue
            kept = True
            ids: dict[str, str] = {}
            for name, stage in stages.items():
                key = tuple([cell[group] for group in stage.lineage])
                run_id = memo[name].get(key)
                if run_id is None:
                    own = tuple([cell[group] for group in stage.configs.groups])
                    if own not in configs[name]:
                        configs[name][own] = stage.configs.at(cell)
                    run_id = self._add_run(arm, stage, cell, configs[name][own], ids)
                    memo[name][key] = run_id
                ids[name] = run_id
        if not kept:
            self.warnings.append(f"arm {arm}: every cell is dropped")

    def _stage(
        self,
        name: str,
        arm: str,
        groups: Sequence[Sequence[Axis]],
        before: Mapping[str, _Stage],
    ) -> _Stage:
        evaluation = name.partition(".")[2]
        kind = "evaluation" if evaluation else name
        configs = StageConfigs(
            name, kind, grid=self._grid, arm=arm, facts=self._facts, groups=groups
        )
        parents = SUBJECT_PARENTS[self._subjects[evaluation]] if evaluation else PARENTS[kind]
        if evaluation and "extractor" in before and _needs_extractor(configs):
            parents = (*parents, "extractor")
        for parent in parents:
            if parent not in before:
                raise ValueError(f"{name}: the study has no {parent}; allowed: studies with one")
        lineage = set(configs.groups)
        listed = configs.axes
        for parent in parents:
            lineage |= set(before[parent].lineage)
            listed |= {axis_name for _, axis_name, _ in before[parent].axes}
        axes = tuple(
            (group, axis.name, tuple(point.value for point in axis.points))
            for group, members in enumerate(groups)
            for axis in members
            if axis.name in listed
        )
        return _Stage(
            name=name,
            kind=kind,
            parents=parents,
            configs=configs,
            lineage=tuple(sorted(lineage)),
            axes=axes,
            primary=not evaluation or evaluation in self.primary,
        )

    def _is_dropped(
        self, arm: str, axes: list[tuple[int, str, list[Any]]], cell: tuple[int, ...]
    ) -> bool:
        shown = _Cell(arm=arm, **{name: values[cell[group]] for group, name, values in axes})
        for condition in self._grid.where:
            if not condition.keep(shown):
                self.dropped.append((dict(shown), condition.reason))
                return True
        return False

    def _add_run(
        self,
        arm: str,
        stage: _Stage,
        cell: tuple[int, ...],
        config: Any,
        ids: Mapping[str, str],
    ) -> str:
        parents = {role: ids[role] for role in stage.parents}
        shared = None
        if stage.kind in TRAINED_KINDS:
            if config.trunk is not None:
                raise ValueError(
                    f"{stage.name}.trunk: is the planner's; "
                    f"allowed: {stage.name}.optim.schedule=wsd"
                )
            if self._grid.share_trunks:
                shared = self._trunks.branch(stage.kind, config, parents)
        if shared is not None:
            run_id, config, parents = shared
        else:
            run_id = self._ids.of(stage.kind, config, parents)
        draft = self.drafts.get(run_id)
        if draft is None:
            try:
                work = self._work(stage.kind, config, parents)
            except ValueError as error:
                raise ValueError(f"{stage.name}: {error} (arm {arm})") from None
            draft = self.drafts[run_id] = Draft(stage.kind, config, parents, work)
        axes = {name: values[cell[group]] for group, name, values in stage.axes}
        for other in draft.members:
            if other.arm == arm and other.evaluation == stage.evaluation:
                names = [name for name, value in axes.items() if other.axes.get(name) != value]
                self.warnings.append(
                    f"arm {arm}: {stage.kind} {run_id} is one run at several values of "
                    f"{', '.join(names)}"
                )
        draft.members.append(Member(arm, axes, stage.primary, stage.evaluation))
        return run_id

    def _add_segments(self, home: str | os.PathLike[str]) -> None:
        """Put the segments of trunks before all other runs.

        They are members where their branches are, at the values of the axes on which these agree.
        """
        members: dict[str, dict[str, dict[str, Any]]] = {}  # segment -> arm -> axes
        laid = self._trunks.lay(home)
        for run_id, draft in self.drafts.items():
            for segment_id in self._trunks.passed(run_id):
                arms = members.setdefault(segment_id, {})
                for member in draft.members:
                    known = arms.setdefault(member.arm, member.axes)
                    arms[member.arm] = {
                        name: value
                        for name, value in known.items()
                        if name in member.axes and member.axes[name] == value
                    }
        segments = {}
        for one in laid:
            segments[one.id] = Draft(
                one.kind,
                one.config,
                one.parents,
                self._work(one.kind, one.config, one.parents),
                [Member(arm, axes, primary=False) for arm, axes in members[one.id].items()],
            )
        self.drafts = {**segments, **self.drafts}

    def _work(self, kind: str, config: Any, parents: Mapping[str, str]) -> cost.Work:
        def of(role: str) -> Any:
            return self.drafts[parents[role]].config

        if kind == "extractor":
            return cost.extractor_work(config)
        if kind == "tokenizer":
            return cost.tokenizer_work(config)
        if kind == "codes":
            return cost.codes_work(config, of("tokenizer"))
        if kind == "generator":
            codes = self.drafts[parents["codes"]]
            images = codes.config.num_train or codes.config.data.num_train
            if config.num_train is not None and config.num_train > images:
                raise ValueError(
                    f"num_train: {config.num_train} is not allowed; the codes have {images} images"
                )
            tokenizer = self.drafts[codes.parents["tokenizer"]].config
            return cost.generator_work(config, codes.config, tokenizer)
        if config.subject == "tokenizer":
            return cost.evaluation_work(config, of("tokenizer"))
        return cost.evaluation_work(config, of("tokenizer"), of("codes"), of("generator"))


class _Cell(dict[str, Any]):
    """A cell as filters see it; an unknown name is the user's slip."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"where: {name!r} is not an axis of the study{parts.nearest(name, tuple(self))}; "
            f"allowed: {', '.join(self)}"
        )


def _stage_order(grid: Grid) -> tuple[str, ...]:
    names = grid.stage_names()
    trained = ("extractor", "tokenizer", "codes", "generator")
    return (
        *(name for name in trained if name in names),
        *(name for name in names if name.startswith("evaluations.")),
    )


def _subject(name: str, tree: Tree) -> str:
    subject = tree.get("subject")
    if subject not in SUBJECT_PARENTS:
        allowed = ", ".join(SUBJECT_PARENTS)
        raise ValueError(f"evaluations.{name}.subject: {subject!r}; allowed: {allowed}")
    return str(subject)


def _primary(grid: Grid, subjects: Mapping[str, str]) -> tuple[str, ...]:
    """Choose the evaluation of each subject whose values tables join.

    It is the study's choice, else the first.
    """
    chosen: dict[str, str] = {}
    for name in grid.primary:
        subject = subjects[name]
        if subject in chosen:
            raise ValueError(
                f"primary: {chosen[subject]!r} and {name!r} both evaluate the {subject}; "
                "allowed: one of each subject"
            )
        chosen[subject] = name
    for name, subject in subjects.items():
        chosen.setdefault(subject, name)
    return tuple(chosen.values())


def _needs_extractor(configs: StageConfigs) -> bool:
    """Tell if a metric of the evaluation takes its features from the study's classifier."""
    for metrics in configs.values_of("metrics"):
        for metric in metrics or ():
            name = metric["name"] if isinstance(metric, Mapping) else metric
            module = parts.load("metrics", str(name))
            if vars(module).get("NEEDS_EXTRACTOR", False):
                return True
    return False
