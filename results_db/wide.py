"""The join behind the wide table: each generator with its codes, tokenizer and evaluations."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .columns import TOKENIZER_PREFIX, WIDE_COLUMNS, WIDE_PREFIXES, WIDE_SUFFIXES
from .endpoint import COLUMNS
from .strict_json import canonical_json

# run id -> memberships: {"study", "arm", "axes", "primary", "planned"}
Members = dict[str, list[dict[str, Any]]]
# run id -> its row, with "attempts"
Runs = dict[str, dict[str, Any]]
# (metric, value, unit, better, provenance)
Value = tuple[str, float | None, str | None, str | None, dict[str, Any]]
# run id -> values, the main one of a metric first
Values = dict[str, list[Value]]
# a run's columns, and metric -> which direction is better
Summary = tuple[dict[str, Any], dict[str, str]]

Columns = dict[str, tuple[str, str]]

_PLANNED = (
    *("params", "params_non_embedding", "params_head"),
    *("flops_train", "flops_marginal", "flops_total"),
)
_FROM_ANCESTORS = ("codebook_size", "tokens_per_image")
# Axes of these names fill the column of that name; an axis called like any other fixed column is
# shown as axis_NAME.
_SETTABLE = frozenset(COLUMNS) | {"dataset"}


def wide_rows(
    members: Members,
    runs: Runs,
    values: Values,
    parents: Mapping[str, Sequence[str]],
    study: str | None,
) -> tuple[list[dict[str, Any]], Columns, dict[str, str]]:
    """Build the wide table: its rows, its columns, and the direction of its metrics' columns.

    Columns that are not in WIDE_COLUMNS follow them. Axis columns have the dtype "axis": that of
    their values.
    """
    graph = _Graph(runs, parents)
    summaries = _Summaries(runs, values)
    rows = []
    for run_id, run in runs.items():
        if run["kind"] != "generator":
            continue
        memberships = [member for member in members.get(run_id, ()) if member["primary"]]
        if not memberships:
            # A segment of a trunk, or another study's, is no result; a run made by hand is.
            if study is not None or run_id in members or graph.is_trunk(run_id):
                continue
            memberships = [{"study": None, "arm": None, "axes": {}, "planned": {}}]
        for member in memberships:
            for axes in _evaluated_axes(graph.evaluations(run_id), member, members):
                each = {**member, "axes": axes}
                rows.append(_row(run_id, each, members, runs, graph, summaries))
    smallest = _smallest_params(rows)
    rows.sort(
        key=lambda row: (
            row["study"] or "",
            row["arm"] or "",
            _sort_key(row["_axes"], smallest),
            row["run_id"],
        )
    )
    columns, better = _finish(rows)
    return rows, columns, better


class _Graph:
    """Parents, evaluations and trunks of the runs."""

    def __init__(self, runs: Runs, parents: Mapping[str, Sequence[str]]) -> None:
        self._runs = runs
        self._parents = parents
        self._evaluations: dict[str, list[str]] = defaultdict(list)
        self._trunks: set[str] = set()
        for child in parents:
            kind = self._kind(child)
            if kind == "evaluation":
                subject = self.parent(child, "generator") or self.parent(child, "tokenizer")
                if subject is not None:
                    self._evaluations[subject].append(child)
            elif kind == "generator":
                trunk = self.parent(child, "generator")
                if trunk is not None:
                    self._trunks.add(trunk)

    def _kind(self, run_id: str) -> str | None:
        run = self._runs.get(run_id)
        return None if run is None else run["kind"]

    def parent(self, run_id: str | None, kind: str) -> str | None:
        """Return the parent of that kind, the first by role."""
        if run_id is None:
            return None
        return next((p for p in self._parents.get(run_id, ()) if self._kind(p) == kind), None)

    def evaluations(self, run_id: str | None) -> list[str]:
        """Return the evaluations of a tokenizer or generator, by id."""
        return [] if run_id is None else sorted(self._evaluations.get(run_id, ()))

    def is_trunk(self, run_id: str) -> bool:
        """Tell if another generator continues this one."""
        return run_id in self._trunks


class _Summaries:
    """A run's values as columns, computed once for each run however many generators share it."""

    def __init__(self, runs: Runs, values: Values) -> None:
        self._runs = runs
        self._values = values
        self._known: dict[str, Summary] = {}

    def of(self, run_id: str | None) -> Summary:
        """Return METRIC -> value of a run, and METRIC -> direction.

        METRIC_std, METRIC_seeds, METRIC_extractor and such are there where they apply.
        """
        if run_id is None:
            return {}, {}
        if run_id not in self._known:
            self._known[run_id] = _summary(self._values.get(run_id, ()))
        return self._known[run_id]

    def of_all(self, run_ids: Iterable[str]) -> Summary:
        """Merge the summaries of several evaluations; the first that has a metric gives it."""
        merged: dict[str, Any] = {}
        better: dict[str, str] = {}
        for run_id in run_ids:
            columns, directions = self.of(run_id)
            merged = {**columns, **merged}
            better = {**directions, **better}
        return merged, better


