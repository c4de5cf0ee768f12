"""One command as a SLURM job of its own, waited for: no run folders, no requeue."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import scheduler
from .resources import Resources

_LOOK_SECONDS = (1.0, 5.0)  # between looks at the queue: at first, and at most
_PATIENCE_SECONDS = 300.0  # with a queue that does not answer


def run(
    command: Sequence[str],
    *,
    name: str,
    resources: Resources,
    folder: Path,
    environment: Mapping[str, str],
    chdir: Path,
    log: Path,
    say: Callable[[str], None],
) -> str:
    """Run `command` as the job `name`; return how it ended, in SLURM's words.

    `name` is unlike any other in the queue. By it the job is taken out again when anything goes
    wrong here, Ctrl-C included. SchedulerError has SLURM's words when it refuses the job.
    """
    script = folder / "job.sh"
    script.write_text(
        batch_script(
            command,
            name=name,
            resources=resources,
            environment=environment,
            chdir=chdir,
            log=log,
        )
    )
    try:
        job_id = scheduler.ask("sbatch", "--parsable", str(script)).strip().partition(";")[0]
        say(f"job {job_id}: submitted")
        return f"job {job_id} {_state_at_end(job_id, say)}"
    except BaseException:
        with contextlib.suppress(scheduler.SchedulerError):
            mine = [job.id for job in scheduler.my_jobs().values() if job.name == name]
            if mine:
                scheduler.cancel(mine)
                say(f"job {', '.join(mine)} is cancelled")
        raise


def batch_script(
    command: Sequence[str],
    *,
    name: str,
    resources: Resources,
    environment: Mapping[str, str],
    chdir: Path,
    log: Path,
) -> str:
    """Write the batch script of one process. Every value of `resources` has been checked."""
    options: dict[str, object] = {
        "job-name": name,
        "comment": "tokenlaw-calibrate",
        "output": shlex.quote(str(log).replace("%", "%%")),
        "open-mode": "truncate",
        "ntasks": 1,
    }
    asked = resources.sbatch_options()
    options |= {name.replace("_", "-"): value for name, value in asked.items()}
    options |= dict(resources.extra)
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items()]
    exports = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            "#SBATCH --no-requeue",
            *lines,
            *exports,
            f"cd {shlex.quote(str(chdir))}",
            f"exec {shlex.join(command)}",
            "",
        ]
    )


def _state_at_end(job_id: str, say: Callable[[str], None]) -> str:
    """Follow the job until the queue says that it has ended, or does not list it any more."""
    told, pause = "", _LOOK_SECONDS[0]
    answered = time.monotonic()
    while True:
        try:
            listed = scheduler.my_jobs().get(job_id)
            answered = time.monotonic()
        except scheduler.SchedulerError:
            if time.monotonic() - answered > _PATIENCE_SECONDS:
                raise
        else:
            if listed is None:
                return "is not in the queue any more"
            if listed.phase == "gone":
                return f"ended as {listed.state}"
            waits = "" if listed.reason in ("", "None") else f" ({listed.reason})"
            news = f"job {job_id}: {listed.state.lower()}{waits}"
            if news != told:
                told = news
                say(news)
        time.sleep(pause)
        pause = min(pause * 1.5, _LOOK_SECONDS[1])
