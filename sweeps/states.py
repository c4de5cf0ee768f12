"""State of a plan's runs in this home, and throughputs of finished ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..results_db.endpoint import KINDS, is_name
from ..results_db.record import RunDir, may_follow, run_state
from ..results_db.state import peek_endpoint
from . import cost
from . import measured_speeds as calibration
from .graph import Draft

MOST_ENDPOINTS = 2000  # of other studies, read for their throughput


@dataclass(slots=True)
class Found:
    """The states of a plan's runs, and the columns of those that are done."""

    states: dict[str, str] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)


def found(home: str | os.PathLike[str], drafts: Sequence[tuple[str, Draft]]) -> Found:
    """Find the state of every run; `drafts` are in dependency order.

    Each kind's folder is listed once. Only runs that are there are opened, and of a finished one
    only its endpoint: on a network file system every call counts.
    """
    there = {kind: _folders(Path(home) / kind) for kind in KINDS}
    result = Found()
    for run_id, draft in drafts:
        state = "planned"
        if run_id in there[draft.kind]:
            endpoint = peek_endpoint(RunDir.of(home, draft.kind, run_id))
            ended = endpoint.get("status")
            if ended == "done":
                result.columns[run_id] = dict(endpoint.get("columns", {}))
            if ended in ("done", "diverged"):
                state = str(ended)
            else:
                state = run_state(RunDir.of(home, draft.kind, run_id))
        if state in ("planned", "waiting"):
            ready = all(
                may_follow(role, result.states[parent]) for role, parent in draft.parents.items()
            )
            state = "planned" if ready else "waiting"
        result.states[run_id] = state
    return result


def rates_of(
    home: str | os.PathLike[str],
    drafts: Sequence[tuple[str, Draft]],
    there: Found,
    hardware: str | None,
) -> cost.Rates:
    """Collect the throughputs of all that has ended in this home.

    These are the plan's own runs, the generators and tokenizers of other studies, and calibrations.
    """
    rates = cost.Rates(hardware)
    rates.add_speeds(calibration.speeds(home))
    for run_id, draft in drafts:
        if run_id in there.columns:
            rates.add(draft.work.shape, draft.work.flops_compute, there.columns[run_id])
    for kind in ("tokenizer", "generator"):
        others = sorted(_folders(Path(home) / kind).difference(there.states))
        for name in others[:MOST_ENDPOINTS]:
            endpoint = peek_endpoint(RunDir.of(home, kind, name))
            columns = endpoint.get("columns", {}) if endpoint.get("status") == "done" else {}
            shape = cost.endpoint_shape(kind, columns)
            if shape is not None:
                rates.add(shape, columns.get("flops_marginal") or columns["flops_train"], columns)
    return rates


def _folders(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            return frozenset(name for name in folders if is_name(name))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
