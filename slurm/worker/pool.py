"""Keep a pool of worker processes on one machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...results_db.record import RunDir
from ..base import Job, JobReport

_MEMORY_EVENTS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
    Path("/proc/vmstat"),
)


class WorkersDoNotStart(RuntimeError):
    """Workers end before they take up any run; the message holds their last words."""


@dataclass(slots=True)
class _Task:
    """A job here, with where it has got to."""

    id: str
    job: Job
    next: int = 0  # index of the run that is given out next
    report: JobReport = JobReport(phase="queued")


@dataclass(frozen=True, slots=True)
class _Command:
    """What a worker is started by."""

    words: list[str]
    environment: Mapping[str, str]

    def start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches this process alone, which then asks the workers to
        # save.
        return subprocess.Popen(
            self.words,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


@dataclass(slots=True)
class _Worker:
    """One process of the pool."""

    process: subprocess.Popen[bytes]
    slot: int  # which of the pool's places it fills
    log_path: Path
    task: _Task | None = None
    answered: bool = False  # whether any run has come back from it
    leaving: bool = False  # no run is given to it any more
    kills_before: int = 0  # the machine's out-of-memory kills when its run began
    output: dict[int, bytes] = field(default_factory=dict)  # unfinished line of each stream
    words: str = ""  # the last line that it wrote

    @property
    def run(self) -> RunDir | None:
        return None if self.task is None else self.task.job.run_dirs[self.task.next]


def _answer(line: bytes) -> dict[str, Any] | None:
    """The worker's answer in a line of its output, or None: parts may print there too."""
    if not line.startswith(b"{"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return (
        content if isinstance(content, dict) and {"run_dir", "outcome"} <= content.keys() else None
    )


def _why(code: int, words: str, memory: bool) -> str:
    tail = f"; last words: {words[-300:]}" if words else ""
    if memory:
        return f"the worker was killed: out of memory{tail}"
    if code < 0:
        return f"the worker was ended by {signal.Signals(-code).name}{tail}"
    return f"the worker ended with exit code {code}{tail}"


def _signal(worker: _Worker, number: signal.Signals) -> None:
    try:
        os.killpg(worker.process.pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself


def _close_quietly(stream: Any) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        pass  # what was left to write has no reader any more


def _memory_kills() -> int:
    """How many processes the kernel has killed for want of memory: in this container where it
    tells, else on the machine.
    """
    for path in _MEMORY_EVENTS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                return int(count)
    return 0
