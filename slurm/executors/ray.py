"""A Ray cluster: one plain task for each job, with as much of a GPU as it asks for.

A task starts the payload as a process of its own from the code snapshot and waits for it; which
runs are whose is decided by our claims, as everywhere. Tasks end with the driver, so somebody
waits; when it dies, or a worker does, nothing is lost but the work since the last checkpoint.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

from ...results_db.processes import EXIT_DONE, EXIT_TRY_AGAIN
from .. import launch_records, snapshot, timing
from ..base import (
    BaseExecutor,
    Bundling,
    Context,
    InQueue,
    Job,
    JobReport,
    Listing,
    Phase,
    shared_environment,
)
from ..options import names, parse_options
from ..resources import Resources, on_one_node
from ..worker import devices

_OBJECT_STORE_BYTES = 100 * 2**20  # nothing goes through it but exit codes
_CONNECT_SECONDS = 5.0
_NOT_FOR_RAY = (
    "partition",
    "account",
    "qos",
    "constraint",
    "nodes",
    "gpu_type",
    "minutes",
    "extra",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Settings of `--resource name=value`, beside the fields of `Resources` that Ray knows."""

    address: str = ""  # of an existing cluster, "auto" for the one of this host; "": a local one
    max_retries: int = 3  # times that Ray starts a task again after its worker or node died
    bundle_minutes: float = 10.0  # fill a task with small runs up to this much estimated work
    least_jobs: int = 4  # but make so many tasks where there are enough runs
    working_tree: bool = False  # run the code as it is, uncommitted changes included


def _parsed(context: Context) -> tuple[Options, dict[str, Resources]]:
    context = replace(context, options=on_one_node(context.options))
    return parse_options(Options(), context, fractions=True, refused=_NOT_FOR_RAY)


