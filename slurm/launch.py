"""Launch a plan: a reconcile. What is done stays, what is missing is given out once, in dependency
order.

The files decide: a run is done when its endpoint exists, taken when its newest attempt lives. So
any number of launches, at once or after one another, on one executor or several, end with each run
done once; and a launch that dies at any moment leaves nothing that the next one has to clean up.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..results_db.processes import collector_paused
from ..sweeps.planned import Plan
from ..trainer import parts
from . import bundles, retry
from .base import BaseExecutor, Context, Job, JobReport, NotSubmitted, QueueUnknown
from .follow import queue
from .launch_records import Intent, await_turn, open_intent
from .progress import Display, make_display
from .run_states import Entry, Ledger, Summary

_POLL_SECONDS = 0.25
_SHOW_SECONDS = 0.5
_ELSEWHERE_SECONDS = 2.0  # between looks at runs that other processes are at
_QUEUE_SECONDS = 30.0  # between looks at queues that other launches submitted to
_LATER_SECONDS = 60.0  # before asking again a queue that was full for this user
_TOUCH_SECONDS = 30.0  # between signs of life for launches on other hosts
_PATIENCE_SECONDS = (2.0, 5.0, 10.0)  # with a queue that does not answer
_STARTS = 2  # tries at a run whose worker ends before it claims the run


def launch(
    plan: Plan,
    *,
    executor: str = "local",
    home: str | Path,
    settings: Mapping[str, Any],
    workers: int | None = None,
    gpus: int | None = None,
    wait: bool = True,
    yes: bool = True,
    progress: bool = True,
    options: Mapping[str, object] | None = None,
) -> Summary:
    """Gives out what is missing of `plan`, once; with `wait` returns when all of it has ended.

    Args:
        executor: file name in `slurm/executors`.
        home: $TOKENLAW_HOME.
        settings: what each run's settings.json shall hold (device, locations, checkpoints ...).
        workers: runs at once. None: one for each GPU, else for each CPU core.
        gpus: GPUs to use; None: all.
        wait: without, returns when everything is in the queue; needs an executor that has one.
        yes: without, shows the total and asks first.
        progress: bars on a terminal, lines elsewhere; without, messages only (all on stderr).
        options: the executor's own.

    Raises ValueError for an unknown executor or option, or data that are not at hand; Overtaken,
    with nothing given out, when a new plan is needed.
    """
    if plan.missing_data:
        raise ValueError(plan.missing_data)
    executor_class = parts.load("executors", executor).Executor
    if executor_class.attached and not wait:
        raise ValueError(
            f"wait: {executor} jobs end with the command that started them; allowed: waiting"
        )
    home = Path(home).resolve()
    settings = {**settings, "executor": executor}
    settings["locations"] = {**plan.locations, **settings.get("locations", {})}
    ledger = Ledger(plan, home)
    context = Context(
        home=home,
        study=plan.study,
        token="",
        workers=workers,
        gpus=gpus,
        use_gpu=settings.get("device", "auto") != "cpu",
        options=options,
    )
    executor_class.check(context)
    if not yes and not _confirmed(plan):
        raise ValueError("launch: not confirmed; allowed: y, or --yes")
    started = time.monotonic()
    plan.write(home)
    ingest(home)
    ledger.read(queue.look(home))
    stopped: str | None = None
    interrupted = False
    if ledger.to_do() or (wait and ledger.count("elsewhere")):
        display = make_display(progress)
        intent = open_intent(
            home, study=plan.study, executor=executor, submitting=executor_class.chains
        )
        place: BaseExecutor | None = None
        try:
            context = replace(
                context,
                token=intent.token,
                threads=ledger.threads(),
                intent=intent,
                say=display.say,
            )
            place = executor_class(context)
            with _Interrupts(display.say) as interrupts:
                if executor_class.chains:
                    _take_turn(ledger, intent, executor, place, say=display.say)
                ledger.warn(display.say)
                ledger.write_folders(settings)
                loop = _Loop(ledger, place, intent, display, interrupts)
                try:
                    stopped = loop.go(wait=wait)
                except NotSubmitted as error:
                    stopped = f"{executor} refused: {error}"
                interrupted = bool(interrupts.count) and not ledger.finished()
        finally:
            try:
                if place is not None:
                    place.close()
            finally:
                display.close()
                # On a full disk the record stays open; its process is gone, which says the same.
                with suppress(OSError):
                    intent.close()
        ledger.block()
        ingest(home)
    return ledger.summary(executor, interrupted, stopped, time.monotonic() - started)


def _take_turn(
    ledger: Ledger,
    intent: Intent,
    executor: str,
    place: BaseExecutor,
    *,
    say: Callable[[str], None],
) -> None:
    """One launch after the other decides what is missing, each with a fresh look."""
    await_turn(intent, say=say)
    ledger.read(_answered(ledger.home, executor))
    while ledger.unsettled():
        time.sleep(1.0)
        ledger.read(_answered(ledger.home, executor))
    if stuck := ledger.queues.stuck.get(executor):
        place.withdraw(stuck)


def _answered(home: Path, executor: str) -> queue.Queues:
    """A look at the queues, of which the one that will be submitted to must answer: what it holds
    already would be submitted again.

    Raises QueueUnknown after a few tries.
    """
    for seconds in (*_PATIENCE_SECONDS, None):
        queues = queue.look(home)
        if executor not in queues.unknown:
            return queues
        if seconds is not None:
            time.sleep(seconds)
    raise QueueUnknown(f"{executor} cannot be asked: {queues.unknown[executor]}; try again later")


def ingest(home: Path) -> None:
    """Takes the news of runs into the database, and says what could not be taken."""
    with collector_paused():  # for the imports, here and where a database is made
        from ..results_db.engine import opened
        from ..results_db.sync import ingest as take_news

        with opened(home) as engine:
            report = take_news(home, engine)
    for line in report.lines():
        print(line, file=sys.stderr)


# ----------------------------------------------------------------------------------------- the loop


class _Loop:
    """Gives out, listens, tries again, until nothing is left."""

    def __init__(
        self,
        ledger: Ledger,
        place: BaseExecutor,
        intent: Intent,
        display: Display,
        interrupts: _Interrupts,
    ) -> None:
        self._ledger = ledger
        self._place = place
        self._intent = intent
        self._display = display
        self._interrupts = interrupts
        self._given: dict[str, list[Entry]] = {}  # by job id
        self._not_before = 0.0  # when to submit again what the place had no room for
        self._stopped: str | None = None
        self._cancelled = 0  # how often the jobs were asked to end
        self._next_show = 0.0
        self._next_look = 0.0
        self._next_touch = 0.0
        self._next_queue = time.monotonic() + _QUEUE_SECONDS

    def go(self, *, wait: bool) -> str | None:
        """Returns when all has ended, or without `wait` when all is in the queue; the reason if
        everything was stopped for one.
        """
        while True:
            stopping = self._stopped is not None or self._interrupts.count > 0
            if not stopping:
                self._give_out()
                self._intent.submitted()
                if not wait:
                    break
            elif not self._place.attached:
                break  # jobs in a queue go on without us
            elif self._cancelled < max(1, self._interrupts.count):
                self._cancel()
            if not self._given and (stopping or self._ledger.finished()):
                break
            ended = False
            for job_id, report in self._place.poll(_POLL_SECONDS).items():
                if job_id not in self._given:
                    continue
                for entry in self._given[job_id]:
                    # Of several runs in a job, the one at work is known by its claim.
                    alone = len(self._given[job_id]) == 1
                    entry.at_work = alone and report.phase == "running" and self._place.attached
                if report.phase == "gone":
                    ended = True
                    for entry in self._given.pop(job_id):
                        self._take_back(entry, report)
            if not self._given and not ended:
                time.sleep(_POLL_SECONDS)
            self._look_elsewhere()
            self._sign_of_life()
            self._show()
        if wait:
            self._display.show(self._ledger.view(), final=True)
        return self._stopped

    def _give_out(self) -> None:
        if time.monotonic() < self._not_before:
            return
        place = self._place
        ready = self._ledger.ready(chains=place.chains, bundles_runs=place.bundling is not None)
        if not ready:
            return
        jobs = [job for job in self._jobs(ready) if place.chains or not job.after]
        entries = self._ledger.entries
        for job, job_id in zip(jobs, self._place.submit(jobs), strict=True):
            if job_id is None:
                self._not_before = time.monotonic() + _LATER_SECONDS
                continue
            self._given[job_id] = [entries[run_id] for run_id in job.run_ids]
            for entry in self._given[job_id]:
                entry.place, entry.job, entry.submitted = "given", job_id, True

    def _jobs(self, ready: list[Entry]) -> list[Job]:
        """Jobs for runs, put together as the executor wants them."""
        if self._place.bundling is None:
            return [
                Job(
                    key=entry.run.id,
                    run_dirs=(entry.dir,),
                    priority=entry.rank,
                    seconds=entry.seconds,
                )
                for entry in ready
            ]
        tasks = [
            bundles.Task(
                run_dir=entry.dir,
                parents=entry.run.parents,
                seconds=entry.seconds,
                priority=entry.rank,
            )
            for entry in ready
        ]
        return bundles.make_jobs(
            tasks,
            resources=self._place.resources,
            queued=self._ledger.job_ids(),
            bundling=self._place.bundling,
        )

    def _cancel(self) -> None:
        self._cancelled += 1
        self._place.cancel(list(self._given), kill=self._cancelled > 1)

    def _take_back(self, entry: Entry, report: JobReport) -> None:
        """A job has ended: its files say what came of it."""
        entry.job = None
        entry.place = "waiting"
        self._ledger.look(entry)
        if entry.place == "waiting":
            self._decide(entry, report)
        elif entry.place == "diverged":
            self._display.say(f"{entry.name} diverged: recorded, and left out of fits")
        self._ledger.block()

    def _decide(self, entry: Entry, report: JobReport) -> None:
        reason = report.reason or "its worker ended"
        if report.disk_full:
            self._stopped = reason
            return
        if report.blameless:
            return  # if nobody has it any more, it is given out again
        if report.cancelled:
            self._fail(entry, "its job was cancelled; the next launch goes on with it")
            return
        ended = retry.history(entry.dir, after=entry.attempts_before)
        if not ended:
            # The run was never claimed: its worker could not start, or was asked to end before.
            if self._cancelled:
                return
            entry.starts_failed += 1
            if entry.starts_failed >= _STARTS:
                self._fail(entry, reason)
            return
        entry.starts_failed = 0
        if ended[-1].ending == "disk":
            self._stopped = f"disk full: {ended[-1].error}"
            return
        decision = retry.decide(ended)
        if not decision.again:
            self._fail(entry, decision.reason)
            return
        if self._cancelled:
            return
        if decision.smaller_batch and (size := retry.shrink_micro_batch(entry.dir)) is not None:
            self._display.say(f"{entry.name}: out of memory; again with micro-batch {size}")
        else:
            self._display.say(f"{entry.name}: {decision.reason}; trying again")

    def _fail(self, entry: Entry, reason: str) -> None:
        entry.place, entry.reason = "failed", reason
        self._display.say(f"{entry.name} failed: {reason}")

    def _look_elsewhere(self) -> None:
        """Whether runs of other launches have ended: done, or lost and ours to take up."""
        now = time.monotonic()
        if now < self._next_look or not self._ledger.count("elsewhere"):
            return
        self._next_look = now + _ELSEWHERE_SECONDS
        elsewhere = [e for e in self._ledger.entries.values() if e.place == "elsewhere"]
        if now >= self._next_queue and any(entry.queued for entry in elsewhere):
            self._next_queue = now + _QUEUE_SECONDS
            seen = queue.look(self._ledger.home)
            # A queue that has nothing to say for once has not lost its jobs.
            if set(seen.unknown) <= set(self._ledger.queues.unknown):
                self._ledger.queues = seen
        for entry in elsewhere:
            state = self._ledger.look(entry)
            if entry.place == "waiting" and state == "failed":
                ended = retry.history(entry.dir, after=entry.attempts_before)
                decision = retry.decide(ended) if ended else None
                if decision is not None and not decision.again:
                    self._fail(entry, decision.reason)
        self._ledger.block()

    def _sign_of_life(self) -> None:
        if time.monotonic() >= self._next_touch:
            self._next_touch = time.monotonic() + _TOUCH_SECONDS
            self._intent.touch()

    def _show(self) -> None:
        if time.monotonic() >= self._next_show:
            self._next_show = time.monotonic() + _SHOW_SECONDS
            self._display.show(self._ledger.view())


class _Interrupts:
    """Counts Ctrl-C, SIGTERM and SIGHUP while it is open, instead of dying of them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.count = 0
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Interrupts:
        # Only the main thread may set handlers; elsewhere the caller's stay.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupted(self, number: int, _frame: object) -> None:
        self.count += 1
        if self.count == 1:
            self._say("stopping: runs save where they are; again to end them at once")


# ------------------------------------------------------------------------------------------- asking


def _confirmed(plan: Plan) -> bool:
    totals = plan.totals()
    print(
        f"{plan.study}: {totals['runs']} runs, {totals['flops_train']:.3g} train FLOPs, "
        f"about {totals['gpu_hours']:.3g} GPU-hours",
        file=sys.stderr,
    )
    if not sys.stdin.isatty():
        return False
    return input("launch? [y/N] ").strip().lower() in ("y", "yes")
