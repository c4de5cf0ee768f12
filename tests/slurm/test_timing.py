"""`plan --calibrate` as a job: one is submitted and waited for, and none is left behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cluster import FakeCluster

from tokenlaw.slurm import one_job, timing
from tokenlaw.slurm.base import BaseExecutor, Context
from tokenlaw.slurm.executors.slurm import Executor
from tokenlaw.slurm.resources import Resources

SPEC = {"device": "cpu", "jobs": []}
RESULT = {"hardware": "NVIDIA Toy", "results": []}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience with a fake."""
    monkeypatch.setattr(one_job, "_LOOK_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(timing, "_FILE_SECONDS", 0.0)


def place(home: Path, say: Callable[[str], None], **options: object) -> Executor:
    home.mkdir(exist_ok=True)
    return Executor(Context(home=home, study="toy", token="", say=say, options=options))


def folder(home: Path) -> Path:
    (path,) = home.glob("launches/calibrate-*")
    return path


def test_a_job_is_submitted_and_its_result_read(home: Path, cluster: FakeCluster) -> None:
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        if "pending" in line:
            cluster.move("RUNNING")
        elif "running" in line:
            assert json.loads((folder(home) / "spec.json").read_text()) == SPEC
            (folder(home) / "result.json").write_text(json.dumps(RESULT))
            cluster.move("COMPLETED")

    options = {"partition": "main", "generator.gpus": 2, "cpus": 6, "account": "mine"}
    assert timing.measure_on(place(home, say, **options), "generator")(SPEC) == RESULT
    assert lines == ["job 100: submitted", "job 100: pending (Priority)", "job 100: running"]
    assert not list(home.glob("launches/calibrate-*")), "nothing is left"
    (job,) = cluster.jobs().values()
    script = job["script"]
    # One process of the run's two.
    for line in ("gpus-per-node=1", "cpus-per-task=3", "partition=main", "account=mine", "time=60"):
        assert f"#SBATCH --{line}\n" in script
    assert (
        f"export TOKENLAW_HOME={home}\n" in script and " -m tokenlaw.trainer.calibrate " in script
    )


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT", "COMPLETED"])
def test_a_job_that_brings_no_result(home: Path, cluster: FakeCluster, state: str) -> None:
    def say(line: str) -> None:
        if "pending" in line:
            (folder(home) / "output.log").write_text("timing 1 of 2\nMemoryError: too much\n\n")
            cluster.move(state)

    with pytest.raises(RuntimeError, match=f"--calibrate: job 100 ended as {state}; ") as caught:
        timing.measure_on(place(home, say), "generator")(SPEC)
    assert "last words: MemoryError: too much" in str(caught.value)
    assert str(folder(home) / "output.log") in str(caught.value), "kept, to be read"


def test_what_was_asked_for_is_not_there(home: Path, cluster: FakeCluster) -> None:
    def say(line: str) -> None:
        if "pending" in line:
            (folder(home) / "result.json").write_text('{"error": "device: no GPU"}')
            cluster.move("FAILED")

    with pytest.raises(ValueError, match="device: no GPU"):
        timing.measure_on(place(home, say), "generator")(SPEC)
    assert not list(home.glob("launches/calibrate-*"))


@pytest.mark.parametrize("when", ["submitted", "pending"])
def test_interrupted(home: Path, cluster: FakeCluster, when: str) -> None:
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        if when in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timing.measure_on(place(home, say), "generator")(SPEC)
    assert [job["state"] for job in cluster.jobs().values()] == ["CANCELLED"]
    assert lines[-1] == "job 100 is cancelled"
    assert not list(home.glob("launches/calibrate-*"))


def test_sbatch_that_lies_leaves_no_job(home: Path, cluster: FakeCluster) -> None:
    cluster.switch(sbatch_lies=True)
    with pytest.raises(RuntimeError, match="Socket timed out"):
        timing.measure_on(place(home, print), "generator")(SPEC)
    assert [job["state"] for job in cluster.jobs().values()] == ["CANCELLED"]


def test_what_slurm_refuses_is_bad_input(home: Path, cluster: FakeCluster) -> None:
    cluster.switch(sbatch_refuses="invalid partition specified: nowhere")
    with pytest.raises(ValueError, match="slurm refused: .*nowhere"):
        timing.measure_on(place(home, print, partition="nowhere"), "generator")(SPEC)
    assert not list(home.glob("launches/calibrate-*"))


def test_an_executor_need_not_be_able_to(home: Path) -> None:
    class Other(Executor.__base__):  # type: ignore[misc, name-defined]
        submit = poll = cancel = close = None

    assert Executor.__base__ is BaseExecutor
    with pytest.raises(ValueError, match="cannot be done by this executor"):
        timing.measure_on(Other(Context(home=home, study="toy", token="")), "generator")(SPEC)


def test_one_process_of_many_is_timed() -> None:
    asked = Resources(nodes=2, gpus=4, cpus=16, memory_gb=64)
    assert asked.group_size == 8
    assert timing.one_process(asked) == Resources(gpus=1, cpus=4, memory_gb=64)
    shared = Resources(gpus=0.25, cpus=3)
    assert timing.one_process(shared) == shared
