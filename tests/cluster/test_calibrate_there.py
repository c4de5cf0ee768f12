"""`plan --calibrate` on a real SLURM and a real Ray, with the trainer itself."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from daemons import ROOT, Place, kept

pytestmark = pytest.mark.cluster

STUDY = str(ROOT / "tests" / "cluster" / "together_study.py")


def start(home: Path, environment: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    common = ["--home", str(home), "--calibrate", "--json", "--resource", "working_tree=true"]
    return kept(
        subprocess.Popen(
            [sys.executable, "-P", "-m", "tokenlaw", "plan", STUDY, *common, *options],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def timed(process: subprocess.Popen[str], home: Path, place: str) -> str:
    """Checks that both shapes were timed there; what was said."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    runs = {run["kind"]: run for run in json.loads(out)["runs"]}
    for kind in ("tokenizer", "generator"):
        assert runs[kind]["hours_source"] == "measured"
    entries = json.loads((home / "calibration.json").read_text())["entries"]
    assert sorted(entry["kind"] for entry in entries) == ["generator", "tokenizer"]
    assert {entry["executor"] for entry in entries} == {place}
    assert not list(home.glob("launches/calibrate-*")), "nothing is left"
    return err


def job_of(process: subprocess.Popen[str]) -> str:
    """The id of the job that a command says it has submitted."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if match := re.fullmatch(r"job (\d+): submitted\n", line):
            return match[1]
    raise AssertionError("".join(said))


def test_on_slurm(slurm: Place, tmp_path: Path) -> None:
    homes = {name: tmp_path / name for name in ("timed", "cancelled", "interrupted")}
    later = ["--resource", "extra.begin=now+1hour"]
    on = ["--on", "slurm", "--resource", "partition=main"]
    processes = {
        name: start(home, slurm.environment, *on, *([] if name == "timed" else later))
        for name, home in homes.items()
    }
    jobs = {name: job_of(processes[name]) for name in ("cancelled", "interrupted")}
    slurm.ask("scancel", jobs["cancelled"])
    processes["interrupted"].send_signal(signal.SIGINT)
    said = {name: processes[name].communicate(timeout=180)[1] for name in jobs}
    assert processes["cancelled"].returncode == 1
    last = said["cancelled"].splitlines()[-1]
    assert last == f"error: --calibrate: job {jobs['cancelled']} ended as CANCELLED"
    assert processes["interrupted"].returncode == 130
    assert f"job {jobs['interrupted']} is cancelled" in said["interrupted"]
    states = {job["id"]: job["state"] for job in slurm.jobs()}
    assert {states[job] for job in jobs.values()} == {"CANCELLED"}
    for name in jobs:
        assert not list(homes[name].glob("launches/calibrate-*"))
    err = timed(processes["timed"], homes["timed"], "slurm")
    assert ": running" in err and "tokens/s" in err


def test_on_ray(ray_head: Place, tmp_path: Path) -> None:
    address = ["--address", ray_head.environment["RAY_ADDRESS"], "--resource", "gpus=0.5"]
    process = start(tmp_path, ray_head.environment, "--on", "ray", *address)
    assert "images/s" in timed(process, tmp_path, "ray")