@final
class Executor(BaseExecutor):
    """Tasks of a Ray cluster."""

    attached: ClassVar[bool] = True
    chains: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options, self._resources = _parsed(context)
        self.bundling = Bundling(
            minutes=self.options.bundle_minutes,
            least_jobs=context.workers or self.options.least_jobs,
        )
        self._code = snapshot.take(context.home, working_tree=self.options.working_tree)
        if self._code.warning:
            context.say(self._code.warning)
        self._ray = _connected(self.options.address)
        if context.gpus is None and not self._ray.cluster_resources().get("GPU"):
            # Nobody asked for GPUs and there are none: as on a machine without any, the CPU it is.
            asked = {name.rpartition(".")[0] for name in context.options or {} if "gpus" in name}
            for kind, wanted in self._resources.items():
                if not asked & {"", kind}:
                    self._resources[kind] = replace(wanted, gpus=0)
        self._check_fits()
        self._task = self._ray.remote(_make_task())
        self._numbers = itertools.count(1)
        self._waiting: list[tuple[str, Job]] = []
        self._refs: dict[str, Any] = {}  # job id -> what Ray calls its result
        self._live: dict[tuple[str, ...], str] = {}  # run ids of a job -> its id, until it is gone
        self._reports: dict[str, JobReport] = {}

    @classmethod
    def check(cls, context: Context) -> None:
        _parsed(context)

    @classmethod
    def option_names(cls) -> frozenset[str]:
        return names(Options(), refused=_NOT_FOR_RAY)

    def resources(self, kind: str) -> Resources:
        return self._resources[kind]

    def submit(self, jobs: Sequence[Job]) -> list[str | None]:
        ids: list[str | None] = []
        for job in jobs:
            known = self._live.get(job.run_ids)
            if known is None:
                known = self._add(job)
            ids.append(known)
        self._give_out()
        return ids

    def _add(self, job: Job) -> str:
        name = f"{self.context.study[:24]}.{self.context.token}.{next(self._numbers)}"
        if self.context.intent is not None:
            runs = tuple(f"{run.kind}/{run.id}" for run in job.run_dirs)
            submission = launch_records.Submission(name=name, tasks=(runs,), job_id=name)
            self.context.intent.add(submission)
        self._live[job.run_ids] = name
        self._reports[name] = JobReport(phase="queued")
        self._waiting.append((name, job))
        self._waiting.sort(key=lambda entry: -entry[1].priority)
        return name

    def _give_out(self) -> None:
        """Hand tasks to Ray, the longest chains first; Ray keeps to the order."""
        most = self.context.workers or sys.maxsize
        while self._waiting and len(self._refs) < most:
            name, job = self._waiting.pop(0)
            folder = self.context.home / "launches" / self.context.token
            folder.mkdir(parents=True, exist_ok=True)
            runs = [str(run.path) for run in job.run_dirs]
            who = [self.context.token, "ray", name, str(job.resources.group_size)]
            command = ["-P", "-m", "tokenlaw.slurm.worker.payload", *who, *runs]
            options = {
                "num_cpus": job.resources.cpus,
                "num_gpus": job.resources.gpus,
                "max_retries": self.options.max_retries,
                "name": name,
            }
            if job.resources.memory_gb is not None:
                options["memory"] = int(job.resources.memory_gb * 2**30)
            log = folder / f"{name.rpartition('.')[2]}.log"
            environment = _shared_environment(self._code.path)
            self._refs[name] = self._task.options(**options).remote(command, environment, str(log))
            self._reports[name] = JobReport(phase="running")

    def poll(self, timeout: float = 0.0) -> dict[str, JobReport]:
        if not self._refs:
            time.sleep(timeout)
            return dict(self._reports)
        ready, _ = self._ray.wait(
            list(self._refs.values()), num_returns=len(self._refs), timeout=timeout
        )
        done = {id(ref) for ref in ready}
        for name, ref in list(self._refs.items()):
            if id(ref) in done:
                del self._refs[name]
                self._reports[name] = self._report(ref)
        gone = {name for name, report in self._reports.items() if report.phase == "gone"}
        self._live = {runs: name for runs, name in self._live.items() if name not in gone}
        self._give_out()
        return dict(self._reports)

    def _report(self, ref: Any) -> JobReport:
        errors = self._ray.exceptions
        try:
            code, words = self._ray.get(ref)
        except errors.TaskCancelledError:
            return JobReport(phase="gone", reason="cancelled", blameless=True)
        except errors.RayError as error:
            return JobReport(phase="gone", reason=f"{type(error).__name__}: {_first_line(error)}")
        tail = f": {words}" if words and code not in (EXIT_DONE, EXIT_TRY_AGAIN) else ""
        return JobReport(phase="gone", reason=f"the task ended with exit code {code}{tail}")

    def cancel(self, ids: Iterable[str], *, kill: bool = False) -> None:
        wanted = set(ids)
        for name, _ in self._waiting:
            if name in wanted:
                self._reports[name] = JobReport(phase="gone", reason="cancelled", blameless=True)
        self._waiting = [entry for entry in self._waiting if entry[0] not in wanted]
        for name in wanted & self._refs.keys():
            self._ray.cancel(self._refs[name], force=kill)

    def calibrate(self, folder: Path, kind: str) -> str:
        wanted = timing.one_process(self._resources[kind])
        options = {
            "num_cpus": wanted.cpus,
            # All of a GPU even where runs share one: a share's speed is not that of the shape.
            "num_gpus": math.ceil(wanted.gpus),
            "max_retries": 0,
            "name": folder.name,
        }
        if wanted.memory_gb is not None:
            options["memory"] = int(wanted.memory_gb * 2**30)
        _, *command = timing.command(folder)
        environment = _shared_environment(self._code.path)
        environment["TOKENLAW_HOME"] = str(self.context.home)
        log = str(folder / timing.LOG)
        ref = self._task.options(**options).remote(command, environment, log)
        try:
            # In pieces, so that Ctrl-C is heard.
            while not self._ray.wait([ref], timeout=1.0)[0]:
                pass
        except BaseException:
            self._ray.cancel(ref)
            # The task ends its process first; without a driver it would be killed before it could.
            self._ray.wait([ref], timeout=_CONNECT_SECONDS)
            raise
        ended = self._report(ref).reason or "the task ended"
        if not (folder / timing.RESULT).exists():
            timing.wait_for_result(folder)
        return f"{ended}; {log}"

    def close(self) -> None:
        self._ray.shutdown()

    @classmethod
    def listing(cls, home: Path, launches: Sequence[launch_records.Launched]) -> Listing:
        """List the tasks of `launches` by their records.

        Ray's tasks live as long as the launch that gave them out, so its record is the queue.
        """
        runs: dict[str, InQueue] = {}
        jobs: dict[str, Phase] = {}
        for launched in launches:
            for submission in launched.submissions:
                phase: Phase = "running" if launched.alive else "gone"
                jobs[submission.name] = phase
                if phase == "running":
                    where = InQueue(job_id=submission.name, phase=phase, reason="on Ray")
                    runs |= {run: where for task in submission.tasks for run in task}
        return Listing(runs=runs, jobs=jobs)

    @classmethod
    def withdraw(cls, ids: Iterable[str]) -> None:
        pass  # tasks end with their launch, which `tokenlaw cancel` asks to stop

    def _check_fits(self) -> None:
        """Ray would wait for ever for what no node has."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        for kind, wanted in self._resources.items():
            for name, amount in (("GPU", wanted.gpus), ("CPU", wanted.cpus)):
                most = max((node.get(name, 0.0) for node in nodes), default=0.0)
                if amount <= most:
                    continue
                if self.options.address:
                    # A cluster that grows may have such a node later.
                    self.context.say(f"no node has {amount:g} {name} for {kind} runs yet; waiting")
                else:
                    raise ValueError(
                        f"{name.lower()}s: {amount:g} for {kind} runs is not allowed; "
                        f"this machine has {most:g}"
                    )


def _connected(address: str) -> Any:
    """Connect to a cluster, a local one if `address` is empty; return the `ray` module."""
    # Whatever starts here must not report to anybody or listen to the outside.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:
        _refuse_silence(address)
        _show_token()
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=devices.usable_cores(),
                num_gpus=len(devices.visible_gpus()),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
    except (ConnectionError, ValueError) as error:
        raise ValueError(f"address: {address!r}: {_first_line(error)}") from None
    return ray


def _show_token() -> None:
    """Let Ray show its token where there is one.

    `ray start` asks for a token as soon as it finds one, and the first local Ray leaves one in the
    home folder. A driver shows it only when told to. A cluster that asks for none lets it pass.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if named or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_MODE"] = "token"


