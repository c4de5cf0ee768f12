"""This machine: a pool of worker processes, each with a GPU of its own where there are any.

A worker is `python -m tokenlaw.trainer -`: it reads a run folder from its standard input, trains,
answers with one line of JSON, and takes the next, so that imports and compilation are paid once.
Workers end with this process, also when it is killed.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, final

from ...results_db.masking import mask_secrets
from ...results_db.processes import EXIT_TRY_AGAIN
from .. import base, retry, timing
from ..base import BaseExecutor, Context, Job, JobReport, free_after, run_line, worker_environment
from ..resources import on_one_node
from ..worker import devices
from ..worker.pool import (
    WorkersDoNotStart,
    _answer,
    _close_quietly,
    _Command,
    _memory_kills,
    _signal,
    _Task,
    _why,
    _Worker,
)

_PROCESSES = "processes"  # of a tokenizer's or generator's run, together; the one option
_STILLBORN_LIMIT = 3  # workers in a row that end before they take up any run
_END_SECONDS = 60.0  # for workers to save and leave after their input is closed
# Started while the launch was still being planned; for the first worker of exactly that command.
_spare: tuple[_Command, subprocess.Popen[bytes]] | None = None


@final
class Executor(BaseExecutor):
    """Worker processes of this machine, as many as GPUs, else as many as CPU cores."""

    attached: ClassVar[bool] = True
    chains: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.group_size = _group_size(context)
        self.nodes = 1  # of the SLURM job around it, over which a run's processes are spread
        self.environment: dict[str, str] = {}  # more of it, for workers
        self.free_after = free_after  # who may be at work on a run, other than dead attempts
        self._gpus = _chosen_gpus(context)
        self.workers = _pool_size(context, len(self._gpus), self.group_size)
        self._tasks: dict[str, _Task] = {}
        self._queue: list[tuple[float, int, str]] = []
        self._order = itertools.count()  # equal priorities: first come, first served
        self._workers: dict[int, _Worker] = {}  # by slot
        self._selector = selectors.DefaultSelector()
        self._stillborn = 0
        self._closed = False

    @classmethod
    def check(cls, context: Context) -> None:
        _pool_size(context, len(_chosen_gpus(context)), _group_size(context))

    @classmethod
    @contextmanager
    def prepared(cls, context: Context) -> Iterator[None]:
        # The imports of a worker take seconds: on another core no longer than those of the plan.
        global _spare
        try:
            command = _command(context, _chosen_gpus(context), _group_size(context))
        except ValueError:
            command = None  # `check` will say why
        if command is not None and devices.usable_cores() > 1:
            _spare = command, command.start()
        try:
            yield
        finally:
            if _spare is not None:
                process = _spare[1]
                _spare = None
                process.kill()
                process.communicate()

    @classmethod
    def option_names(cls) -> frozenset[str]:
        return frozenset({_PROCESSES})

    def submit(self, jobs: Sequence[Job]) -> list[str | None]:
        ids: list[str | None] = []
        for job in jobs:
            name = "+".join(job.run_ids)
            ids.append(name)
            known = self._tasks.get(name)
            if known is not None and known.report.phase != "gone":
                continue
            self._tasks[name] = _Task(name, job)
            heapq.heappush(self._queue, (-job.priority, next(self._order), name))
        return ids

    def poll(self, timeout: float = 0.0) -> dict[str, JobReport]:
        self._give_out()
        for key, _ in self._selector.select(timeout):
            worker, stream = key.data
            self._read(worker, stream)
        self._give_out()
        return {name: task.report for name, task in self._tasks.items()}

    def cancel(self, ids: Iterable[str], *, kill: bool = False) -> None:
        wanted = set(ids)
        for name in wanted & self._tasks.keys():
            task = self._tasks[name]
            if task.report.phase == "queued":
                task.report = JobReport(phase="gone", reason="cancelled", blameless=True)
        for worker in list(self._workers.values()):
            if worker.task is not None and worker.task.id in wanted:
                worker.leaving = True
                _signal(worker, signal.SIGKILL if kill else signal.SIGTERM)

    def calibrate(self, folder: Path, kind: str) -> str:
        home = str(self.context.home)
        environment = worker_environment(self.context.code, TOKENLAW_HOME=home)
        # What it says is for whoever asked, so its stderr is ours.
        done = subprocess.run(timing.command(folder), env=environment, check=False)
        return f"its process ended with {done.returncode}"

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for worker in self._workers.values():
            worker.leaving = True
            if worker.task is not None:
                _signal(worker, signal.SIGTERM)
            if worker.process.stdin is not None:
                _close_quietly(worker.process.stdin)
        deadline = time.monotonic() + _END_SECONDS
        while self._workers and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.1):
                self._read(*key.data)
        for worker in self._workers.values():
            _signal(worker, signal.SIGKILL)
        for worker in list(self._workers.values()):
            self._ended(worker)
        self._selector.close()

    # ------------------------------------------------------------------------------- giving out

    def _give_out(self) -> None:
        while self._queue and not self._closed:
            name = self._queue[0][2]
            if self._tasks[name].report.phase != "queued":
                heapq.heappop(self._queue)
                continue
            worker = self._idle_worker()
            if worker is None:
                return
            heapq.heappop(self._queue)
            task = self._tasks[name]
            worker.task = task
            self._send(worker)

    def _idle_worker(self) -> _Worker | None:
        for worker in self._workers.values():
            if worker.task is None and not worker.leaving:
                return worker
        free = [slot for slot in range(self.workers) if slot not in self._workers]
        return self._start(free[0]) if free else None

    def _start(self, slot: int) -> _Worker:
        global _spare
        command = _command(
            self.context, self._gpus, self.group_size, self.nodes, self.environment, slot
        )
        if _spare is not None and _spare[0] == command:
            process = _spare[1]
            _spare = None
        else:
            process = command.start()
        log = self.context.home / "launches" / f"{self.context.token}-worker-{slot}.log"
        worker = _Worker(process, slot, log)
        self._workers[slot] = worker
        assert process.stdout is not None and process.stderr is not None
        for stream in (process.stdout, process.stderr):
            os.set_blocking(stream.fileno(), False)
            worker.output[stream.fileno()] = b""
            self._selector.register(stream, selectors.EVENT_READ, (worker, stream))
        return worker

    def _send(self, worker: _Worker) -> None:
        """Send the worker its task's next run, unless another process is at work on it."""
        task, run = worker.task, worker.run
        assert task is not None and run is not None and worker.process.stdin is not None
        after = self.free_after(run)
        if after is None:
            worker.task = None
            reason = "another process is at work on the run"
            task.report = JobReport(phase="gone", reason=reason, blameless=True)
            return
        worker.kills_before = _memory_kills()
        task.report = JobReport(phase="running")
        try:
            worker.process.stdin.write(run_line(run, after).encode())
            worker.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its output ends too, and `_ended` deals with the task

    # --------------------------------------------------------------------------------- listening

    def _read(self, worker: _Worker, stream: Any) -> None:
        number = stream.fileno()
        try:
            data = os.read(number, 1 << 16)
        except BlockingIOError:
            return
        is_answer = stream is worker.process.stdout
        if not data:
            self._selector.unregister(stream)
            self._log(worker, worker.output.pop(number))
            stream.close()
            if not worker.output:
                self._ended(worker)
            return
        *lines, worker.output[number] = (worker.output[number] + data).split(b"\n")
        for line in lines:
            answer = _answer(line) if is_answer else None
            if answer is None:
                self._log(worker, line + b"\n")
            else:
                self._answered(worker, answer)

    def _answered(self, worker: _Worker, answer: dict[str, Any]) -> None:
        task, run = worker.task, worker.run
        if task is None or run is None or Path(answer["run_dir"]).name != run.id:
            return  # an answer to a run that was taken away from it
        worker.answered = True
        self._stillborn = 0
        task.next += 1
        error = answer.get("error")
        failed = answer["outcome"] == "failed"
        full = failed and retry.is_disk_full(error)
        stop = full or worker.leaving or answer["outcome"] in ("preempted", "fenced")
        if task.next < len(task.job.run_dirs) and not stop:
            self._send(worker)
            return
        worker.task = None
        # The trainer leaves after it was told to save, whoever told it.
        worker.leaving |= answer["outcome"] == "preempted"
        reason = f"{answer['outcome']}: {error}" if error else answer["outcome"]
        blameless = answer["outcome"] == "fenced"
        task.report = JobReport(phase="gone", reason=reason, disk_full=full, blameless=blameless)
        if worker.leaving and worker.process.stdin is not None:
            _close_quietly(worker.process.stdin)

    def _ended(self, worker: _Worker) -> None:
        """Take the task back from a process that has closed its output."""
        code = worker.process.wait()
        if worker.process.stdin is not None:
            _close_quietly(worker.process.stdin)
        self._workers.pop(worker.slot, None)
        if not worker.answered and code not in (EXIT_TRY_AGAIN, -signal.SIGTERM, -signal.SIGKILL):
            self._stillborn += 1
        task, run = worker.task, worker.run
        if task is None or run is None:
            return
        memory = code == -signal.SIGKILL and _memory_kills() > worker.kills_before
        reason = _why(code, worker.words, memory)
        # Waited for, so it is gone for certain: its attempt may be closed at once.
        retry.bury(run, reason=reason, memory=memory)
        task.report = JobReport(phase="gone", reason=reason)
        worker.task = None
        if self._stillborn >= _STILLBORN_LIMIT:
            raise WorkersDoNotStart(f"workers do not start ({worker.log_path}): {reason}")

    def _log(self, worker: _Worker, data: bytes) -> None:
        if not data:
            return
        text = mask_secrets(data.decode(errors="surrogateescape"))
        data = text.encode(errors="surrogateescape")
        worker.words = data.decode(errors="replace").strip() or worker.words
        run = worker.run
        path = worker.log_path if run is None else run.path / "output.log"
        # Plain append, no sync: what must survive is in the attempt's record.
        with open(path, "ab") as file:
            file.write(data)


