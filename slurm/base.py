"""The contract of executors: jobs go in, the state of jobs comes out. Results are in run folders.

An executor is one file in `executors/` with a final class `Executor` (a subclass of
`BaseExecutor`). Its file name is the name that a user writes after `--on`. `launch.py` decides, the
same for all executors: which runs start, in which order of dependency, and which failures are tried
again.
"""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ..results_db.provenance import CODE_ROOT
from ..results_db.record import RunDir, run_status
from .launch_records import Intent, Launched
from .resources import Resources

Phase = Literal["queued", "running", "gone", "unknown"]

PROCESSES = "TOKENLAW_PROCESSES"  # how many a run is to have; the trainer refuses any other number


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Run folders for one process of an executor, one after another."""

    key: str  # its name among the jobs given out together
    run_dirs: tuple[RunDir, ...]  # in this order
    priority: float = 0.0  # larger goes first where the executor can choose
    seconds: float | None = None  # expected duration of all its runs, where known
    resources: Resources = Resources()
    after: tuple[str, ...] = ()  # keys or ids of jobs that must end well before this one starts

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(run.id for run in self.run_dirs)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobReport:
    """State of a job at its executor: whether it may still be at work, never its result."""

    phase: Phase  # unknown: the executor could not be asked, so nothing may be concluded
    reason: str | None = None  # how it ended or why it waits, in the executor's words
    disk_full: bool = False
    blameless: bool = False  # gone for no fault of its runs: taken by another process, never begun
    cancelled: bool = False  # gone because a person took it out of the queue


@dataclass(frozen=True, kw_only=True, slots=True)
class InQueue:
    """A run's job in a queue."""

    job_id: str
    phase: Phase
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """State in a queue of everything that was submitted from a home."""

    runs: Mapping[str, InQueue]  # kind/id of a run -> its job, where that may still be at work
    jobs: Mapping[str, Phase]  # all jobs that the queue knows
    stuck: tuple[str, ...] = ()  # our jobs that wait for what can no longer happen


class QueueUnknown(RuntimeError):
    """The queue cannot be asked; the message says why."""


class NotSubmitted(RuntimeError):
    """The queue refused a job; the message is what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Arguments from which an executor is made."""

    home: Path  # $TOKENLAW_HOME of this launch
    study: str
    token: str  # of this launch: names its jobs in a queue, so that they are found again
    code: Path = CODE_ROOT  # folder with the packages that jobs import
    workers: int | None = None  # local: processes at once; elsewhere: jobs at once
    gpus: int | None = None  # GPUs to use; None: all there are
    use_gpu: bool = True  # false when the settings name the CPU
    threads: int = 1  # most CPU threads that any of the runs uses
    intent: Intent | None = None  # where what is submitted to a queue is written down
    say: Callable[[str], None] = lambda line: None  # for lines that the user should read
    options: Mapping[str, object] | None = None  # the executor's own, checked by it


