"""The state of a run, computed from its files alone, and the heartbeat that keeps it alive."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .durable import replace_fast
from .endpoint import check_endpoint
from .processes import host_name, process_is_alive, process_start
from .rundir import RunDir, find_run
from .strict_json import DamagedError, canonical_json, read_json, read_plain

State = Literal["planned", "waiting", "running", "done", "diverged", "failed", "preempted", "lost"]
STATES: tuple[State, ...] = (
    "planned",
    "waiting",
    "running",
    "done",
    "diverged",
    "failed",
    "preempted",
    "lost",
)
TRUNK = "trunk"  # role of the parent whose training a run goes on with
GRACE_SECONDS = 300.0  # a heartbeat older than this is no sign of life
_BEAT_SECONDS = 1.0
_CLOCK_SECONDS = 60.0

# home -> (file system's clock minus our monotonic clock in seconds, monotonic time of the
# comparison)
_clocks: dict[Path, tuple[float, float]] = {}


def now_text() -> str:
    """Return the time as ISO 8601 in UTC, as all records carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """State of a run with the records that it was taken from."""

    state: State
    attempt: int  # the newest; 0 when there is none
    claim: dict[str, Any] | None  # attempts/NNN.json of the newest attempt
    end: dict[str, Any] | None  # attempts/NNN.end.json of the newest attempt
    heartbeat: dict[str, Any] | None  # the newest attempt's: step, steps, phase, unit_per_second
    age_seconds: float | None  # since the last sign of life, of an attempt without an end
    process_alive: bool | None  # of an attempt without an end on this host; None when unknown


def run_state(
    run_dir: str | os.PathLike[str] | RunDir, *, grace_seconds: float = GRACE_SECONDS
) -> State:
    """Return the state of a run, from its files alone.

    planned: no attempt yet, all parents done. waiting: no attempt yet, a parent is not done.
    running: the newest attempt has no end and gave a sign of life within the grace. lost: no end,
    and its process on this host is dead, or there was no sign of life (a claim counts as one).
    failed, preempted: how the newest attempt ended. done, diverged: the endpoint says so. Ask the
    scheduler as well before a `lost` run of another host is started again.
    """
    return run_status(run_dir, grace_seconds=grace_seconds).state


def run_status(
    run_dir: str | os.PathLike[str] | RunDir,
    *,
    grace_seconds: float = GRACE_SECONDS,
    parents: bool = True,
) -> RunStatus:
    """Return the state of a run, as `run_state`, with the records that it was taken from.

    With `parents` false the parents are not read, for callers who know of them. Every run without
    an attempt is `planned` then.
    """
    run = RunDir(run_dir)
    numbers = run.attempts()
    attempt = numbers[-1] if numbers else 0
    claim = _read_object(run.attempt_path(attempt)) if attempt else None
    end = _read_object(run.attempt_end_path(attempt)) if attempt else None
    heartbeat = _read_object(run.heartbeat_path) if attempt else None
    if heartbeat is not None and not _is_heartbeat(heartbeat, attempt):
        heartbeat = None
    age: float | None = None
    alive: bool | None = None
    endpoint = _endpoint_status(run)
    state: State
    if endpoint is not None:
        state = endpoint
    elif attempt == 0:
        state = "planned" if not parents or _parents_done(run) else "waiting"
    elif end is not None:
        outcome = end.get("outcome")
        state = outcome if outcome in ("failed", "preempted") else "lost"
    else:
        alive = _process_alive(claim or {})
        age = _sign_of_life_age(run, attempt, heartbeat is not None)
        state = "running" if alive is not False and age <= grace_seconds else "lost"
    return RunStatus(
        state=state,
        attempt=attempt,
        claim=claim,
        end=end,
        heartbeat=heartbeat,
        age_seconds=age,
        process_alive=alive,
    )


