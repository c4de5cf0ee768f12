"""States that only files and queue together tell."""

import json
import os
from pathlib import Path

from fake_cluster import FakeCluster
from toy import folder, two_stage_plan

from tokenlaw.results_db.plan_file import current_plan_path, read_plan
from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.slurm.follow.logs import output_files
from tokenlaw.slurm.follow.status import StudyStatus, counts, study_status
from tokenlaw.slurm.launch import launch
from tokenlaw.sweeps.planned import Plan


def launched(home: Path, **options: object) -> Plan:
    plan = two_stage_plan(generators=2)
    launch(
        plan,
        executor="slurm",
        home=home,
        settings={"device": "cpu"},
        wait=False,
        progress=False,
        options=options,
    )
    return plan


def status(home: Path) -> StudyStatus:
    path = current_plan_path(home, "toy")
    assert path is not None
    return study_status(home, read_plan(path))


def states(home: Path) -> dict[str, str]:
    return {line.id: line.state for line in status(home).lines}


def far_claim(run: RunDir, job: str) -> None:
    """An attempt by a job on another host, with a heartbeat."""
    attempt = claim(run, executor="slurm", job=job)
    attempt.heartbeat.beat(step=3, steps=9, phase="train", unit_per_second=2.0, force=True)
    record = json.loads(run.attempt_path(attempt.number).read_text()) | {"host": "node7"}
    run.attempt_path(attempt.number).write_text(json.dumps(record))


def silent(run: RunDir) -> None:
    for path in (run.heartbeat_path, run.attempt_path(1)):
        os.utime(path, (1, 1))


def test_queued_and_held(home: Path, cluster: FakeCluster) -> None:
    launched(home)
    assert counts(status(home).lines)["generator"] == {"queued": 2}
    other = home.parent / "other"
    launched(other, hold=True)
    assert counts(status(other).lines)["tokenizer"] == {"held": 1}
    assert not status(other).over


def test_running_stale_and_lost(home: Path, cluster: FakeCluster) -> None:
    plan = launched(home)
    run = RunDir(folder(home, plan.runs[0]))
    cluster.move("RUNNING", jobs=["100"])
    far_claim(run, "100")
    (line,) = [line for line in status(home).lines if line.id == run.id]
    assert (line.state, line.step, line.eta_seconds) == ("running", 3, 3.0)
    assert line.job is not None and "100" in line.job
    silent(run)
    assert states(home)[run.id] == "stale", "the queue still has its job"
    cluster.switch(queue_down=True)
    assert states(home)[run.id] == "stale", "nobody denies it"
    assert "cannot be asked" in status(home).notes[0]
    cluster.switch(queue_down=False)
    cluster.forget()
    assert states(home)[run.id] == "lost"


def test_killed_before_the_first_heartbeat(home: Path, cluster: FakeCluster) -> None:
    plan = launched(home)
    run = RunDir(folder(home, plan.runs[0]))
    claim(run, executor="slurm", job="100")
    record = json.loads(run.attempt_path(1).read_text()) | {"host": "node7"}
    run.attempt_path(1).write_text(json.dumps(record))
    cluster.forget()
    assert states(home)[run.id] == "lost", "however young its claim is"


def test_a_live_process_that_is_silent_is_left_alone(home: Path, cluster: FakeCluster) -> None:
    plan = launched(home)
    cluster.forget()
    run = RunDir(folder(home, plan.runs[0]))
    claim(run, executor="local")
    os.utime(run.attempt_path(1), (1, 1))
    assert states(home)[run.id] == "stale"
    again = launch(
        plan,
        executor="slurm",
        home=home,
        settings={"device": "cpu"},
        wait=False,
        progress=False,
    )
    assert run.id not in again.submitted


def test_blocked_by_a_failed_parent(home: Path, cluster: FakeCluster) -> None:
    plan = launched(home)
    cluster.forget()
    claim(RunDir(folder(home, plan.runs[0])), executor="slurm").finish("failed", "E", "boom", 1)
    found = states(home)
    assert found[plan.runs[0].id] == "failed"
    assert {found[run.id] for run in plan.runs[1:]} == {"blocked"}
    assert status(home).over


def test_logs_of_a_run_and_of_its_job(home: Path, cluster: FakeCluster) -> None:
    plan = launched(home)
    run = RunDir(folder(home, plan.runs[0]))
    assert output_files(home, run) == []
    (run.path / "output.log").write_text("words")
    (folder_of_job,) = (home / "launches").glob("tl-*/1")
    (folder_of_job / "100_0_log.out").write_text("more")
    assert [path.name for path in output_files(home, run)] == ["output.log", "100_0_log.out"]
