"""A process that was replaced and wakes up writes nothing; a wrong number of processes is refused;
a signal before the first claim leaves nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny
from torch.distributed import TCPStore

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts
from tokenlaw.trainer.loop import checkpoints


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def begun(run_dir: RunDir, **changes: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tiny.command(run_dir),
        cwd=tiny.ROOT,
        env=tiny.environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def until(condition, seconds: float = 120.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def state_of(run_dir: RunDir) -> tuple[bytes, bytes]:
    return run_dir.log_path.read_bytes(), run_dir.heartbeat_path.read_bytes()


@pytest.mark.parametrize("at", [1, 7, 20])
def test_r14_a_woken_zombie_writes_no_line(tmp_path, at):
    tree = tiny.tokenizer(iterations=400)
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tree, checkpoint_steps=1000)
    first = begun(run_dir)
    until(lambda: run_dir.log_path.exists() and len(tiny.log_entries(run_dir)) >= at)
    first.send_signal(signal.SIGSTOP)
    second = begun(run_dir)
    assert second.wait(timeout=240) == 0
    before = state_of(run_dir)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 75
    assert state_of(run_dir) == before
    assert read_endpoint(run_dir)["attempt"] == 2
    assert [entry["step"] for entry in tiny.log_entries(run_dir)] == list(range(400))


def test_r10_another_number_of_processes_does_not_go_on_unasked(tmp_path):
    tree = tiny.tokenizer(iterations=4)
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tree, checkpoint_steps=2)
    assert tiny.do(run_dir, tiny.StopAfter(3)).outcome == "preempted"
    (first, *_) = tiny.torchrun([run_dir], 2, free_port())
    assert first.returncode == 2
    assert "world size: 2, but" in first.stderr and "was saved by 1 processes" in first.stderr
    ends = [attempt["end"]["error_class"] for attempt in read_attempts(run_dir)]
    assert ends == ["Preempted", "ValueError"] and read_endpoint(run_dir) is None
    settings = json.loads(run_dir.settings_path.read_text()) | {"any_world_size": True}
    run_dir.settings_path.write_text(json.dumps(settings))
    (first, *_) = tiny.torchrun([run_dir], 2, free_port())
    assert first.returncode == 0, first.stderr
    assert [attempt["world_size"] for attempt in read_attempts(run_dir)] == [1, 2, 2]


def test_r10_tasks_of_a_cluster_that_know_nothing_of_one_another(tmp_path):
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tiny.tokenizer(iterations=2))
    ended = tiny.run_command(run_dir, SLURM_NTASKS="4")
    assert ended.returncode == 2 and "SLURM_NTASKS: 4 processes, each" in ended.stderr
    assert read_endpoint(run_dir) is None and not run_dir.log_path.exists()
    assert tiny.run_command(run_dir, SLURM_NTASKS="4", WORLD_SIZE="many").returncode == 2
    assert tiny.run_command(run_dir, SLURM_NTASKS="4", TOKENLAW_PROCESSES="1").returncode == 0


@pytest.mark.parametrize("rank", ["0", "1"])
def test_r10_ranks_that_never_come_end_in_a_limit(tmp_path, rank):
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tiny.tokenizer(iterations=2))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    more = {"MASTER_PORT": str(free_port()), "TOKENLAW_JOIN_SECONDS": "2"}
    ended = tiny.run_command(run_dir, **place, **more)
    assert ended.returncode == 2 and "2 processes are announced, and not all came" in ended.stderr
    assert not run_dir.attempts()


def test_r11_all_take_the_checkpoint_that_each_can_read(tmp_path):
    tree = tiny.tokenizer(iterations=6)
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tree, checkpoint_steps=2, any_world_size=True)
    assert tiny.do(run_dir, tiny.StopAfter(5)).outcome == "preempted"
    newest, older = checkpoints.checkpoints(run_dir)[:2]
    # The second process finds a damaged file where the first reads a good one.
    code = f"""
import os, sys
from tokenlaw.trainer.loop import checkpoints
from tokenlaw.results_db.strict_json import DamagedError
real = checkpoints.verify_folder
def verify(path):
    if path.name == {newest[2].name!r}:
        raise DamagedError("bad disk")
    return real(path)
if os.environ["RANK"] == "1":
    checkpoints.verify_folder = verify
from tokenlaw.trainer.__main__ import main
sys.exit(main([{str(run_dir.path)!r}]))
"""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ended = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tiny.ROOT,
            env=tiny.environment(RANK=rank, LOCAL_RANK=rank, **place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=240)[1] for process in ended]
    assert [process.returncode for process in ended] == [0, 0], said
    assert f"checkpoint {newest[2].name} is damaged (another process cannot" in said[0]
    steps = [entry["step"] for entry in tiny.log_entries(run_dir)]
    assert steps == list(range(6)) and older[0] < newest[0]


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.8, 1.2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_r8_a_signal_while_modules_are_imported(tmp_path, seconds, number):
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tiny.tokenizer(iterations=400))
    process = begun(run_dir)
    # From the first line of __main__ on: then its handler is there.
    status = f"/proc/{process.pid}/status"
    bit = 1 << (number - 1)

    def listens() -> bool:
        with open(status) as file:
            caught = next(line for line in file if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & bit)

    if number != signal.SIGINT:  # which the interpreter itself catches from the start
        until(listens)
    else:
        time.sleep(0.3)
    time.sleep(seconds * 0.5)
    process.send_signal(number)
    assert process.wait(timeout=120) == 75
    ends = [attempt["end"] for attempt in read_attempts(run_dir)]
    assert len(ends) < 2 and all(end["outcome"] == "preempted" for end in ends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_r8_the_handler_is_there_before_torch(tmp_path, number):
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tiny.tokenizer(iterations=400))
    code = f"""
import os, runpy, sys
class Signal:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Signal())
sys.argv[1:] = [{str(run_dir.path)!r}]
runpy.run_module("tokenlaw.trainer", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=tiny.ROOT, env=tiny.environment()).returncode == 75
    assert not run_dir.attempts()


def test_r10_a_launchers_store_without_the_others_ends_in_a_limit(tmp_path):
    run_dir = tiny.lay_out(tmp_path, "tokenizer", tiny.tokenizer(iterations=2))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    more = {"MASTER_PORT": str(store.port), "TOKENLAW_JOIN_SECONDS": "1"}
    kept = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    ended = tiny.run_command(run_dir, timeout=60, **place, **more, **kept)
    assert ended.returncode == 2 and "2 processes are announced, and not all came" in ended.stderr
    assert not run_dir.attempts()
