"""Output of a run: that of its workers, and the logs of the jobs that held it."""

from __future__ import annotations

import os
from pathlib import Path

from ...results_db.record import RunDir
from ..launch_records import launches


def output_files(home: str | os.PathLike[str], run: RunDir) -> list[Path]:
    """List the files with the output of `run`, as far as they exist.

    First the run's own `output.log` (all attempts, wherever they ran); then the logs of its jobs in
    a queue, which tell why a job did not get as far as the run.
    """
    home = Path(home)
    found = [run.path / "output.log"]
    wanted = f"{run.kind}/{run.id}"
    for launched in launches(home):
        for submission in launched.submissions:
            number = submission.name.rpartition(".")[2]
            folder = home / "launches" / launched.token
            for job_id, task in zip(submission.ids, submission.tasks, strict=False):
                if wanted in task:
                    found += [folder / number / f"{job_id}_0_log.out", folder / f"{number}.log"]
    return [path for path in found if path.is_file()]
