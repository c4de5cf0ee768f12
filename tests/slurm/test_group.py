"""Several processes for one run: how they are started and ended. That they give the curve of one
process is in tests/cluster.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cluster import FakeCluster

from tokenlaw.slurm import base
from tokenlaw.slurm.base import Context
from tokenlaw.slurm.executors.local import Executor as Local
from tokenlaw.slurm.executors.ray import Executor as Ray
from tokenlaw.slurm.executors.slurm import Options
from tokenlaw.slurm.options import parse_options
from tokenlaw.slurm.resources import Resources
from tokenlaw.slurm.worker import group

LINE = "runs/tokenizer/0123456789abcdef\t0\n"


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
            return group.do_line(LINE.replace("tokenizer", kind), 3, 1, group.Asked())

    return started


def test_each_process_knows_its_place(
    members: Callable[..., group.Members], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = "names = 'RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR'.split()\n"
    script += "print(' '.join(os.environ[n] for n in names), sys.stdin.read().strip())\n"
    script += "rank == '0' and print('{\"run_dir\": 1}')"
    done = members(script)
    assert done.answered and done.codes == [0, 0, 0]
    line = LINE.strip()
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


@pytest.fixture
def job(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., group.Members]:
    """Has a run done by four processes on two nodes, whose `srun` is a script."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[3-4]")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
    monkeypatch.setenv("SLURM_NTASKS", "1")

    def started(script: str, kind: str = "tokenizer", stop: float | None = None) -> group.Members:
        path = tmp_path / "bin" / "srun"
        head = "import json, os, signal, sys, time"
        path.write_text(f"#!{sys.executable} -ES\n{head}\n{script}")
        asked = group.Asked()
        if stop is not None:
            threading.Timer(stop, asked._set).start()
        return group.do_line(LINE.replace("tokenizer", kind), 4, 2, asked)

    return started


def test_processes_on_several_nodes_are_one_step(
    job: Callable[..., group.Members], capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("MASTER_ADDR", "SLURM_JOB_ID", "SLURM_NTASKS", "TOKENLAW_PROCESSES")
    script = f"kept = [os.environ.get(name) for name in {names}]\n"
    script += "words = [sys.argv[1:], kept, os.environ['MASTER_PORT'].isdigit()]\n"
    script += "print(json.dumps([*words, os.getsid(0) == os.getpid(), sys.stdin.read()]))\n"
    script += "print('{\"run_dir\": 1}')"
    done = job(script)
    assert done.answered and done.codes == [0]
    arguments, kept, port, own_session, line = json.loads(capfd.readouterr().out.splitlines()[0])
    asked = ["--overlap", "--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=4", "--wait=20"]
    asked += ["--kill-on-bad-exit=0", sys.executable, "-P", "-m", "tokenlaw.slurm.worker.step"]
    assert arguments == asked and line == LINE and port and own_session
    assert kept == ["node3", "7", None, "4"]


def test_a_step_is_told_to_stop_by_the_signal_that_srun_passes_on(
    job: Callable[..., group.Members],
) -> None:
    done = job("signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))\ntime.sleep(20)", stop=1.0)
    assert done.codes == [75]


def test_what_became_of_a_step(job: Callable[..., group.Members]) -> None:
    assert job("sys.exit(137)").codes == [-9], "a task was killed"
    assert job("os.kill(os.getpid(), signal.SIGKILL)").codes == [-9]


def test_codes_are_made_on_the_first_node_alone(
    job: Callable[..., group.Members], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os; print('{\"run_dir\"', os.environ['TOKENLAW_PROCESSES'])"
    monkeypatch.setattr(base, "trainer_command", lambda *_: [sys.executable, "-c", script])
    done = job("sys.exit(3)", kind="codes")
    assert done.answered and done.codes == [0]


@pytest.mark.parametrize("rank", [0, 3])
def test_a_task_takes_its_place_from_slurm(rank: int) -> None:
    trainer = "import os; print([os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')])"
    script = "import sys; from tokenlaw.slurm import base; from tokenlaw.slurm.worker import step\n"
    script += f"base.trainer_command = lambda *_: [sys.executable, '-c', {trainer!r}]\nstep.main()"
    place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank // 2), "SLURM_NTASKS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out, err = (done.stdout, done.stderr) if rank == 0 else (done.stderr, done.stdout)
    assert out.strip() == str([str(rank), str(rank // 2), "4"])
    assert not err, "only the first one answers"


def test_nodes_of_a_job() -> None:
    assert Resources(nodes=2).group_size == 2 and Resources(nodes=2, gpus=4).group_size == 8
    assert Resources(nodes=2, gpus=4, processes=4).group_size == 4
    for wrong in ({"processes": 3}, {"processes": 4, "gpus": 1}, {"processes": 1}, {"nodes": 0}):
        with pytest.raises(ValueError, match="processes: |nodes: 0"):
            Resources(**{"nodes": 2} | wrong)  # type: ignore[arg-type]


def test_cpus_are_those_of_a_node(home: Path) -> None:
    def cpus(**options: object) -> int:
        context = Context(home=home, study="", token="", use_gpu=False, threads=3, options=options)
        return parse_options(Options(), context)[1]["generator"].cpus

    assert cpus(nodes=2) == 3 and cpus(nodes=2, processes=8) == 12 and cpus(gpus=2, nodes=2) == 6
    with pytest.raises(ValueError, match=".cpus: 3 is not allowed with 8 processes on 2"):
        cpus(nodes=2, processes=8, cpus=3)


@pytest.mark.parametrize("place", [Local, Ray])
def test_other_places_have_one_node_for_a_run(place: type[base.BaseExecutor], home: Path) -> None:
    for options in ({"nodes": 2}, {"generator.nodes": 2}):
        context = Context(home=home, study="", token="", options=options)
        with pytest.raises(ValueError, match="nodes: 2 is not allowed here") as caught:
            place.check(context)
        assert "\n" not in str(caught.value) and "--on slurm" in str(caught.value)
    place.check(Context(home=home, study="", token="", options={"nodes": 1}))


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

    monkeypatch.setattr("tokenlaw.slurm.executors.local.subprocess.Popen", note)
    for options, workers in (({"processes": 2}, 2), ({"generator.processes": 5}, 1), ({}, 5)):
        pool = Local(Context(home=home, study="", token="tl-0", options=options))
        assert pool.workers == workers
        for slot in range(workers):
            with pytest.raises(FileNotFoundError):
                pool._start(slot)
        pool.close()
    assert seen[:3] == [
        (["tokenlaw.slurm.worker.group", "2"], "0,1"),
        (["tokenlaw.slurm.worker.group", "2"], "2,3"),
        (["tokenlaw.slurm.worker.group", "5"], "0,1,2,3,4"),
    ]
    assert [gpu for _, gpu in seen[3:]] == ["0", "1", "2", "3", "4"]
    for wrong in ({"processes": 0}, {"gpus": 2}):
        with pytest.raises(ValueError, match="processes: 0|'gpus' means nothing on this machine"):
            Local(Context(home=home, study="", token="tl-0", options=wrong))
