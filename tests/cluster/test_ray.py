"""A real Ray head with pretended GPUs: nothing is lost when workers or drivers die."""

import json
import os
import signal
from pathlib import Path

import pytest
from daemons import Place, Project, ended, until
from fake_trainer import behave
from toy import attempts, folder, two_stage_plan

pytestmark = pytest.mark.cluster

PLAN = two_stage_plan(1)
GENERATOR = PLAN.runs[2]
SLOW = {"steps": 30, "seconds": 0.2}


def on(ray_head: Place, **more: object) -> dict[str, object]:
    return {"address": ray_head.environment["RAY_ADDRESS"], **more}


def claim(home: Path, number: int = 1) -> dict[str, object]:
    return json.loads((folder(home, GENERATOR) / f"attempts/{number:03d}.json").read_text())


def at_work(home: Path) -> int:
    """Waits until the generator has made steps; the pid of its worker."""
    progress = folder(home, GENERATOR) / "progress"
    until(lambda: progress.exists() and int(progress.read_text() or 0) > 2, "a few steps")
    return int(claim(home)["pid"])  # type: ignore[call-overload]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("PPid:")[1].split()[0])


def went_on(home: Path, tries: int) -> None:
    """The generator was done in `tries` attempts of which only the first began at step 0."""
    assert attempts(home, GENERATOR) == tries
    steps = [int(step) for step in (folder(home, GENERATOR) / "first_steps").read_text().split()]
    assert steps[0] == 0 and all(step > 0 for step in steps[1:])
    assert [attempts(home, run) for run in PLAN.runs if run.kind != "generator"] == [1, 1, 1]


def test_a_study_to_its_end(project: Project, ray_head: Place, tmp_path: Path) -> None:
    plan = two_stage_plan(4)
    options = on(ray_head, gpus=0.5, bundle_minutes=0.01)
    launched = project.launch(tmp_path, ray_head, on="ray", generators=4, options=options)
    assert launched.code == 0 and launched.summary["done"] == 10, launched.text
    assert [attempts(tmp_path, run) for run in plan.runs] == [1] * 10
    records = [
        json.loads((folder(tmp_path, run) / "attempts/001.json").read_text()) for run in plan.runs
    ]
    assert {record["executor"] for record in records} == {"ray"}
    assert {record["gpus"] for record in records} <= {"0", "1"}
    again = project.launch(tmp_path, ray_head, on="ray", generators=4, options=options)
    assert again.summary["submitted"] == []


@pytest.mark.parametrize("who", ["trainer", "payload", "task"])
def test_killed(project: Project, ray_head: Place, tmp_path: Path, who: str) -> None:
    behave(folder(tmp_path, GENERATOR), SLOW)
    launch = project.start(tmp_path, ray_head, on="ray", options=on(ray_head))
    trainer = at_work(tmp_path)
    payload = parent(trainer)
    os.kill({"trainer": trainer, "payload": payload, "task": parent(payload)}[who], signal.SIGKILL)
    launched = ended(launch)
    assert launched.code == 0 and launched.summary["done"] == 4, launched.text
    went_on(tmp_path, 2)
    same_job = claim(tmp_path, 1)["job"] == claim(tmp_path, 2)["job"]
    assert same_job == (who != "payload"), (
        "Ray tries a task again; a payload that died is a new job"
    )


def test_the_driver_killed(project: Project, ray_head: Place, tmp_path: Path) -> None:
    behave(folder(tmp_path, GENERATOR), SLOW)
    first = project.start(tmp_path, ray_head, on="ray", options=on(ray_head))
    at_work(tmp_path)
    first.kill()
    second = project.launch(tmp_path, ray_head, on="ray", options=on(ray_head))
    assert second.code == 0 and second.summary["done"] == 4, second.text
    went_on(tmp_path, 2)


def test_interrupted(project: Project, ray_head: Place, tmp_path: Path) -> None:
    behave(folder(tmp_path, GENERATOR), SLOW)
    first = project.start(tmp_path, ray_head, on="ray", options=on(ray_head))
    at_work(tmp_path)
    first.send_signal(signal.SIGINT)
    stopped = ended(first)
    assert stopped.code == 75, stopped.text
    end = json.loads((folder(tmp_path, GENERATOR) / "attempts/001.end.json").read_text())
    assert end["outcome"] == "preempted", "it saved"
    second = project.launch(tmp_path, ray_head, on="ray", options=on(ray_head))
    assert second.code == 0, second.text
    went_on(tmp_path, 2)


def test_what_ray_does_not_have(project: Project, ray_head: Place, tmp_path: Path) -> None:
    wrong = project.launch(tmp_path, ray_head, on="ray", options=on(ray_head, partition="main"))
    assert wrong.code != 0 and "partition" in wrong.text
    nowhere = project.launch(tmp_path, ray_head, on="ray", options={"address": "127.0.0.1:1"})
    assert nowhere.code != 0 and "127.0.0.1:1" in nowhere.text.splitlines()[-1]
