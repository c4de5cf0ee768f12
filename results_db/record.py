"""The file side of a run: claim it, end it, write its endpoint. Works with no database."""

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import Any

from . import spool
from .durable import (
    MisplacedError,
    create_exclusive,
    put_aside,
    sha256_file,
    sweep_temporaries,
    sync_folder,
)
from .endpoint import SCHEME, check_endpoint, check_name, same_result
from .masking import mask_secrets
from .processes import host_name, process_start
from .provenance import provenance
from .rundir import RunDir, default_home
from .rundir import find_run as find_run
from .state import (
    CLAIM_FIELDS,
    GRACE_SECONDS,
    OUTCOMES,
    STATES,
    Heartbeat,
    RunStatus,
    State,
    may_follow,
    now_text,
    read_endpoint,
    run_state,
    run_status,
)
from .strict_json import DamagedError, canonical_json

__all__ = [
    "GRACE_SECONDS",
    "OUTCOMES",
    "STATES",
    "Attempt",
    "Conflict",
    "Fenced",
    "Heartbeat",
    "RunDir",
    "RunStatus",
    "State",
    "claim",
    "default_home",
    "may_follow",
    "now_text",
    "provenance",
    "read_endpoint",
    "run_state",
    "run_status",
]

_ERROR_CHARACTERS = 4000


class Fenced(RuntimeError):
    """A newer attempt at the run exists: stop without writing anything more (exit code 75)."""


class Conflict(RuntimeError):
    """A result differs from the one stored for the same run: identical runs must end with identical
    numbers.
    """


