"""From a grid to runs: content ids, shared work planned once, costs, states, and the files of a
plan.

Twenty thousand cells share a handful of tokenizers and a few hundred sub-trees, so every stage's
config is decoded once for each combination of the axes that touch it, and a config is put together
from fields that were decoded before. `trainer.config.run_id` is the slow path; both give the same
ids.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from results_db.durable import create_exclusive, read_json, write_json
from results_db.record import RunDir, run_state
from trainer import parts
from trainer.config import (
    CONFIGS,
    KINDS,
    SCHEME,
    canonical_json,
    decode,
    decode_part,
    id_tree,
    to_tree,
)

from . import cost
from .grid import Axis, Grid, Tree, assigned, overridden, parse_set, paths_of, split_path

PLAN_SCHEME = 1
# Roles of the parents of each kind; an evaluation's depend on its subject.
PARENTS = {
    "extractor": (),
    "tokenizer": (),
    "codes": ("tokenizer",),
    "generator": ("codes",),
}
SUBJECT_PARENTS = {"tokenizer": ("tokenizer",), "generator": ("generator", "codes", "tokenizer")}
FINISHED = ("done", "diverged")


@dataclass(frozen=True, slots=True)
class Member:
    """That a run belongs to an arm of the study, at these values of the axes that touch it."""

    arm: str
    axes: dict[str, Any]
    primary: bool  # evaluations: the one whose values tables join; other kinds: True
    evaluation: str | None = None  # the study's name for an evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One run of the study's work graph."""

    id: str
    kind: str
    config: Any  # decoded
    parents: dict[str, str]  # role -> id
    members: tuple[Member, ...]
    params: int | None
    params_non_embedding: int | None
    flops_train: int
    flops_paper: int | None
    gpu_hours: float
    hours_source: str  # measured, table or default
    state: str

    @property
    def config_json(self) -> str:
        """The full resolved config as canonical JSON."""
        return canonical_json(to_tree(self.config))

    @property
    def arm(self) -> str | None:
        """The one arm it belongs to; None when several share it."""
        arms = {member.arm for member in self.members}
        return self.members[0].arm if len(arms) == 1 else None

    @property
    def axes(self) -> dict[str, Any]:
        """The axis values on which all its members agree."""
        first, *rest = self.members
        return {
            name: value
            for name, value in first.axes.items()
            if all(name in m.axes and m.axes[name] == value for m in rest)
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of a study in dependency order."""

    study: str
    runs: tuple[PlannedRun, ...]
    dropped: tuple[tuple[dict[str, Any], str], ...] = ()  # (cell, reason)
    warnings: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()  # names of the primary evaluations
    locations: dict[str, Any] = field(default_factory=dict)  # for settings.json, never in ids
    missing_data: str | None = None  # why the study cannot be launched as it is

    def totals(self) -> dict[str, Any]:
        """Runs, FLOPs and device hours; a shared run counts once."""
        return cost.totals(self.runs)

    def to_json(self) -> dict[str, Any]:
        """What `tokenlaw plan --json` prints."""
        return {
            "study": self.study,
            "runs": [_run_json(run) for run in self.runs],
            "totals": self.totals(),
            "dropped": [{"cell": cell, "reason": reason} for cell, reason in self.dropped],
            "warnings": list(self.warnings),
            "missing_data": self.missing_data,
        }

    @property
    def hash(self) -> str:
        """Identity of the plan: its runs and who they belong to, not their states or costs."""
        return hashlib.sha256(canonical_json(self._identity()).encode()).hexdigest()[:16]

    def _identity(self) -> dict[str, Any]:
        return {
            "scheme": PLAN_SCHEME,
            "study": self.study,
            "arms": list(self.arms),
            "axes": list(self.axes),
            "primary": list(self.primary),
            "runs": [
                {
                    "id": run.id,
                    "kind": run.kind,
                    "parents": run.parents,
                    "members": [
                        {
                            "arm": member.arm,
                            "axes": member.axes,
                            "primary": member.primary,
                            "evaluation": member.evaluation,
                        }
                        for member in run.members
                    ],
                }
                for run in self.runs
            ],
        }

    def write(self, home: str | os.PathLike[str]) -> Path:
        """Writes studies/NAME/plan-HASH.json, once, and current.json that names it; returns the
        former.
        """
        identity = self._identity()
        for entry, run in zip(identity["runs"], self.runs, strict=True):
            entry |= {
                "params": run.params,
                "flops_train": run.flops_train,
                "gpu_hours": run.gpu_hours,
                "hours_source": run.hours_source,
            }
        identity["dropped"] = [{"cell": cell, "reason": why} for cell, why in self.dropped]
        folder = Path(home) / "studies" / self.study
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"plan-{self.hash}.json"
        create_exclusive(path, canonical_json(identity).encode() + b"\n")
        current = folder / "current.json"
        content = {"scheme": PLAN_SCHEME, "study": self.study, "plan": path.name}
        if not current.exists() or read_json(current) != content:
            write_json(current, content)
        return path


def _run_json(run: PlannedRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "kind": run.kind,
        "arm": run.arm,
        "axes": run.axes,
        "parents": list(run.parents.values()),
        "params": run.params,
        "flops_train": run.flops_train,
        "gpu_hours": run.gpu_hours,
        "state": run.state,
        "roles": run.parents,
        "arms": list(dict.fromkeys(member.arm for member in run.members)),
        "evaluation": run.members[0].evaluation,
        "params_non_embedding": run.params_non_embedding,
        "flops_paper": run.flops_paper,
        "hours_source": run.hours_source,
    }


def write_run(home: str | os.PathLike[str], run: PlannedRun, settings: Mapping[str, Any]) -> Path:
    """Makes the run's folder: config.json, once, and settings.json; returns the folder."""
    run_dir = RunDir.of(home, run.kind, run.id)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    content = {
        "scheme": SCHEME,
        "id": run.id,
        "kind": run.kind,
        "config": to_tree(run.config),
        "parents": run.parents,
    }
    create_exclusive(run_dir.config_path, canonical_json(content).encode() + b"\n")
    write_json(run_dir.settings_path, dict(settings))
    return run_dir.path


# ----------------------------------------------------------------------------------------- the plan


def make_plan(
    grid: Grid,
    *,
    home: str | os.PathLike[str],
    data: str | None = None,
    overrides: Iterable[str | tuple[str, Any]] = (),
    hardware: str | None = None,
) -> Plan:
    """The plan of a study.

    `data` is NAME:FOLDER and replaces the study's data set; `overrides` are `path=value` or pairs,
    as `--set`; `hardware` names the device that hours are estimated for. Raises ValueError in one
    line on bad input.
    """
    pairs = [parse_set(entry) if isinstance(entry, str) else entry for entry in overrides]
    grid = overridden(grid, pairs)
    facts = _with_facts(grid.data, grid.fixed, data)
    builder = _Builder(grid, facts.tree)
    for arm in grid.arms:
        builder.add_arm(arm)
    drafts = sorted(builder.drafts.items(), key=lambda item: KINDS.index(item[1].kind))
    states = _states(home, drafts)
    rates = _rates(home, drafts, states, hardware)
    runs = []
    for run_id, draft in drafts:
        hours = rates.hours(draft.kind, draft.work)
        runs.append(
            PlannedRun(
                id=run_id,
                kind=draft.kind,
                config=draft.config,
                parents=draft.parents,
                members=tuple(draft.members),
                params=draft.work.params,
                params_non_embedding=draft.work.params_non_embedding,
                flops_train=draft.work.flops_train,
                flops_paper=draft.work.flops_paper,
                gpu_hours=hours.value,
                hours_source=hours.source,
                state=states[run_id],
            )
        )
    return Plan(
        study=grid.name or "study",
        runs=tuple(runs),
        dropped=tuple(builder.dropped),
        warnings=tuple(builder.warnings),
        arms=tuple(grid.arms),
        axes=tuple(axis.name for axis in grid.flat_axes()),
        primary=builder.primary,
        locations={"data": facts.folder},
        missing_data=facts.missing,
    )


@dataclass(frozen=True, slots=True)
class _DataFacts:
    tree: Tree
    folder: str | None
    missing: str | None


def _with_facts(tree: Tree, fixed: Iterable[tuple[str, Any]], data: str | None) -> _DataFacts:
    """The study's data tree with counts and digest filled in from the data, where they are at
    hand.
    """
    for path, value in fixed:
        stage, rest = split_path(path)
        if stage == "data":
            tree = assigned(tree, rest, value)
    folder: str | None = None
    dataset = tree.get("dataset")
    if data is not None:
        name, colon, folder = data.partition(":")
        if not colon or not folder:
            raise ValueError(
                f"--data: {data!r}; allowed: NAME:FOLDER, e.g. imagefolder:/data/imagenet"
            )
        parts.load("trainer.datasets", name)
        same = name in (dataset, dataset.get("name") if isinstance(dataset, Mapping) else None)
        dataset = dataset if same else name
        tree = {**tree, "dataset": dataset}
        folder = str(Path(folder).expanduser().absolute())
    if dataset is None:
        raise ValueError(
            f"data.dataset: is required; allowed: {', '.join(parts.names('trainer.datasets'))}"
        )
    try:
        decoded = decode_part("trainer.datasets", dataset)
    except ValueError as error:
        raise ValueError(f"data.dataset: {error}") from None
    module = parts.load("trainer.datasets", decoded.name)
    counts = ("num_classes", "num_train", "num_val")
    if folder is None and all(tree.get(name) is not None for name in counts):
        if tree.get("digest") is not None:
            return _DataFacts(tree, None, None)
        return _DataFacts(
            tree,
            None,
            f"data: the {decoded.name} images of this study are not at hand; "
            f"allowed: --data {decoded.name}:FOLDER",
        )
    found = module.describe(decoded.config, None if folder is None else Path(folder))
    known = {name: getattr(found, name) for name in (*counts, "digest")}
    return _DataFacts({**tree, **known}, folder, None)


@dataclass(slots=True)
class _Draft:
    kind: str
    config: Any
    parents: dict[str, str]
    work: cost.Work
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of one arm: which groups of axes touch it, itself or through its ancestors."""

    name: str  # tokenizer, evaluations.samples, ...
    kind: str
    parents: tuple[str, ...]  # roles, which are stage names too
    own: tuple[int, ...]  # groups that change its config
    lineage: tuple[int, ...]  # groups that change its id
    axes: tuple[tuple[int, Axis], ...]  # (group, axis) listed for its runs
    primary: bool


class _Builder:
    """Collects the runs of all arms; equal ids are one run with several members."""

    def __init__(self, grid: Grid, data: Tree) -> None:
        self.grid = grid
        self.drafts: dict[str, _Draft] = {}
        self.dropped: list[tuple[dict[str, Any], str]] = []
        self.warnings: list[str] = []
        self._data = data
        self._fields = {kind: _FieldMemo(kind) for kind in KINDS}
        self._subjects = {name: _subject(name, tree) for name, tree in grid.evaluations.items()}
        self.primary = self._primary()

    def _primary(self) -> tuple[str, ...]:
        chosen: dict[str, str] = {}
        for name in self.grid.primary:
            subject = self._subjects[name]
            if subject in chosen:
                raise ValueError(
                    f"primary: {chosen[subject]!r} and {name!r} both evaluate the {subject}; "
                    "allowed: one of each subject"
                )
            chosen[subject] = name
        for name, subject in self._subjects.items():
            chosen.setdefault(subject, name)
        return tuple(chosen.values())

    def add_arm(self, arm: str) -> None:
        """All cells of one arm."""
        groups = self.grid.groups(arm)
        levels = [[axis.points for axis in group] for group in groups]
        sizes = [range(len(group[0].levels)) for group in groups]
        axes = [(index, axis) for index, group in enumerate(groups) for axis in group]
        stages: list[_Stage] = []
        for name in self._stage_order():
            stages.append(self._stage(name, axes, {stage.name: stage for stage in stages}))
        made: list[dict[tuple[int, ...], str]] = [{} for _ in stages]
        configs: list[dict[tuple[int, ...], tuple[Any, str]]] = [{} for _ in stages]
        positions = {stage.name: index for index, stage in enumerate(stages)}
        any_left = False
        for cell in itertools.product(*sizes):
            if self.grid.where and self._is_dropped(arm, axes, cell):
                continue
            any_left = True
            ids: list[str] = []
            for index, stage in enumerate(stages):
                key = tuple([cell[group] for group in stage.lineage])
                run_id = made[index].get(key)
                if run_id is None:
                    own = tuple([cell[group] for group in stage.own])
                    if own not in configs[index]:
                        configs[index][own] = self._config(arm, stage, groups, levels, cell)
                    config, text = configs[index][own]
                    parents = {role: ids[positions[role]] for role in stage.parents}
                    run_id = self._add(arm, stage, cell, config, text, parents)
                    made[index][key] = run_id
                ids.append(run_id)
        if not any_left:
            self.warnings.append(f"arm {arm}: every cell is dropped")

    def _stage_order(self) -> tuple[str, ...]:
        names = [name for name in self.grid.stage_names() if name != "data"]
        order = ("extractor", "tokenizer", "codes", "generator")
        return (
            *(name for name in order if name in names),
            *(name for name in names if name.startswith("evaluations.")),
        )

    def _stage(
        self, name: str, axes: list[tuple[int, Axis]], before: Mapping[str, _Stage]
    ) -> _Stage:
        primary = True
        if name.startswith("evaluations."):
            evaluation = name.partition(".")[2]
            subject = self._subjects[evaluation]
            kind, parents = "evaluation", SUBJECT_PARENTS[subject]
            primary = evaluation in self.primary
            if self._needs_extractor(evaluation):
                parents = (*parents, "extractor")
        else:
            kind, parents = name, PARENTS[name]
        for parent in parents:
            if parent not in before:
                raise ValueError(f"{name}: the study has no {parent}; allowed: studies with one")
        touches = {name} if name == "generator" else {name, "data"}
        own = {
            (group, axis.name)
            for group, axis in axes
            if any(split_path(path)[0] in touches for path in paths_of(axis))
        }
        listed = set(own)
        for parent in parents:
            listed |= {(group, axis.name) for group, axis in before[parent].axes}
        return _Stage(
            name=name,
            kind=kind,
            parents=parents,
            own=tuple(sorted({group for group, _ in own})),
            lineage=tuple(sorted({group for group, _ in listed})),
            axes=tuple((group, axis) for group, axis in axes if (group, axis.name) in listed),
            primary=primary,
        )

    def _needs_extractor(self, evaluation: str) -> bool:
        if self.grid.extractor is None:
            return False
        for metric in self.grid.evaluations[evaluation].get("metrics", ()):
            name = metric if isinstance(metric, str) else metric["name"]
            if vars(parts.load("trainer.metrics", name)).get("NEEDS_EXTRACTOR", False):
                return True
        return False

    def _is_dropped(self, arm: str, axes: list[tuple[int, Axis]], cell: tuple[int, ...]) -> bool:
        shown = _Cell(
            arm=arm, **{axis.name: axis.points[cell[group]].value for group, axis in axes}
        )
        for condition in self.grid.where:
            if not condition.keep(shown):
                self.dropped.append((dict(shown), condition.reason))
                return True
        return False

    def _config(
        self,
        arm: str,
        stage: _Stage,
        groups: list[tuple[Axis, ...]],
        levels: list[list[tuple[Any, ...]]],
        cell: tuple[int, ...],
    ) -> tuple[Any, str]:
        """The stage's config at a cell, and its text in the id."""
        assignments = list(self.grid.arm(arm).sets.items())
        for group, axis_levels in enumerate(levels):
            for points in axis_levels:
                assignments += points[cell[group]].assignments
        assignments += self.grid.fixed
        tree = self._base(stage.name)
        data = self._data
        for path, value in assignments:
            head, rest = split_path(path)
            if head == stage.name:
                tree = assigned(tree, rest, value)
            elif head == "data":
                data = assigned(data, rest, value)
        if stage.kind != "generator":
            own_data = tree.get("data", {})
            for name in own_data:
                if name != "resolution":
                    raise ValueError(
                        f"{stage.name}.data.{name}: every stage follows the study's data; "
                        f"allowed: data.{name}, or {stage.name}.data.resolution"
                    )
            tree = {**tree, "data": {**data, **own_data}}
        try:
            return self._fields[stage.kind].decode(tree, stage.name)
        except ValueError as error:
            raise ValueError(f"{error} (arm {arm})") from None

    def _base(self, stage: str) -> Tree:
        if stage.startswith("evaluations."):
            return self.grid.evaluations[stage.partition(".")[2]]
        base = {
            "extractor": self.grid.extractor,
            "tokenizer": self.grid.tokenizer,
            "codes": self.grid.codes,
            "generator": self.grid.generator,
        }[stage]
        return base or {}

    def _add(
        self,
        arm: str,
        stage: _Stage,
        cell: tuple[int, ...],
        config: Any,
        text: str,
        parents: dict[str, str],
    ) -> str:
        run_id = fast_run_id(stage.kind, text, parents)
        draft = self.drafts.get(run_id)
        if draft is None:
            draft = _Draft(stage.kind, config, parents, self._work(stage.kind, config, parents))
            self.drafts[run_id] = draft
        evaluation = stage.name.partition(".")[2] or None
        member = Member(
            arm,
            {axis.name: axis.points[cell[group]].value for group, axis in stage.axes},
            stage.primary,
            evaluation,
        )
        for other in draft.members:
            if other.arm == arm and other.evaluation == evaluation:
                names = [n for n, v in member.axes.items() if other.axes.get(n) != v]
                self.warnings.append(
                    f"arm {arm}: {stage.kind} {run_id} is the same run at several values of "
                    f"{', '.join(names)}"
                )
        draft.members.append(member)
        return run_id

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


def _subject(name: str, tree: Tree) -> str:
    subject = tree.get("subject")
    if subject not in SUBJECT_PARENTS:
        raise ValueError(
            f"evaluations.{name}.subject: {subject!r}; allowed: {', '.join(SUBJECT_PARENTS)}"
        )
    return str(subject)


# ------------------------------------------------------------------------------------------ the ids


def fast_run_id(kind: str, config_text: str, parents: Mapping[str, str]) -> str:
    """`trainer.config.run_id`, from the config's text in the id."""
    roles = ",".join(f'"{role}":"{parents[role]}"' for role in sorted(parents))
    text = f'{{"config":{config_text},"kind":"{kind}","parents":{{{roles}}},"scheme":{SCHEME}}}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_ABSENT = object()


class _FieldMemo:
    """Decodes configs of one kind; a combination of field values that were all seen is put together
    from what was decoded before.
    """

    def __init__(self, kind: str) -> None:
        self._cls = CONFIGS[kind]
        self._defaults = {f.name: f.metadata.get("id_default", _ABSENT) for f in fields(self._cls)}
        self._names = sorted(self._defaults)
        self._seen: dict[tuple[Any, ...], tuple[Any, str]] = {}

    def decode(self, tree: Tree, where: str) -> tuple[Any, str]:
        """The config that `tree` describes, and its canonical text as `run_id` hashes it."""
        keys = [(name, _value_key(tree.get(name, _ABSENT))) for name in self._names]
        if tree.keys() <= self._defaults.keys() and all(key in self._seen for key in keys):
            found = [self._seen[key] for key in keys]
            config = self._cls(**{key[0]: entry[0] for key, entry in zip(keys, found, strict=True)})
        else:
            config = decode(self._cls, tree, where)
            found = [self._field(config, name) for name in self._names]
            self._seen.update(zip(keys, found, strict=True))
        return config, "{" + ",".join(text for _, text in found if text) + "}"

    def _field(self, config: Any, name: str) -> tuple[Any, str]:
        value = getattr(config, name)
        default = self._defaults[name]
        text = "" if default is not _ABSENT and value == default else canonical_json(id_tree(value))
        return value, text and f'"{name}":{text}'


def _value_key(value: Any) -> Any:
    if value is _ABSENT or value is None:
        return value
    if isinstance(value, str | int | float):
        return type(value), value
    return canonical_json(value)


# ---------------------------------------------------------------------------- what is there already


def _states(home: str | os.PathLike[str], drafts: Iterable[tuple[str, _Draft]]) -> dict[str, str]:
    """State of every run: each kind's folder is listed once, and only runs that are there are
    opened.
    """
    there = {kind: _folders(Path(home) / kind) for kind in KINDS}
    states: dict[str, str] = {}
    for run_id, draft in drafts:
        state = "planned"
        if run_id in there[draft.kind]:
            state = run_state(RunDir.of(home, draft.kind, run_id))
        if state in ("planned", "waiting"):
            ready = all(states[parent] == "done" for parent in draft.parents.values())
            state = "planned" if ready else "waiting"
        states[run_id] = state
    return states


def _folders(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return frozenset()


MOST_ENDPOINTS = 2000  # of other studies, read for their throughput


def _rates(
    home: str | os.PathLike[str],
    drafts: Iterable[tuple[str, _Draft]],
    states: Mapping[str, str],
    hardware: str | None,
) -> cost.Rates:
    """Throughputs of what has ended in this home: this plan's own runs, and generators and
    tokenizers of others.
    """
    rates = cost.Rates(hardware)
    for run_id, draft in drafts:
        if states[run_id] == "done":
            columns = _endpoint(Path(home) / draft.kind / run_id).get("columns", {})
            if hardware in (None, columns.get("hardware")) and columns.get("gpu_hours"):
                rates.add(draft.work.shape, draft.work.flops_compute, columns["gpu_hours"])
    for kind in ("tokenizer", "generator"):
        others = sorted(name for name in _folders(Path(home) / kind) if name not in states)
        for name in others[:MOST_ENDPOINTS]:
            rates.add_endpoint(_endpoint(Path(home) / kind / name))
    return rates


def _endpoint(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "endpoint.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
