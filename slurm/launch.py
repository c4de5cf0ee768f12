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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from results_db.provenance import provenance
from results_db.record import RunDir, may_follow, run_status
from sweeps.plan import Plan, PlannedRun, check_written, write_run
from trainer import parts
from trainer.startup import collector_paused

from . import bundles, progress, queued, retry
from .base import BaseExecutor, Context, Job, JobReport, NotSubmitted, QueueUnknown
from .intents import Intent, await_turn, open_intent

EXIT_DONE, EXIT_FAILED, EXIT_TRY_AGAIN = 0, 1, 75

_POLL_SECONDS = 0.25
_SHOW_SECONDS = 0.5
_ELSEWHERE_SECONDS = 2.0  # between looks at runs that other processes are at
_QUEUE_SECONDS = 30.0  # between looks at queues that other launches submitted to
_LATER_SECONDS = 60.0  # before asking again a queue that was full for this user
_TOUCH_SECONDS = 30.0  # between signs of life for launches on other hosts
_PATIENCE_SECONDS = (2.0, 5.0, 10.0)  # with a queue that does not answer
_STARTS = 2  # tries at a run whose worker ends before it claims the run

Place = Literal["waiting", "given", "elsewhere", "done", "diverged", "failed", "blocked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A run that this launch did not bring to its end."""

    kind: str
    id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a launch came to."""

    study: str
    executor: str
    total: int  # runs of the plan
    done: int  # with an endpoint now
    diverged: int  # of those, ended by a loss that was not finite
    submitted: tuple[str, ...]  # ids of the runs given out by this launch
    elsewhere: int  # at work or queued for another launch
    queued: int  # given out and not waited for
    failed: tuple[Problem, ...]
    blocked: tuple[Problem, ...]  # runs below a failed or diverged one
    interrupted: bool
    stopped: str | None  # why everything was stopped, such as a full disk
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 done (diverged runs are), 1 failed, 75 interrupted: the same command goes on."""
        if self.stopped or self.failed:
            return EXIT_FAILED
        return EXIT_TRY_AGAIN if self.interrupted else EXIT_DONE

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"{self.study}: {self.done} of {self.total} runs done"
            + (f", {self.diverged} of them diverged" if self.diverged else "")
            + f"; {len(self.submitted)} submitted now ({progress.duration(self.seconds)})"
        ]
        if self.queued:
            lines.append(f"{self.queued} in the queue; `tokenlaw status {self.study}` follows them")
        if self.elsewhere:
            lines.append(f"{self.elsewhere} are another launch's")
        for title, problems in (("failed", self.failed), ("blocked", self.blocked)):
            lines += [f"{title}: {p.kind} {p.id}: {p.reason}" for p in problems[:10]]
            if len(problems) > 10:
                lines.append(f"{title}: and {len(problems) - 10} more")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        if self.interrupted:
            lines.append("interrupted; nothing is lost, the same command goes on from here")
        return "\n".join(lines)


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
    executor_class = parts.load("slurm.executors", executor).Executor
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
    ledger.read(queued.look(home))
    stopped: str | None = None
    interrupted = False
    if ledger.to_do() or (wait and ledger.count("elsewhere")):
        display = _make_display(progress)
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
                    # One launch after the other decides what is missing, each with a fresh look.
                    await_turn(intent, say=display.say)
                    ledger.read(_answered(home, executor))
                    while ledger.unsettled():
                        time.sleep(1.0)
                        ledger.read(_answered(home, executor))
                    if stuck := ledger.queues.stuck.get(executor):
                        executor_class.withdraw(stuck)
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


def _answered(home: Path, executor: str) -> queued.Queues:
    """A look at the queues, of which the one that will be submitted to must answer: what it holds
    already would be submitted again.

    Raises QueueUnknown after a few tries.
    """
    for seconds in (*_PATIENCE_SECONDS, None):
        queues = queued.look(home)
        if executor not in queues.unknown:
            return queues
        if seconds is not None:
            time.sleep(seconds)
    raise QueueUnknown(f"{executor} cannot be asked: {queues.unknown[executor]}; try again later")


def ingest(home: Path) -> None:
    """Takes the news of runs into the database, and says what could not be taken."""
    with collector_paused():  # for the imports, here and where a database is made
        from results_db.engine import opened
        from results_db.sync import ingest as take_news

        with opened(home) as engine:
            report = take_news(home, engine)
    for line in report.lines():
        print(line, file=sys.stderr)


# ------------------------------------------------------------------------------- what is to be done


