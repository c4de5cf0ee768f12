import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
import torch

from tokenlaw.results_db.durable import write_json
from tokenlaw.results_db.record import Conflict, RunDir, claim, read_endpoint, run_state
from tokenlaw.results_db.state import read_attempts
from tokenlaw.trainer import run as runs
from tokenlaw.trainer import worker
from tokenlaw.trainer.run import Result, Run, Settings, Stop
from tokenlaw.trainer.worker import Outcome, outcome_line


def tokenizer(home, **changes):
    settings = changes.pop("settings", {})
    tree = tiny.tokenizer(adversarial=None, iterations=2, **changes)
    return tiny.lay_out(home, "tokenizer", tree, **settings)


def end_of(run_dir, number=1):
    return read_attempts(run_dir)[number - 1]["end"]


# ------------------------------------------------------------ once, and only once


def test_a_finished_run_is_not_done_again(home):
    run_dir = tokenizer(home)
    assert tiny.do(run_dir) == Outcome(run_dir.path, "done")
    before = run_dir.endpoint_path.read_bytes()
    assert tiny.do(run_dir) == Outcome(run_dir.path, "done")
    assert run_dir.attempts() == [1] and run_dir.endpoint_path.read_bytes() == before
    assert run_state(run_dir) == "done"


def test_what_an_attempt_leaves(home):
    run_dir = tokenizer(home, settings={"executor": "local"})
    tiny.do(run_dir)
    (attempt,) = read_attempts(run_dir)
    assert attempt["executor"] == "local" and attempt["pid"] == os.getpid()
    assert attempt["hardware"].startswith("CPU") and attempt["versions"]["torch"]
    assert attempt["end"]["outcome"] == "done" and attempt["end"]["error"] is None
    endpoint = read_endpoint(run_dir)
    assert endpoint["columns"]["gpu_hours"] > 0 and endpoint["columns"]["hardware"]
    assert endpoint["columns"]["seconds_train"] > 0
    assert (home / "spool" / f"tokenizer-{run_dir.id}").is_file()
    beat = json.loads(run_dir.heartbeat_path.read_text())
    assert beat["attempt"] == 1 and beat["steps"] == 2


def test_only_the_attempt_that_was_expected(home):
    # Two launchers saw the same state; the second one's worker must not start the run again.
    run_dir = tokenizer(home)
    assert worker.execute(run_dir.path, tiny.StopAfter(1), after=0).outcome == "preempted"
    outcome = worker.execute(run_dir.path, Stop(), after=0)
    assert (outcome.outcome, outcome.exit_code) == ("fenced", 75)
    assert run_dir.attempts() == [1]
    assert worker.execute(run_dir.path, Stop(), after=1).outcome == "done"


def test_an_attempt_that_was_replaced_writes_nothing_more(home, monkeypatch):
    run_dir = tokenizer(home, settings={"checkpoint_steps": 1})
    real = worker.stage_function("tokenizer")

    def replaced_meanwhile(run):
        claim(run_dir, executor="local")
        return real(run)

    monkeypatch.setattr(worker, "stage_function", lambda kind: replaced_meanwhile)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.exit_code) == ("fenced", 75)
    assert not run_dir.endpoint_path.exists()
    assert not any(run_dir.checkpoints_path.iterdir())
    assert end_of(run_dir)["outcome"] == "fenced"


# ------------------------------------------------------------ what is refused


def test_a_folder_whose_config_was_edited_is_refused(home):
    run_dir = tokenizer(home)
    stored = run_dir.config()
    stored["config"]["batch_size"] = 16
    write_json(run_dir.config_path, stored)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.error_class, outcome.exit_code) == ("failed", "ValueError", 2)
    assert "its content has the id" in outcome.error
    assert run_dir.attempts() == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"devise": "cpu"}, "settings.devise: there is no such field (did you mean 'device'?)"),
        ({"device": "tpu"}, "device: 'tpu' is unknown; allowed: auto, cpu, cuda, cuda:N"),
        ({"device": "mps"}, "device: 'mps' is not supported; allowed: auto, cpu"),
        ({"log_every": 0}, "settings.log_every: 0 is not allowed"),
    ],
)
def test_bad_settings_are_refused(content, error, home):
    run_dir = tokenizer(home)
    write_json(run_dir.settings_path, content)
    outcome = tiny.do(run_dir)
    assert outcome.error.startswith(error) and outcome.exit_code == 2
    assert run_dir.attempts() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(home):
    outcome = tiny.do(tokenizer(home, settings={"device": "cuda"}))
    assert outcome.error == "device: 'cuda' is not there; allowed on this machine: auto, cpu"