def _summary(values: Iterable[Value]) -> Summary:
    by_metric: dict[str, list[tuple[float | None, dict[str, Any]]]] = defaultdict(list)
    directions: dict[str, str] = {}
    for metric, value, _, better, provenance in values:
        by_metric[metric].append((value, provenance))
        if better is not None:
            directions.setdefault(metric, better)
    columns: dict[str, Any] = {}
    for metric, entries in by_metric.items():
        # The first is the main one; the others of the same provenance are its sample seeds.
        main = _without_seed(entries[0][1])
        same = [
            (value, provenance)
            for value, provenance in entries
            if len(entries) == 1 or _without_seed(provenance) == main
        ]
        numbers = [value for value, _ in same if value is not None]
        mean = math.fsum(numbers) / len(numbers) if numbers else None
        columns[metric] = mean if len(numbers) == len(same) else None
        provenance = same[0][1]
        if "seed" in provenance:
            columns[f"{metric}_std"] = _spread(numbers)
            columns[f"{metric}_seeds"] = len(numbers)
        for name in WIDE_SUFFIXES:
            if provenance.get(name) is not None:
                columns[f"{metric}_{name}"] = provenance[name]
    return columns, directions


def _spread(numbers: Sequence[float]) -> float | None:
    """Compute the standard deviation with n - 1; None for fewer than two numbers."""
    if len(numbers) < 2:
        return None
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def _without_seed(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in provenance.items() if name != "seed"}


def _row(
    run_id: str,
    member: Mapping[str, Any],
    members: Members,
    runs: Runs,
    graph: _Graph,
    summaries: _Summaries,
) -> dict[str, Any]:
    run = runs[run_id]
    evaluations = _primary(graph.evaluations(run_id), member, members)
    codes = graph.parent(run_id, "codes")
    tokenizer = graph.parent(run_id, "tokenizer") or graph.parent(codes, "tokenizer")
    ancestors = [runs[other] for other in (codes, tokenizer) if other is not None]
    row: dict[str, Any] = {
        "study": member["study"],
        "arm": member["arm"],
        "run_id": run_id,
        "tokenizer_id": tokenizer,
        "codes_id": codes,
        "evaluation_id": evaluations[0] if evaluations else None,
        "status": "pending" if run["state"] == "planned" else run["state"],
        "_axes": member["axes"],
        # In the order of WIDE_PREFIXES. Later sources give way to earlier ones, see _finish.
        "_sources": (
            summaries.of(run_id),
            summaries.of_all(evaluations),
            summaries.of_all(_primary(graph.evaluations(tokenizer), member, members)),
            summaries.of(codes),
            summaries.of(tokenizer),
        ),
    }
    for name in ("reason", "dataset", "attempts", "commit", "dirty", "finished_at", *COLUMNS):
        row[name] = run[name]
    for name in _PLANNED:
        if row[name] is None:
            planned = member["planned"].get(name)
            row[name] = planned if _fits(WIDE_COLUMNS[name][0], planned) else None
    hours = member["planned"].get("gpu_hours")
    row["gpu_hours_planned"] = hours if _fits("float64", hours) else None
    if tokenizer is not None:
        row["tokenizer_params"] = _tokenizer_params(tokenizer, members, runs)
    for name in _FROM_ANCESTORS:
        if row[name] is None:
            row[name] = next((a[name] for a in ancestors if a[name] is not None), None)
    return row


def _tokenizer_params(tokenizer: str, members: Members, runs: Runs) -> int | None:
    """Return the parameters of a tokenizer: its endpoint's, else the plan's."""
    planned = (member["planned"].get("params") for member in members.get(tokenizer, ()))
    known = (runs[tokenizer]["params"], *planned)
    return next((number for number in known if _fits("Int64", number)), None)


def _primary(evaluations: Sequence[str], member: Mapping[str, Any], members: Members) -> list[str]:
    """Select the evaluations that the row's study names; all for a row of no study."""
    if member["study"] is None:
        return list(evaluations)
    return [
        evaluation
        for evaluation in evaluations
        if any(_belongs(other, member) for other in members.get(evaluation, ()))
    ]


def _belongs(other: Mapping[str, Any], member: Mapping[str, Any]) -> bool:
    """Tell if a primary evaluation counts for the row.

    It must be of the row's study and arm, and no axis that both have may differ. A tokenizer may be
    evaluated at several values of an axis of the codes.
    """
    return (
        other["study"] == member["study"]
        and other["primary"]
        and other["arm"] == member["arm"]
        and all(other["axes"].get(name, value) == value for name, value in member["axes"].items())
    )


