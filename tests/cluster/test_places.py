"""One study, any place: begun on SLURM, continued on Ray, finished on this machine, in one
table."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemons import ROOT, Place, Project, ended, until
from fake_trainer import behave
from sqlalchemy import select
from toy import attempts, folder, two_stage_plan

from tokenlaw.results_db import schema
from tokenlaw.results_db.engine import opened, reading
from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.sweeps.planned import PlannedRun

pytestmark = pytest.mark.cluster

PLAN = two_stage_plan(6)
GENERATORS = [run for run in PLAN.runs if run.kind == "generator"]


def is_done(home: Path, run: PlannedRun) -> bool:
    return (folder(home, run) / "endpoint.json").exists()


def done(home: Path) -> int:
    return sum(is_done(home, run) for run in GENERATORS)


def test_a_relay_over_three_places(
    project: Project, slurm: Place, ray_head: Place, postgres: Any, tmp_path: Path
) -> None:
    import psycopg

    home = tmp_path / "home"
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE relay")
    database = {"TOKENLAW_DB": f"{postgres.url.rpartition('/')[0]}/relay"}
    for number, run in enumerate(GENERATORS):
        behave(folder(home, run), {"steps": 20, "seconds": 0.05 + 0.1 * number})
    common = {"generators": 6, "extra": database, "database": True, "workers": 2}

    first = project.start(home, slurm, wait=True, **common)
    until(lambda: done(home) >= 1, "a generator is done on SLURM")
    command = [sys.executable, "-P", "-m", "tokenlaw", "cancel", "toy", "--home", str(home)]
    environment = {**os.environ, **slurm.environment, **database, "PYTHONPATH": str(project.path)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    ended(first)
    on_slurm = done(home)
    assert on_slurm < 6

    options = {"address": ray_head.environment["RAY_ADDRESS"], "bundle_minutes": 0.01}
    both = Place(base=tmp_path, environment={**slurm.environment, **ray_head.environment})
    second = project.start(home, both, on="ray", options=options, **common)
    until(lambda: done(home) > on_slurm, "one more is done on Ray")
    second.kill()
    second.wait()
    assert done(home) < 6

    third = project.launch(home, both, on="local", **common)
    assert third.code == 0 and third.summary["done"] == len(PLAN.runs), third.text

    executors = set()
    for run in PLAN.runs:
        endpoint = read_endpoint(RunDir(folder(home, run)))
        assert endpoint is not None and endpoint["attempt"] == attempts(home, run)
        claims = sorted((folder(home, run) / "attempts").glob("???.json"))
        executors |= {json.loads(path.read_text())["executor"] for path in claims}
        steps = [int(step) for step in (folder(home, run) / "first_steps").read_text().split()]
        assert steps == sorted(steps) and steps.count(0) <= 2, "nothing is trained twice"
    assert executors == {"slurm", "ray", "local"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLAW_DB", database["TOKENLAW_DB"])
        with opened(home) as engine, reading(engine) as connection:
            rows = connection.execute(select(schema.Endpoint.run_id)).scalars().all()
    assert sorted(rows) == sorted(run.id for run in PLAN.runs), "one table, each run once"


def tokenlaw(*arguments: str, home: Path, place: Place | None = None) -> str:
    """A command of the real project, to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= dict(place.environment) if place else {}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tokenlaw", *arguments, "--home", str(home)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def first_claim(home: Path, pattern: str) -> dict[str, Any]:
    """The first claim that comes to match; some runs may be over before they are disturbed."""
    until(lambda: list(home.glob(pattern)), pattern, 300)
    return json.loads(next(iter(home.glob(pattern))).read_text())


TINY = [
    "axes.iterations=[40]",
    'axes.size=["S","M"]',
    "tokenizer.iterations=4",
    "extractor.iterations=10",
    "codes.crops=center",
    "codes.num_train=256",
    "evaluations.samples.num_samples=16",
    "evaluations.reconstruction.num_samples=64",
]


@pytest.mark.timeout(900)
def test_the_quick_start_study_to_its_figures(slurm: Place, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    settings = [word for setting in TINY for word in ("--set", setting)]
    common = ["launch", "quickstart", *settings, "--device", "cpu", "--workers", "2", "--yes"]
    tokenlaw(*common, "--quiet", home=here)
    on = ["--on", "slurm", "--wait", "--resource", "poll_seconds=1", "--checkpoint-seconds", "0"]
    on += ["--resource", "working_tree=true", "--resource", "partition=low"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tokenlaw", *common, *on, "--home", str(there)],
        env={**os.environ, **slurm.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.kill(first_claim(there, "tokenizer/*/attempts/001.json")["pid"], signal.SIGKILL)
    first_claim(there, "generator/*/attempts/001.json")
    everything = ["--partition=main", "--exclusive", "--output=/dev/null"]
    slurm.ask("sbatch", *everything, "--wrap=true")  # takes the node from all that runs
    claim = first_claim(there, "[!t]*/*/attempts/002.json")  # of no tokenizer
    slurm.ask("scontrol", "requeue", claim["job"])
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 0, text[-4000:]

    from tokenlaw.results_db.endpoint import same_result

    runs = [RunDir(path.parent) for path in sorted(here.glob("*/*/endpoint.json"))]
    assert len(runs) == 15
    for run in runs:
        mine, other = read_endpoint(run), read_endpoint(RunDir.of(there, run.kind, run.id))
        assert mine is not None and other is not None
        assert same_result(mine, other), f"{run.kind} {run.id} differs between the places"
    tokenlaw("figures", "quickstart", home=there)
    pictures = list((there / "studies" / "quickstart").rglob("*.png"))
    assert len(pictures) >= 3
