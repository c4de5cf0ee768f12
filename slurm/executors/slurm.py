"""A SLURM cluster, through submitit: job arrays of runs that ask for the same resources.

submitit writes the batch scripts, starts the payload in the job and requeues it. What it cannot do
is done here: arrays are cut to the cluster's limits, each submission is written down before
`sbatch` is called and looked for in the queue afterwards, the code is a snapshot, the environment
is scrubbed, and the state of jobs comes from one `squeue` call.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

from .. import launch_records, one_job, scheduler, snapshot, timing
from ..base import (
    BaseExecutor,
    Bundling,
    Context,
    InQueue,
    Job,
    JobReport,
    Listing,
    NotSubmitted,
    Phase,
    QueueUnknown,
    shared_environment,
)
from ..options import names, parse_options
from ..resources import Resources
from ..worker.payload import Payload

_FIRST_LOOK_SECONDS = 2.0  # after a submission; then less and less often
_SBATCH_SECONDS = 180.0  # patience with it: it tries again by itself when the controller is slow
_TIMING_MINUTES = 60  # time limit of a job that times shapes, unless told otherwise
_NO_LIMIT = 1_000_000  # time-outs after which submitit would give up: progress decides that here
_ARRAY_AT_ONCE = 256  # tasks of an array that may run at once, unless told otherwise
_NEVER = "DependencyNeverSatisfied"
_TIME_RATIO = 4  # between the longest and the shortest time limit in one array
_LOOKS_AFTER_FAILURE = (0.0, 1.0, 3.0)  # seconds: sbatch may fail and have submitted all the same
_TOO_MANY = re.compile(
    r"(Assoc|QOS)(Max|Grp)\w*Submit\w*|job submit limit|MaxJobCount|SubmitJob", re.I
)

_BAD_REQUEST = re.compile(
    r"[Ii]nvalid|[Uu]nrecognized|not available|not permitted|cannot be satisfied|violates|exceeds"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Settings of `--resource name=value`, beside the fields of `Resources`."""

    bundle_minutes: float = 30.0  # fill a job with small runs up to this much estimated work
    least_jobs: int = 4  # but make so many jobs where there are enough runs
    margin: float = 2.0  # time asked for: margin x estimate + extra_minutes
    extra_minutes: float = 10.0  # for the start of a job
    signal_seconds: int = 120  # between the signal to save and the end of the time limit
    hold: bool = False  # submit held; `scontrol release` starts the jobs
    working_tree: bool = False  # run the code as it is, uncommitted changes included
    python: str = sys.executable  # the interpreter on the nodes
    poll_seconds: float = 30.0  # between two looks at the queue


