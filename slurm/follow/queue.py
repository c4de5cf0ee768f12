"""State of a home's runs in all queues: the second witness beside the run folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...results_db.record import RunDir, RunStatus
from ...trainer import parts
from ..base import InQueue, Phase, QueueUnknown
from ..launch_records import launches


@dataclass(frozen=True, kw_only=True, slots=True)
class Queues:
    """One look at every queue that something was submitted to."""

    runs: Mapping[str, InQueue] = field(default_factory=dict)  # kind/id -> its job
    jobs: Mapping[str, Mapping[str, Phase]] = field(
        default_factory=dict
    )  # executor -> job -> phase
    unknown: Mapping[str, str] = field(default_factory=dict)  # executor -> why it cannot be asked
    stuck: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # executor -> job ids

    def of(self, run: RunDir) -> InQueue | None:
        """Return the run's job, if it is in a queue or at work there."""
        return self.runs.get(f"{run.kind}/{run.id}")

    def denies(self, status: RunStatus) -> bool:
        """Tell if the queue says that an attempt's job is not at work.

        That overrules the heartbeat: a job that died fast leaves a heartbeat that still looks
        fresh.
        """
        claim = status.claim or {}
        jobs = self.jobs.get(str(claim.get("executor")))
        if jobs is None or not claim.get("job") or status.process_alive:
            return False
        return jobs.get(str(claim["job"]), "gone") != "running"


def look(home: Path) -> Queues:
    """Ask each queue once, whatever the number of runs; none if nothing was ever submitted."""
    by_executor = defaultdict(list)
    for launched in launches(home):
        by_executor[launched.executor].append(launched)
    runs: dict[str, InQueue] = {}
    jobs: dict[str, Mapping[str, Phase]] = {}
    unknown: dict[str, str] = {}
    stuck: dict[str, tuple[str, ...]] = {}
    for executor, launched_there in by_executor.items():
        try:
            listing = parts.load("executors", executor).Executor.listing(home, launched_there)
        except QueueUnknown as error:
            unknown[executor] = str(error)
            continue
        runs.update(listing.runs)
        jobs[executor] = listing.jobs
        stuck[executor] = listing.stuck
    return Queues(runs=runs, jobs=jobs, unknown=unknown, stuck=stuck)
