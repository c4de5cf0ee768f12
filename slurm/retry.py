"""The rule that tries failed runs again: a function of their attempts on disk.

| how the attempt ended | tried again |
|---|---|
| preempted, or its worker was lost | while steps advance (a few times in a row without any) |
| out of memory | once, stage 2 with half the micro-batch |
| an exception | once; the same error at the same step twice stops |
| bad input (ValueError) | no: it would end the same way |
| disk full | not by this launch; the next one does |
| diverged | never: that is a result |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..results_db.durable import create_exclusive, write_json
from ..results_db.record import RunDir, now_text, run_status
from ..results_db.state import read_attempts
from ..results_db.strict_json import DamagedError, canonical_json, read_json

STUCK_ATTEMPTS = 4  # lost or preempted in a row with no step gained: something kills the run
FAILURES = 2  # tries that may end in an exception or out of memory, of each class

Ending = Literal[
    "preempted", "lost", "fenced", "memory", "disk", "input", "error", "diverged", "done"
]
_DISK = re.compile(
    r"\[Errno (28|122)\]|No space left on device|[Dd]isk quota exceeded|database or disk is full"
)
_FORGIVEN = "retry.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """One attempt that is over."""

    attempt: int
    ending: Ending
    step: int | None  # the last one known
    error_class: str | None
    error: str | None  # one line
    commit: str | None
    dirty: bool | None
    job: str | None

    @property
    def what(self) -> str:
        """Describe the end in a line for people."""
        at = "" if self.step is None else f" at step {self.step}"
        name = f"{self.error_class}: " if self.error_class else ""
        return f"{self.ending}{at}: {name}{self.error}" if self.error else f"{self.ending}{at}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Decision to try again or not, with the reason."""

    again: bool
    reason: str
    smaller_batch: bool = False  # out of memory: with half the micro-batch


def history(run: RunDir, *, after: int = 0) -> list[Ended]:
    """List the ended attempts above number `after`, oldest first, without the forgiven ones.

    The newest attempt without an end counts as lost: ask for the history of a run only when nobody
    is at work on it.
    """
    first = max(after, forgiven(run))
    records = [record for record in read_attempts(run) if record["attempt"] > first]
    return [_ended(run, record, newest=record is records[-1]) for record in records]


def decide(attempts: Sequence[Ended]) -> Decision:
    """Decide what follows `attempts` (those since the launch began, at least one), oldest first."""
    last = attempts[-1]
    if last.ending in ("done", "diverged"):
        return Decision(again=False, reason=last.what)
    if last.ending == "disk":
        return Decision(again=False, reason=last.what)
    if last.ending == "input":
        return Decision(again=False, reason=last.what)
    if last.ending in ("preempted", "lost", "fenced"):
        stuck = _in_a_row_without_progress(attempts)
        if stuck >= STUCK_ATTEMPTS:
            return Decision(
                again=False, reason=f"{last.what}; {stuck} times in a row without a step gained"
            )
        return Decision(again=True, reason=last.what)
    if (repeated := same_error_twice(attempts)) is not None:
        return Decision(again=False, reason=f"{repeated.what} (twice the same: it is not chance)")
    same_class = sum(entry.ending == last.ending for entry in attempts)
    if same_class >= FAILURES:
        return Decision(again=False, reason=f"{last.what} ({same_class} failures)")
    return Decision(again=True, reason=last.what, smaller_batch=last.ending == "memory")


def same_error_twice(attempts: Sequence[Ended]) -> Ended | None:
    """Return the last attempt, if an earlier one failed with the same error, step and commit."""
    if not attempts or attempts[-1].ending not in ("error", "memory", "input"):
        return None
    last = attempts[-1]
    for other in attempts[:-1]:
        same = (other.ending, other.error_class, other.error, other.step, other.commit) == (
            last.ending,
            last.error_class,
            last.error,
            last.step,
            last.commit,
        )
        if same:
            return last
    return None