@final
class Executor(BaseExecutor):
    """Jobs in a SLURM queue."""

    attached: ClassVar[bool] = False
    chains: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options, self._resources = parse_options(Options(), context)
        partitions = {resources.partition for resources in self._resources.values()}
        try:
            self._limits = scheduler.limits()
            longest = [scheduler.max_minutes(name) for name in partitions]
        except scheduler.SchedulerError as error:
            raise ValueError(f"slurm: {error}") from None
        self.bundling = Bundling(
            minutes=self.options.bundle_minutes,
            least_jobs=context.workers or self.options.least_jobs,
            margin=self.options.margin,
            extra_minutes=self.options.extra_minutes,
            most_minutes=min((m for m in longest if m is not None), default=None),
        )
        self._code = snapshot.take(context.home, working_tree=self.options.working_tree)
        if self._code.warning:
            context.say(self._code.warning)
        self._live: dict[tuple[str, ...], str] = {}  # run ids of a job -> its id, until it is gone
        self._reports: dict[str, JobReport] = {}
        self._submissions = 0
        self._pause = _FIRST_LOOK_SECONDS
        self._next_look = 0.0

    @classmethod
    def check(cls, context: Context) -> None:
        parse_options(Options(), context)
        scheduler.check_environment()

    @classmethod
    def option_names(cls) -> frozenset[str]:
        return names(Options())

    def resources(self, kind: str) -> Resources:
        return self._resources[kind]

    # --------------------------------------------------------------------------------- submitting

    def submit(self, jobs: Sequence[Job]) -> list[str | None]:
        ids: dict[str, str | None] = {}
        room = self._room()
        for group in _groups(jobs):
            new = [job for job in group if job.run_ids not in self._live]
            ids |= {job.key: self._live[job.run_ids] for job in group if job.run_ids in self._live}
            if any(ids.get(name, name) is None for job in new for name in job.after):
                ids |= {job.key: None for job in new}  # what it waits for must come first
                continue
            new.sort(key=lambda job: (-(job.resources.minutes or 0), -job.priority))
            while new:
                size = min(_alike(new), self._limits.array_size, room)
                chunk, new = new[:size], new[size:]
                found = self._submit_array(chunk, ids) if chunk else None
                if found is None:
                    self.context.say("the cluster takes no more jobs of this user now; later")
                    ids |= {job.key: None for job in [*chunk, *new]}
                    room = 0
                    break
                room -= len(chunk)
                for job, job_id in zip(chunk, found, strict=True):
                    ids[job.key] = self._live[job.run_ids] = job_id
                    self._reports[job_id] = JobReport(phase="queued", reason="submitted")
        self._pause = _FIRST_LOOK_SECONDS
        self._next_look = time.monotonic() + self._pause
        self._tell([job for job in jobs if ids[job.key] is not None])
        return [ids[job.key] for job in jobs]

    def _tell(self, jobs: Sequence[Job]) -> None:
        minutes = sorted({job.resources.minutes or 0 for job in jobs})
        if minutes:
            span = f"{minutes[0]}" if len(minutes) == 1 else f"{minutes[0]} to {minutes[-1]}"
            margin, extra = self.options.margin, self.options.extra_minutes
            self.context.say(
                f"{len(jobs)} jobs submitted with time limits of {span} min "
                f"({margin:g} x the estimate + {extra:g} min, unless given)"
            )

    def _room(self) -> int:
        """Count the jobs that this user may still put into the queue."""
        if self._limits.submitted is None:
            return sys.maxsize
        there = [job for job in scheduler.my_jobs().values() if job.phase != "gone"]
        return max(0, self._limits.submitted - len(there))

    def _submit_array(self, jobs: Sequence[Job], ids: Mapping[str, str | None]) -> list[str] | None:
        """Submit jobs by one `sbatch` call; None when the user has too many jobs in the queue."""
        intent = self.context.intent
        assert intent is not None
        self._submissions += 1
        name = f"{self.context.study[:24]}.{intent.token}.{self._submissions}"
        submission = launch_records.Submission(
            name=name,
            tasks=tuple(tuple(f"{run.kind}/{run.id}" for run in job.run_dirs) for job in jobs),
        )
        after = sorted({ids.get(key) or key for key in jobs[0].after})
        intent.add(submission)
        try:
            job_id = self._sbatch(name, jobs, after)
        except Exception as error:
            # Whatever went wrong here, the job may be in the queue: only the queue knows.
            found = self._found(name)
            if found is None:
                intent.withdraw(name)
                if _TOO_MANY.search(str(error)):
                    return None
                if _BAD_REQUEST.search(str(error)):
                    raise ValueError(f"slurm refused: {_words(error)}") from error
                raise NotSubmitted(_words(error)) from error
            job_id = found
            self.context.say(f"sbatch failed ({_words(error)}) but job {job_id} is in the queue")
        intent.put(name, job_id)
        return replace(submission, job_id=job_id).ids

    def _sbatch(self, name: str, jobs: Sequence[Job], after: Sequence[str]) -> str:
        import submitit
        from submitit.core.utils import DelayedSubmission

        resources = jobs[0].resources
        minutes = resources.minutes
        assert minutes is not None
        folder = self.context.home / "launches" / self.context.token / name.rpartition(".")[2]
        folder.mkdir(parents=True)
        payloads = [
            Payload(
                run_dirs=tuple(str(run.path) for run in job.run_dirs),
                token=self.context.token,
                processes=job.resources.group_size,
                nodes=job.resources.nodes,
            )
            for job in jobs
        ]
        for index, payload in enumerate(payloads):
            # submitit moves its pickles to their place after sbatch. If this process dies in
            # between, the job finds this copy (see `setup_lines`).
            submission = DelayedSubmission(payload)
            submission.set_timeout(minutes, _NO_LIMIT)
            submission.dump(folder / f"task-{index}.pkl")
        driver = submitit.SlurmExecutor(
            folder, max_num_timeout=_NO_LIMIT, python=shlex.quote(self.options.python)
        )
        driver.update_parameters(
            **sbatch_parameters(
                name=name,
                study=self.context.study,
                resources=resources,
                folder=folder,
                code=self._code.path,
                after=after,
                at_once=self.context.workers or _ARRAY_AT_ONCE,
                options=self.options,
            )
        )
        # submitit prints what sbatch says and puts it into its error: once is enough.
        limit = scheduler.time_limit(_SBATCH_SECONDS, "sbatch")
        with limit, scheduler.scrubbed(), contextlib.redirect_stderr(io.StringIO()):
            if len(payloads) == 1:
                submitted = [driver.submit(payloads[0])]
            else:
                with driver.batch():
                    submitted = [driver.submit(payload) for payload in payloads]
            return str(submitted[0].job_id).partition("_")[0]

    def _found(self, name: str) -> str | None:
        """Find the id of the submission `name` in the queue, looking several times."""
        for seconds in _LOOKS_AFTER_FAILURE:
            time.sleep(seconds)
            for job in scheduler.my_jobs().values():
                if job.name == name and not job.refused:
                    return job.id.partition("_")[0]
        return None

    # ------------------------------------------------------------------------------------ watching

    def poll(self, timeout: float = 0.0) -> dict[str, JobReport]:
        wait = self._next_look - time.monotonic()
        if wait > 0:
            time.sleep(min(timeout, wait))
        if time.monotonic() >= self._next_look:
            self._pause = min(self._pause * 1.5, self.options.poll_seconds)
            self._next_look = time.monotonic() + self._pause
            self._look()
        return dict(self._reports)

    def _look(self) -> None:
        try:
            listed = scheduler.my_jobs()
        except scheduler.SchedulerError as error:
            for job_id, report in self._reports.items():
                if report.phase != "gone":
                    self._reports[job_id] = JobReport(phase="unknown", reason=str(error))
            return
        stuck = []
        unfit: set[str] = set()
        for job_id, report in self._reports.items():
            if report.phase == "gone":
                continue
            job = listed.get(job_id)
            if job is None:
                self._reports[job_id] = JobReport(phase="gone", reason="not in the queue any more")
                continue
            if scheduler.is_unfit(job.reason) and job.reason != report.reason:
                unfit.add(job.reason)
            never = job.reason == _NEVER
            if never:
                stuck.append(job_id)
            self._reports[job_id] = JobReport(
                phase=_phase(job),
                reason=job.reason if job.reason not in ("", "None") else job.state,
                blameless=never,
                cancelled=job.state.startswith("CANCELLED"),
            )
        for reason in sorted(unfit):
            self.context.say(f"jobs ask for what the cluster does not give them ({reason})")
        if stuck:
            scheduler.cancel(stuck)
        gone = {job_id for job_id, report in self._reports.items() if report.phase == "gone"}
        self._live = {runs: job_id for runs, job_id in self._live.items() if job_id not in gone}

    @classmethod
    def listing(cls, home: Path, launches: Sequence[launch_records.Launched]) -> Listing:
        try:
            jobs = scheduler.my_jobs()
        except scheduler.SchedulerError as error:
            raise QueueUnknown(str(error)) from None
        by_name: dict[str, str] = {}
        for job in jobs.values():
            by_name.setdefault(job.name, job.id.partition("_")[0])
        runs: dict[str, InQueue] = {}
        stuck = []
        for launched in launches:
            for submission in launched.submissions:
                job_id = submission.job_id or by_name.get(submission.name)
                if job_id is None:
                    if not launched.settled:
                        _mark_submitting(submission, runs)
                    continue
                if submission.job_id is None and not launched.alive:
                    launch_records.adopt(home, launched.token, submission.name, job_id)
                known = replace(submission, job_id=job_id)
                for task_id, task in zip(known.ids, known.tasks, strict=True):
                    listed = jobs.get(task_id)
                    if listed is None or listed.phase == "gone":
                        if listed is not None and listed.reason == _NEVER:
                            stuck.append(task_id)
                        continue
                    where = InQueue(job_id=task_id, phase=_phase(listed), reason=listed.reason)
                    runs |= {run: where for run in task}
        phases = {job_id: _phase(job) for job_id, job in jobs.items()}
        return Listing(runs=runs, jobs=phases, stuck=tuple(stuck))

    # -------------------------------------------------------------------------------------- ending

    def cancel(self, ids: Iterable[str], *, kill: bool = False) -> None:
        wanted = {job_id for job_id in ids if self._reports.get(job_id) is not None}
        scheduler.cancel(wanted, signal="KILL" if kill else None)
        if kill:
            scheduler.cancel(wanted)
        for job_id in wanted:
            # A pending task of an array that is cancelled leaves no trace anywhere.
            self._reports[job_id] = JobReport(phase="gone", reason="cancelled", cancelled=True)
        self._live = {runs: job_id for runs, job_id in self._live.items() if job_id not in wanted}

    @classmethod
    def withdraw(cls, ids: Iterable[str]) -> None:
        try:
            scheduler.cancel(ids)
        except scheduler.SchedulerError as error:
            raise QueueUnknown(str(error)) from None

    def calibrate(self, folder: Path, kind: str) -> str:
        wanted = timing.one_process(self._resources[kind])
        most = self.bundling.most_minutes if self.bundling else None
        minutes = wanted.minutes or min(_TIMING_MINUTES, most or _TIMING_MINUTES)
        environment = shared_environment(self._code.path)
        environment["TOKENLAW_HOME"] = str(self.context.home)
        try:
            ended = one_job.run(
                timing.command(folder, self.options.python),
                name=f"{self.context.study[:24]}.{folder.name}",
                resources=replace(wanted, minutes=minutes),
                folder=folder,
                environment=environment,
                chdir=self._code.path,
                log=folder / timing.LOG,
                say=self.context.say,
            )
        except scheduler.SchedulerError as error:
            if _BAD_REQUEST.search(str(error)):
                raise ValueError(f"slurm refused: {_words(error)}") from error
            raise
        if "FAILED" not in ended and "CANCELLED" not in ended:
            timing.wait_for_result(folder)
        return f"{ended}{timing.last_words(folder)}"

    def close(self) -> None:
        pass  # jobs go on without this process


