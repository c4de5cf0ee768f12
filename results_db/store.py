"""Replace the rows of runs and plans by what their files say, each run whole or not at all.

A run's rows are read, compared with those that its files give, and replaced where they differ, all
under a lock on the run's row. Files that changed between their reading and the lock are read again,
so that of two writers the one with the older reading never wins.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from . import schema
from .plan_file import PlanFile, PlannedRun
from .rows import Rows, RunFiles, config_columns, edge_rows, member_rows, read_run, run_rows
from .strict_json import DamagedError

BATCH_RUNS = 200  # runs in one transaction
FINAL = ("done", "diverged")
_RUN = schema.Run
# The tables of a run beside its own row, each with the column that names the run.
_PARTS = ((schema.Edge, "child"), *((model, "run_id") for model in schema.OF_A_RUN))
_PLANNED_COLUMNS = ("id", "kind", "state", "config", "dataset")  # those that a plan gives

# table -> (column, whether it holds JSON)
_COLUMNS_OF = {
    table.name: [(column.name, isinstance(column.type, JSON)) for column in table.columns]
    for table in schema.Base.metadata.tables.values()
}

_Stored = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]  # table -> key -> row, JSON as text


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """Name a value that was replaced; None where there was or is no such value."""

    run_id: str
    metric: str
    old: float | None
    new: float | None


@dataclass(kw_only=True, slots=True)
class Written:
    """Hold the outcome of writing a batch of runs."""

    files: dict[str, RunFiles]  # run id -> the reading that was written
    values: int = 0  # endpoint values that were not stored before
    replaced: list[Replaced] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # run id -> reason


def write_runs(
    connection: Connection, batch: Sequence[RunFiles], *, planned: Collection[str] | None = None
) -> Written:
    """Make the rows of these runs those that their files give.

    Args: planned: for a rebuild, the ids that plans name. The folder's kind then replaces a stored
        one, and a run without config.json that no plan names has no config and no edges; without
        it, a stored kind stands and so do the config and edges of a run without config.json.
    """
    ordered = sorted(batch, key=lambda files: files.run.id)
    known = lock_runs(connection, [(files.run.id, files.run.kind) for files in ordered])
    old = _stored_rows(connection, [run_id for run_id in known if not known[run_id].new])
    written = Written(files={})
    changes: list[tuple[Rows, _Stored]] = []
    for files in ordered:
        run = files.run
        if planned is None and known[run.id].kind != run.kind:
            written.refused[run.id] = (
                f"{run.id}: stored as {known[run.id].kind}, found as {run.kind}"
            )
            continue
        keep = planned is None or run.id in planned
        rows = _rows_of(files, old[run.id] if keep else {})
        if _texts(rows) != old[run.id]:
            if files.changed:
                try:
                    files = read_run(run)
                except DamagedError as error:
                    written.refused[run.id] = str(error)
                    continue
                rows = _rows_of(files, old[run.id] if keep else {})
            changes.append((rows, old[run.id]))
            _count_values(rows, old[run.id], written)
        written.files[run.id] = files
    _replace(connection, changes)
    return written


@dataclass(frozen=True, slots=True)
class _Known:
    """Hold what a run's row says under its lock."""

    kind: str
    state: str
    configured: bool
    new: bool  # inserted just now, so that it has nothing beside it


def lock_runs(connection: Connection, runs: Sequence[tuple[str, str]]) -> dict[str, _Known]:
    """Make sure that runs, given as (id, kind), have rows, and lock them."""
    table = _table(_RUN)
    kinds = dict(runs)
    ids = sorted(kinds)
    seen = {
        row.id
        for part in batches(ids, 500)
        for row in connection.execute(select(table.c.id).where(table.c.id.in_(part)))
    }
    found: dict[str, _Known] = {}
    # Inserted before any is locked, both in order of their ids, so that writers do not wait for
    # each other in a circle. A row that is removed in between is inserted again.
    while missing := [run_id for run_id in ids if run_id not in found]:
        _upsert(
            connection,
            _RUN,
            [
                {"id": run_id, "kind": kinds[run_id], "state": "planned"}
                for run_id in missing
                if run_id not in seen
            ],
            conflict=("id",),
            change=(),
        )
        columns = (table.c.id, table.c.kind, table.c.state, table.c.config.is_not(None))
        for part in batches(missing, 500):
            query = select(*columns).where(table.c.id.in_(part)).order_by(table.c.id)
            for run_id, kind, state, configured in connection.execute(query.with_for_update()):
                new = run_id not in seen and state == "planned" and not configured
                found[run_id] = _Known(kind, state, configured, new)
        seen = set()
    return found


