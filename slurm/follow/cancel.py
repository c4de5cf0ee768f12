"""A say in what goes on: stop a study's launches and take its jobs out of the queues."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from ...results_db.processes import host_name
from ...trainer import parts
from ..base import QueueUnknown
from ..launch_records import launches


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """Result of `cancel`."""

    launches: int  # processes on this host that were asked to stop
    jobs: int  # jobs taken out of queues
    notes: tuple[str, ...]  # what it could not do
    complete: bool = True  # every launch and queue could be asked


def cancel(home: str | os.PathLike[str], study: str) -> Cancelled:
    """Ask a study's launches on this host to save and end; cancel its jobs in the queues.

    The progress of the runs is kept: the next launch goes on from there. Jobs that only other
    studies want are left alone.
    """
    home = Path(home).resolve()
    notes = []
    asked = 0
    for launched in launches(home, all_of_them=True):
        if launched.study != study or not launched.alive:
            continue
        if launched.host != host_name():
            notes.append(f"{launched.token} runs on {launched.host}: stop it there")
            continue
        os.kill(launched.pid, signal.SIGINT)
        asked += 1
    mine = {launched.token for launched in launches(home) if launched.study == study}
    jobs, unknown = _cancel_jobs(home, mine)
    notes += unknown
    return Cancelled(launches=asked, jobs=jobs, notes=tuple(notes), complete=not notes)


def _cancel_jobs(home: Path, tokens: Container[str]) -> tuple[int, list[str]]:
    submitted = [launched for launched in launches(home) if launched.token in tokens]
    by_executor = defaultdict(list)
    for launched in submitted:
        by_executor[launched.executor].append(launched)
    count = 0
    unknown = []
    for name, launched_there in by_executor.items():
        executor = parts.load("executors", name).Executor
        try:
            listing = executor.listing(home, launched_there)
            ids = {where.job_id for where in listing.runs.values() if where.phase != "unknown"}
            executor.withdraw(ids)
        except QueueUnknown as error:
            unknown.append(f"{name} cannot be asked: {error}; its jobs go on, so try again later")
            continue
        count += len(ids)
    return count, unknown
