"""Results for pandas: one tidy table of everything, or one row for each generator."""

import contextlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, Text, cast, func, select

from . import schema, spool
from .columns import LONG_COLUMNS, WIDE_COLUMNS
from .endpoint import COLUMNS, KINDS, check_name
from .engine import opened, reading
from .plan_file import current_plan_path, read_plan
from .recorded_files import artifact_file
from .rundir import RunDir, default_home
from .state import read_endpoint
from .strict_json import canonical_json, read_json
from .sync import ingest
from .wide import Members, Runs, Values, wide_rows

__all__ = [
    "LONG_COLUMNS",
    "WIDE_COLUMNS",
    "artifact",
    "data_lines",
    "endpoints",
    "flat",
    "studies",
]

_log = logging.getLogger(__name__)


def endpoints(
    study: str | None = None,
    *,
    wide: bool = False,
    home: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """Return the results of a study, or of all, as a table.

    New results are taken into the database first.

    Long (the default): one row for each value that a run ended with, columns LONG_COLUMNS. A run
    shared by several arms has its rows under each. Wide: one row for each generator and arm, also
    for those that are not done, columns WIDE_COLUMNS, one more for each axis and each further
    metric; its tokenizer's values and the study's primary evaluations are joined; `attrs["better"]`
    has the direction of each metric's column. docs/results.md has the columns and the rules.

    Raises:
        ValueError: there is no such study; names those that are there.
        StoreError: the database cannot be used.
    """
    folder = default_home() if home is None else Path(home)
    with _current(folder) as engine, reading(engine) as connection:
        known = [row.name for row in connection.execute(select(schema.Study.name))]
        if study is not None and study not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ValueError(f"study: {study!r} has no plan in {folder}, known studies: {listed}")
        members = _members(connection, study)
        runs = _runs(connection)
        values = _values(connection)
        parents: dict[str, list[str]] = defaultdict(list)
        for row in connection.execute(
            select(schema.Edge.child, schema.Edge.parent).order_by(
                schema.Edge.child, schema.Edge.role
            )
        ):
            parents[row.child].append(row.parent)
    _inherit_datasets(runs, parents)
    if wide:
        rows, columns, better = wide_rows(members, runs, values, parents, study)
        table = _frame(rows, columns)
        table.attrs["better"] = better
        return table
    return _frame(_long_rows(members, runs, values, parents, study), LONG_COLUMNS)


def studies(home: str | os.PathLike[str] | None = None) -> list[str]:
    """List the names of the studies that have a plan, sorted."""
    with _current(home) as engine, reading(engine) as connection:
        return sorted(row.name for row in connection.execute(select(schema.Study.name)))


def data_lines(study: str, home: str | os.PathLike[str] | None = None) -> list[str]:
    """Describe each data set of a study's plan in a line: classes, images, those skipped."""
    folder = default_home() if home is None else Path(home)
    path = current_plan_path(folder, study)
    return [] if path is None else read_plan(path).data_lines()


def artifact(run_id: str, name: str, home: str | os.PathLike[str] | None = None) -> Any:
    """Load the artifact `name` of a run; its sha256 is checked.

    Returns: an array (npy), a dict of arrays (npz), decoded JSON, or the path of a picture.

    Raises:
        ValueError: there is no such finished run or artifact; names those that are there.
        DamagedError: the file is missing, or not the one that was recorded.
    """
    check_name("run_id", run_id)
    folder = default_home() if home is None else Path(home)
    for kind in KINDS:
        run = RunDir.of(folder, kind, run_id)
        endpoint = read_endpoint(run)
        if endpoint is not None:
            break
    else:
        raise ValueError(f"run_id: {run_id!r}, there is no finished run of that id in {folder}")
    entries = {entry["name"]: entry for entry in endpoint["artifacts"]}
    for entry in endpoint["artifacts"]:  # a file name does as well, as far as it says which
        entries.setdefault(os.path.basename(entry["file"]), entry)
    if name not in entries:
        listed = ", ".join(sorted(entry["name"] for entry in endpoint["artifacts"])) or "none"
        raise ValueError(f"name: {name!r}, the artifacts of run {run_id} are: {listed}")
    return _loaded(artifact_file(run, endpoint, entries[name]["name"]))


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return a copy whose dict columns are JSON text, for CSV, parquet and JSON files."""
    copy = table.copy()
    for name in ("axes", "provenance"):
        if name in copy.columns:
            copy[name] = pd.Series(
                [canonical_json(value) for value in copy[name]], index=copy.index, dtype=object
            )
    return copy


@contextlib.contextmanager
def _current(home: str | os.PathLike[str] | None) -> Iterator[Engine]:
    """Open the database after taking in what is new in the files.

    Replaced results and files that cannot be used are logged as warnings, one line each. They go to
    stderr unless a program handles them.
    """
    folder = default_home() if home is None else Path(home)
    with opened(folder) as engine:
        report = ingest(folder, engine)
        for line in report.news(spool.quarantined(folder)):
            _log.warning("%s", line)
        yield engine


def _members(connection: Connection, study: str | None) -> Members:
    table = schema.Member
    decode = _Decoder()
    query = select(
        table.study,
        table.run_id,
        table.arm,
        cast(table.axes, Text).label("axes"),
        table.is_primary,
        cast(table.planned, Text).label("planned"),
    ).order_by(table.study, table.arm, table.axes_key, table.run_id)
    if study is not None:
        query = query.where(table.study == study)
    found: Members = defaultdict(list)
    for row in connection.execute(query).all():
        found[row.run_id].append(
            {
                "study": row.study,
                "arm": row.arm,
                "axes": decode(row.axes),
                "primary": row.is_primary,
                "planned": decode(row.planned),
            }
        )
    return found


def _runs(connection: Connection) -> Runs:
    table = schema.Run.__table__
    count = select(schema.Attempt.run_id, func.count()).group_by(schema.Attempt.run_id)
    counts = {run_id: number for run_id, number in connection.execute(count)}
    names = [
        *("id", "kind", "state", "dataset", "reason", *COLUMNS, "commit", "dirty", "finished_at")
    ]
    return {
        row.id: {**row._mapping, "attempts": counts.get(row.id, 0)}
        for row in connection.execute(select(*(table.c[name] for name in names))).all()
    }


def _inherit_datasets(runs: Runs, parents: Mapping[str, Sequence[str]]) -> None:
    """Give a run whose config names no data set (a generator's) that of its parents."""
    for run_id, run in runs.items():
        line, seen = [run_id], set()
        while run["dataset"] is None and line:
            ancestor = line.pop(0)
            if ancestor in seen or ancestor not in runs:
                continue
            seen.add(ancestor)
            run["dataset"] = runs[ancestor]["dataset"]
            line += parents.get(ancestor, ())


def _values(connection: Connection) -> Values:
    table = schema.Endpoint
    decode = _Decoder()
    query = select(
        table.run_id,
        table.metric,
        table.value,
        table.unit,
        table.better,
        cast(table.provenance, Text).label("provenance"),
    ).order_by(table.run_id, table.position)
    found: Values = defaultdict(list)
    for run_id, metric, value, unit, better, provenance in connection.execute(query).all():
        found[run_id].append((metric, value, unit, better, decode(provenance)))
    return found


class _Decoder:
    """Decodes JSON text; the same few texts come for very many rows."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def __call__(self, text: str) -> dict[str, Any]:
        if text not in self._known:
            self._known[text] = json.loads(text)
        return self._known[text]


def _long_rows(
    members: Members,
    runs: Runs,
    values: Values,
    parents: Mapping[str, Sequence[str]],
    study: str | None,
) -> list[dict[str, Any]]:
    rows = []
    unmembered: dict[str, Any] = {"study": None, "arm": None, "axes": {}, "primary": True}
    nothing: list[Any] = [(None, None, None, None, {})]
    for run_id, run in runs.items():
        if run["state"] not in ("done", "diverged"):
            continue
        memberships = members.get(run_id) or ([unmembered] if study is None else [])
        if not memberships:
            continue
        shared = {name: run[name] for name in _SHARED_LONG}
        subject = _subject(run, runs, parents.get(run_id, ()))
        for member in memberships:
            for metric, value, unit, better, provenance in values.get(run_id) or nothing:
                rows.append(
                    {
                        "study": member["study"],
                        "arm": member["arm"],
                        "run_id": run_id,
                        "axes": dict(member["axes"]),
                        "primary": member["primary"],
                        "subject_id": subject,
                        "status": run["state"],
                        "metric": metric,
                        "value": value,
                        "unit": unit,
                        "better": better,
                        "provenance": dict(provenance),
                        **{name: provenance.get(name) for name in _PROVENANCE_LONG},
                        **shared,
                    }
                )
    rows.sort(key=lambda row: (row["study"] or "", row["arm"] or "", row["kind"], row["run_id"]))
    return rows


_PROVENANCE_LONG = ("extractor", "reference", "num_samples", "seed", "library", "floor")
_SHARED_LONG = (
    *("kind", "reason", "dataset", *COLUMNS),
    *("attempts", "commit", "dirty", "finished_at"),
)


def _subject(run: Mapping[str, Any], runs: Runs, parents: Sequence[str]) -> str | None:
    """Return the subject of an evaluation: its generator if it has one, else its tokenizer."""
    if run["kind"] != "evaluation":
        return None
    kinds = {runs[parent]["kind"]: parent for parent in reversed(parents) if parent in runs}
    return kinds.get("generator") or kinds.get("tokenizer")


def _frame(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: _column([row.get(name) for row in rows], dtype)
            for name, (dtype, _) in columns.items()
        },
        columns=list(columns),
    )


def _column(values: list[Any], dtype: str) -> "pd.Series[Any]":
    if dtype == "axis":
        return _axis_column(values)
    return pd.Series(values, dtype=dtype)


def _axis_column(values: list[Any]) -> "pd.Series[Any]":
    """Build the column of an axis, of the values' own type where they share one."""
    present = [value for value in values if value is not None]
    if present and all(isinstance(v, int) and not isinstance(v, bool) for v in present):
        fits = all(-(2**63) <= v < 2**63 for v in present)
        return pd.Series(values, dtype="Int64" if fits else "float64")
    if present and all(isinstance(v, int | float) and not isinstance(v, bool) for v in present):
        return pd.Series(values, dtype="float64")
    return pd.Series(values, dtype="object")


def _loaded(path: Path) -> Any:
    if path.suffix == ".json":
        return read_json(path, limit_bytes=1 << 30)
    if path.suffix in (".npy", ".npz"):
        import numpy as np

        # Without pickle: a file of objects could run code.
        loaded = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return loaded
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    return path
