"""Several processes for one run: how they are started and ended. That they give the curve of one
process is in tests/cluster.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm import base, group
from slurm.base import Context
from slurm.executors.local import Executor as Local
from slurm.resources import Resources


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., group.Members]:
    """Has a run done by three processes that are a script."""

    def started(script: str, kind: str = "tokenizer") -> group.Members:
        path = tmp_path / "member.py"
        path.write_text(f"import os, sys, time\nrank = os.environ.get('RANK')\n{script}")
        monkeypatch.setattr(base, "trainer_command", lambda *_: [sys.executable, str(path)])
        # What others than the first print goes to stderr, which must be a file here.
        with open(tmp_path / "words", "w") as words:
            monkeypatch.setattr(sys, "stderr", words)
            return group.do_line(f"runs/{kind}/0123456789abcdef\t0\n", 3)

    return started


def test_each_process_knows_its_place(
    members: Callable[..., group.Members], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "names = 'RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR'.split()\n"
    script += "print(' '.join(os.environ[n] for n in names), sys.stdin.read().strip())\n"
    script += "rank == '0' and print('{\"run_dir\": 1}')"
    done = members(script)
    assert done.answered and done.codes == [0, 0, 0]
    line = "runs/tokenizer/0123456789abcdef\t0"
    words = sorted((tmp_path / "words").read_text().splitlines())
    assert words == [f"{rank} {rank} 3 127.0.0.1 {line}" for rank in (1, 2)]
    out = capfd.readouterr().out.splitlines()
    assert out == [f"0 0 3 127.0.0.1 {line}", '{"run_dir": 1}']


def test_codes_are_made_by_one_process(members: Callable[..., group.Members]) -> None:
    done = members("print('{\"run_dir\": 1}', rank)", kind="codes")
    assert done.answered and done.codes == [0]


def test_what_waits_for_a_lost_process_is_ended(
    members: Callable[..., group.Members], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_GRACE_SECONDS", 0.3)
    done = members("rank == '1' and sys.exit(3)\ntime.sleep(60)")
    assert not done.answered and sorted(done.codes) == [-9, -9, 3]


def test_processes_of_a_job() -> None:
    assert Resources().group_size == 1 and Resources(gpus=0.5).group_size == 1
    assert Resources(gpus=4).group_size == 4 and Resources(gpus=4, processes=2).group_size == 2
    assert Resources(processes=2).group_size == 2
    for wrong in ({"gpus": 1, "processes": 2}, {"processes": 0}, {"processes": 1.5}):
        with pytest.raises(ValueError, match="processes: "):
            Resources(**wrong)  # type: ignore[arg-type]


def test_each_group_has_gpus_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    seen = []

    def note(command: list[str], env: dict[str, str], **_: object) -> None:
        seen.append((command[-2:], env["CUDA_VISIBLE_DEVICES"]))
        raise FileNotFoundError

    monkeypatch.setattr("slurm.executors.local.subprocess.Popen", note)
    for options, workers in (({"processes": 2}, 2), ({"generator.processes": 5}, 1), ({}, 5)):
        pool = Local(Context(home=home, study="", token="tl-0", options=options))
        assert pool.workers == workers
        for slot in range(workers):
            with pytest.raises(FileNotFoundError):
                pool._start(slot)
        pool.close()
    assert seen[:3] == [
        (["slurm.group", "2"], "0,1"),
        (["slurm.group", "2"], "2,3"),
        (["slurm.group", "5"], "0,1,2,3,4"),
    ]
    assert [gpu for _, gpu in seen[3:]] == ["0", "1", "2", "3", "4"]
    for wrong in ({"processes": 0}, {"gpus": 2}):
        with pytest.raises(ValueError, match="processes: 0|'gpus' means nothing on this machine"):
            Local(Context(home=home, study="", token="tl-0", options=wrong))
