"""One job after another, each in a process of its own that is waited for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from typing import ClassVar, final

from ..base import BaseExecutor, Context, Job, JobReport, trainer_command, worker_environment


@final
class Executor(BaseExecutor):
    """Does a job whenever it is asked for news."""

    attached: ClassVar[bool] = True
    chains: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        if context.options:
            raise ValueError(f"options: {', '.join(context.options)}; allowed: none")
        self._jobs: dict[str, Job] = {}
        self._reports: dict[str, JobReport] = {}

    def submit(self, jobs: Sequence[Job]) -> list[str | None]:
        ids: list[str | None] = []
        for job in jobs:
            name = "+".join(job.run_ids)
            self._jobs[name] = job
            self._reports[name] = JobReport(phase="queued")
            ids.append(name)
        return ids

    def poll(self, timeout: float = 0.0) -> dict[str, JobReport]:
        waiting = [name for name, report in self._reports.items() if report.phase == "queued"]
        # All that wait, in one process: torch is imported once.
        folders = [str(run.path) for name in waiting for run in self._jobs[name].run_dirs]
        if folders:
            environment = worker_environment(self.context.code)
            subprocess.run(trainer_command(*folders), env=environment, stdout=subprocess.DEVNULL)
        for name in waiting:
            self._reports[name] = JobReport(phase="gone")
        return dict(self._reports)

    def cancel(self, ids: Iterable[str], *, kill: bool = False) -> None:
        for name in set(ids) & self._reports.keys():
            self._reports[name] = JobReport(phase="gone", reason="cancelled", blameless=True)

    def close(self) -> None:
        self._jobs.clear()
