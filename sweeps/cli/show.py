"""Plans as tables for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ...results_db.plan_file import data_line
from ..planned import Plan, PlannedRun

MOST_LINES = 60  # larger plans are shown by groups of runs
MOST_DROPPED = 10


def plan(made: Plan, *, each_run: bool = False, missing_weights: Sequence[str] = ()) -> None:
    """Print a plan: its runs (or groups of runs), the dropped cells, totals, what is missing."""
    console = wide_console()
    if each_run or len(made.runs) <= MOST_LINES:
        console.print(_runs_table(made))
    else:
        console.print(_groups_table(made))
        console.print(f"{len(made.runs)} runs; --runs shows each")
    for line in _dropped_lines(made):
        console.print(line, markup=False)
    totals = made.totals()
    console.print(_totals_table(totals))
    if totals["segments"]:
        console.print(_saving(totals), markup=False)
    console.print(f"Hours {_device(made)}: {_sources(made.runs)}.", markup=False)
    if any(run.gpu_hours_interval for run in made.runs):
        low, high = hours(totals["gpu_hours_low"]), hours(totals["gpu_hours_high"])
        line = f"Between {low} and {high} hours at the fastest and slowest that was measured."
        console.print(line, markup=False)
    for data in made.data:
        console.print(f"data: {data_line(data.counts())}", markup=False)
    for warning in made.warnings[:MOST_DROPPED]:
        console.print(f"warning: {warning}", markup=False)
    if made.missing_data:
        console.print(f"note: {made.missing_data}; needed to launch", markup=False)
    for line in missing_weights:
        console.print(f"note: {line}", markup=False)


def wide_console() -> Console:
    """Make a console that never cuts a column: narrow terminals wrap the lines instead."""
    return Console(highlight=False, soft_wrap=True, width=max(Console().width, 200))


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Table:
    """Make a plain aligned table; columns are (title, justify)."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for title, justify in columns:
        made.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*row)
    return made


def _runs_table(made: Plan) -> Table:
    names = [name for name in made.axes if any(name in run.axes for run in made.runs)]
    columns = [("run", "left"), ("kind", "left"), ("arm", "left"), *((n, "right") for n in names)]
    columns += [("params", "right"), ("FLOPs", "right"), ("hours", "right"), ("source", "left")]
    columns += [("state", "left")]
    rows = []
    for run in made.runs:
        axes = run.axes
        rows.append(
            [
                run.id,
                _kind(run),
                arms_text(run),
                *(text(axes.get(name)) for name in names),
                count(run.params),
                flops(run.flops_marginal),
                hours(run.gpu_hours),
                run.hours_source,
                run.state,
            ]
        )
    return table(columns, rows)


def _groups_table(made: Plan) -> Table:
    groups: dict[tuple[str, str], list[PlannedRun]] = defaultdict(list)
    for run in made.runs:
        groups[_kind(run), arms_text(run)].append(run)
    columns = [("kind", "left"), ("arm", "left"), ("runs", "right"), ("done", "right")]
    columns += [("varies", "left"), ("params", "right"), ("FLOPs each", "right")]
    columns += [("FLOPs", "right"), ("hours", "right"), ("source", "left")]
    rows = []
    for (kind, arms), runs in groups.items():
        levels = {name: len({str(run.axes.get(name)) for run in runs}) for name in runs[0].axes}
        done = sum(run.state in ("done", "diverged") for run in runs)
        rows.append(
            [
                kind,
                arms,
                str(len(runs)),
                str(done),
                ", ".join(f"{number} {name}" for name, number in levels.items()) or "-",
                span([run.params for run in runs], count),
                span([run.flops_marginal for run in runs], flops),
                flops(sum(run.flops_marginal for run in runs)),
                hours(sum(run.gpu_hours for run in runs)),
                "/".join(sorted({run.hours_source for run in runs})),
            ]
        )
    return table(columns, rows)


def _device(made: Plan) -> str:
    """Name the device that the hours are for, and the option that changes it."""
    if made.hardware_known:
        other = " (--hardware NAME for a GPU)" if made.hardware.startswith("CPU") else ""
        return f"on {made.hardware}{other}"
    return f"on {made.hardware}, assumed (--hardware NAME for another, cpu for this machine)"


def _kind(run: PlannedRun) -> str:
    """Name the run's kind as tables show it, with the evaluation's name or "trunk"."""
    if run.is_segment:
        return f"{run.kind} trunk"
    name = run.members[0].evaluation
    return run.kind if name is None else f"{run.kind} {name}"


def _saving(totals: dict[str, Any]) -> str:
    spent, alone = totals["flops_train"], totals["flops_train_without_sharing"]
    return (
        f"trunks: {totals['segments']} segments are trained once; {flops(spent)} FLOPs in all, "
        f"{flops(alone)} if every run were trained alone ({1 - spent / alone:.0%} less)"
    )


def _totals_table(totals: dict[str, Any]) -> Table:
    columns = [("total", "left"), ("runs", "right"), ("done", "right"), ("FLOPs", "right")]
    columns += [("hours", "right"), ("hours left", "right")]
    rows = [
        [
            name,
            str(entry["runs"]),
            str(entry["done"]),
            flops(entry["flops_train"]),
            hours(entry["gpu_hours"]),
            hours(entry["gpu_hours_left"]),
        ]
        for name, entry in (*totals["by_kind"].items(), ("all", totals))
    ]
    return table(columns, rows)


def _dropped_lines(made: Plan) -> list[str]:
    lines = [
        f"dropped: {', '.join(f'{name}={value}' for name, value in cell.items())}: {reason}"
        for cell, reason in made.dropped[:MOST_DROPPED]
    ]
    if len(made.dropped) > MOST_DROPPED:
        lines.append(f"dropped: {len(made.dropped) - MOST_DROPPED} more; --json lists them")
    return lines


def _sources(runs: Iterable[PlannedRun]) -> str:
    numbers: dict[str, int] = defaultdict(int)
    for run in runs:
        numbers[run.hours_source] += 1
    meaning = {
        "measured": "measured on runs of the same shape, finished or timed by --calibrate",
        "table": "from the device's peak and an assumed share of it",
        "default": "from a default rate, or the rate of other shapes here",
    }
    return "; ".join(f"{number} runs {meaning[source]}" for source, number in numbers.items())


def arms_text(run: PlannedRun) -> str:
    return "+".join(dict.fromkeys(member.arm for member in run.members))


def text(value: Any) -> str:
    return "" if value is None else str(value)


def count(value: float | None) -> str:
    """Format a number of parameters: 52.1M."""
    if value is None:
        return ""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return str(value)


def flops(value: float | None) -> str:
    return "" if not value else f"{value:.2e}"


def hours(value: float) -> str:
    """Device hours with three digits: 0.0123, 4.56, 789."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def span(values: Sequence[Any], form: Any) -> str:
    """Format the known values as `low .. high`."""
    known = [value for value in values if value]
    if not known:
        return ""
    low, high = form(min(known)), form(max(known))
    return low if low == high else f"{low} .. {high}"