def test_no_such_folder(home):
    outcome = worker.execute(home / "tokenizer" / "0123456789abcdef", Stop())
    assert outcome.outcome == "failed" and "config.json" in outcome.error
    outcome = worker.execute(home / "tokenisers" / "0123456789abcdef", Stop())
    assert "allowed is <home>/<kind>/<id>" in outcome.error and outcome.exit_code == 2


def test_parents_must_be_there_and_done(home):
    parent = tokenizer(home)
    child = tiny.lay_out(home, "codes", tiny.codes(), {"tokenizer": parent})
    outcome = tiny.do(child)
    assert (outcome.error_class, outcome.exit_code) == ("ParentNotDone", 1)
    assert outcome.error == f"tokenizer {parent.id} is unfinished"
    assert child.attempts() == []
    parent.config_path.unlink()
    parent.settings_path.unlink()
    parent.path.rmdir()
    outcome = tiny.do(child)
    assert f"parents: run '{parent.id}' is not in" in outcome.error


# ------------------------------------------------------------ how attempts can end


def failing(monkeypatch, error):
    def stage(run):
        run.progress(7, 9, "tokenizer", 0.0)
        raise error

    monkeypatch.setattr(worker, "stage_function", lambda kind: stage)


@pytest.mark.parametrize(
    ("error", "outcome", "error_class", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "failed", "DiskFull", 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "failed", "DiskFull", 1),
        (OSError(errno.EIO, "Input/output error"), "failed", "OSError", 1),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed", "OutOfMemory", 1),
        (RuntimeError("boom\nsecond line"), "failed", "RuntimeError", 1),
        (ValueError("field: 3, allowed: 4"), "failed", "ValueError", 2),
        (Conflict("another result"), "failed", "Conflict", 1),
        (runs.Preempted("stopped"), "preempted", "Preempted", 75),
        (InterruptedError("stopped while sampling"), "preempted", "Preempted", 75),
    ],
)
def test_failures_are_classed_and_recorded(
    error, outcome, error_class, code, home, monkeypatch, capsys
):
    failing(monkeypatch, error)
    run_dir = tokenizer(home)
    found = tiny.do(run_dir)
    assert (found.outcome, found.error_class, found.exit_code) == (outcome, error_class, code)
    end = end_of(run_dir)
    assert (end["outcome"], end["error_class"], end["step"]) == (outcome, error_class, 7)
    assert "\n" not in end["error"]
    assert not run_dir.endpoint_path.exists()
    assert run_state(run_dir) == outcome
    # What an operator must look into is printed whole; a preemption is no news.
    traced = outcome == "failed" and error_class != "OutOfMemory"
    assert ("Traceback" in capsys.readouterr().err) == traced


def test_an_endpoint_that_differs_from_the_stored_one_is_a_conflict(home, monkeypatch):
    run_dir = tokenizer(home)
    tiny.do(run_dir)
    stored = json.loads(run_dir.endpoint_path.read_text())
    run_dir.endpoint_path.unlink()
    (run_dir.path / "final" / "manifest.json").unlink()

    real = worker.stage_function("tokenizer")

    def other_first(run):
        result = real(run)
        stored["values"][0]["value"] += 1.0
        run_dir.endpoint_path.write_text(json.dumps(stored))
        return result

    monkeypatch.setattr(worker, "stage_function", lambda kind: other_first)
    outcome = tiny.do(run_dir)
    assert (outcome.outcome, outcome.error_class) == ("failed", "Conflict")
    assert read_endpoint(run_dir)["attempt"] == 1


def test_values_that_are_not_finite_are_never_recorded(home, monkeypatch):
    from tokenlaw.trainer.metrics import Value

    value = Value(metric="val_loss", value=float("nan"), unit="nats/token")
    monkeypatch.setattr(worker, "stage_function", lambda kind: lambda run: Result(values=[value]))
    run_dir = tokenizer(home)
    outcome = tiny.do(run_dir)
    assert outcome.outcome == "failed" and "finite" in outcome.error
    assert not run_dir.endpoint_path.exists()


# ------------------------------------------------------------ what runs use


@pytest.fixture
def run(home):
    run_dir = tokenizer(home)
    attempt = claim(run_dir, executor="local")
    return Run(run_dir, None, {}, Settings(), attempt, torch.device("cpu"), Stop())


