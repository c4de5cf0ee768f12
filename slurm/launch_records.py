"""The intent of a launch, written before it acts: `launches/TOKEN.json`.

A token names one launch from this home. Tokens are numbered. A number is taken by creating its file
exclusively, so all launches know their order. A token is part of the names of the jobs in a queue.
A launch may die between putting a job there and recording its id; looking for the token in the
queue finds such a job.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..results_db.durable import create_exclusive, put_aside, write_bytes, write_json
from ..results_db.processes import host_name, process_is_alive, process_start
from ..results_db.record import now_text
from ..results_db.state import seconds_since
from ..results_db.strict_json import DamagedError, canonical_json, read_json, read_plain

_HOME_ID = "home-id"
_HOME_DIGITS = re.compile(r"[0-9a-f]{8}")
_TOKEN = re.compile(r"tl-([0-9a-f]{8})-(\d{6})")
# A submit command of a launch that was killed may outlive it for a moment.
_SETTLE_SECONDS = 10.0
_SILENCE_SECONDS = (
    180.0  # a launch on another host that has not touched its file for so long is dead
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One call of the queue's submit command that a launch made, or was about to make."""

    name: str  # of the job in the queue; holds the token
    tasks: tuple[tuple[str, ...], ...]  # of each array task, kind/id of its runs in order
    job_id: str | None = None  # None: the launch has not written it down (yet)

    @property
    def ids(self) -> list[str]:
        """Return the queue's ids of the tasks; empty while there are none."""
        if self.job_id is None:
            return []
        if len(self.tasks) == 1:
            return [self.job_id]
        return [f"{self.job_id}_{index}" for index in range(len(self.tasks))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """A launch as its record tells it."""

    token: str
    study: str
    executor: str
    host: str
    pid: int
    alive: bool  # its process runs, as far as can be seen from here
    settled: bool  # it submits nothing more: it said so, or has been dead for a while
    submissions: tuple[Submission, ...]


class Intent:
    """The record of one launch, kept by the process that made it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self._content = content

    @property
    def token(self) -> str:
        return self.path.stem

    def add(self, submission: Submission) -> None:
        """Record, durably, a submission that is about to be made."""
        entry = {
            "name": submission.name,
            "tasks": [list(task) for task in submission.tasks],
            "job_id": submission.job_id,
        }
        self._content["submissions"].append(entry)
        write_json(self.path, self._content)

    def put(self, name: str, job_id: str) -> None:
        """Record, durably, the queue's id of the submission `name`."""
        for entry in self._content["submissions"]:
            if entry["name"] == name:
                entry["job_id"] = job_id
        write_json(self.path, self._content)

    def withdraw(self, name: str) -> None:
        """Remove, durably, the record of a submission that is not in the queue."""
        entries = self._content["submissions"]
        self._content["submissions"] = [entry for entry in entries if entry["name"] != name]
        write_json(self.path, self._content)

    def submitted(self) -> None:
        """Record that this launch puts nothing more into the queue: the next one may go on."""
        if self._content["submitting"]:
            self._content["submitting"] = False
            write_json(self.path, self._content)

    def touch(self) -> None:
        """Give a sign of life to launches on other hosts."""
        os.utime(self.path)

    def close(self) -> None:
        """Record that the launch is over."""
        self._content |= {"submitting": False, "ended_at": now_text()}
        write_json(self.path, self._content)


def open_intent(home: Path, *, study: str, executor: str, submitting: bool) -> Intent:
    """Open a new launch of this process, with the next free number."""
    folder = home / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    prefix = _home_id(folder)
    content = {
        "study": study,
        "executor": executor,
        "host": host_name(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "started_at": now_text(),
        "ended_at": None,
        "submitting": submitting,
        "submissions": [],
    }
    while True:
        number = max(_numbers(folder), default=0) + 1
        path = folder / f"tl-{prefix}-{number:06d}.json"
        if create_exclusive(path, canonical_json(content).encode() + b"\n"):
            return Intent(path, content)


def await_turn(intent: Intent, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Wait until no launch with a smaller number is still putting jobs into the queue.

    A launch that died meanwhile is passed over; its jobs are found by its token.
    """
    mine = _number(intent.path)
    told = 0.0
    while True:
        busy = [
            path
            for path in _files(intent.path.parent)
            if _number(path) < mine and _is_submitting(path)
        ]
        if not busy:
            return
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"another launch ({busy[0].stem}) is submitting; waiting for it")
        intent.touch()
        time.sleep(0.05)


def launches(home: Path, *, all_of_them: bool = False) -> list[Launched]:
    """List the launches from this home, oldest first.

    Without `all_of_them` only those that put a job into a queue.
    """
    found = []
    for path in _files(home / "launches"):
        content = _read(path)
        if content is None or not (content["submissions"] or all_of_them):
            continue
        alive = content["ended_at"] is None and _is_alive(path, content)
        silent = seconds_since(path, home) > _SETTLE_SECONDS
        found.append(
            Launched(
                token=path.stem,
                study=content["study"],
                executor=content["executor"],
                host=content["host"],
                pid=content["pid"],
                alive=alive,
                settled=not content["submitting"] or (not alive and silent),
                submissions=tuple(
                    Submission(
                        name=entry["name"],
                        tasks=tuple(tuple(task) for task in entry["tasks"]),
                        job_id=entry["job_id"],
                    )
                    for entry in content["submissions"]
                ),
            )
        )
    return found


def adopt(home: Path, token: str, name: str, job_id: str) -> None:
    """Record an id found in the queue for a launch that died before it could."""
    path = home / "launches" / f"{token}.json"
    content = _read(path)
    if content is not None:
        Intent(path, content).put(name, job_id)


def _home_id(folder: Path) -> str:
    """Return the digits that tell this home's jobs from others'; a damaged note is rebuilt."""
    path = folder / _HOME_ID
    create_exclusive(path, secrets.token_hex(4).encode())
    try:
        text = read_plain(path, limit_bytes=64).decode("ascii", "replace").strip()
    except DamagedError:
        text = ""
    if _HOME_DIGITS.fullmatch(text):
        return text
    matches = filter(None, map(_TOKEN.match, sorted(os.listdir(folder))))
    known = [match[1] for match in matches]
    write_bytes(path, (known[-1] if known else secrets.token_hex(4)).encode())
    return _home_id(folder)


def _numbers(folder: Path) -> list[int]:
    """List the numbers that are taken, also by records that were put aside."""
    return [int(match[2]) for match in filter(None, map(_TOKEN.match, os.listdir(folder)))]


def _files(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [
        folder / name
        for name in sorted(names)
        if name.endswith(".json") and _TOKEN.fullmatch(name.removesuffix(".json"))
    ]


def _number(path: Path) -> int:
    match = _TOKEN.fullmatch(path.stem)
    assert match is not None
    return int(match[2])


def _read(path: Path) -> dict[str, Any] | None:
    """Read the record of a launch; None when it is gone, or damaged and now put aside."""
    try:
        content = read_json(path, limit_bytes=256 << 20)
        _check(path, content)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        with suppress(OSError):  # where the home may only be read, it is passed over each time
            put_aside(path)
        print(
            f"{error}; put aside: jobs that this launch may have in a queue are given out again",
            file=sys.stderr,
        )
        return None
    record: dict[str, Any] = content
    return record


def _check(path: Path, content: Any) -> None:
    try:
        good = (
            all(isinstance(content[name], str) for name in ("study", "executor", "host"))
            and isinstance(content["pid"], int)
            and isinstance(content["submitting"], bool)
            and isinstance(content["ended_at"], str | None)
            and all(_is_submission(entry) for entry in content["submissions"])
        )
    except (KeyError, TypeError):
        good = False
    if not good:
        raise DamagedError(f"{path}: not a launch record")


def _is_submission(entry: Any) -> bool:
    return (
        isinstance(entry["name"], str)
        and isinstance(entry["job_id"], str | None)
        and all(isinstance(run, str) for task in entry["tasks"] for run in task)
    )


def _is_submitting(path: Path) -> bool:
    content = _read(path)
    return content is not None and bool(content["submitting"]) and _is_alive(path, content)


def _is_alive(path: Path, content: dict[str, Any]) -> bool:
    if content["host"] == host_name():
        if not process_is_alive(content["pid"]):
            return False
        started = content.get("pid_start")
        return started is None or process_start(content["pid"]) == started
    return seconds_since(path, path.parent.parent) < _SILENCE_SECONDS
