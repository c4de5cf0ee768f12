"""Two processes do a run together, on SLURM, on Ray and on this machine: the curve is that of
one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from daemons import ROOT, Place, kept, until

from results_db.record import RunDir, read_attempts

pytestmark = pytest.mark.cluster

STUDY = str(ROOT / "tests" / "cluster" / "together_study.py")


def start(home: Path, environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    common = ["--home", str(home), "--device", "cpu", "--yes", "--quiet"]
    return kept(
        subprocess.Popen(
            [sys.executable, "-P", "-m", "sweeps", "launch", STUDY, *common, *options],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


def finish(process: subprocess.Popen[str]) -> None:
    text = process.communicate(timeout=280)[0]
    assert process.returncode == 0, text[-4000:]


def the_run(home: Path, kind: str) -> RunDir:
    (path,) = (home / kind).iterdir()
    return RunDir(path)


def lose_one(home: Path) -> None:
    """Kills the second process of the generator once there is a checkpoint."""
    pattern = "generator/*/checkpoints/step-*/manifest.json"
    until(lambda: list(home.glob(pattern)), "a checkpoint", 240)
    first = read_attempts(the_run(home, "generator"))[0]["pid"]
    group = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    members = Path(f"/proc/{group}/task/{group}/children").read_text().split()
    (second,) = set(map(int, members)) - {first}
    os.kill(second, signal.SIGKILL)


def losses(home: Path, kind: str) -> list[float]:
    lines = the_run(home, kind).log_path.read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.timeout(600)
def test_two_processes_everywhere_give_the_curve_of_one(
    slurm: Place, ray_head: Place, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    finish(start(alone, {}, "--workers", "1"))
    homes = {place: tmp_path / place for place in ("slurm", "ray", "local")}
    for home in homes.values():
        # The same codes for all: those of weights that differ by rounding differ here and there.
        shutil.copytree(alone / "codes", home / "codes")
    two = ["--resource", "processes=2", "--workers", "1"]
    queue = ["--wait", "--resource", "poll_seconds=1", "--resource", "working_tree=true"]
    cluster = ["--address", ray_head.environment["RAY_ADDRESS"], "--resource", "gpus=0"]
    launches = [
        start(homes["slurm"], slurm.environment, "--on", "slurm", *two, *queue),
        start(homes["ray"], ray_head.environment, "--on", "ray", *two, *cluster, *queue[3:]),
    ]
    for launch in launches:
        finish(launch)
    here = start(homes["local"], {}, "--on", "local", *two, "--checkpoint-seconds", "0")
    lose_one(homes["local"])
    finish(here)
    for place, home in homes.items():
        for kind, points in (("tokenizer", 1), ("generator", 3)):
            claims = read_attempts(the_run(home, kind))
            assert {(claim["executor"], claim["world_size"]) for claim in claims} == {(place, 2)}
            lost = place == "local" and kind == "generator"
            ends = [claim["end"]["error_class"] for claim in claims]
            assert ends == (["WorkerLost", None] if lost else [None]), "no fault of the run"
            mine, expected = losses(home, kind), losses(alone, kind)
            assert len(mine) == points and mine == pytest.approx(expected, rel=1e-4), place
            assert mine != expected, "rounding apart, not the same arithmetic"