def _refuse_silence(address: str) -> None:
    """Raise ValueError when nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in address:
        return  # "auto", or a client's address: Ray's own affair
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(f"address: {address!r}: no Ray cluster there: {error}") from None


def _make_task() -> Any:
    """Make the function that Ray runs.

    A local function travels by value, so nodes need the code only in the snapshot.
    """

    def task(command: list[str], environment: dict[str, str], log: str) -> tuple[int, str]:
        import os
        import signal
        import subprocess
        import sys
        import time

        with open(log, "ab") as words:
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**os.environ, **environment},
                stdout=words,
                stderr=subprocess.STDOUT,
            )
            try:
                # Short sleeps: a request to cancel arrives between two of them.
                while process.poll() is None:
                    time.sleep(0.2)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGTERM)
                process.wait(600)
                raise
        with open(log, errors="replace") as text:
            lines = [line.strip() for line in text if line.strip()]
        return process.returncode, lines[-1][:300] if lines else ""

    return task


def _shared_environment(code: Path) -> dict[str, str]:
    """Select the environment that a task's process needs beside that of its node."""
    shared = shared_environment(code)
    if "TOKENLAW_DB" in os.environ:
        shared["TOKENLAW_DB"] = os.environ["TOKENLAW_DB"]
    return shared


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
