"""`tokenlaw launch` of the tiny study as a process, and what two launches must have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas
import tiny

from tokenlaw.results_db import read
from tokenlaw.results_db.record import RunDir
from tokenlaw.results_db.state import read_attempts

STUDY = tiny.ROOT / "tests" / "tiny_study.py"
# Columns that clocks, attempts and the state of the repository fill.
PASSING = [
    "attempts",
    "seconds_train",
    "gpu_hours",
    "gpu_hours_planned",
    "finished_at",
    "commit",
    "dirty",
    "hardware",
]


def launch(home: Path, *options: str) -> subprocess.Popen[str]:
    """The command on two workers; what it says comes in one stream."""
    command = [sys.executable, "-m", "tokenlaw", "launch", str(STUDY), "--home", str(home)]
    command += ["--device", "cpu", "--workers", "2", "--quiet", *options]
    return subprocess.Popen(
        command,
        cwd=tiny.ROOT,
        env=tiny.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, and theirs."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in ("Z", "X"):
            parents[int(path.parent.name)] = int(fields[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in children(child)]


def runs_of(home: Path) -> list[RunDir]:
    return [RunDir(path.parent) for path in sorted(home.glob("*/*/config.json"))]


def assert_same_study(home: Path, calm: Path) -> None:
    """No run is missing or done twice; endpoints, files, logged losses and tables are equal."""
    expected = runs_of(calm)
    assert [run.path.relative_to(home) for run in runs_of(home)] == [
        run.path.relative_to(calm) for run in expected
    ]
    for run in expected:
        again = RunDir.of(home, run.kind, run.id)
        tiny.assert_same(again, run)
        ended = [attempt["end"] for attempt in read_attempts(again)]
        assert sum(end is not None and end["outcome"] == "done" for end in ended) <= 1
    for wide in (True, False):
        found, table = (
            read.endpoints("tiny_study", wide=wide, home=place).drop(
                columns=PASSING, errors="ignore"
            )
            for place in (home, calm)
        )
        assert len(table) > 3
        pandas.testing.assert_frame_equal(found, table, check_exact=True)
