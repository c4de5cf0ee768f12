"""Keep the state of each run of a launch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..results_db.processes import EXIT_DONE, EXIT_FAILED, EXIT_TRY_AGAIN
from ..results_db.provenance import provenance
from ..results_db.record import RunDir, may_follow, run_status
from ..sweeps.plan import check_written, write_run
from ..sweeps.planned import Plan, PlannedRun
from . import bundles, progress, retry
from .follow import queue as queued

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