def sbatch_parameters(
    *,
    name: str,
    study: str,
    resources: Resources,
    folder: Path,
    code: Path,
    after: Sequence[str],
    at_once: int,
    options: Options,
) -> dict[str, Any]:
    """Build the parameters of submitit's batch script. Every value has been checked."""
    extra: dict[str, Any] = {"chdir": str(code), "requeue": True, **dict(resources.extra)}
    if options.hold:
        extra["hold"] = True
    # The payload is on the first node alone, whatever the job has.
    one_task = ["--nodes=1", "--ntasks=1"] if resources.nodes > 1 else []
    parameters: dict[str, Any] = {
        "job_name": name,
        "comment": f"tokenlaw {study}",
        **resources.sbatch_options(),
        "ntasks_per_node": 1,  # with all the CPUs: they are shared out by the step of each run
        "signal_delay_s": options.signal_seconds,
        "array_parallelism": at_once,
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": extra,
        # SLURM 22.05 and later do not hand the CPUs of the job on to its steps by themselves.
        "srun_args": [f"--cpus-per-task={resources.cpus}", *one_task],
        "setup": setup_lines(folder, code),
    }
    if after:
        parameters["dependency"] = "afterok:" + ":".join(after)
    return parameters


def setup_lines(folder: Path, code: Path) -> list[str]:
    """Shell lines before the payload: its pickle is put in place if the launch could not, and the
    snapshot is what is imported.
    """
    return [
        "id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}",
        "id=${id:-$SLURM_JOB_ID}",
        f"cd {shlex.quote(str(folder))}",
        # A temporary file of a killed attempt makes submitit refuse to store anything.
        "rm -f ${id}_submitted.pkl.save_tmp ${id}_0_result.pkl.save_tmp",
        "[ -e ${id}_submitted.pkl ] || cp task-${SLURM_ARRAY_TASK_ID:-0}.pkl ${id}_submitted.pkl",
        f"cd {shlex.quote(str(code))}",
        f"export PYTHONPATH={shlex.quote(str(code))}",
    ]