@dataclass(slots=True)
class Entry:
    """A run of the plan and where this launch has got to with it."""

    run: PlannedRun
    dir: RunDir
    place: Place = "waiting"
    seconds: float = 1.0  # estimated
    rank: float = 0.0  # longest chain of estimated seconds from here to the end
    job: str | None = None
    submitted: bool = False
    queued: bool = False  # in the queue for another launch
    at_work: bool = False  # its executor says that a process has it
    attempts_before: int = 0  # number of the newest attempt when this launch began
    starts_failed: int = 0
    reason: str | None = None
    children: list[Entry] = field(default_factory=list)

    @property
    def name(self) -> str:
        arm = f" ({self.run.arm})" if self.run.arm else ""
        return f"{self.run.kind} {self.run.id[:8]}{arm}"


class Ledger:
    """All runs of a plan, with what the files say of them."""

    def __init__(self, plan: Plan, home: Path) -> None:
        self.plan = plan
        self.home = home
        self.entries = {
            run.id: Entry(
                run=run,
                dir=RunDir.of(home, run.kind, run.id),
                seconds=max(run.gpu_hours * 3600.0, 0.1),
            )
            for run in plan.runs
        }
        for entry in self.entries.values():
            for parent in self.parents(entry).values():
                parent.children.append(entry)
        # Longest chain first keeps the last worker from starting the longest run last; what others
        # wait for comes before them by itself.
        for run in reversed(plan.runs):
            entry = self.entries[run.id]
            entry.rank = entry.seconds + max((child.rank for child in entry.children), default=0.0)
        known = provenance()
        self._code = known["commit"], known["dirty"]
        self.queues = queued.Queues()
        self._begun: tuple[float, float] | None = None  # time and share when the display began

    def parents(self, entry: Entry) -> dict[str, Entry]:
        """role -> parent."""
        return {role: self.entries[parent] for role, parent in entry.run.parents.items()}

    def read(self, queues: queued.Queues) -> None:
        """Takes the state of every run from its files and the queues, as the launch begins."""
        self.queues = queues
        for entry in self.entries.values():
            if entry.dir.path.is_dir():
                entry.attempts_before = max(entry.dir.attempts(), default=0)
            if self.look(entry) == "failed" and entry.place == "waiting":
                commit, dirty = self._code
                reason = retry.refused(entry.dir, commit=commit, dirty=dirty)
                if reason is not None:
                    entry.place, entry.reason = "failed", reason
        self.block()

    def look(self, entry: Entry) -> str:
        """What files and queues say; sets the place of a run that is done or another launch's."""
        status = run_status(entry.dir)
        where = self.queues.of(entry.dir)
        entry.queued = where is not None and where.phase != "gone"
        # A process of this machine that is alive is at work, however old its heartbeat is; one that
        # the queue does not know any more is not, however fresh it is.
        alive = status.state == "running" or bool(status.process_alive)
        if alive and self.queues.denies(status):
            retry.bury(entry.dir, reason="the queue does not have its job any more")
            alive = False
        if status.state in ("done", "diverged"):
            entry.place = status.state
        elif alive or entry.queued:
            entry.place = "elsewhere"
        elif entry.place == "elsewhere":
            entry.place = "waiting"
        return status.state

    def unsettled(self) -> bool:
        """Whether a launch that died a moment ago may yet turn out to have submitted something."""
        return any(
            where is not None and where.phase == "unknown"
            for where in map(self.queues.of, (entry.dir for entry in self.entries.values()))
        )

    def warn(self, say: Callable[[str], None]) -> None:
        """Says what is in other hands, or was and cannot be seen any more."""
        for executor, why in self.queues.unknown.items():
            say(
                f"{executor} cannot be asked ({why}): runs in its queue are given out again here; "
                "each is claimed once, whoever comes first"
            )
        if waiting := sum(entry.queued for entry in self.entries.values()):
            say(f"{waiting} runs are in a queue already; `tokenlaw cancel` takes them out")

    def block(self) -> None:
        """Marks the runs that cannot start because one above them did not end well."""
        for run in self.plan.runs:
            entry = self.entries[run.id]
            if entry.place != "waiting":
                continue
            for role, parent in self.parents(entry).items():
                bad = parent.place in ("failed", "diverged", "blocked")
                if bad and not may_follow(role, parent.place):
                    entry.place = "blocked"
                    entry.reason = _blocked_by(parent)
                    break

    def to_do(self) -> list[Entry]:
        """Runs to give out, now or when their parents are done."""
        return [entry for entry in self.entries.values() if entry.place == "waiting"]

    def job_ids(self) -> dict[str, str]:
        """run id -> job id of runs that are in the queue, for this launch or another one."""
        found = {}
        for entry in self.entries.values():
            if entry.place == "given" and entry.job is not None:
                found[entry.run.id] = entry.job
            elif entry.place == "elsewhere":
                where = self.queues.of(entry.dir)
                if where is not None and where.phase != "unknown":
                    found[entry.run.id] = where.job_id
        return found

    def ready(self, *, chains: bool, bundles_runs: bool) -> list[Entry]:
        """Runs that can be given out now, in dependency order: their parents are done, or with
        `chains` in the queue or in this list, or with `bundles_runs` ahead of them in the same job.
        """
        followed = set(self.job_ids()) if chains else set()
        found = []
        listed: set[str] = set()
        for entry in self.to_do():
            leads = bundles.FOLLOWS.get(entry.run.kind) if bundles_runs else None
            if all(
                may_follow(role, parent.place)
                or parent.run.id in followed
                or (role == leads and parent.run.id in listed)
                for role, parent in self.parents(entry).items()
            ):
                found.append(entry)
                listed.add(entry.run.id)
                if chains:
                    followed.add(entry.run.id)
        return found

    def write_folders(self, settings: Mapping[str, Any]) -> None:
        """Makes the folders of the runs to do, with this launch's settings.

        Raises Overtaken when a run not done yet waits for others than the plan says.
        """
        for entry in self.entries.values():
            if entry.place == "waiting":
                write_run(self.home, entry.run, settings)
            elif entry.place == "elsewhere":
                check_written(self.home, entry.run)

    def threads(self) -> int:
        """Most CPU threads that a run to do uses."""
        return max((entry.run.config.numerics.cpu_threads for entry in self.to_do()), default=1)

    def count(self, *places: Place) -> int:
        return sum(entry.place in places for entry in self.entries.values())

    def finished(self) -> bool:
        """Whether nothing is left that this launch could wait for."""
        return self.count("waiting", "given", "elsewhere") == 0

    def view(self) -> progress.View:
        """For the display."""
        running = []
        total = left = 0.0
        for entry in self.entries.values():
            total += entry.seconds
            if entry.place in ("given", "elsewhere"):
                status = run_status(entry.dir)
                heartbeat = status.heartbeat
                begun = status.attempt > entry.attempts_before or entry.place == "elsewhere"
                if (begun and status.end is None and status.attempt) or entry.at_work:
                    running.append(_running(entry, heartbeat if begun else None))
                share = 0.0
                if heartbeat is not None and heartbeat["steps"]:
                    share = heartbeat["step"] / heartbeat["steps"]
                left += entry.seconds * (1.0 - min(max(share, 0.0), 1.0))
            elif entry.place == "waiting":
                left += entry.seconds
        share = 1.0 - left / total if total else 1.0
        return progress.View(
            total=len(self.entries),
            done=self.count("done", "diverged"),
            failed=self.count("failed"),
            blocked=self.count("blocked"),
            queued=self.count("waiting", "given", "elsewhere") - len(running),
            share=share,
            eta_seconds=self._eta(share),
            running=running,
        )

    def _eta(self, share: float) -> float | None:
        """Seconds left at the pace so far; None while there is little to tell it from."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, share
        began, share_then = self._begun
        gained = share - share_then
        if gained < 0.05 or now - began < 5.0:
            return None
        return (now - began) * (1.0 - share) / gained

    def summary(
        self, executor: str, interrupted: bool, stopped: str | None, seconds: float
    ) -> Summary:
        def problems(place: Place) -> tuple[Problem, ...]:
            return tuple(
                Problem(kind=entry.run.kind, id=entry.run.id, reason=entry.reason or "")
                for entry in self.entries.values()
                if entry.place == place
            )

        return Summary(
            study=self.plan.study,
            executor=executor,
            total=len(self.entries),
            done=self.count("done", "diverged"),
            diverged=self.count("diverged"),
            submitted=tuple(entry.run.id for entry in self.entries.values() if entry.submitted),
            elsewhere=self.count("elsewhere"),
            queued=self.count("given"),
            failed=problems("failed"),
            blocked=problems("blocked"),
            interrupted=interrupted,
            stopped=stopped,
            seconds=seconds,
        )


def _blocked_by(parent: Entry) -> str:
    if parent.place == "blocked":
        return parent.reason or ""
    why = f": {parent.reason}" if parent.reason else ""
    return f"{parent.run.kind} {parent.run.id} {parent.place}{why}"


def _running(entry: Entry, heartbeat: Mapping[str, Any] | None) -> progress.Running:
    if heartbeat is None:
        return progress.Running(
            name=entry.name,
            phase="starting",
            step=0,
            steps=0,
            unit_per_second=None,
            eta_seconds=None,
        )
    rate, steps, step = heartbeat["unit_per_second"], heartbeat["steps"], heartbeat["step"]
    return progress.Running(
        name=entry.name,
        phase=heartbeat["phase"],
        step=step,
        steps=steps,
        unit_per_second=rate,
        eta_seconds=(steps - step) / rate if rate and steps >= step else None,
    )


# ----------------------------------------------------------------------------------------- the loop


class _Loop:
    """Gives out, listens, tries again, until nothing is left."""

    def __init__(
        self,
        ledger: Ledger,
        place: BaseExecutor,
        intent: Intent,
        display: progress.Display,
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
            seen = queued.look(self._ledger.home)
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


def _make_display(wanted: bool) -> progress.Display:
    return progress.make_display(wanted)


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
