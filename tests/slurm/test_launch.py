"""Launching on this machine: each run once, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy
from fake_trainer import behave
from toy import attempts, folder, two_stage_plan

from tokenlaw.results_db.processes import process_is_alive
from tokenlaw.results_db.record import RunDir, run_state
from tokenlaw.results_db.state import read_attempts
from tokenlaw.slurm import base, retry
from tokenlaw.slurm import launch as launch_module
from tokenlaw.slurm.base import Context
from tokenlaw.slurm.executors import local
from tokenlaw.slurm.launch import launch
from tokenlaw.slurm.run_states import Summary
from tokenlaw.slurm.worker import devices
from tokenlaw.sweeps.planned import Plan

CPU = {"device": "cpu"}
SCRIPT = Path(__file__).with_name("launch_toy.py")


def run(plan: Plan, home: Path, **options: object) -> Summary:
    return launch(plan, home=home, settings=CPU, workers=2, progress=False, **options)  # type: ignore[arg-type]


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(home), *arguments],
        env={**os.environ, "PYTHONPATH": str(base.CODE_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def workers_of(home: Path) -> list[int]:
    """Processes of the stand-in that hold something under `home`: known from their claims."""
    found = []
    for path in home.glob("*/*/attempts/*.json"):
        record = json.loads(path.read_text())
        if "pid" in record and process_is_alive(record["pid"]):
            found.append(record["pid"])
    return sorted(set(found))


def test_everything_is_done_once_in_order(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan(generators=3)
    summary = run(plan, home)
    assert (summary.done, summary.exit_code, len(summary.submitted)) == (8, 0, 8)
    ends = {}
    for planned in plan.runs:
        assert attempts(home, planned) == 1
        endpoint = json.loads((folder(home, planned) / "endpoint.json").read_text())
        ends[planned.id] = endpoint["finished_at"]
        claim = json.loads((folder(home, planned) / "attempts/001.json").read_text())
        for parent in planned.parents.values():
            assert ends[parent] <= claim["started_at"]


def test_the_database_hears_of_it(home: Path, fake_command: object) -> None:
    from tokenlaw.results_db import schema, spool
    from tokenlaw.results_db.engine import opened, reading

    run(two_stage_plan(), home)
    assert spool.pending(home) == []
    with opened(home) as engine, reading(engine) as connection:
        rows = connection.execute(sqlalchemy.select(schema.Endpoint.run_id)).all()
    assert len({row.run_id for row in rows}) == 6


def test_a_second_launch_submits_nothing(home: Path, fake_trainer: object) -> None:
    run(two_stage_plan(), home)
    again = run(two_stage_plan(), home)
    assert again.submitted == () and again.done == again.total == 6
    wider = run(two_stage_plan(generators=3), home)
    assert len(wider.submitted) == 2, "only the new generator and its evaluation"


def test_the_longest_chain_goes_first(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan(generators=4)
    launch(plan, home=home, settings=CPU, workers=1, progress=False)
    generators = [planned for planned in plan.runs if planned.kind == "generator"]
    begun = {
        planned.gpu_hours: json.loads((folder(home, planned) / "attempts/001.json").read_text())[
            "started_at"
        ]
        for planned in generators
    }
    assert sorted(begun, key=begun.__getitem__) == sorted(begun, reverse=True)


def test_a_worker_is_used_again(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan(generators=4)
    launch(plan, home=home, settings=CPU, workers=1, progress=False)
    pids = {
        json.loads((folder(home, planned) / "attempts/001.json").read_text())["pid"]
        for planned in plan.runs
    }
    assert len(pids) == 1


def spare_of(home: Path, **options: object) -> AbstractContextManager[None]:
    """What the command line begins while it plans."""
    made = Context(home=home, study="", token="", use_gpu=False, **options)  # type: ignore[arg-type]
    return local.Executor.prepared(made)


def spare_pid() -> int:
    assert local._spare is not None
    return local._spare[1].pid


def test_the_first_worker_may_start_before_the_plan_is_known(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    plan = two_stage_plan()
    with spare_of(home, workers=1):
        spare = spare_pid()
        launch(plan, home=home, settings=CPU, workers=1, progress=False)
    for planned in plan.runs:
        record = json.loads((folder(home, planned) / "attempts/001.json").read_text())
        assert record["pid"] == spare


def test_a_worker_that_no_run_takes_up_is_ended(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    with spare_of(home):
        unused = spare_pid()
        assert process_is_alive(unused)
    assert not process_is_alive(unused) and local._spare is None
    with pytest.raises(KeyboardInterrupt), spare_of(home):
        unused = spare_pid()
        raise KeyboardInterrupt
    assert not process_is_alive(unused)
    # One of another command is not the first worker: here each run is for two processes.
    with spare_of(home, workers=1, options={"processes": 2}):
        unused = spare_pid()
        plan = two_stage_plan()
        launch(plan, home=home, settings=CPU, workers=1, progress=False)
        assert spare_pid() == unused
    assert not process_is_alive(unused)


def test_no_worker_starts_early_for_options_that_mean_nothing_or_on_a_single_core(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    with spare_of(home, gpus=3):
        assert local._spare is None
    monkeypatch.setattr(devices, "usable_cores", lambda: 1)
    with spare_of(home):
        assert local._spare is None


def test_the_next_run_does_not_wait_for_the_clock(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "_POLL_SECONDS", 60.0)
    plan = two_stage_plan(generators=1)  # in which each run waits for the one before
    summary = launch(plan, home=home, settings=CPU, workers=1, progress=False)
    assert summary.done == summary.total == 4 and summary.seconds < 30


def test_each_worker_has_a_gpu_of_its_own(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    plan = two_stage_plan(generators=4)
    for planned in plan.runs:
        behave(folder(home, planned), {"seconds": 0.1})
    summary = launch(plan, home=home, settings={"device": "auto"}, progress=False)
    assert summary.exit_code == 0
    used = {}
    for planned in plan.runs:
        record = json.loads((folder(home, planned) / "attempts/001.json").read_text())
        used.setdefault(record["pid"], set()).add(record["gpus"])
    assert sorted(used.values(), key=str) == [{"3"}, {"5"}]


def test_an_exception_is_tried_once_more(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[2]), {"fail_at": 1}, {})
    summary = run(plan, home)
    assert summary.exit_code == 0 and attempts(home, plan.runs[2]) == 2


def test_the_same_error_twice_stops_and_blocks_what_is_below(
    home: Path, fake_trainer: object
) -> None:
    plan = two_stage_plan()
    codes = plan.runs[1]
    behave(folder(home, codes), {"fail_at": 1, "error": "RuntimeError: no such shape"})
    summary = run(plan, home)
    assert summary.exit_code == 1 and attempts(home, codes) == 2
    assert [problem.id for problem in summary.failed] == [codes.id]
    assert "step 1" in summary.failed[0].reason and "no such shape" in summary.failed[0].reason
    assert len(summary.blocked) == 4
    assert all(codes.id in problem.reason for problem in summary.blocked)


def test_bad_input_is_not_tried_again(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[0]), {"fail_at": 0, "error": "ValueError: data: not there"})
    summary = run(plan, home)
    assert summary.exit_code == 1 and attempts(home, plan.runs[0]) == 1


def test_divergence_is_a_result(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[2]), {"status": "diverged"})
    summary = run(plan, home)
    assert (summary.exit_code, summary.diverged, summary.done) == (0, 1, 5)
    assert [problem.id for problem in summary.blocked] == [plan.runs[3].id]
    assert run(plan, home).submitted == ()


def test_a_killed_worker_is_replaced_while_steps_advance(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan()
    victim = plan.runs[2]
    kills = [{"steps": 9, "die_at": step} for step in range(1, 8)]
    behave(folder(home, victim), *kills, {"steps": 9})
    summary = run(plan, home)
    assert summary.exit_code == 0 and attempts(home, victim) == 8
    records = read_attempts(RunDir(folder(home, victim)))
    assert all("SIGKILL" in record["end"]["error"] for record in records[:-1])


def test_a_run_that_always_kills_its_worker_is_given_up(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan(generators=1)
    behave(folder(home, plan.runs[2]), {"die_at": 1})
    summary = run(plan, home)
    assert [problem.id for problem in summary.failed] == [plan.runs[2].id]
    assert attempts(home, plan.runs[2]) == retry.STUCK_ATTEMPTS


def test_a_full_disk_stops_everything(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan()
    error = "OSError: [Errno 28] No space left on device: '/x'"
    behave(folder(home, plan.runs[1]), {"fail_at": 0, "error": error}, {})
    summary = run(plan, home)
    assert summary.exit_code == 1 and summary.stopped is not None
    assert "No space left" in summary.stopped and attempts(home, plan.runs[1]) == 1
    assert run(plan, home).exit_code == 0, "there is space again"


def test_workers_that_cannot_start_end_the_launch(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_BROKEN", "1")
    summary = run(two_stage_plan(), home)
    assert summary.exit_code == 1 and "no module named torch" in summary.failed[0].reason


def test_what_a_run_prints_is_in_its_folder(home: Path, fake_trainer: object) -> None:
    plan = two_stage_plan(generators=1)
    behave(folder(home, plan.runs[0]), {"print": "hello from the run"})
    run(plan, home)
    assert "hello from the run" in (folder(home, plan.runs[0]) / "output.log").read_text()


def test_secrets_that_a_run_prints_are_in_no_file(
    home: Path, fake_trainer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "mark/7Q@9z")
    plan = two_stage_plan(generators=1)
    words = "libpq: mark/7Q@9z, mark%2F7Q%409z."
    behave(folder(home, plan.runs[0]), {"print": words, "exit_at": 1}, {})
    summary = run(plan, home)
    assert "mark" not in str(summary)
    read = [p for p in home.rglob("*") if p.is_file() and p.name != "behaviour.json"]
    assert not [path for path in read if b"7Q" in path.read_bytes()]
    output = folder(home, plan.runs[0]) / "output.log"
    assert "libpq: ***, ***." in output.read_text()


def test_launches_at_once_share_the_work(home: Path) -> None:
    plan = two_stage_plan(generators=4)
    for planned in plan.runs:
        behave(folder(home, planned), {"seconds": 0.05})
    launches = [start(home, "4") for _ in range(4)]
    texts = [process.communicate(timeout=60)[0] for process in launches]
    assert [process.returncode for process in launches] == [0] * 4, texts
    assert [attempts(home, planned) for planned in plan.runs] == [1] * len(plan.runs)


def test_kill_9_of_the_command_loses_nothing(home: Path) -> None:
    plan = two_stage_plan()
    for planned in plan.runs:
        behave(folder(home, planned), {"seconds": 0.1, "steps": 10})
    first = start(home)
    until(lambda: attempts(home, plan.runs[2]))
    first.kill()
    first.communicate(timeout=10)
    until(lambda: not workers_of(home), 5)
    assert run_state(folder(home, plan.runs[2])) == "lost"
    second = start(home)
    text = second.communicate(timeout=60)[0]
    assert second.returncode == 0, text
    assert "6 of 6 runs done" in text
    assert attempts(home, plan.runs[0]) == 1 and attempts(home, plan.runs[2]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_saves_and_the_same_command_goes_on(home: Path, number: signal.Signals) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[0]), {"seconds": 0.1, "steps": 10})
    first = start(home)
    until(lambda: attempts(home, plan.runs[0]))
    first.send_signal(number)
    text = first.communicate(timeout=20)[0]
    assert first.returncode == 75, text
    assert "the same command goes on" in text
    assert run_state(folder(home, plan.runs[0])) == "preempted"
    assert not workers_of(home)
    second = start(home)
    assert "6 of 6" in second.communicate(timeout=60)[0] and second.returncode == 0


def test_the_second_ctrl_c_ends_workers_that_do_not_listen(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TRAINER_DEAF", "1")
    plan = two_stage_plan()
    behave(folder(home, plan.runs[0]), {"seconds": 30})
    first = start(home)
    until(lambda: attempts(home, plan.runs[0]))
    os.kill(workers_of(home)[0], signal.SIGSTOP)
    first.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=20)
    assert first.returncode == 75 and not workers_of(home)


def test_a_run_at_work_elsewhere_is_waited_for(home: Path) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[0]), {"seconds": 0.2, "steps": 10})
    first = start(home)
    until(lambda: attempts(home, plan.runs[0]))
    second = start(home)
    time.sleep(0.5)
    first.kill()
    first.communicate(timeout=10)
    text = second.communicate(timeout=60)[0]
    assert second.returncode == 0, text
    assert attempts(home, plan.runs[0]) == 2, "taken up when the first launch had died"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "cloud"}, ["cloud", "local"]),
        ({"workers": 0}, ["workers", "0"]),
        ({"gpus": 1}, ["gpus", "1"]),
        ({"options": {"partition": "main"}}, ["partition", "processes"]),
        ({"wait": False}, ["wait", "local"]),
    ],
)
def test_bad_options_name_field_and_value(
    home: Path, fake_trainer: object, options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        launch(
            two_stage_plan(),
            home=home,
            settings=CPU,
            progress=False,
            **options,  # type: ignore[arg-type]
        )
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_data_that_are_not_at_hand_refuse_the_launch(home: Path) -> None:
    plan = Plan(study="toy", runs=(), missing_data="data: imagenet is not at hand")
    with pytest.raises(ValueError, match="imagenet"):
        launch(plan, home=home, settings=CPU)
    assert not home.exists()