def refused(run: RunDir, *, commit: str | None, dirty: bool | None) -> str | None:
    """Return the reason why a new launch does not try a failed run again; None when it does.

    It does unless the run failed twice with the same error at the same step of the code that is
    there now; `forgive` lifts that. Code with uncommitted changes may have been mended since, so it
    is never the same.
    """
    repeated = same_error_twice(history(run))
    if repeated is None or dirty or repeated.dirty or repeated.commit != commit:
        return None
    return f"{repeated.what} (twice the same; `tokenlaw retry` tries again)"


def forgive(run: RunDir) -> int:
    """Forgive all attempts so far in later decisions; return the newest one's number."""
    newest = max(run.attempts(), default=0)
    write_json(run.path / _FORGIVEN, {"after_attempt": newest, "at": now_text()})
    return newest


def forgiven(run: RunDir) -> int:
    """Return the newest attempt that `forgive` covers; 0 when there is none."""
    try:
        return int(read_json(run.path / _FORGIVEN)["after_attempt"])
    except (FileNotFoundError, DamagedError, KeyError, TypeError, ValueError):
        return 0  # a note: without it, past failures count again


def bury(run: RunDir, *, reason: str, memory: bool = False) -> bool:
    """Record the end of the newest attempt; the caller knows that its process is gone.

    Returns: True if there was such an attempt without an end. An attempt that was declared dead and
    wakes up is fenced off by the next claim.
    """
    status = run_status(run)
    if status.attempt == 0 or status.end is not None:
        return False
    step = (status.heartbeat or {}).get("step")
    content: dict[str, Any] = {
        "outcome": "failed" if memory else "fenced",
        "error_class": "OutOfMemory" if memory else "WorkerLost",
        "error": reason,
        "step": step,
        "ended_at": now_text(),
        "seconds": None,
    }
    line = canonical_json(content).encode() + b"\n"
    return create_exclusive(run.attempt_end_path(status.attempt), line)


def shrink_micro_batch(run: RunDir) -> int | None:
    """Halve the micro-batch in the run's settings and return it; None without one to halve.

    The batch of a step is part of the identity and stays: it is made from more pieces.
    """
    if run.kind != "generator":
        return None
    settings = read_json(run.settings_path)
    size = settings.get("micro_batch")
    if size is None:
        share = settings.get("activation_memory", 1.0)
        size = int(run.config()["config"]["batch_size"] * share)
    if size <= 1:
        return None
    settings["micro_batch"] = max(1, size // 2)
    write_json(run.settings_path, settings)
    return int(settings["micro_batch"])


def is_disk_full(error: str | None) -> bool:
    """Tell if an error's text says that the disk is full or the quota used up."""
    return bool(error and _DISK.search(error))


def _in_a_row_without_progress(attempts: Sequence[Ended]) -> int:
    count = 0
    best = max((entry.step or 0 for entry in attempts), default=0)
    for entry in reversed(attempts):
        if entry.ending not in ("preempted", "lost", "fenced") or (entry.step or 0) < best:
            break
        count += 1
    return count


def _ended(run: RunDir, record: dict[str, Any], *, newest: bool) -> Ended:
    end = record["end"]
    step: int | None = None
    ending: Ending
    if end is None:
        ending = "lost"
        heartbeat = run_status(run).heartbeat if newest else None
        step = (heartbeat or {}).get("step")
    else:
        ending = _ending(end)
        step = end.get("step")
    error = (end or {}).get("error")
    return Ended(
        attempt=record["attempt"],
        ending=ending,
        step=step,
        error_class=(end or {}).get("error_class"),
        error=None if error is None else _last_line(error),
        commit=record.get("commit"),
        dirty=record.get("dirty"),
        job=record.get("job"),
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _ending(end: dict[str, Any]) -> Ending:
    outcome = end.get("outcome")
    if outcome == "preempted":
        return "preempted"
    if outcome == "done":
        return "done"
    if outcome == "diverged":
        return "diverged"
    if outcome == "fenced":
        return "lost" if end.get("error_class") == "WorkerLost" else "fenced"
    name, error = end.get("error_class") or "", end.get("error") or ""
    if name == "DiskFull" or is_disk_full(error):
        return "disk"
    if name in ("OutOfMemory", "MemoryError") or "out of memory" in error.lower():
        return "memory"
    return "input" if name == "ValueError" else "error"
