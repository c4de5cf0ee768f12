"""What a real SLURM does to jobs: each run still ends once, and goes on from where it was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from daemons import ROOT, Launched, Place, Project, ended, kept, until
from fake_trainer import behave
from toy import attempts, folder, two_stage_plan

from tokenlaw.results_db import read
from tokenlaw.results_db.endpoint import same_result
from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts

pytestmark = pytest.mark.cluster

SLOW = {"steps": 40, "seconds": 0.25}
PLAN = two_stage_plan(1)
TOKENIZER, CODES, GENERATOR, EVALUATION = PLAN.runs


def prepared(home: Path, behaviour: dict[str, object]) -> None:
    """A home in which everything but the generator and its evaluation takes no time."""
    behave(folder(home, GENERATOR), behaviour)


def started(home: Path, number: int = 1) -> None:
    """Waits until attempt `number` at the generator has made steps."""
    progress = folder(home, GENERATOR) / "progress"
    until(lambda: attempts(home, GENERATOR) >= number, f"attempt {number}")

    def steps() -> int:
        # The trainer writes the file anew at each step: a reader may find it empty.
        return int(progress.read_text() or 0) if progress.exists() else 0

    before = steps()
    until(lambda: steps() > before + 2, "a few steps")


def job_of(home: Path, number: int = 1) -> str:
    claim = json.loads((folder(home, GENERATOR) / f"attempts/{number:03d}.json").read_text())
    return str(claim["job"])


def claim_pid(home: Path, number: int = 1) -> int:
    claim = json.loads((folder(home, GENERATOR) / f"attempts/{number:03d}.json").read_text())
    return int(claim["pid"])


def check(home: Path, launched: Launched, tries: int) -> None:
    """Everything is done, the generator in `tries` attempts of which none began again."""
    assert launched.code == 0, launched.text
    assert launched.summary["done"] == 4
    assert attempts(home, GENERATOR) == tries, launched.text
    assert [attempts(home, run) for run in (TOKENIZER, CODES, EVALUATION)] == [1, 1, 1]
    for number in range(1, tries):
        claim = json.loads((folder(home, GENERATOR) / f"attempts/{number:03d}.json").read_text())
        assert claim["executor"] == "slurm"
    first_steps = (folder(home, GENERATOR) / "first_steps").read_text().split()
    assert len(first_steps) == tries
    assert all(int(step) > 0 for step in first_steps[1:]), "an attempt began from nothing"


def preempt(home: Path, slurm: Place) -> None:
    wanted = ["--gpus-per-node=2", "--partition=main", "-o", "/dev/null"]
    slurm.ask("sbatch", *wanted, "--wrap=sleep 2")


def requeue(home: Path, slurm: Place) -> None:
    slurm.ask("scontrol", "requeue", job_of(home))


def kill_worker(home: Path, slurm: Place) -> None:
    os.kill(claim_pid(home), signal.SIGKILL)


def kill_step(home: Path, slurm: Place) -> None:
    status = Path(f"/proc/{claim_pid(home)}/status").read_text()
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)


# What is done to the job, and whether the next attempt is by the same job.
FAULTS = {
    "preemption": (preempt, True),
    "requeue": (requeue, True),
    "worker": (kill_worker, True),
    "step": (kill_step, False),
}
LOW = {"partition": "low", "gpus": 1}


def test_preemption_requeue_kills_and_the_time_limit(
    project: Project, slurm: Place, tmp_path: Path
) -> None:
    # All at once, since most of the time is spent waiting.
    late = tmp_path / "time"
    prepared(late, {"steps": 130, "seconds": 0.5})
    limited = project.start(late, slurm, options={"minutes": 1, "signal_seconds": 25})
    launches = {}
    for name in FAULTS:
        prepared(tmp_path / name, SLOW)
        options = LOW if name == "preemption" else None
        launches[name] = project.start(tmp_path / name, slurm, options=options)
    for name, (fault, _) in FAULTS.items():
        started(tmp_path / name)
        fault(tmp_path / name, slurm)
    for name, (_, same) in FAULTS.items():
        check(tmp_path / name, ended(launches[name]), 2)
        assert (job_of(tmp_path / name, 1) == job_of(tmp_path / name, 2)) is same, name
    ends = folder(tmp_path / "preemption", GENERATOR) / "attempts/001.end.json"
    assert json.loads(ends.read_text())["outcome"] == "preempted", "it saved when it was asked to"
    launched = ended(limited, 200)
    tries = attempts(late, GENERATOR)
    assert tries >= 2, "65 seconds of work do not fit into a minute"
    check(late, launched, tries)


def test_cancelled_and_launched_again(project: Project, slurm: Place, tmp_path: Path) -> None:
    prepared(tmp_path, SLOW)
    first = project.launch(tmp_path, slurm, wait=False)
    assert first.code == 0 and first.summary["queued"] == 4
    started(tmp_path)
    slurm.ask("scancel", job_of(tmp_path))
    until(lambda: (folder(tmp_path, GENERATOR) / "attempts/001.end.json").exists(), "saved")
    again = project.launch(tmp_path, slurm)
    check(tmp_path, again, 2)


# Columns that clocks, attempts and the state of the repository fill.
PASSING = ["attempts", "seconds_train", "gpu_hours", "gpu_hours_planned", "finished_at"]
PASSING += ["commit", "dirty", "hardware"]
STUDY = str(ROOT / "tests" / "cluster" / "together_study.py")


def trained(home: Path, place: Mapping[str, str], *options: str) -> subprocess.Popen[str]:
    """A launch of a study of three generators with the trainer itself."""
    words = [STUDY, "--option", "generators=3", "--set", "generator.iterations=150"]
    words += ["--home", str(home), "--device", "cpu", "--yes", "--quiet", *options]
    return kept(
        subprocess.Popen(
            [sys.executable, "-P", "-m", "tokenlaw", "launch", *words],
            env={**os.environ, **place, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


def frozen(run: RunDir) -> tuple[int, str]:
    """Stops the run's process where it is, after its first checkpoint; its number and its job."""
    until(lambda: list(run.checkpoints_path.glob("step-*/manifest.json")), "a checkpoint", 120)
    claim = read_attempts(run)[-1]
    os.kill(claim["pid"], signal.SIGSTOP)
    assert read_endpoint(run) is None, "it was not over yet"
    return claim["pid"], claim["job"]


