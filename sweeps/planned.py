"""A plan and its runs, as they are kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..results_db.durable import create_exclusive, write_bytes, write_json
from ..results_db.plan_file import current_plan_path, read_plan, study_names
from ..results_db.processes import collector_paused
from ..results_db.record import now_text
from ..results_db.strict_json import DamagedError, canonical_json, read_json
from ..trainer.accounting import trunks
from ..trainer.accounting.config import TRAINED_KINDS, is_segment, to_tree
from ..trainer.accounting.identity import RunIds
from . import cost
from .data_facts import DataSet
from .graph import Member

PLAN_SCHEME = 1


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
    flops_train: int  # with those of the trunk that the run takes over
    flops_paper: int | None
    gpu_hours: float
    hours_source: str  # measured, table or default
    state: str
    flops_shared: int = 0  # of flops_train, those of the trunk
    gpu_hours_interval: tuple[float, float] | None = None  # where the speed was measured repeatedly
    shape: tuple[Any, ...] = ()  # runs of equal shape have equal throughput

    @property
    def flops_marginal(self) -> int:
        """Train FLOPs that the run adds to what others have done."""
        return self.flops_train - self.flops_shared

    @property
    def is_segment(self) -> bool:
        """Tell if the run is a piece of a trunk, which is no result."""
        return is_segment(self.config)

    @property
    def config_json(self) -> str:
        """Return the full resolved config as canonical JSON."""
        return canonical_json(to_tree(self.config), check_keys=False)

    @property
    def arm(self) -> str | None:
        """Return the only arm of the run; None when several share it."""
        arms = {member.arm for member in self.members}
        return self.members[0].arm if len(arms) == 1 else None

    @property
    def axes(self) -> dict[str, Any]:
        """Return the axis values on which all its members agree."""
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
    data: tuple[DataSet, ...] = ()
    data_changes: dict[str, Any] | None = (
        None  # kinds and text: from the data of runs that are done
    )
    arms: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    primary: tuple[str, ...] = ()  # names of the primary evaluations
    locations: dict[str, Any] = field(default_factory=dict)  # for settings.json, never in ids
    hardware: str = ""  # the device that hours are for
    hardware_known: bool = True  # its speed is measured or in a table; else it stands for another
    missing_data: str | None = None  # why the study cannot be launched as it is
    resources: dict[str, Any] = field(default_factory=dict)  # the study's, for clusters

    def totals(self) -> dict[str, Any]:
        """Sum runs, FLOPs and device hours; a shared run counts once."""
        return cost.totals(self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `tokenlaw plan --json` prints."""
        with collector_paused():
            ids = RunIds()
            return {
                "study": self.study,
                "runs": [_run_json(run, ids) for run in self.runs],
                "totals": self.totals(),
                "dropped": [{"cell": cell, "reason": reason} for cell, reason in self.dropped],
                "hardware": self.hardware,
                "warnings": list(self.warnings),
                "missing_data": self.missing_data,
                "data": self.data[0].counts() if self.data else None,
                "data_sets": [
                    data.counts() | {"labels": data.labels, "digest": data.digest}
                    for data in self.data
                ],
                "data_changes": self.data_changes,
            }

    @property
    def hash(self) -> str:
        """Identity of the plan: its runs and who they belong to, not their states or costs."""
        return _hash(self._identity())

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
                    "members": [_member_json(member) for member in run.members],
                }
                for run in self.runs
            ],
        }

    def write(self, home: str | os.PathLike[str]) -> Path:
        """Write studies/NAME/plan-HASH.json, once, and current.json that names it.

        Returns: the path of the former.
        """
        with collector_paused():
            content = self._identity()
            content["hash"] = _hash(content)
            before = _predictions(home, self.study)
            for entry, run in zip(content["runs"], self.runs, strict=True):
                entry["params"] = run.params
                entry["flops_train"] = run.flops_train
                entry["flops_marginal"] = run.flops_marginal
                entry["gpu_hours"] = run.gpu_hours
                entry["hours_source"] = run.hours_source
                if run.state in ("done", "diverged") and run.id in before:
                    # The plan keeps the estimate made before the run, not its measured values.
                    entry |= before[run.id]
            content["dropped"] = [{"cell": cell, "reason": why} for cell, why in self.dropped]
            content["data"] = [data.to_json() for data in self.data]
            content["created_at"] = now_text()
            folder = Path(home) / "studies" / self.study
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"plan-{content['hash']}.json"
            data = canonical_json(content, check_keys=False).encode() + b"\n"
            if not create_exclusive(path, data) and not _is_plan(path, content["hash"]):
                write_bytes(path, data)
        current = folder / "current.json"
        pointer = {"scheme": PLAN_SCHEME, "study": self.study, "plan": path.name}
        try:
            named = read_json(current)
        except (FileNotFoundError, DamagedError):
            named = None
        if named != pointer:
            write_json(current, pointer)
        return path


def _is_plan(path: Path, hash_: str) -> bool:
    try:
        return read_plan(path).hash == hash_
    except DamagedError:
        return False


def _predictions(home: str | os.PathLike[str], study: str) -> dict[str, dict[str, Any]]:
    """Read the hours of a study's runs from the plan before this one; none if it is damaged."""
    names = ("gpu_hours", "hours_source")
    try:
        path = current_plan_path(home, study) if study in study_names(home) else None
        runs = () if path is None else read_plan(path).runs
    except DamagedError:
        return {}
    return {run.id: {name: run.facts[name] for name in names if name in run.facts} for run in runs}


def _hash(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(identity, check_keys=False).encode()).hexdigest()[:16]


def _member_json(member: Member) -> dict[str, Any]:
    return {
        "arm": member.arm,
        "axes": member.axes,
        "primary": member.primary,
        "evaluation": member.evaluation,
    }


def _run_json(run: PlannedRun, ids: RunIds) -> dict[str, Any]:
    return {
        "id": run.id,
        "kind": run.kind,
        "arm": "+".join(dict.fromkeys(member.arm for member in run.members)),
        "axes": run.axes,
        "parents": list(run.parents.values()),
        "params": run.params,
        "flops_train": run.flops_train,
        "flops_marginal": run.flops_marginal,
        "gpu_hours": run.gpu_hours,
        "state": run.state,
        "roles": run.parents,
        "arms": list(dict.fromkeys(member.arm for member in run.members)),
        "evaluation": run.members[0].evaluation,
        "params_non_embedding": run.params_non_embedding,
        "flops_paper": run.flops_paper,
        "hours_source": run.hours_source,
        "gpu_hours_interval": run.gpu_hours_interval,
        "trunk": _trunk_json(run, ids),
    }


def _trunk_json(run: PlannedRun, ids: RunIds) -> dict[str, Any] | None:
    if run.kind not in TRAINED_KINDS or run.config.trunk is None:
        return None
    trunk = run.config.trunk
    found = trunks.trunk_id(run.kind, run.config, run.parents, ids)
    return {"id": found, "role": trunk.role, "start": trunk.start, "end": run.config.iterations}
