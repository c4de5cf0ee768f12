"""Crash points: the N-th durable call of a run kills its process, or finds the disk full.

A point lies before every call that changes the run's home (rename, replace, link, mkdir, unlink,
rmdir, fsync, opening a file for writing) and in the middle and at the end of every write. Processes
are forked from one that has torch imported and warm, so that a case costs as much as the run alone.
Idea: SQLite's N-th I/O failure.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

from tokenlaw.results_db import spool
from tokenlaw.results_db import state as run_states
from tokenlaw.results_db.record import RunDir

# What may take space fails on a disk that is full; what gives it back does not.
CREATING = ("rename", "replace", "link", "mkdir", "fsync")
REMOVING = ("unlink", "rmdir")

DISK_FULL, OTHER_FAILURE, RAISED = 10, 11, 12  # exit codes of the first process of a case


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a crash point."""

    name: str
    at: int  # number of the point, from 1; 0: nowhere
    lasting: bool = False  # the disk stays full

    def __str__(self) -> str:
        return f"{self.name} at point {self.at}{' and from then on' if self.lasting else ''}"


class _File:
    """A file opened for writing, whose writes are two, so that a torn one can happen."""

    def __init__(self, file: Any, tick: Callable[[str], None]) -> None:
        self._file, self._tick = file, tick

    def write(self, data: Any) -> int:
        middle = len(data) // 2
        for piece in (data[:middle], data[middle:]):
            self._tick("write")
            if len(piece):
                self._file.write(piece)
                self._file.flush()
        return len(data)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def watched(home: Path, tick: Callable[[str], None]) -> Iterator[None]:
    """Inside, `tick(name)` comes before every call that changes what is below `home`."""
    saved = {name: getattr(os, name) for name in (*CREATING, *REMOVING)}
    real_open = builtins.open
    below = str(home)

    def wrap(name: str) -> Callable[..., Any]:
        real = saved[name]

        def call(*arguments: Any, **options: Any) -> Any:
            tick(name)
            return real(*arguments, **options)

        return call

    def open_(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        is_ours = isinstance(path, str | Path) and str(path).startswith(below)
        if not is_ours or not set(mode) & set("wax+"):
            return real_open(path, mode, *arguments, **options)
        tick("open")
        return _File(real_open(path, mode, *arguments, **options), tick)

    for name in saved:
        setattr(os, name, wrap(name))
    builtins.open = open_  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, real in saved.items():
            setattr(os, name, real)
        builtins.open = real_open


def acting(fault: Fault) -> Callable[[str], None]:
    """The tick that carries out a fault."""
    count = 0

    def tick(name: str) -> None:
        nonlocal count
        count += 1
        if fault.name == "SIGKILL" and count == fault.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.name == "ENOSPC" and name not in REMOVING:
            moving = name in ("rename", "replace")  # these fail now and then, not from then on
            if count == fault.at or (fault.lasting and count > fault.at and not moving):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"injected at {name}")

    return tick


# ------------------------------------------------------------------------------------ one process


def in_child(work: Callable[[], int]) -> int:
    """Runs `work` in a forked child; gives its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = RAISED
        try:
            # What a failing attempt prints is of no interest, and there are hundreds.
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def attempt(run_dir: RunDir, fault: Fault) -> int:
    """One attempt with a fault, in a child. 0: it ended as done."""

    def work() -> int:
        with watched(run_dir.home, acting(fault)):
            outcome = tiny.do(run_dir)
        if outcome.outcome in ("done", "diverged"):
            return 0
        return DISK_FULL if outcome.error_class == "DiskFull" else OTHER_FAILURE

    return in_child(work)


def points(run_dir: RunDir) -> list[str]:
    """The calls of an undisturbed attempt, in order; the run is done afterwards."""
    calls: list[str] = []
    with watched(run_dir.home, calls.append):
        outcome = tiny.do(run_dir)
    assert outcome.outcome == "done", outcome
    return calls


# ---------------------------------------------------------------------------------------- the cases


class Problem(AssertionError):
    """A case that did not end as the undisturbed run."""


@contextmanager
def steady() -> Iterator[None]:
    """Heartbeats come by the clock, which would move the points: only the first is written."""
    real = run_states._BEAT_SECONDS
    run_states._BEAT_SECONDS = 1e9
    try:
        yield
    finally:
        run_states._BEAT_SECONDS = real


def check(calm: RunDir, home: Path, fault: Fault) -> None:
    """One case: an attempt with the fault, then one without. Problem when the end differs."""
    run_dir = tiny.not_begun(calm, home)
    code = attempt(run_dir, fault)
    expected = {"SIGKILL": (-signal.SIGKILL,), "ENOSPC": (0, DISK_FULL)}[fault.name]
    if code not in expected:
        raise Problem(f"the first attempt ended with {code}, not {expected}")
    recorded = ingested(run_dir)
    code = attempt(run_dir, Fault("none", 0))
    if code:
        raise Problem(f"the second attempt ended with {code}")
    tiny.assert_same(run_dir, calm)
    spool.sweep(home)  # as every command does before it reads the spool
    if left := tiny.temporaries(home):
        raise Problem(f"left behind: {[path.name for path in left]}")
    if not recorded and not spool.pending(home):
        raise Problem("no marker tells the database of the endpoint")


def ingested(run_dir: RunDir) -> bool:
    """Does with the spool what ingesting does: a marker goes once its run has ended or has an
    endpoint. Whether the endpoint was seen."""
    seen = run_dir.endpoint_path.exists()
    newest = max(run_dir.attempts(), default=0)
    if seen or run_dir.attempt_end_path(newest).exists():
        for marker in spool.pending(run_dir.home):
            spool.clear(marker)
    return seen


def problems(
    calm: RunDir, scratch: Path, faults: Sequence[Fault], workers: int = 2
) -> list[tuple[str, str]]:
    """(fault, what went wrong) of all cases that did not end as `calm`."""
    results = []
    children = []
    for worker in range(workers):
        result = scratch / f"worker-{worker}.json"
        results.append(result)
        child = os.fork()
        if child == 0:
            try:
                _work(calm, scratch, faults[worker::workers], worker, result)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    found: list[tuple[str, str]] = []
    for result in results:
        found += [(fault, message) for fault, message in json.loads(result.read_text())]
        result.unlink()
    return found


def _work(calm: RunDir, scratch: Path, faults: Sequence[Fault], worker: int, result: Path) -> None:
    found = []
    for number, fault in enumerate(faults):
        home = scratch / f"{worker}-{number}"
        try:
            check(calm, home, fault)
        except Exception as error:  # a worker's end would hide its other cases
            found.append((str(fault), "".join(traceback.format_exception_only(error)).strip()))
        shutil.rmtree(home, ignore_errors=True)
    result.write_text(json.dumps(found))