@pytest.mark.timeout(600)
def test_the_trainer_itself_ends_as_if_undisturbed(slurm: Place, tmp_path: Path) -> None:
    calm, home = tmp_path / "calm", tmp_path / "home"
    undisturbed = trained(calm, {}, "--workers", "1")
    on = ["poll_seconds=1", "working_tree=true", "bundle_minutes=0.01", "minutes=5"]
    on = [word for name in [*on, "signal_seconds=45"] for word in ("--resource", name)]
    on += ["--on", "slurm", "--wait", "--checkpoint-seconds", "0"]
    launch = trained(home, slurm.environment, *on)
    until(lambda: len(list(home.glob("generator/*"))) == 3, "the launch", 60)
    late, killed, lost = runs = [RunDir(path) for path in sorted(home.glob("generator/*"))]
    pids, jobs = zip(*map(frozen, runs), strict=True)

    # Its step is killed.
    status = Path(f"/proc/{pids[1]}/status").read_text()
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)
    # Its time is over: a limit of one minute instead of five. 45 s before it, and looked at every
    # 30 s, SLURM wakes all processes and gives its signal.
    slurm.ask("scontrol", "update", f"jobid={jobs[0]}", "timelimit=1")
    until(lambda: read_attempts(late)[0]["end"], "it has saved", 90)
    slurm.ask("scontrol", "update", f"jobid={jobs[0]}", "timelimit=5")
    until(lambda: all(map(read_endpoint, (late, killed))), "both went on", 120)
    # Its node goes down and comes back.
    node = slurm.ask("sinfo", "-h", "-N", "-o", "%N").split()[0]
    slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    # By itself, when its daemon registers again, or because it is told to.
    until(lambda: "idle" in slurm.ask("sinfo", "-h", "-o", "%T"), "the node is back")

    for process in (launch, undisturbed):
        text = process.communicate(timeout=200)[0]
        assert process.returncode == 0, text[-4000:]
    claims = {run: read_attempts(run) for run in runs}
    assert [len(claims[run]) for run in runs] == [2, 2, 2]
    assert claims[late][0]["end"]["outcome"] == "preempted"
    same_job = [claims[run][0]["job"] == claims[run][1]["job"] for run in runs]
    assert same_job == [True, False, True], "queued again by itself, by the launch, by SLURM"
    expected = [RunDir(path.parent) for path in sorted(calm.glob("*/*/endpoint.json"))]
    assert len(expected) == 5
    for run in expected:
        mine, other = read_endpoint(run), read_endpoint(RunDir.of(home, run.kind, run.id))
        assert mine is not None and other is not None
        assert same_result(mine, other), f"{run.kind} {run.id}"
    for wide in (True, False):
        found, table = (
            read.endpoints("together_study", wide=wide, home=place).drop(
                columns=PASSING, errors="ignore"
            )
            for place in (home, calm)
        )
        assert len(table) >= 3 and found.equals(table), "each row once, and the same"