def lock_stored(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """Lock the rows that these runs have; return their kinds."""
    query = select(_RUN.id, _RUN.kind).where(_RUN.id.in_(ids)).order_by(_RUN.id)
    return {row.id: row.kind for row in connection.execute(query.with_for_update())}


def write_plan(
    connection: Connection, plan: PlanFile, facts: Sequence[PlannedRun] | None = None
) -> dict[str, _Known]:
    """Make a study and its members those of a plan.

    Args: facts: runs whose config and parents the plan gives, because their folders do not; by
        default those that have no config yet.
    """
    known = lock_runs(connection, [(run.id, run.kind) for run in plan.runs])
    _upsert(
        connection,
        schema.Study,
        [{"name": plan.study, "plan": plan.hash, "created_at": plan.created_at}],
        conflict=("name",),
        change=("plan", "created_at"),
    )
    if facts is None:
        facts = [run for run in plan.runs if not known[run.id].configured]
    for part in batches(facts):
        _write_facts(connection, part)
    table = _table(schema.Member)
    stored = connection.execute(_texts_of(table).where(table.c.study == plan.study))
    members = member_rows(plan)
    if {tuple(row) for row in stored} != {_text(table, row) for row in members}:
        connection.execute(delete(table).where(table.c.study == plan.study))
        if members:
            connection.execute(insert(table), members)
    return known


def remove_study(connection: Connection, study: str) -> None:
    """Remove a study and its members; the runs stay."""
    connection.execute(delete(schema.Member).where(schema.Member.study == study))
    connection.execute(delete(schema.Study).where(schema.Study.name == study))


def remove_runs(connection: Connection, gone: Collection[str], kinds: Mapping[str, str]) -> None:
    """Remove the rows of runs; of one that a plan names (`kinds`: id -> kind) or that has members
    the bare row and what the plan gave stay.
    """
    table = _table(_RUN)
    bare = {column.name: None for column in table.columns if column.name not in _PLANNED_COLUMNS}
    for part in batches(sorted(gone)):
        for model in schema.OF_A_RUN:
            connection.execute(delete(model).where(_table(model).c.run_id.in_(part)))
        members = select(schema.Member.run_id).where(schema.Member.run_id.in_(part))
        kept = {run_id for run_id in part if run_id in kinds}
        kept |= set(connection.execute(members).scalars())
        stored = dict(
            connection.execute(select(table.c.id, table.c.kind).where(table.c.id.in_(part))).all()
        )
        _update_runs(
            connection,
            [
                {"run": run_id, "kind": kinds.get(run_id, stored[run_id]), "state": "planned"}
                | bare
                for run_id in sorted(kept & stored.keys())
            ],
        )
        dropped = sorted(set(part) - kept)
        connection.execute(delete(schema.Edge).where(schema.Edge.child.in_(dropped)))
        connection.execute(delete(_RUN).where(_RUN.id.in_(dropped)))


# ---------------------------------------------------------- rows, as they are and as they should be


def _rows_of(files: RunFiles, old: _Stored) -> Rows:
    """Return the rows of a run; without config.json it keeps the config and edges in `old`."""
    rows = run_rows(files)
    if files.config is None and old:
        names = [name for name, _ in _COLUMNS_OF["run"]]
        row = dict(zip(names, next(iter(old["run"].values())), strict=True))
        config = None if row["config"] is None else json.loads(row["config"])
        rows["run"][0] |= {"config": config, "dataset": row["dataset"]}
        parents = {role: parent for _, role, parent in old["edge"].values()}
        rows["edge"] = edge_rows(files.run.id, parents)
    return rows


def _stored_rows(connection: Connection, ids: Sequence[str]) -> defaultdict[str, _Stored]:
    """Read the rows of runs; nothing at all for a run that has no row."""
    stored: defaultdict[str, _Stored] = defaultdict(dict)
    for model, name in ((_RUN, "id"), *_PARTS):
        table = _table(model)
        width = len(table.primary_key)  # the key's columns come first
        for run_id in ids:
            stored[run_id][table.name] = {}
        place = list(table.columns).index(table.c[name])
        for part in batches(ids, 500):
            for row in connection.execute(_texts_of(table).where(table.c[name].in_(part))):
                stored[row[place]][table.name][tuple(row[:width])] = tuple(row)
    return stored


def _texts_of(table: Table) -> Any:
    """Select all columns, JSON as text: it is quicker, and tells 1 from 1.0 and from true."""
    return select(
        *(
            cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column
            for column in table.columns
        )
    )


def _text(table: Table, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        json.dumps(row[name]) if is_json and row[name] is not None else row[name]
        for name, is_json in _COLUMNS_OF[table.name]
    )


def _texts(rows: Rows) -> _Stored:
    texts: _Stored = {}
    for name, entries in rows.items():
        table = schema.Base.metadata.tables[name]
        width = len(table.primary_key)
        lines = (_text(table, entry) for entry in entries)
        texts[name] = {line[:width]: line for line in lines}
    return texts


def _count_values(rows: Rows, old: _Stored, written: Written) -> None:
    """Count the values that are new, and list those whose place they take."""
    before, after = old.get("endpoint", {}), _texts({"endpoint": rows["endpoint"]})["endpoint"]
    written.values += sum(before.get(key) != row for key, row in after.items())
    if not before:
        return
    run_id = rows["run"][0]["id"]
    place = [name for name, _ in _COLUMNS_OF["endpoint"]].index("value")

    def note(key: tuple[Any, ...], first: float | None, second: float | None) -> None:
        written.replaced.append(Replaced(run_id=run_id, metric=key[1], old=first, new=second))

    for key in sorted(before.keys() & after.keys()):
        if before[key][place] != after[key][place]:
            note(key, before[key][place], after[key][place])
    # Values of another provenance, such as another extractor, have no counterpart by their key.
    gone, come = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    for metric in sorted({key[1] for key in (*gone, *come)}):
        olds = [key for key in gone if key[1] == metric]
        news = [key for key in come if key[1] == metric]
        for first, second in zip_longest(olds, news):
            note(
                first or second,
                None if first is None else before[first][place],
                None if second is None else after[second][place],
            )


# ------------------------------------------------------------------------------------------ writing


def _replace(connection: Connection, changes: Sequence[tuple[Rows, _Stored]]) -> None:
    _update_runs(
        connection,
        [
            {"run": row["id"], **{name: row[name] for name in row if name != "id"}}
            for rows, _ in changes
            for row in rows["run"]
        ],
    )
    for model, name in _PARTS:
        table = _table(model)
        stale = [rows["run"][0]["id"] for rows, old in changes if old.get(table.name)]
        for part in batches(stale, 500):
            connection.execute(delete(table).where(table.c[name].in_(part)))
        fresh = [row for rows, _ in changes for row in rows[table.name]]
        if fresh:
            connection.execute(insert(table), fresh)


def _write_facts(connection: Connection, runs: Sequence[PlannedRun]) -> None:
    """Make the config and the edges of runs those of their plan."""
    run, edge = _table(_RUN), _table(schema.Edge)
    ids = [planned.id for planned in runs]
    query = select(run.c.id, cast(run.c.config, Text), run.c.dataset).where(run.c.id.in_(ids))
    configs = {run_id: (text, dataset) for run_id, text, dataset in connection.execute(query)}
    edges: dict[str, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(select(edge).where(edge.c.child.in_(ids))):
        edges[row.child][row.role] = row.parent
    rows = []
    for planned in runs:
        columns = config_columns(planned.config)
        text = None if planned.config is None else json.dumps(planned.config)
        if configs[planned.id] != (text, columns["dataset"]):
            rows.append({"run": planned.id, **columns})
    _update_runs(connection, rows)
    others = [planned for planned in runs if edges[planned.id] != planned.parents]
    stale = [planned.id for planned in others if edges[planned.id]]
    if stale:
        connection.execute(delete(edge).where(edge.c.child.in_(stale)))
    fresh = [row for planned in others for row in edge_rows(planned.id, planned.parents)]
    if fresh:
        connection.execute(insert(edge), fresh)


def _update_runs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Set columns of runs; every row has the same keys, of which `run` is the id."""
    if not rows:
        return
    table = _table(_RUN)
    names = [name for name in rows[0] if name != "run"]
    statement = (
        update(table)
        .where(table.c.id == bindparam("run"))
        .values({name: bindparam(name) for name in names})
    )
    connection.execute(statement, list(rows))


def _upsert(
    connection: Connection,
    model: type[schema.Base],
    rows: Sequence[dict[str, Any]],
    *,
    conflict: tuple[str, ...],
    change: tuple[str, ...],
) -> None:
    """Insert rows; where the key `conflict` is taken, set the columns `change` of that row.

    The key is named, so that a row refused for any other reason raises.
    """
    if not rows:
        return
    table = _table(model)
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    if change:
        statement = statement.on_conflict_do_update(
            index_elements=list(conflict),
            set_={name: statement.excluded[name] for name in change},
        )
    else:
        statement = statement.on_conflict_do_nothing(index_elements=list(conflict))
    connection.execute(statement, list(rows))


def _table(model: type[schema.Base]) -> Table:
    assert isinstance(model.__table__, Table)
    return model.__table__


def batches(items: Sequence[Any], size: int = BATCH_RUNS) -> Iterable[Sequence[Any]]:
    """Split a sequence into pieces, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