def test_artifacts_are_hashed_and_listed_once(run):
    run.artifact("a.npy", np.arange(3))
    run.artifact("b.npz", {"x": np.ones(2)})
    run.artifact("a.npy", np.arange(4))
    run.artifact("c.png", b"png")
    assert [entry["name"] for entry in run.artifacts] == ["b.npz", "a.npy", "c.png"]
    assert np.load(run.dir.artifacts_path / "a.npy").tolist() == [0, 1, 2, 3]
    assert np.load(run.dir.artifacts_path / "b.npz")["x"].tolist() == [1, 1]
    for entry in run.artifacts:
        path = run.dir.artifacts_path / entry["file"]
        assert entry["bytes"] == path.stat().st_size
        assert entry["sha256"] == runs.hashlib.sha256(path.read_bytes()).hexdigest()


def test_checkpoints_are_due_by_steps_or_by_time(run, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    run._last_save = clock[0]
    run.settings = Settings(checkpoint_steps=4, checkpoint_seconds=60.0)
    assert [step for step in range(1, 10) if run.save_due(step)] == [4, 8]
    clock[0] += 59
    assert not run.save_due(9)
    run._last_save = 1000.0
    clock[0] = 1060.5
    assert run.save_due(9) and not run.save_due(10)


def test_outcome_lines_are_json():
    line = outcome_line(Outcome(runs.Path("/x/codes/ab"), "failed", "DiskFull", "full"))
    assert json.loads(line) == {
        "run_dir": "/x/codes/ab",
        "run_id": "ab",
        "outcome": "failed",
        "error_class": "DiskFull",
        "error": "full",
    }


class ThreadSpy(Stop):
    """Notes the number of threads whenever it is asked."""

    def __init__(self):
        self.seen = set()

    @property
    def requested(self):
        self.seen.add(torch.get_num_threads())
        return False


def test_thread_counts_come_from_the_run(home):
    before = torch.get_num_threads()
    spy = ThreadSpy()
    try:
        tiny.do(tokenizer(home, numerics={"cpu_threads": 2}), spy)
    finally:
        torch.set_num_threads(before)
    assert spy.seen == {2}


# ------------------------------------------------------------ the command itself


def test_usage():
    done = subprocess.run(
        [sys.executable, "-m", "tokenlaw.trainer"], cwd=tiny.ROOT, env=tiny.environment(),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith(
        "usage: python -m tokenlaw.trainer RUN_DIR..."
    )
    assert done.stdout == ""


def started_worker(home, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tokenlaw.trainer", "-"],
        cwd=tiny.ROOT,
        env=tiny.environment(**environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def send(process, line):
    process.stdin.write(line + "\n")
    process.stdin.flush()


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def test_a_worker_takes_runs_one_after_another_until_it_is_told_to_stop(home):
    first = tokenizer(home)
    broken = RunDir(home / "tokenizer" / "0123456789abcdef")
    tree = tiny.tokenizer(adversarial=None, iterations=100_000)
    long = tiny.lay_out(home, "tokenizer", tree)
    process = started_worker(home)
    try:
        send(process, str(first.path))
        assert json.loads(process.stdout.readline())["outcome"] == "done"
        # One that cannot be done does not stop the others.
        send(process, f"{broken.path}\t0")
        line = json.loads(process.stdout.readline())
        assert (line["run_id"], line["outcome"]) == (broken.id, "failed")
        send(process, f"{long.path}\t0")
        wait_for(lambda: long.log_path.exists())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        line = json.loads(process.stdout.readline())
        assert (line["run_id"], line["outcome"]) == (long.id, "preempted")
        assert process.wait(30) == 75
        assert end_of(long)["outcome"] == "preempted"
        assert len(list(long.checkpoints_path.iterdir())) == 1
        assert not tiny.temporaries(home)
    finally:
        process.kill()
        process.communicate()


def test_a_worker_ends_with_its_parent(home):
    # The parent is killed: it can tell nobody. The worker must not go on by itself.
    tree = tiny.tokenizer(adversarial=None, iterations=100_000)
    run_dir = tiny.lay_out(home, "tokenizer", tree)
    program = (
        "import subprocess, sys, time\n"
        "worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, *tiny.command(run_dir)],
        cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        pid = int(parent.stdout.readline())
        wait_for(lambda: run_dir.log_path.exists())
        parent.kill()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}") or state_of(pid) == "Z", seconds=10)
    finally:
        parent.kill()
        parent.communicate()
    assert run_state(run_dir) in ("lost", "running")
    assert tiny.do(run_dir, tiny.StopAfter(1)).outcome == "preempted"


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
