"""Questions to SLURM and orders to it, by its own commands: one call for any number of jobs.

`squeue` is the witness, not `sacct`, which many sites switch off. What it no longer lists has
ended; what came of it is in the run folders.
"""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SECONDS = 60.0  # patience with one command
_CANCEL_AT_ONCE = 500  # ids on one command line
_LISTING = "%i|%T|%r|%j"
# A job in one of these may still run, or run again.
_QUEUED = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_AT_WORK = {
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
}
_SCRUBBED = re.compile(
    r"(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SCONTROL|SACCTMGR|SACCT|SCANCEL|SALLOC|SINFO|SUBMITIT)_\w+"
)
# Why a job waits that will not start as it is: it asks for more than the cluster has or allows.
_UNFIT = re.compile(
    r"PartitionConfig|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|InvalidAccount|InvalidQOS"
    r"|AccountNotAllowed|QOSNotAllowed|(QOS|Assoc)Max\w+(PerJob|PerNode)\w*"
)
_SCRUBBED_TOO = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


def is_unfit(reason: str | None) -> bool:
    """Tell if a waiting job's reason says that it does not start unless somebody changes it."""
    return bool(reason and _UNFIT.fullmatch(reason))


class SchedulerError(RuntimeError):
    """A SLURM command failed; the message is what it said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A job as the queue lists it."""

    id: str  # 123, or 123_4 for a task of an array
    name: str
    state: str  # PENDING, RUNNING, ...
    reason: str

    @property
    def phase(self) -> str:
        """Return the job's phase: queued, running or gone.

        A job whose dependency can no longer be met never runs: gone.
        """
        if self.state in _QUEUED:
            return "gone" if self.reason == "DependencyNeverSatisfied" else "queued"
        return "running" if self.state in _AT_WORK else "gone"

    @property
    def refused(self) -> bool:
        """Tell if the job is only the trace that a refused array leaves in the queue."""
        return self.state == "FAILED" and self.reason == "BadConstraints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of the cluster for a user's jobs. None: not known, or no limit."""

    array_size: int = 1001  # tasks in one array, at most
    submitted: int | None = None  # jobs of this user in the queue at once; each array task is one


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables that would change SLURM's commands.

    A job submitted from within another one would inherit its CPU binding and its GPUs. SQUEUE_* or
    SBATCH_* of a user's habits would change what the commands mean. SLURM_CONF stays.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not (_SCRUBBED.fullmatch(name) or name in _SCRUBBED_TOO)
    }


@contextmanager
def scrubbed() -> Iterator[None]:
    """Set `clean_environment` as this process's own, for code that starts commands by itself."""
    before = dict(os.environ)
    clean = clean_environment()
    for name in before.keys() - clean.keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update({name: before[name] for name in before.keys() - clean.keys()})


def check_environment() -> None:
    """Raise ValueError when SLURM_CONF names no file: each command would search for a minute."""
    path = os.environ.get("SLURM_CONF")
    if path is not None and not os.path.isfile(path):
        raise ValueError(
            f"SLURM_CONF: {path!r} is no file; allowed: the cluster's slurm.conf, or not set"
        )


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise SchedulerError when the block, which runs `what`, takes longer.

    This is for commands that another package's code starts. Only the main thread hears of alarms;
    there is no limit in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = False

    def ring(_number: int, _frame: FrameType | None) -> None:
        nonlocal over
        over = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        if over:
            raise SchedulerError(f"{what}: no answer within {seconds:.0f} s") from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ask(*command: str) -> str:
    """Run a SLURM command and return its output.

    Raises SchedulerError with its words when it fails, is not installed or takes a minute.
    """
    try:
        check_environment()
    except ValueError as error:
        raise SchedulerError(str(error)) from None
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=clean_environment()
        )
    except FileNotFoundError:
        raise SchedulerError(f"{command[0]}: not found; is this a SLURM login node?") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]}: no answer within {_SECONDS:.0f} s") from None
    if done.returncode != 0:
        # scontrol tells what it does not know on its standard output.
        words = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise SchedulerError(f"{command[0]}: {words}")
    return done.stdout


def my_jobs() -> dict[str, Listed]:
    """List all jobs of this user that the queue knows, array tasks one by one, by one call.

    Jobs that have just ended are among them.

    Raises SchedulerError when the queue cannot be asked.
    """
    user = getpass.getuser()
    listing = ask(
        "squeue", "--noheader", "--array", "--states=all", f"--user={user}", "-o", _LISTING
    )
    jobs = {}
    for line in listing.splitlines():
        parts = line.split("|", 3)
        if len(parts) == 4 and re.fullmatch(r"\d+(_\d+)?", parts[0]):
            jobs[parts[0]] = Listed(id=parts[0], state=parts[1], reason=parts[2], name=parts[3])
    return jobs


def limits() -> Limits:
    """Ask the cluster for its limits; where accounting is off only the array size is known."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    # MaxArraySize bounds the index: the largest is one less, so it is also the number of tasks.
    array_size = int(match[1]) if match else Limits().array_size
    if array_size < 1:
        array_size = 1  # arrays are switched off
    user = getpass.getuser()
    found = []
    for command in (
        ("show", "association", f"user={user}", "format=MaxSubmitJobs"),
        ("show", "qos", "format=MaxSubmitJobsPerUser"),
    ):
        try:
            text = ask("sacctmgr", "--noheader", "--parsable2", *command)
        except SchedulerError:
            continue  # no accounting: sbatch itself will say when it is too much
        found += [int(line) for line in text.split() if line.isdigit()]
    return Limits(array_size=array_size, submitted=min(found, default=None))


def max_minutes(partition: str | None) -> int | None:
    """Return the time limit of a partition (None: the default one) in minutes; None without one."""
    text = ask("scontrol", "--oneliner", "show", "partition", *([partition] if partition else []))
    for line in text.splitlines():
        if partition is None and " Default=YES" not in line:
            continue
        match = re.search(r"\bMaxTime=(\S+)", line)
        return parse_minutes(match[1]) if match else None
    return None


def parse_minutes(text: str) -> int | None:
    """Parse SLURM's `days-hours:minutes:seconds`, in all its forms, into minutes.

    Returns: None for UNLIMITED.
    """
    if text.upper() in ("UNLIMITED", "INFINITE", "NONE", "N/A"):
        return None
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        hours, minutes, seconds = (parts + [0, 0])[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, minutes, seconds = 0, *(parts + [0])[:2]
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


def cancel(ids: Iterable[str], *, signal: str | None = None) -> None:
    """Cancel jobs by scancel; unknown and ended ones are passed over."""
    listed = sorted(ids)
    for start in range(0, len(listed), _CANCEL_AT_ONCE):
        some = listed[start : start + _CANCEL_AT_ONCE]
        options = [f"--signal={signal}"] if signal else []
        try:
            ask("scancel", "--quiet", *options, *some)
        except SchedulerError as error:
            if "Invalid job id" not in str(error):
                raise
