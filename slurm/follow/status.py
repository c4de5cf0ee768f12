"""State of a study's runs, from their files and the queues together. No torch.

One call of each queue, however many runs there are. A run is declared lost only when its heartbeat
and its queue agree; where the queue still has its job, or cannot be asked, a silent run is `stale`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...results_db.plan_file import PlanFile
from ...results_db.record import RunStatus, may_follow
from .. import scheduler
from ..base import InQueue
from . import queue
from .runs import RunLine, lines_and_files

# In the order of a run's life; `queued` to `blocked` are the ones that only this module tells.
STATES = (
    "planned",
    "waiting",  # for its parents
    "blocked",  # a parent failed or diverged
    "held",
    "queued",
    "running",
    "stale",  # silent for longer than the grace, but its queue does not say that it has ended
    "preempted",
    "lost",
    "failed",
    "diverged",
    "done",
)
OVER = ("done", "diverged", "failed", "blocked")
_HELD = ("JobHeldUser", "JobHeldAdmin")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    """All runs of a study, and what could not be asked."""

    lines: tuple[RunLine, ...]
    notes: tuple[str, ...]  # queues that do not answer

    @property
    def over(self) -> bool:
        """Tell if nothing more happens without a new launch."""
        return all(line.state in OVER for line in self.lines)


def study_status(home: str | os.PathLike[str], plan: PlanFile) -> StudyStatus:
    """Collect the state of every run of `plan`."""
    home = Path(home)
    queues = queue.look(home.resolve())
    parents = {run.id: run.parents for run in plan.runs}
    states: dict[str, str] = {}
    lines = []
    for line, status in lines_and_files(home, plan):
        where = queues.runs.get(f"{line.kind}/{line.id}")
        above = {role: states[parent] for role, parent in parents[line.id].items()}
        state = _state(line, status, where, queues, above)
        states[line.id] = state
        reason = None if where is None or where.reason == "None" else where.reason
        job = None if where is None else f"{where.job_id} {reason or ''}".strip()
        lines.append(replace(line, state=state, job=job))
    notes = [f"{name} cannot be asked: {why}" for name, why in queues.unknown.items()]
    reasons = {where.reason for where in queues.runs.values() if where.phase == "queued"}
    notes += [
        f"jobs ask for what the cluster does not give them ({reason}): "
        f"tokenlaw cancel {plan.study}, and launch with other resources"
        for reason in sorted(filter(scheduler.is_unfit, filter(None, reasons)))
    ]
    return StudyStatus(lines=tuple(lines), notes=tuple(notes))


def counts(lines: Iterable[RunLine]) -> dict[str, dict[str, int]]:
    """Count runs as kind -> state -> number, in the order of the flow; only states that occur."""
    found: dict[str, Counter[str]] = {}
    for line in lines:
        found.setdefault(line.kind, Counter())[line.state] += 1
    return {
        kind: {state: numbers[state] for state in STATES if numbers[state]}
        for kind, numbers in found.items()
    }


def _state(
    line: RunLine,
    status: RunStatus | None,
    where: InQueue | None,
    queues: queue.Queues,
    parents: Mapping[str, str],  # role -> state
) -> str:
    if line.state in ("done", "diverged"):
        return line.state
    if line.state in ("running", "lost") and status is not None:
        executor = str((status.claim or {}).get("executor"))
        if line.state == "running":
            return "lost" if queues.denies(status) and where is None else "running"
        if status.end is None and status.process_alive is not False:
            # Silent. Its process here, or its job, may be alive all the same.
            if status.process_alive or (where is not None and where.phase == "running"):
                return "stale"
            if executor in queues.unknown:
                return "stale"
    if where is not None:
        return "held" if where.reason in _HELD else "queued"
    bad = [role for role, state in parents.items() if state in ("failed", "diverged", "blocked")]
    if any(not may_follow(role, parents[role]) for role in bad):
        return "blocked"
    return line.state
