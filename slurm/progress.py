"""Display of a waiting launch: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

_LINE_SECONDS = 5.0  # between plain lines
_BARS = 12  # runs shown at once; more are counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A run at work, as its heartbeat says."""

    name: str  # kind and id, with the arm where there is one
    phase: str
    step: int
    steps: int
    unit_per_second: float | None
    eta_seconds: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The state of a launch at one moment."""

    total: int
    done: int  # with those that diverged
    failed: int
    blocked: int
    queued: int
    share: float  # of the work, by its estimated cost, 0 to 1
    eta_seconds: float | None
    running: Sequence[Running]


class Display(abc.ABC):
    """Output of a launch's progress."""

    @abc.abstractmethod
    def show(self, view: View, *, final: bool = False) -> None:
        """Called a few times a second; `final` with the last view."""

    @abc.abstractmethod
    def say(self, line: str) -> None:
        """Print a line that stays."""

    @abc.abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was."""


def make_display(progress: bool, stream: TextIO | None = None) -> Display:
    """Make the display for `stream` (standard error).

    It has bars on a terminal, lines elsewhere, only messages without `progress`.
    """
    stream = stream or sys.stderr
    if not progress:
        return Quiet(stream)
    return Bars() if stream.isatty() else Lines(stream)


class Quiet(Display):
    """Messages only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, view: View, *, final: bool = False) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Lines(Display):
    """A plain line every few seconds, when something changed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._next = self._started
        self._last = ""

    def show(self, view: View, *, final: bool = False) -> None:
        if not final and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_SECONDS
        line = summary_line(view)
        if line == self._last:
            return
        self._last = line
        self.say(f"[{duration(time.monotonic() - self._started)}] {line}")

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Bars(Display):
    """One bar for all of it and one for each run at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=False,
            refresh_per_second=4,
        )
        self._all = self._progress.add_task("all runs", total=1.0, detail="")
        self._bars: dict[str, Any] = {}
        self._progress.start()

    def show(self, view: View, *, final: bool = False) -> None:
        self._progress.update(self._all, completed=view.share, detail=_counts(view))
        shown = {} if final else {run.name: run for run in view.running[:_BARS]}
        for name in [name for name in self._bars if name not in shown]:
            self._progress.remove_task(self._bars.pop(name))
        for name, run in shown.items():
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=1, detail="")
            self._progress.update(
                self._bars[name],
                total=max(run.steps, 1),
                completed=run.step,
                detail=_detail(run),
            )

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def summary_line(view: View) -> str:
    """Summarise a view in one line."""
    shown = "; ".join(f"{run.name} {_detail(run)}" for run in view.running[:4])
    if len(view.running) > 4:
        shown += f"; and {len(view.running) - 4} more"
    return f"{_counts(view)}{': ' if shown else ''}{shown}"


def duration(seconds: float) -> str:
    """Format seconds as `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _counts(view: View) -> str:
    parts = [f"{view.done}/{view.total} done"]
    for name, count in (
        ("running", len(view.running)),
        ("waiting", view.queued),
        ("failed", view.failed),
        ("blocked", view.blocked),
    ):
        if count:
            parts.append(f"{count} {name}")
    if view.eta_seconds is not None:
        parts.append(f"about {duration(view.eta_seconds)} left")
    return ", ".join(parts)


def _detail(run: Running) -> str:
    if run.steps <= 0:
        return run.phase
    text = f"{run.phase} {run.step}/{run.steps}"
    if run.unit_per_second:
        text += f" {run.unit_per_second:.3g}/s"
    if run.eta_seconds is not None:
        text += f", {duration(run.eta_seconds)} left"
    return text
