"""What a job does: its runs, one after another in one worker process, until they are done or the
job must give way.

submitit calls the object when the job starts and keeps nothing else of it; all it holds are
folders, so the first pickle is as good as any later one. Signals only set a flag. The runs are
looked at when their turn comes: what is done, or at work in another job, is left alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ...results_db.masking import mask_tracebacks
from ...results_db.processes import EXIT_TRY_AGAIN, die_with_parent
from ...results_db.record import RunDir, find_run, may_follow, read_endpoint, run_status
from ...results_db.strict_json import DamagedError
from .. import retry, scheduler
from ..base import Context, Job
from ..executors.local import Executor as LocalPool

_POLL_SECONDS = 0.5
_SAVE_SECONDS = 600.0  # for a run to save after it was asked to stop
_UNKNOWN_SECONDS = 300.0  # wait for SIGKILL when the queue does not say what is going on

Stopper = Callable[[], bool]


class RunsFailed(RuntimeError):
    """Not all runs of the job are done; the message says which and why. Ends the job as failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who a job is, as its attempts' claims carry it; the same when it is started again."""

    executor: str
    job: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """The work of one SLURM job."""

    run_dirs: tuple[str, ...]
    token: str  # of the launch
    processes: int = 1  # for each run
    nodes: int = 1  # over which they are spread

    def __call__(self) -> str:
        """Does the runs; returns one line about them. Raises RunsFailed when some are not done."""
        asked = _Asked()
        job = slurm_job_id()
        before = asked.listen()
        runs = [RunDir(path) for path in self.run_dirs]
        mine = Identity(executor="slurm", job=job)
        results = do_runs(
            runs,
            token=self.token,
            mine=mine,
            stop=asked.is_stop,
            processes=self.processes,
            nodes=self.nodes,
        )
        if asked.is_stop() and any(result.ending == "stopped" for result in results):
            self._give_way(asked, before, job)
        return conclude(results)

    def checkpoint(self) -> Any:
        """What submitit queues again after a preemption or time-out: the same folders.

        None, which ends the job, when the runs gain no step any more from one start to the next.
        """
        from submitit.helpers import DelayedSubmission

        for run in map(RunDir, self.run_dirs):
            if read_endpoint(run) is None and run.attempts():
                ended = of_job(run, slurm_job_id())
                if ended and not retry.decide(ended).again:
                    return None
                break
        return DelayedSubmission(self)

    def _give_way(self, asked: _Asked, requeue: Callable[..., Any], job: str) -> None:
        """All is saved: back into the queue, unless SLURM is ending or requeueing us anyway."""
        if not asked.by_user_signal:
            state = _own_state(job)
            if state is None:
                # The queue does not answer. SIGKILL is on its way in most cases; an idle process is
                # harmless, a cancelled job that comes back is not.
                time.sleep(_UNKNOWN_SECONDS)
            if state != "RUNNING":
                sys.exit(EXIT_TRY_AGAIN)
        # submitit's own handler: calls `checkpoint`, stores what it returns, asks SLURM to requeue.
        requeue(signal.SIGUSR2, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of one run in this job."""

    run: RunDir
    ending: str  # done, diverged, failed, skipped, elsewhere, stopped
    reason: str | None = None


def do_runs(
    runs: list[RunDir],
    *,
    token: str,
    mine: Identity,
    stop: Stopper,
    processes: int = 1,
    nodes: int = 1,
    say: Callable[[str], None] | None = None,
) -> list[Done]:
    """Does `runs` in order in one worker of `processes` on `nodes`; stops early when `stop()` says
    so.
    """
    say = say or _say
    options = {"processes": processes}
    pool = LocalPool(Context(home=runs[0].home, study="", token=token, workers=1, options=options))
    pool.environment = {"TOKENLAW_JOB": mine.job}
    pool.nodes = nodes
    pool.free_after = lambda run: _free_after(run, mine)
    results = []
    try:
        for run in runs:
            result = _do_run(pool, run, mine, stop, say)
            reason = f": {result.reason}" if result.reason else ""
            say(f"{run.kind} {run.id}: {result.ending}{reason}")
            results.append(result)
            if result.ending == "stopped":
                break
    finally:
        pool.close()
    return results


def conclude(results: list[Done]) -> str:
    """One line about runs that all went well; RunsFailed names the others."""
    bad = [result for result in results if result.ending in ("failed", "skipped", "stopped")]
    if bad:
        raise RunsFailed(
            "; ".join(f"{r.run.kind} {r.run.id} {r.ending}: {r.reason or ''}" for r in bad)
        )
    return f"{len(results)} runs done"


def of_job(run: RunDir, job: str) -> list[retry.Ended]:
    """The attempts at a run that this job made, also before it was queued again."""
    return [ended for ended in retry.history(run) if ended.job == job]


def slurm_job_id() -> str:
    """This job's id as squeue shows it: 123, or 123_4 for a task of an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _do_run(
    pool: LocalPool, run: RunDir, mine: Identity, stop: Stopper, say: Callable[[str], None]
) -> Done:
    starts = 0
    while True:
        if stop():
            return Done(run=run, ending="stopped")
        endpoint = read_endpoint(run)
        if endpoint is not None:
            return Done(run=run, ending=endpoint["status"])
        if (missing := _missing_parent(run)) is not None:
            return Done(run=run, ending="skipped", reason=missing)
        newest = max(run.attempts(), default=0)
        reason = _once(pool, run, stop)
        if read_endpoint(run) is not None:
            continue
        if stop():
            return Done(run=run, ending="stopped")
        if _is_taken(run, mine):
            return Done(run=run, ending="elsewhere", reason="another job is at it")
        if max(run.attempts(), default=0) == newest:
            starts += 1
            if starts >= 2:
                return Done(run=run, ending="failed", reason=reason)
            continue
        ended = of_job(run, mine.job)
        if not ended or ended[-1].attempt != max(run.attempts()):
            continue  # another job's attempt is newer: looked at again from the start
        decision = retry.decide(ended)
        if not decision.again:
            return Done(run=run, ending="failed", reason=decision.reason)
        if decision.smaller_batch and (size := retry.shrink_micro_batch(run)) is not None:
            say(f"{run.kind} {run.id}: out of memory; again with micro-batch {size}")
        else:
            say(f"{run.kind} {run.id}: {decision.reason}; trying again")


