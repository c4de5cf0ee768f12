"""A disk that is really full: a small file system in memory, filled while the study runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from launched import assert_same_study, children, launch, runs_of

from tokenlaw.results_db.state import read_attempts

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB, in which the whole study takes about four."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=4k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Writes until nothing fits any more."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == 28, error


@contextlib.contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """The command and all its workers stand still inside."""
    pids: list[int] = []
    try:
        # A worker may start another one before its own signal arrives.
        while new := [pid for pid in (process.pid, *children(process.pid)) if pid not in pids]:
            for pid in new:
                send(pid, signal.SIGSTOP)
            pids += new
        yield
    finally:
        for pid in pids:
            send(pid, signal.SIGCONT)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def under_way(home: Path) -> set[Path]:
    """Runs that have begun and still need space for their endpoint."""
    return {
        run.path
        for run in runs_of(home)
        if run.attempts()
        and not run.endpoint_path.exists()
        # One that is just being written may be whole already, but for its name.
        and not list(run.path.glob(".tmp-*"))
    }


@pytest.mark.parametrize("moment", ["inside_a_run", "after_a_run"])
def test_a_full_disk_loses_nothing(calm, small_disk, moment):
    home = small_disk / "home"
    home.mkdir()
    process = launch(home)
    limit = time.monotonic() + 300
    met: set[Path] = set()
    while not list(home.glob("*/*/endpoint.json")):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.02)
    while moment == "inside_a_run" and not met:
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.02)
        with stopped(process):
            met = under_way(home)
            if met:
                fill(small_disk / "filler")
    if moment == "after_a_run":
        fill(small_disk / "filler")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "No space left" in out or "disk" in out.lower(), out
    assert "Traceback" not in out
    # On a disk without space even the attempts' ends may be missing, but nothing is half-written:
    # the same command, once there is space, ends as the calm one.
    os.remove(small_disk / "filler")
    before = {run.path: run.endpoint_path.exists() for run in runs_of(home)}
    assert any(before.values()) and not all(before.values())
    process = launch(home)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    assert_same_study(home, calm)
    assert not tiny.temporaries(home)
    again = [run for run in runs_of(home) if len(run.attempts()) > 1]
    # Right after a run's end the disk may be met by the launch alone, before the next one begins.
    assert met <= {run.path for run in again}, "a run that met the full disk was not begun again"
    for run in again:
        for attempt in read_attempts(run)[:-1]:
            # A launch that meets the full disk itself stops what still goes.
            error = attempt["end"] and attempt["end"]["error_class"]
            assert error in (None, "DiskFull", "Preempted"), attempt
