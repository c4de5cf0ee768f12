"""Whether a run is tried again: every class of failure, from the attempts' records."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.slurm import retry
from tokenlaw.slurm.retry import Ended, decide

BASE = Ended(
    attempt=1,
    ending="error",
    step=5,
    error_class="RuntimeError",
    error="boom",
    commit="c",
    dirty=False,
    job=None,
)


def ended(ending: str, step: int | None = 5, error: str = "boom", **more: object) -> Ended:
    return replace(BASE, ending=ending, step=step, error=error, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attempts", "again", "words"),
    [
        ([ended("error")], True, "boom"),
        ([ended("error"), ended("error")], False, "not chance"),
        ([ended("error"), ended("error", step=9)], False, "2 failures"),
        ([ended("error"), ended("error", error="other")], False, "2 failures"),
        ([ended("error"), ended("preempted")], True, "preempted"),
        ([ended("error"), ended("lost"), ended("error")], False, "not chance"),
        ([ended("memory")], True, ""),
        ([ended("memory"), ended("memory", step=9)], False, "2 failures"),
        ([ended("error"), ended("memory")], True, ""),
        ([ended("input")], False, ""),
        ([ended("disk")], False, ""),
        ([ended("diverged")], False, ""),
        ([ended("done")], False, ""),
        ([ended("lost", step=step) for step in range(30)], True, ""),
        ([ended("preempted", step=step) for step in range(30)], True, ""),
        ([ended("lost") for _ in range(3)], True, ""),
        ([ended("lost") for _ in range(4)], False, "without a step gained"),
        ([ended("lost", step=None) for _ in range(4)], False, "without a step gained"),
        ([ended("lost", step=3)] * 3 + [ended("lost", step=4)], True, ""),
    ],
)
def test_decisions(attempts: list[Ended], again: bool, words: str) -> None:
    decision = decide(attempts)
    assert decision.again is again and words in decision.reason


def test_out_of_memory_asks_for_a_smaller_batch() -> None:
    assert decide([ended("memory")]).smaller_batch
    assert not decide([ended("error")]).smaller_batch


@pytest.mark.parametrize(
    ("outcome", "error_class", "error", "ending"),
    [
        ("failed", "RuntimeError", "boom", "error"),
        ("failed", "OutOfMemory", "CUDA out of memory. Tried to allocate", "memory"),
        ("failed", "RuntimeError", "DefaultCPUAllocator: out of memory", "memory"),
        ("failed", "MemoryError", "", "memory"),
        ("failed", "DiskFull", "[Errno 28] No space left on device", "disk"),
        ("failed", "OSError", "[Errno 122] Disk quota exceeded: 'x'", "disk"),
        ("failed", "OSError", "[Errno 2] No such file", "error"),
        ("failed", "ValueError", "data: not there", "input"),
        ("preempted", "Preempted", "", "preempted"),
        ("fenced", "Fenced", "newer", "fenced"),
        ("diverged", None, None, "diverged"),
        ("done", None, None, "done"),
    ],
)
def test_how_an_attempt_ended(
    tmp_path: Path, outcome: str, error_class: str | None, error: str | None, ending: str
) -> None:
    run = RunDir(tmp_path / "generator" / "a1")
    run.path.mkdir(parents=True)
    claim(run, executor="local").finish(outcome, error_class, error, 7)
    (found,) = retry.history(run)
    assert (found.ending, found.step) == (ending, 7)


def test_an_attempt_without_end_is_lost_at_its_last_step(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "generator" / "a1")
    run.path.mkdir(parents=True)
    claim(run, executor="local").heartbeat.beat(step=12, steps=20, phase="train", force=True)
    (found,) = retry.history(run)
    assert (found.ending, found.step) == ("lost", 12)
    assert retry.bury(run, reason="killed") and not retry.bury(run, reason="again")
    (found,) = retry.history(run)
    assert (found.ending, found.step, found.error) == ("lost", 12, "killed")


def failed_twice(run: RunDir, *, dirty: bool = False) -> None:
    run.path.mkdir(parents=True)
    for _ in range(2):
        attempt = claim(run, executor="local")
        record = json.loads(run.attempt_path(attempt.number).read_text())
        known = json.dumps(record | {"commit": "c", "dirty": dirty})
        run.attempt_path(attempt.number).write_text(known)
        attempt.finish("failed", "RuntimeError", "boom", 3)


def test_the_same_error_twice_needs_new_code_or_a_word(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "generator" / "a1")
    failed_twice(run)
    assert "boom" in (retry.refused(run, commit="c", dirty=False) or "")
    assert retry.refused(run, commit="d", dirty=False) is None
    assert retry.refused(run, commit="c", dirty=True) is None
    assert retry.forgive(run) == 2
    assert retry.refused(run, commit="c", dirty=False) is None and retry.history(run) == []


def test_changed_code_may_have_been_mended(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "generator" / "a1")
    failed_twice(run, dirty=True)
    assert retry.refused(run, commit="c", dirty=False) is None


def test_a_smaller_micro_batch_keeps_the_batch(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "generator" / "a1")
    run.path.mkdir(parents=True)
    config = {"id": "a1", "kind": "generator", "config": {"batch_size": 6}}
    run.config_path.write_text(json.dumps(config))
    run.settings_path.write_text('{"device":"cpu"}')
    assert [retry.shrink_micro_batch(run) for _ in range(3)] == [3, 1, None]
    settings = json.loads(run.settings_path.read_text())
    assert settings == {"device": "cpu", "micro_batch": 1}
    assert json.loads(run.config_path.read_text()) == config