class Heartbeat:
    """Writes the heartbeat of one attempt, at most once a second."""

    def __init__(
        self,
        run_dir: str | os.PathLike[str] | RunDir,
        attempt: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = RunDir(run_dir).heartbeat_path
        self._attempt = attempt
        self._check = check  # raises Fenced when a newer attempt exists
        self._next = 0.0

    def beat(
        self,
        *,
        step: int,
        steps: int,
        phase: str,
        unit_per_second: float | None = None,
        force: bool = False,
    ) -> bool:
        """Write the heartbeat unless it comes too soon after the last; return True if written."""
        if not force and time.monotonic() < self._next:
            return False
        self._check()
        content = {
            "attempt": self._attempt,
            "step": step,
            "steps": steps,
            "phase": phase,
            "unit_per_second": unit_per_second,
            "at": now_text(),
        }
        replace_fast(self._path, canonical_json(content).encode())
        self._next = time.monotonic() + _BEAT_SECONDS
        return True


def peek_endpoint(run: RunDir) -> dict[str, Any]:
    """Read an endpoint that states its run and status; empty where there is no such file.

    Its values are not checked: a planner asks this of tens of thousands of runs.
    """
    try:
        content = json.loads(read_plain(run.endpoint_path))
    except (FileNotFoundError, DamagedError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("status") not in ("done", "diverged"):
        return {}
    own = (content.get("kind"), content.get("run_id")) == (run.kind, run.id)
    return content if own and isinstance(content.get("columns"), dict) else {}


def _endpoint_status(run: RunDir) -> Literal["done", "diverged"] | None:
    return peek_endpoint(run).get("status")


def _parents_done(run: RunDir) -> bool:
    try:
        parents = run.config().get("parents", {})
    except (FileNotFoundError, DamagedError):
        return True
    for role, parent in parents.items():
        folder = find_run(run.home, parent)
        end = None if folder is None else _endpoint_status(folder)
        if end is None or not may_follow(role, end):
            return False
    return True


def may_follow(role: str, state: str) -> bool:
    """Tell if a run may begin when its parent of that role is in this state.

    It may begin behind a diverged trunk as well. It ends as diverged at once, as it would have
    ended alone, and is counted with the others instead of waiting for ever.
    """
    return state == "done" or (role == TRUNK and state == "diverged")


def _process_alive(claim: dict[str, Any]) -> bool | None:
    pid = claim.get("pid")
    if claim.get("host") != host_name() or not isinstance(pid, int):
        return None
    if not process_is_alive(pid):
        return False
    started = claim.get("pid_start")
    return started is None or process_start(pid) == started


def _is_heartbeat(content: dict[str, Any], attempt: int) -> bool:
    numbers = (content.get("step"), content.get("steps"))
    rate = content.get("unit_per_second")
    return (
        content.get("attempt") == attempt
        and all(isinstance(number, int) for number in numbers)
        and isinstance(content.get("phase"), str)
        and (rate is None or isinstance(rate, int | float))
    )


def _sign_of_life_age(run: RunDir, attempt: int, has_heartbeat: bool) -> float:
    """Return the seconds since the heartbeat, or since the claim when that is younger or alone.

    Both are those of the newest attempt.
    """
    times = [os.stat(run.attempt_path(attempt)).st_mtime]
    if has_heartbeat:
        try:
            times.append(os.stat(run.heartbeat_path).st_mtime)
        except FileNotFoundError:
            pass  # replaced or removed since it was read: the claim still counts
    return max(0.0, _file_system_now(run.home) - max(times))


def seconds_since(path: Path, home: Path) -> float:
    """Return the age of a file below `home` by the clock that stamps the files there."""
    return max(0.0, _file_system_now(home) - path.lstat().st_mtime)


def _file_system_now(home: Path) -> float:
    """Return the time of the clock that stamps the files.

    On a network file system that clock is not this host's.
    """
    known = _clocks.get(home)
    monotonic = time.monotonic()
    if known is None or monotonic - known[1] > _CLOCK_SECONDS:
        try:
            with tempfile.NamedTemporaryFile(prefix=".clock-", dir=home) as file:
                offset = os.fstat(file.fileno()).st_mtime - monotonic
        except OSError:
            # A reader without the right to write there, or a full disk: our own clock is all there
            # is.
            offset = time.time() - monotonic
        known = _clocks[home] = (offset, monotonic)
    return known[0] + monotonic


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except (FileNotFoundError, DamagedError):
        return None
    return content if isinstance(content, dict) else None


def read_endpoint(run_dir: str | os.PathLike[str] | RunDir) -> dict[str, Any] | None:
    """Read and check the endpoint of a run; None when there is none yet.

    Raises: DamagedError: there is one, but it is not valid JSON or breaks the schema;
        MisplacedError: it belongs to another run.
    """
    run = RunDir(run_dir)
    try:
        content = read_json(run.endpoint_path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        raise DamagedError(f"{error}; {run.redo}") from error
    try:
        endpoint = check_endpoint(content)
    except ValueError as error:
        raise DamagedError(f"{run.endpoint_path}: {error}; {run.redo}") from error
    run.check_owner(run.endpoint_path, {"kind": endpoint["kind"], "id": endpoint["run_id"]})
    return endpoint


OUTCOMES = ("done", "failed", "preempted", "diverged", "fenced")


CLAIM_FIELDS: dict[str, type] = {
    "host": str,
    "pid": int,
    "job": str,
    "executor": str,
    "commit": str,
    "dirty": bool,
    "versions": dict,
    "hardware": str,
    "started_at": str,
}


_END_FIELDS: dict[str, type] = {
    "outcome": str,
    "error_class": str,
    "error": str,
    "step": int,
    "ended_at": str,
    "seconds": float,
}


def read_attempts(
    run_dir: str | os.PathLike[str] | RunDir, numbers: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Read all attempts of a run (or those of these numbers), oldest first.

    Each has the claim's fields, then `end`: the end's fields or None, and `damage`: a line for each
    of its records that cannot be read, which counts as missing.
    """
    run = RunDir(run_dir)
    attempts = []
    for number in run.attempts() if numbers is None else numbers:
        damage: list[str] = []
        record = _read_record(run.attempt_path(number), CLAIM_FIELDS, damage) or {}
        end = _read_record(run.attempt_end_path(number), _END_FIELDS, damage)
        attempts.append({**record, "attempt": number, "end": end, "damage": damage})
    return attempts


def _read_record(path: Path, fields: dict[str, type], damage: list[str]) -> dict[str, Any] | None:
    try:
        return _checked_record(path, fields)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        damage.append(f"{error}; remove the file: the attempt counts without it")
        return None


def _checked_record(path: Path, fields: dict[str, type]) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: not a JSON object")
    for name, kind in fields.items():
        value = content.get(name)
        good = isinstance(value, int | float) if kind is float else isinstance(value, kind)
        too_large = isinstance(value, int) and abs(value) >= 2**63
        if value is not None and (not good or too_large):
            raise DamagedError(f"{path}: {name}: {str(value)[:80]!r}, allowed is {kind.__name__}")
    return content
