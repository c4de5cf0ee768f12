"""State of a launched study's runs, from their files and the study's plan. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...results_db.plan_file import PlanFile, current_plan_path, read_plan, study_names
from ...results_db.record import RunDir, RunStatus, may_follow, run_status
from ...results_db.state import peek_endpoint
from ...trainer.parts import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLine:
    """One run of a study and what it is doing."""

    id: str
    kind: str
    arm: str
    axes: dict[str, Any]
    state: str
    attempt: int
    step: int | None
    steps: int | None
    phase: str | None
    unit_per_second: float | None
    eta_seconds: float | None
    error: str | None  # how the newest attempt ended, if badly
    gpu_hours_predicted: float | None
    gpu_hours: float | None  # of a finished run
    job: str | None = (
        None  # its job in a queue, with the queue's reason (slurm/follow/status.py fills it)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpentHours:
    """Device hours of the finished runs of a study, and what its plan expected of the same."""

    runs: int
    predicted: float
    actual: float

    def text(self) -> str:
        """Describe the hours in a line for people."""
        ratio = f" ({self.actual / self.predicted:.2f} times that)" if self.predicted else ""
        return (
            f"device hours of {self.runs} finished runs: {self.actual:.3g}, "
            f"predicted {self.predicted:.3g}{ratio}"
        )


def spent_hours(lines: Iterable[RunLine]) -> SpentHours | None:
    """Predicted against actual; None when nothing is finished."""
    finished = [
        (line.gpu_hours_predicted, line.gpu_hours)
        for line in lines
        if line.gpu_hours is not None and line.gpu_hours_predicted is not None
    ]
    if not finished:
        return None
    return SpentHours(
        runs=len(finished),
        predicted=sum(predicted for predicted, _ in finished),
        actual=sum(actual for _, actual in finished),
    )


def study_plan(home: str | os.PathLike[str], study: str) -> PlanFile:
    """Read the current plan of a launched study. ValueError names the studies that exist."""
    known = study_names(home)
    path = current_plan_path(home, study) if study in known else None
    if path is None:
        listed = ", ".join(known) or "none yet; tokenlaw launch STUDY makes one"
        raise ValueError(
            f"study: {study!r} has not been launched in {home}{nearest(study, known)}; "
            f"allowed: {listed}"
        )
    return read_plan(path)


def run_lines(home: str | os.PathLike[str], plan: PlanFile) -> list[RunLine]:
    """List every run of the plan, in its order."""
    return [line for line, _ in lines_and_files(home, plan)]


def lines_and_files(
    home: str | os.PathLike[str], plan: PlanFile
) -> list[tuple[RunLine, RunStatus | None]]:
    """List every run of the plan with its status on disk; None where it has no folder.

    Folders are listed once a kind, and only runs that are there are opened, once.
    """
    there = {kind: _folders(Path(home) / kind) for kind in {run.kind for run in plan.runs}}
    states: dict[str, str] = {}
    lines: list[tuple[RunLine, RunStatus | None]] = []
    for run in plan.runs:
        arms = "+".join(dict.fromkeys(member.arm for member in run.members))
        axes = dict(run.members[0].axes) if run.members else {}
        attempt, step, steps, phase, rate, error, hours = 0, None, None, None, None, None, None
        state, status = "planned", None
        if run.id in there[run.kind]:
            folder = RunDir.of(home, run.kind, run.id)
            status = run_status(folder, parents=False)  # their states are known here
            state, attempt = status.state, status.attempt
            if status.heartbeat is not None and state == "running":
                step, steps = status.heartbeat["step"], status.heartbeat["steps"]
                phase, rate = status.heartbeat["phase"], status.heartbeat["unit_per_second"]
            if status.end is not None and state in ("failed", "preempted", "lost"):
                error = status.end.get("error")
            if state in ("done", "diverged"):
                hours = _gpu_hours(folder)
        if state in ("planned", "waiting"):
            ready = all(
                may_follow(role, states.get(parent, "planned"))
                for role, parent in run.parents.items()
            )
            state = "planned" if ready else "waiting"
        states[run.id] = state
        eta = (steps - step) / rate if rate and step is not None and steps is not None else None
        line = RunLine(
            id=run.id,
            kind=run.kind,
            arm=arms,
            axes=axes,
            state=state,
            attempt=attempt,
            step=step,
            steps=steps,
            phase=phase,
            unit_per_second=rate,
            eta_seconds=eta,
            error=error,
            gpu_hours_predicted=run.facts.get("gpu_hours"),
            gpu_hours=hours,
        )
        lines.append((line, status))
    return lines


def _folders(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _gpu_hours(run: RunDir) -> float | None:
    hours = peek_endpoint(run).get("columns", {}).get("gpu_hours")
    return float(hours) if isinstance(hours, int | float) else None
