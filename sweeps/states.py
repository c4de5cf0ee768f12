"""What is there already: the state of a plan's runs, and the throughputs of finished ones."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results_db.record import RunDir, run_state
from trainer.config import KINDS

from . import cost
from .graph import Draft

MOST_ENDPOINTS = 2000  # of other studies, read for their throughput


def states_of(home: str | os.PathLike[str], drafts: Sequence[tuple[str, Draft]]) -> dict[str, str]:
    """The state of every run; `drafts` are in dependency order.

    Each kind's folder is listed once, and only runs that are there are opened.
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


def rates_of(
    home: str | os.PathLike[str],
    drafts: Sequence[tuple[str, Draft]],
    states: Mapping[str, str],
    hardware: str | None,
) -> cost.Rates:
    """Throughputs of what has ended in this home: this plan's own runs, and the generators and
    tokenizers of other studies.
    """
    rates = cost.Rates(hardware)
    for run_id, draft in drafts:
        if states[run_id] == "done":
            columns = _columns(Path(home) / draft.kind / run_id)
            rates.add(draft.work.shape, draft.work.flops_compute, columns)
    for kind in ("tokenizer", "generator"):
        others = sorted(name for name in _folders(Path(home) / kind) if name not in states)
        for name in others[:MOST_ENDPOINTS]:
            columns = _columns(Path(home) / kind / name)
            shape = cost.endpoint_shape(kind, columns)
            if shape is not None:
                rates.add(shape, columns.get("flops_marginal") or columns["flops_train"], columns)
    return rates


def _folders(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return frozenset()


def _columns(folder: Path) -> dict[str, Any]:
    """The columns of a run's endpoint; empty when it has none that can be read."""
    try:
        content = json.loads((folder / "endpoint.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    if not isinstance(content, dict) or content.get("status") != "done":
        return {}
    return dict(content.get("columns", {}))