def _evaluated_axes(
    evaluations: Sequence[str], member: Mapping[str, Any], members: Members
) -> list[dict[str, Any]]:
    """List the axes of each of the generator's rows.

    There is a row for each value of the axes that only its evaluations have, such as the guidance
    scale.
    """
    found = {}
    for evaluation in evaluations:
        for other in members.get(evaluation, ()):
            if _belongs(other, member):
                axes = {**other["axes"], **member["axes"]}
                found[canonical_json(axes)] = axes
    return list(found.values()) or [dict(member["axes"])]


def _finish(rows: list[dict[str, Any]]) -> tuple[Columns, dict[str, str]]:
    """Turn the axes and sources of every row into columns.

    Returns: all columns, and the direction of those on which all runs agree.
    """
    columns: Columns = dict(WIDE_COLUMNS)
    sources = [row.pop("_sources") for row in rows]
    axes = [row.pop("_axes") for row in rows]
    names = _axis_columns(axes)
    for name in dict.fromkeys(names.values()):
        if name not in columns:
            columns[name] = ("axis", "axis of the study")
    for row, row_axes in zip(rows, axes, strict=True):
        for axis, value in row_axes.items():
            if value is not None:
                row[names[axis]] = value
    taken: dict[str, int] = {}
    declared: dict[str, set[str]] = defaultdict(set)
    for level, prefix in enumerate(WIDE_PREFIXES):
        named: dict[str, str] = {}
        for row, row_sources in zip(rows, sources, strict=True):
            summary, better = row_sources[level]
            for metric, value in summary.items():
                if metric not in named:
                    name = named[metric] = _free_name(metric, prefix, level, taken, columns)
                    taken[name] = level
                    columns.setdefault(name, (_metric_dtype(metric), "metric"))
                row[named[metric]] = value
            for metric, direction in better.items():
                declared[named[metric]].add(direction)
    return columns, {name: found.pop() for name, found in declared.items() if len(found) == 1}


def _free_name(
    metric: str, prefix: str, level: int, taken: Mapping[str, int], columns: Columns
) -> str:
    """Return the column for a metric: its name, behind its source's prefix where that is taken.

    A tokenizer's own values (its training losses) always have theirs, so that they are not taken
    for the generator's.
    """
    name = f"{prefix}{metric}" if prefix == TOKENIZER_PREFIX else metric
    while taken.get(name, level) != level or name in _NOT_METRICS or _is_axis(name, columns):
        name = prefix + name
    return name


def _is_axis(name: str, columns: Columns) -> bool:
    return name in columns and columns[name][0] == "axis"


_NOT_METRICS = frozenset(COLUMNS) | {
    *("study", "arm", "run_id", "tokenizer_id", "codes_id", "evaluation_id"),
    *("status", "reason", "dataset"),
    *("attempts", "commit", "dirty", "finished_at", "tokenizer_params"),
    "gpu_hours_planned",
}


def _metric_dtype(name: str) -> str:
    for suffix, dtype in WIDE_SUFFIXES.items():
        if name.endswith(f"_{suffix}"):
            return dtype
    return "Int64" if name.endswith("_seeds") else "float64"


def _axis_columns(axes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map each axis to the column that shows it."""
    found: dict[str, str] = {}
    for row in axes:
        for axis in row:
            found.setdefault(axis, axis)
    for axis in found:
        if axis in WIDE_COLUMNS:
            values = [row[axis] for row in axes if row.get(axis) is not None]
            fits = axis in _SETTABLE and all(_fits(WIDE_COLUMNS[axis][0], v) for v in values)
            found[axis] = axis if fits else f"axis_{axis}"
    return found


def _fits(dtype: str, value: Any) -> bool:
    if dtype == "object":
        return isinstance(value, str)
    allowed = int if dtype == "Int64" else int | float
    return isinstance(value, allowed) and not isinstance(value, bool)


def _smallest_params(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Find the smallest generator of every axis value that is no number, by parameters."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, value in row["_axes"].items():
            if not isinstance(value, int | float) and row["params"] is not None:
                key = name, canonical_json(value)
                found[key] = min(row["params"], found.get(key, row["params"]))
    return found


def _sort_key(
    axes: Mapping[str, Any], smallest: Mapping[tuple[str, str], int]
) -> list[tuple[str, int, float, str]]:
    """Build a key that sorts numbers by size and names by their generators, then by text.

    Names stand for generators: S comes before M and M before L.
    """
    return [
        (name, 0, float(value), "")
        if isinstance(value, int | float)
        else (name, 1, smallest.get((name, canonical_json(value)), 0), canonical_json(value))
        for name, value in sorted(axes.items())
    ]