class Attempt:
    """One numbered try at a run, claimed by this process. Only the newest may write."""

    def __init__(self, run_dir: RunDir, number: int) -> None:
        self.run_dir = run_dir
        self.number = number
        self._started = time.monotonic()
        self.heartbeat = Heartbeat(run_dir, number, self.check)

    def check(self) -> None:
        """Call before every durable write.

        Raises:
            Fenced: a newer attempt exists.
        """
        newest = max(self.run_dir.attempts(), default=0)
        if newest != self.number:
            raise Fenced(
                f"{self.run_dir.path}: attempt {self.number} was replaced by attempt {newest}"
            )

    def finish(
        self,
        outcome: str,
        error_class: str | None = None,
        error: str | None = None,
        step: int | None = None,
    ) -> bool:
        """Record, durably, how the attempt ended.

        Returns: True for the first call, which counts; False for a later one.
        """
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome: {outcome!r}, allowed are {', '.join(OUTCOMES)}")
        content = {
            "outcome": outcome,
            "error_class": error_class,
            "error": None if error is None else _storable(error),
            "step": step,
            "ended_at": now_text(),
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if outcome in ("done", "diverged") and self.run_dir.endpoint_path.exists():
            content["endpoint_sha256"] = sha256_file(self.run_dir.endpoint_path)
        path = self.run_dir.attempt_end_path(self.number)
        first = create_exclusive(path, _json_line(content))
        # The marker of the endpoint may have been ingested already, without this record.
        spool.mark(self.run_dir.home, self.run_dir)
        return first

    def write_endpoint(self, endpoint: dict[str, Any]) -> dict[str, Any]:
        """Write endpoint.json, durably, then the spool marker; return the stored endpoint.

        Missing top-level keys that this attempt knows (scheme, run_id, kind, attempt, reason,
        artifacts, commit, dirty, versions, finished_at) are filled in. When the run has an endpoint
        with the same result already, that one stays.

        Raises:
            Fenced: a newer attempt exists.
            ValueError: not an endpoint; names the field.
            Conflict: the run has an endpoint with another result.
        """
        known = provenance()
        filled = {
            "scheme": SCHEME,
            "run_id": self.run_dir.id,
            "kind": self.run_dir.kind,
            "attempt": self.number,
            "reason": None,
            "artifacts": [],
            "commit": known["commit"],
            "dirty": known["dirty"],
            "versions": known["versions"],
            "finished_at": now_text(),
            **endpoint,
        }
        check_endpoint(filled)
        for field, value in (
            ("run_id", self.run_dir.id),
            ("kind", self.run_dir.kind),
            ("attempt", self.number),
        ):
            if filled[field] != value:
                raise ValueError(
                    f"{field}: {filled[field]!r}, allowed is this attempt's: {value!r}"
                )
        self.check()
        stored = self._stored_endpoint()
        if stored is None and create_exclusive(self.run_dir.endpoint_path, _json_line(filled)):
            stored = filled
        if stored is None:
            stored = read_endpoint(self.run_dir)
        if stored is None or not same_result(stored, filled):
            raise Conflict(f"{self.run_dir.endpoint_path}: there is another result already")
        spool.mark(self.run_dir.home, self.run_dir)
        return stored

    def _stored_endpoint(self) -> dict[str, Any] | None:
        try:
            return read_endpoint(self.run_dir)
        except MisplacedError:
            raise  # that run lacks it
        except DamagedError:
            # It was complete when it was linked, so a disk or a person damaged it since. It counts
            # as missing (the run is not done), and is kept under another name.
            aside = self.run_dir.path / f"endpoint.damaged-{self.number:03d}.json"
            os.rename(self.run_dir.endpoint_path, aside)
            sync_folder(self.run_dir.path)
            return None


def claim(
    run_dir: str | os.PathLike[str] | RunDir,
    *,
    executor: str,
    job: str | None = None,
    info: dict[str, Any] | None = None,
    after: int | None = None,
) -> Attempt:
    """Claim the newest attempt at the run for this process, durably; older ones are fenced off.

    Temporary files that dead attempts left in the run folder are removed. A spool marker is left,
    so that the database hears of the run whatever happens next.

    Args: executor: name of the executor that started the process. job: its job id there. info: more
        for the claim record, for example {"hardware": ...}. after: claim only if this is the newest
        attempt (0: none yet); of several jobs started for the same state of a run one gets it.

    Raises:
        FileNotFoundError: there is no such run folder.
        Fenced: another process made that attempt first.
    """
    run = RunDir(run_dir)
    check_name("executor", executor)
    if not run.path.is_dir():
        raise FileNotFoundError(f"{run.path}: no such run folder")
    for folder in (run.attempts_path, run.checkpoints_path, run.artifacts_path):
        _make_folder(folder)
    newest = max(run.attempts(), default=0)
    if after is not None and newest != after:
        raise Fenced(f"{run.path}: attempt {after} is not the newest, {newest} is")
    number = newest + 1
    known = provenance()
    content = {
        "attempt": number,
        "run": run.owner,
        "host": host_name(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "job": job,
        "executor": executor,
        "commit": known["commit"],
        "dirty": known["dirty"],
        "versions": known["versions"],
        "hardware": None,
        "started_at": now_text(),
        **(info or {}),
    }
    for name, kind in CLAIM_FIELDS.items():
        if content[name] is not None and not isinstance(content[name], kind):
            raise ValueError(f"{name}: {content[name]!r}, allowed is {kind.__name__} or None")
    if not create_exclusive(run.attempt_path(number), _json_line(content)):
        raise Fenced(
            f"{run.path}: attempt {number} was claimed by another process at the same time"
        )
    attempt = Attempt(run, number)
    try:
        spool.mark(run.home, run)
        _sweep(run)
    except OSError as error:
        # On a full disk this record may fail as well; the attempt then counts as lost.
        with contextlib.suppress(OSError):
            attempt.finish("failed", type(error).__name__, str(error))
        raise
    return attempt


def _sweep(run: RunDir) -> None:
    # Other attempts may still be making theirs among the claims, so only dead writers' are removed
    # there. Elsewhere the newest attempt is the only one that may write.
    sweep_temporaries(run.attempts_path)
    for note in (run.log_path, run.heartbeat_path):
        if os.path.lexists(note) and not stat.S_ISREG(os.lstat(note).st_mode):
            put_aside(note)
    for folder in (run.path, run.checkpoints_path, run.artifacts_path):
        sweep_temporaries(folder, all_writers=True)


def _storable(text: str) -> str:
    """Text of an error as it is kept: no secrets, no end, no characters that cannot be stored."""
    readable = text.replace("\0", "?").encode("utf-8", "replace").decode()
    return mask_secrets(readable)[:_ERROR_CHARACTERS]


def _make_folder(path: Path) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    sync_folder(path.parent)


def _json_line(obj: Any) -> bytes:
    return canonical_json(obj).encode() + b"\n"
