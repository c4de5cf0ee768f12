"""A disk that is really full: a small file system in memory, filled while the study runs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import tiny
from launched import assert_same_study, launch, runs_of

from results_db.record import read_attempts

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


def test_a_full_disk_loses_nothing(calm, small_disk):
    home = small_disk / "home"
    home.mkdir()
    process = launch(home)
    limit = time.monotonic() + 300
    while not list(home.glob("*/*/endpoint.json")):
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.02)
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
    assert again, "the full disk was met by no run"
    for run in again:
        for attempt in read_attempts(run)[:-1]:
            assert attempt["end"] is None or attempt["end"]["error_class"] in ("DiskFull", None)
