"""Ray inside a SLURM allocation, by the script that users are given."""

import os
from pathlib import Path

import pytest
from daemons import ROOT, Place, Project, until

pytestmark = pytest.mark.cluster


def test_a_study_in_one_allocation(project: Project, slurm: Place, tmp_path: Path) -> None:
    import sys

    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "tokenlaw").write_text(
        f'#!/bin/sh\nPYTHONPATH={project.path} exec {sys.executable} -P -m tokenlaw "$@"\n'
    )
    (commands / "tokenlaw").chmod(0o755)
    interpreter = Path(sys.executable).parent
    job = Place(
        base=tmp_path,
        environment={
            **slurm.environment,
            "PATH": f"{commands}:{interpreter}:{os.environ['PATH']}",
            "RAY_NODE_ADDRESS": "127.0.0.1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        },
    )
    home = tmp_path / "home"
    log = tmp_path / "job.log"
    script = str(ROOT / "slurm" / "ray_on_slurm.sh")
    asked = ["--nodes=1", "--cpus-per-task=4", "--gpus-per-node=2", "--time=60"]
    study = ["quickstart", "--home", str(home), "--set", "axes.iterations=[4,8]"]
    text = job.ask("sbatch", "--parsable", *asked, f"--output={log}", script, *study)
    number = text.strip()
    until(
        lambda: (
            number not in [j["id"] for j in slurm.jobs() if j["state"] in ("PENDING", "RUNNING")]
        ),
        "the job's end",
        200,
    )
    assert "runs done" in log.read_text(), log.read_text()[-3000:]
    endpoints = list(home.glob("*/*/endpoint.json"))
    assert len(endpoints) > 20
    claims = [path.read_text() for path in home.glob("generator/*/attempts/001.json")]
    assert claims and all('"executor":"ray"' in claim for claim in claims)
    states = {j["id"]: j["state"] for j in slurm.jobs()}
    assert states[number] == "COMPLETED"
