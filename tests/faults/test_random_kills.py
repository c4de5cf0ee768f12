"""Ten random kills of `tokenlaw launch`: the same command again ends with the calm launch's
results.

The seed is printed; TOKENLAW_FAULT_SEED=N repeats a failure's choices.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import tiny
from launched import assert_same_study, children, launch, runs_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

KILLS = 10
# A checkpoint at every iteration: the more is written, the more can be torn.
EVERY_STEP = ("--checkpoint-seconds", "0")
WAYS = ("command", "worker", "everything")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def written(home: Path) -> int:
    """How much of the study's work has left files. Folders may go while they are walked."""
    return sum(".tmp-" not in name for _, _, names in os.walk(home) for name in names)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until_gone(pids: list[int]) -> None:
    limit = time.monotonic() + 30
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < limit, f"processes {left} outlived their command"
        time.sleep(0.05)


def test_ten_kills_change_nothing(calm, tmp_path, capsys):
    seed = int(os.environ.get("TOKENLAW_FAULT_SEED") or random.SystemRandom().randrange(10**6))
    with capsys.disabled():
        print(f"\nrandom kills: TOKENLAW_FAULT_SEED={seed}")
    choices = random.Random(seed)
    home = tmp_path / "home"
    home.mkdir()
    killed: list[str] = []
    process = launch(home, *EVERY_STEP)
    pids = [process.pid]
    try:
        while len(killed) < KILLS:
            # After some more work, whose amount is drawn, and at no particular moment of it.
            goal = written(home) + choices.randint(1, 25)
            limit = time.monotonic() + 90
            while written(home) < goal and process.poll() is None:
                assert time.monotonic() < limit, f"nothing happens after {killed}"
                time.sleep(0.02)
            time.sleep(choices.random() * 0.2)
            if process.poll() is not None:
                break  # done before its tenth kill: counted below
            workers = children(process.pid)
            pids += workers
            way = choices.choice(WAYS)
            if way == "worker" and workers:
                kill(choices.choice(workers))
            else:
                kill(process.pid)
                for worker in workers if way == "everything" else ():
                    kill(worker)
                process.communicate(timeout=60)
                wait_until_gone(workers)
                process = launch(home, *EVERY_STEP)
                pids.append(process.pid)
            killed.append(way)
        out, _ = process.communicate(timeout=600)
    finally:
        for pid in [process.pid, *children(process.pid)]:
            kill(pid)
    with capsys.disabled():
        print(f"kills: {' '.join(killed)}")
    assert process.returncode == 0, out
    assert len(killed) >= 6, f"the study was done after {len(killed)} kills"
    wait_until_gone(pids)

    # None lost, none twice, and every result, file and logged loss is the calm launch's.
    assert_same_study(home, calm)
    assert sum(len(run.attempts()) for run in runs_of(home)) > len(runs_of(calm))
    assert not tiny.temporaries(home)

    # And again: there is nothing left to do.
    process = launch(home, *EVERY_STEP)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "0 submitted now" in out
