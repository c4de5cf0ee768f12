"""From runs to jobs: what belongs together goes into one job, and small runs of a kind share one.

A codes run follows its tokenizer and an evaluation its generator in the same job: there is nothing
to wait for in between. Jobs that no other run waits for are then filled up with more of the same
kind, as many as fit the time, so that a queue is not asked for a thousand jobs of a minute.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..results_db.record import RunDir
from .base import Bundling, Job
from .resources import Resources

# kind -> the role of the parent in whose job it runs
FOLLOWS = {"codes": "tokenizer", "evaluation": "generator"}
_START_SECONDS = 10.0  # a run costs at least this much beside its estimate
_STEPS_MINUTES = (15, 30, 60, 120, 240, 480, 720, 1440, 2880, 4320, 5760, 7200, 10080, 20160, 40320)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A run to be put into a job."""

    run_dir: RunDir
    parents: dict[str, str]  # role -> run id, of all its parents
    seconds: float  # estimated
    priority: float

    @property
    def id(self) -> str:
        return self.run_dir.id


@dataclass(slots=True)
class _Unit:
    """Runs that follow one another, of which only the first waits for other jobs."""

    tasks: list[Task]
    resources: Resources
    outside: set[str] = field(default_factory=set)  # run ids that must be done before
    wanted: bool = False  # whether another unit waits for it

    @property
    def seconds(self) -> float:
        return sum(task.seconds + _START_SECONDS for task in self.tasks)


def make_jobs(
    tasks: Sequence[Task],
    *,
    resources: Callable[[str], Resources],
    queued: dict[str, str],
    bundling: Bundling,
) -> list[Job]:
    """Make jobs for `tasks`, both in dependency order.

    `resources(kind)` gives the resources of a run; `queued` has the job ids of runs that are in the
    queue already. A run that is neither in `tasks` nor in `queued` counts as done.
    """
    units: list[_Unit] = []
    home: dict[str, _Unit] = {}  # run id -> the unit that does it
    for task in tasks:
        kind = task.run_dir.kind
        wanted = resources(kind)
        leader = home.get(task.parents.get(FOLLOWS.get(kind, ""), ""))
        if leader is None or leader.resources != wanted:
            leader = _Unit(tasks=[], resources=wanted)
            units.append(leader)
        leader.tasks.append(task)
        home[task.id] = leader
        for parent in task.parents.values():
            unit = home.get(parent)
            if unit is leader:
                continue
            if unit is not None:
                unit.wanted = True
            if unit is not None or parent in queued:
                leader.outside.add(parent)
    _keep_order(units, home)
    jobs: list[Job] = []
    key_of: dict[str, str] = {}
    for number, unit in enumerate(_filled(units, bundling)):
        key = f"job-{number}"
        for task in unit.tasks:
            key_of[task.id] = key
        seconds = unit.seconds
        jobs.append(
            Job(
                key=key,
                run_dirs=tuple(task.run_dir for task in unit.tasks),
                priority=max(task.priority for task in unit.tasks),
                seconds=seconds,
                resources=_with_time(unit.resources, seconds, bundling),
                after=tuple(
                    sorted({key_of.get(run) or queued[run] for run in unit.outside} - {key})
                ),
            )
        )
    return jobs


def _keep_order(units: list[_Unit], home: dict[str, _Unit]) -> None:
    """Put every unit behind those that it waits for: a follower may wait for a later one."""
    place = {id(unit): number for number, unit in enumerate(units)}
    left = sorted(units, key=lambda unit: place[id(unit)])
    units.clear()
    done: set[int] = set()
    while left:
        ready = [
            unit
            for unit in left
            if all(id(home[run]) in done for run in unit.outside if run in home)
        ]
        if not ready:
            raise ValueError("plan: runs wait for one another in a circle")
        units += ready
        done |= {id(unit) for unit in ready}
        left = [unit for unit in left if id(unit) not in done]


def _filled(units: list[_Unit], bundling: Bundling) -> list[_Unit]:
    """Fill units: put those together that nothing waits for."""
    shapes: dict[object, list[_Unit]] = defaultdict(list)
    result: list[_Unit] = []
    for unit in units:
        if unit.wanted:
            result.append(unit)
        else:
            shape = (unit.tasks[0].run_dir.kind, unit.resources, frozenset(unit.outside))
            shapes[shape].append(unit)
    for same in shapes.values():
        limit = 60.0 * bundling.minutes
        fixed = same[0].resources.minutes
        if fixed is not None:
            limit = 60.0 * max(fixed - bundling.extra_minutes, fixed / 2) / bundling.margin
        total = sum(unit.seconds for unit in same)
        count = max(math.ceil(total / limit), min(len(same), bundling.least_jobs))
        result += _shared_out(same, min(count, len(same)))
    return result


def _shared_out(units: list[_Unit], count: int) -> list[_Unit]:
    """Share tasks among `count` units of about equal length: the longest first, to the emptiest."""
    bins = [_Unit(tasks=[], resources=units[0].resources) for _ in range(count)]
    heap = [(0.0, number) for number in range(count)]
    for unit in sorted(units, key=lambda unit: -unit.seconds):
        seconds, number = heapq.heappop(heap)
        bins[number].tasks += unit.tasks
        bins[number].outside |= unit.outside
        heapq.heappush(heap, (seconds + unit.seconds, number))
    return bins


def _with_time(resources: Resources, seconds: float, bundling: Bundling) -> Resources:
    """Set the time limit of `resources`, from the estimate unless one was given.

    The scale is coarse, so that few different limits arise. A job that runs into its limit goes on
    from its checkpoint.
    """
    if resources.minutes is not None:
        return resources
    needed = bundling.margin * seconds / 60.0 + bundling.extra_minutes
    minutes = next((step for step in _STEPS_MINUTES if step >= needed), _STEPS_MINUTES[-1])
    if bundling.most_minutes is not None:
        minutes = min(minutes, bundling.most_minutes)
    return replace(resources, minutes=minutes)