def _once(pool: LocalPool, run: RunDir, stop: Stopper) -> str:
    """One attempt in the worker; returns how it ended. Asks it to save when told to stop."""
    (name,) = pool.submit([Job(key=run.id, run_dirs=(run,))])
    assert name is not None
    asked_at: float | None = None
    while True:
        report = pool.poll(_POLL_SECONDS)[name]
        if report.phase == "gone":
            return report.reason or "the worker ended"
        if stop() and asked_at is None:
            asked_at = time.monotonic()
            pool.cancel([name])
        elif asked_at is not None and time.monotonic() - asked_at > _SAVE_SECONDS:
            pool.cancel([name], kill=True)


def _missing_parent(run: RunDir) -> str | None:
    """Why the run cannot start: a parent without a good end."""
    for role, parent in run.config().get("parents", {}).items():
        try:
            folder = find_run(run.home, parent)
            endpoint = None if folder is None else read_endpoint(folder)
        except DamagedError as error:
            return str(error)
        if endpoint is None or not may_follow(role, endpoint["status"]):
            state = "not done" if endpoint is None else endpoint["status"]
            return f"its {role} {parent} is {state}"
    return None


def _free_after(run: RunDir, mine: Identity) -> int | None:
    # The number first: whoever claims the run from here on makes our claim fail.
    newest = max(run.attempts(), default=0)
    return None if _is_taken(run, mine) else newest


def _is_taken(run: RunDir, mine: Identity) -> bool:
    """Whether another live job is at the run.

    This job's own earlier start, which may live on for some seconds after a requeue, is not:
    claiming the run again fences it off.
    """
    status = run_status(run)
    claim = status.claim or {}
    if status.state != "running" and not status.process_alive:
        return False
    if (claim.get("executor"), claim.get("job")) == (mine.executor, mine.job):
        return False
    if status.process_alive or claim.get("executor") != "slurm":
        return True
    try:
        listed = scheduler.my_jobs().get(str(claim.get("job")))
    except scheduler.SchedulerError:
        return True  # the heartbeat alone says that it lives
    return listed is not None and listed.phase != "gone"


def _own_state(job: str) -> str | None:
    try:
        listed = scheduler.my_jobs().get(job)
    except (scheduler.SchedulerError, subprocess.SubprocessError):
        return None
    return None if listed is None else listed.state


class _Asked:
    """Flags that signals set: SIGUSR2 before a preemption or time-out, SIGTERM at the end of
    either.
    """

    def __init__(self) -> None:
        self.by_user_signal = False
        self._terminated = False

    def listen(self) -> Callable[..., Any]:
        """Takes the signals over; returns submitit's handler of SIGUSR2."""
        before = signal.getsignal(signal.SIGUSR2)
        signal.signal(signal.SIGUSR2, self._user_signal)
        signal.signal(signal.SIGTERM, self._terminate)
        return before if callable(before) else lambda *_: sys.exit(EXIT_TRY_AGAIN)

    def is_stop(self) -> bool:
        return self.by_user_signal or self._terminated

    def _user_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.by_user_signal = True

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Exit code: 0 all done, 1 some failed, 75 told to stop."""
    token, executor, job, processes, *paths = arguments
    die_with_parent(always=True)
    asked = _Asked()
    asked.listen()
    mine = Identity(executor=executor, job=job)
    results = do_runs(
        [RunDir(path) for path in paths],
        token=token,
        mine=mine,
        stop=asked.is_stop,
        processes=int(processes),
    )
    if any(result.ending == "stopped" for result in results):
        return EXIT_TRY_AGAIN
    return int(any(result.ending in ("failed", "skipped") for result in results))


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