def _chosen_gpus(context: Context) -> tuple[str, ...]:
    if not context.use_gpu:
        if context.gpus:
            raise ValueError(f"gpus: {context.gpus} is not allowed with device cpu; must be 0")
        return ()
    found = devices.visible_gpus()
    if context.gpus is None:
        return found
    if not 0 <= context.gpus <= len(found):
        raise ValueError(f"gpus: {context.gpus} is not allowed; this machine has {len(found)}")
    return found[: context.gpus]


def _group_size(context: Context) -> int:
    size = 1
    for name, value in on_one_node(context.options).items():
        if name.rpartition(".")[2] != _PROCESSES:
            raise ValueError(
                f"resource: {name!r} means nothing on this machine; allowed: {_PROCESSES}"
            )
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: {value!r} is not allowed; must be a whole number >= 1")
        size = max(size, value)
    return size


def _command(
    context: Context,
    gpus: Sequence[str],
    group_size: int,
    nodes: int = 1,
    more: Mapping[str, str] | None = None,
    slot: int = 0,
) -> _Command:
    """Build the command of the worker in a place of the pool; `more` extends its environment."""
    added = {base.PROCESSES: str(group_size), **(more or {})}
    if gpus:
        first = slot * group_size % max(1, len(gpus) // group_size * group_size)
        added["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + group_size])
    words = base.trainer_command("-") if group_size == 1 else base.group_command(group_size, nodes)
    return _Command(words, worker_environment(context.code, **added))


def _pool_size(context: Context, gpus: int, group_size: int) -> int:
    if context.workers is not None:
        if context.workers < 1:
            raise ValueError(f"workers: {context.workers} is not allowed; must be at least 1")
        return context.workers
    return max(1, (gpus or devices.usable_cores() // context.threads) // group_size)