class BaseExecutor(abc.ABC):
    """One place where jobs run.

    `submit`, `poll`, `cancel` and `close` may be called any number of times in any order with the
    same arguments: a job given twice is there once, an id unknown to the executor is reported
    `gone`.
    """

    # Whether jobs end with the process that gave them out; then somebody has to wait for them.
    attached: ClassVar[bool]
    # Whether jobs can be queued behind others (`Job.after`), so that all are given out at once.
    chains: ClassVar[bool]

    # How runs are put together into jobs; None: each run is a job.
    bundling: Bundling | None = None

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def check(cls, context: Context) -> None:
        """Raise ValueError for unknown or contradictory options, before anything is written."""
        known = sorted(cls.option_names())
        for name in context.options or {}:
            if name.rpartition(".")[2] not in known:
                allowed = ", ".join(known) or "none"
                raise ValueError(f"resource: {name!r} is unknown; allowed: {allowed}")

    @classmethod
    def prepared(cls, context: Context) -> AbstractContextManager[None]:
        """Begin what every launch needs, for a block in which the plan is made.

        At the end of the block everything that no job has taken up is let go of. `context` need not
        have been checked, nor have a token.
        """
        return nullcontext()

    @classmethod
    def listing(cls, home: Path, launches: Sequence[Launched]) -> Listing:
        """List the state of `launches`, all of this executor, by one call of the queue.

        The listing is empty for executors without a queue.

        Raises QueueUnknown when it cannot be asked.
        """
        return Listing(runs={}, jobs={})

    @classmethod
    def withdraw(cls, ids: Iterable[str]) -> None:
        """Take jobs out of the queue, whoever put them there; those at work save and end.

        Raises QueueUnknown when the queue does not answer.
        """
        raise QueueUnknown("this executor has no queue")

    @classmethod
    def option_names(cls) -> frozenset[str]:
        """Return the names that `Context.options` may set, without a `KIND.` before them.

        A study's own resources are taken as far as they are among these.
        """
        return frozenset()

    def resources(self, kind: str) -> Resources:
        """Return the resources of a run of `kind`."""
        return Resources()

    @abc.abstractmethod
    def submit(self, jobs: Sequence[Job]) -> list[str | None]:
        """Submit jobs, which are in the order of their dependencies; return their ids in that
        order.

        The id is None for a job that must come again later, because the place takes no more now.

        Raises ValueError for resources that the place does not have, NotSubmitted when it refuses.
        """

    @abc.abstractmethod
    def poll(self, timeout: float = 0.0) -> dict[str, JobReport]:
        """Report on all jobs given out by this object, after waiting at most `timeout` seconds.

        The scheduler is asked once, however many jobs there are.
        """

    @abc.abstractmethod
    def cancel(self, ids: Iterable[str], *, kill: bool = False) -> None:
        """Ask jobs to save and end; with `kill` end them at once. Unknown ids are passed over."""

    def calibrate(self, folder: Path, kind: str) -> str:
        """Run `timing.command(folder)` once and return, in words, how it ended.

        It runs in one process with the resources of one process of a run of `kind`. Ctrl-C ends it.

        An executor that cannot do so raises ValueError.
        """
        raise ValueError("--calibrate: cannot be done by this executor; allowed: another --on")

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything that this object holds; attached executors end their processes."""


def worker_environment(code: Path, **more: str) -> dict[str, str]:
    """Build the environment of a process that trains, the same on every executor.

    Threads of numerical libraries are set to one, so that results do not depend on the place;
    torch's are set by each run from its config.
    """
    environment = dict(os.environ)
    path = [str(code), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        PROCESSES: "1",  # a group says so itself
    }
    return environment | more


def shared_environment(code: Path) -> dict[str, str]:
    """Select the part of `worker_environment` that a process on another node lacks there."""
    known = worker_environment(code)
    names = ("PYTHONPATH", "PYTHONUNBUFFERED", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    more = ("OPENBLAS_NUM_THREADS", "TOKENLAW_FAST_START")
    return {name: known[name] for name in (*names, *more) if name in known}


def trainer_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Build the command of a process that trains: `python -m tokenlaw.trainer ...`."""
    # -P: a folder called `tokenlaw` where the user happens to be must not be imported.
    return [python, "-P", "-m", "tokenlaw.trainer", *arguments]


def group_command(size: int, nodes: int = 1) -> list[str]:
    """Build the command of a worker that does each run with `size` processes, on `nodes` nodes."""
    sizes = [str(size), str(nodes)] if nodes > 1 else [str(size)]
    return [sys.executable, "-P", "-m", "tokenlaw.slurm.worker.group", *sizes]


def free_after(run: RunDir) -> int | None:
    """Return the number of a run's newest attempt when nobody is at work on it, else None.

    The next process claims the run right after that attempt. If another process was faster, the
    claim fails and the run is left alone.
    """
    status = run_status(run)
    if status.state == "running" or status.process_alive:
        return None
    return status.attempt


def run_line(run: RunDir, after: int) -> str:
    """Return the line that a worker reads for a run: claim it only right after attempt `after`."""
    return f"{run.path}\t{after}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundling:
    """Rules for filling jobs with runs."""

    minutes: float = 30.0  # fill up to this much estimated work
    least_jobs: int = 4  # but make so many jobs, where there are enough runs, to use several GPUs
    margin: float = 2.0  # time asked for: margin x estimate + `extra_minutes`
    extra_minutes: float = 10.0  # start of the job, imports, data
    most_minutes: int | None = None  # time limit of the partition
