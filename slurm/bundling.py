"""How runs are put together into jobs: settings of `bundles.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundling:
    """How jobs are filled."""

    minutes: float = 30.0  # fill up to this much estimated work
    least_jobs: int = 4  # but make so many jobs, where there are enough runs, to use several GPUs
    margin: float = 2.0  # time asked for: margin x estimate + `extra_minutes`
    extra_minutes: float = 10.0  # start of the job, imports, data
    most_minutes: int | None = None  # time limit of the partition