def _alike(jobs: Sequence[Job]) -> int:
    """Count the first of `jobs`, longest first, that ask for about the same time.

    An array asks for the time of its longest job. Few arrays are worth some minutes too many, but
    not days.
    """
    longest = jobs[0].resources.minutes or 0
    return sum((job.resources.minutes or 0) * _TIME_RATIO >= longest for job in jobs)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs that can be one array: same dependencies, same resources but for the time.

    Groups that others await come first.
    """
    depth: dict[str, int] = {}
    groups: dict[tuple[int, Resources, tuple[str, ...]], list[Job]] = defaultdict(list)
    for job in jobs:
        depth[job.key] = 1 + max((depth.get(key, 0) for key in job.after), default=0)
        groups[depth[job.key], replace(job.resources, minutes=None), job.after].append(job)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _mark_submitting(submission: launch_records.Submission, runs: dict[str, InQueue]) -> None:
    where = InQueue(job_id=submission.name, phase="unknown", reason="being submitted")
    for task in submission.tasks:
        runs |= {run: where for run in task}


def _phase(job: scheduler.Listed) -> Phase:
    return job.phase  # type: ignore[return-value]


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Try ")]  # "sbatch --help"
    told = [line for line in lines if "error" in line.lower()]
    return (told or lines or [type(error).__name__])[-1][:300]
