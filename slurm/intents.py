"""What a launch means to do, written before it does it: `launches/TOKEN.json`.

A token names one launch from this home. Tokens are numbered, and a number is taken by creating its
file exclusively, so the order of launches is known to all of them. A token is part of the names of
the jobs that are put into a queue: a launch that died between putting a job there and writing down
its id is mended by looking for the token in the queue.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_db.durable import (
    DamagedError,
    canonical_json,
    create_exclusive,
    host_name,
    process_is_alive,
    read_json,
    write_json,
)
from results_db.record import now_text
from results_db.state import process_start

_HOME_ID = "home-id"
_TOKEN = re.compile(r"tl-([0-9a-f]{8})-(\d{6})")
_SILENCE_SECONDS = (
    180.0  # a launch on another host that has not touched its file for so long is dead
)


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuedJob:
    """A job that a launch put, or was about to put, into a queue."""

    name: str  # of the job in the queue; starts with the token
    runs: tuple[str, ...]  # kind/id of its runs, in order
    job_id: str | None  # None: the launch has not written it down (yet)


class Intent:
    """The record of one launch, kept by the process that made it."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self._content = content

    @property
    def token(self) -> str:
        return self.path.stem

    def add(self, jobs: Iterable[QueuedJob]) -> None:
        """Writes down, durably, jobs that are about to be put into the queue."""
        self._content["jobs"] += [
            {"name": job.name, "runs": list(job.runs), "job_id": job.job_id} for job in jobs
        ]
        write_json(self.path, self._content)

    def put(self, ids: dict[str, str]) -> None:
        """Writes down, durably, the queue's ids of jobs, by their names."""
        for job in self._content["jobs"]:
            job["job_id"] = ids.get(job["name"], job["job_id"])
        write_json(self.path, self._content)

    def submitted(self) -> None:
        """Says that this launch puts nothing more into the queue: the next one may go on."""
        if self._content["submitting"]:
            self._content["submitting"] = False
            write_json(self.path, self._content)

    def touch(self) -> None:
        """A sign of life for launches on other hosts."""
        os.utime(self.path)

    def close(self) -> None:
        """Says that the launch is over."""
        self._content |= {"submitting": False, "ended_at": now_text()}
        write_json(self.path, self._content)


def open_intent(home: Path, *, study: str, executor: str, submitting: bool) -> Intent:
    """A new launch of this process, with the next free number."""
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
        "jobs": [],
    }
    while True:
        number = max((_number(path) for path in _files(folder)), default=0) + 1
        path = folder / f"tl-{prefix}-{number:06d}.json"
        if create_exclusive(path, canonical_json(content).encode() + b"\n"):
            return Intent(path, content)


def await_turn(intent: Intent, *, say: Callable[[str], None] = lambda line: None) -> None:
    """Returns when no launch with a smaller number is still putting jobs into the queue.

    A launch that died while it did is passed over; what it put there is found by its token.
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


def queued_jobs(home: Path) -> dict[str, tuple[str, list[QueuedJob]]]:
    """token -> (executor, its jobs) of every launch from this home that put jobs into a queue."""
    found = {}
    for path in _files(home / "launches"):
        content = _read(path)
        if content is None or not content.get("jobs"):
            continue
        jobs = [
            QueuedJob(name=job["name"], runs=tuple(job["runs"]), job_id=job["job_id"])
            for job in content["jobs"]
        ]
        found[path.stem] = (content["executor"], jobs)
    return found


def token_prefix(home: Path) -> str:
    """What the names of all jobs from this home begin with."""
    folder = home / "launches"
    folder.mkdir(parents=True, exist_ok=True)
    return f"tl-{_home_id(folder)}-"


def _home_id(folder: Path) -> str:
    path = folder / _HOME_ID
    create_exclusive(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


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
    try:
        content = read_json(path, limit_bytes=256 << 20)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: not a launch record")
    return content


def _is_submitting(path: Path) -> bool:
    content = _read(path)
    if content is None or not content.get("submitting"):
        return False
    if content["host"] == host_name():
        if not process_is_alive(content["pid"]):
            return False
        started = content.get("pid_start")
        return started is None or process_start(content["pid"]) == started
    return time.time() - path.stat().st_mtime < _SILENCE_SECONDS
