"""What a job does with its runs, without a scheduler around it."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from fake_trainer import behave
from toy import attempts, folder, two_stage_plan

from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.results_db.state import read_attempts
from tokenlaw.slurm import retry
from tokenlaw.slurm.worker import payload
from tokenlaw.slurm.worker.payload import Done, Identity, Payload, RunsFailed, conclude, do_runs
from tokenlaw.sweeps.plan import write_run
from tokenlaw.sweeps.planned import Plan


def prepared(home: Path, plan: Plan) -> list[RunDir]:
    runs = [RunDir(write_run(home, run, {"executor": "slurm"})) for run in plan.runs]
    (home / "launches").mkdir()
    return runs


def done(home: Path, runs: list[RunDir], job: str = "7_1") -> dict[str, Done]:
    mine = Identity(executor="slurm", job=job)
    results = do_runs(runs, token="tl-0", mine=mine, stop=lambda: False, say=lambda line: None)
    return {result.run.id: result for result in results}


def test_runs_one_after_another_in_one_process(home: Path, fake_trainer: None) -> None:
    runs = prepared(home, two_stage_plan(generators=2))
    assert {result.ending for result in done(home, runs).values()} == {"done"}
    claims = [read_attempts(run)[0] for run in runs]
    assert {claim["job"] for claim in claims} == {"7_1"} and len({c["pid"] for c in claims}) == 1


def test_one_that_fails_spares_the_rest(home: Path, fake_trainer: None) -> None:
    plan = two_stage_plan(generators=2)
    behave(folder(home, plan.runs[2]), {"fail_at": 1})
    results = done(home, prepared(home, plan))
    endings = [results[run.id].ending for run in plan.runs]
    assert endings == ["done", "done", "failed", "skipped", "done", "done"]
    assert attempts(home, plan.runs[2]) == retry.FAILURES
    with pytest.raises(RunsFailed, match=plan.runs[2].id):
        conclude(list(results.values()))


def test_a_killed_worker_is_started_again(home: Path, fake_trainer: None) -> None:
    plan = two_stage_plan(generators=1)
    behave(folder(home, plan.runs[2]), {"die_at": 1}, {})
    assert done(home, prepared(home, plan))[plan.runs[2].id].ending == "done"
    assert attempts(home, plan.runs[2]) == 2


def test_out_of_memory_halves_the_micro_batch(home: Path, fake_trainer: None) -> None:
    plan = two_stage_plan(generators=1)
    behave(folder(home, plan.runs[2]), {"fail_at": 1, "error": "OutOfMemory: CUDA"}, {})
    runs = prepared(home, plan)
    settings = json.loads(runs[2].settings_path.read_text()) | {"micro_batch": 8}
    runs[2].settings_path.write_text(json.dumps(settings))
    assert done(home, runs)[plan.runs[2].id].ending == "done"
    assert json.loads(runs[2].settings_path.read_text())["micro_batch"] == 4


def test_it_saves_when_told_to_stop(home: Path, fake_trainer: None) -> None:
    plan = two_stage_plan(generators=1)
    behave(folder(home, plan.runs[0]), {"steps": 100, "seconds": 0.1})
    runs = prepared(home, plan)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    mine = Identity(executor="slurm", job="1")
    results = do_runs(runs, token="t", mine=mine, stop=stop.is_set, say=lambda line: None)
    assert [result.ending for result in results] == ["stopped"] and time.monotonic() - began < 8
    assert read_attempts(runs[0])[0]["end"]["outcome"] == "preempted"


def test_a_run_at_work_in_another_job_is_left_alone(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = two_stage_plan(generators=1)
    runs = prepared(home, plan)
    claim(runs[0], executor="slurm", job="6")
    assert done(home, runs[:1])[plan.runs[0].id].ending == "elsewhere", "it lives on this host"
    far = json.loads(runs[0].attempt_path(1).read_text()) | {"host": "node7"}
    runs[0].attempt_path(1).write_text(json.dumps(far))
    assert done(home, runs[:1])[plan.runs[0].id].ending == "done", "the queue has no such job"
    assert attempts(home, plan.runs[0]) == 2


def test_its_own_earlier_start_is_fenced_off(home: Path, fake_trainer: None) -> None:
    plan = two_stage_plan(generators=1)
    runs = prepared(home, plan)
    claim(runs[0], executor="slurm", job="7_1")
    assert done(home, runs[:1])[plan.runs[0].id].ending == "done"
    assert attempts(home, plan.runs[0]) == 2


def test_the_first_pickle_is_as_good_as_any(home: Path) -> None:
    import cloudpickle

    made = Payload(run_dirs=("/a/generator/b",), token="t")
    again = cloudpickle.loads(cloudpickle.dumps(made))
    assert again == made and len(cloudpickle.dumps(made)) < 500


def test_checkpoint_gives_the_same_folders_while_steps_are_gained(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    run = RunDir(folder(home, two_stage_plan(1).runs[0]))
    run.path.mkdir(parents=True)
    made = Payload(run_dirs=(str(run.path),), token="t")
    for step in range(6):
        claim(run, executor="slurm", job="9").finish("preempted", None, None, step)
        assert made.checkpoint().function == made
    for _ in range(retry.STUCK_ATTEMPTS):
        claim(run, executor="slurm", job="9").finish("preempted", None, None, 5)
    assert made.checkpoint() is None


def test_signals_only_set_flags() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGUSR2, signal.SIGTERM)}
    calls = []
    signal.signal(signal.SIGUSR2, lambda *_: calls.append("submitit"))
    try:
        asked = payload._Asked()
        handler = asked.listen()
        assert not asked.is_stop()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert asked.is_stop() and asked.by_user_signal and calls == []
        handler(signal.SIGUSR2, None)
        assert calls == ["submitit"]
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        (
            {"SLURM_JOB_ID": "13", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"},
            "12_3",
        ),
    ],
)
def test_the_id_is_the_one_that_squeue_shows(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert payload.slurm_job_id() == expected
