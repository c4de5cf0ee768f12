"""Brings the database level with the files: by the spool's markers, or from scratch."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from . import spool, tables
from .durable import DamagedError, canonical_json
from .endpoint import COLUMNS, KINDS, is_name, same_result, value_key
from .engine import reading, transact
from .plan_file import PlanFile, current_plan_path, read_plan, study_names
from .record import read_attempts
from .rundir import RunDir
from .state import read_endpoint

_BATCH_RUNS = 200  # runs in one transaction
_FINAL = ("done", "diverged")
_ATTEMPT_COLUMNS = tuple(
    column.name
    for column in tables.Attempt.__table__.columns
    if column.name not in ("run_id", "number")
)
_ENDPOINT_FACTS = ("reason", "commit", "dirty", "versions", "finished_at")
_END_COLUMNS = ("outcome", "error_class", "error", "step", "ended_at", "seconds")


@dataclass(kw_only=True, slots=True)
class Report:
    """What bringing the database level found."""

    studies: int = 0  # plans loaded
    runs: int = 0  # run folders read
    values: int = 0  # endpoint values added
    waiting: int = 0  # markers of runs that have no end yet
    quarantined: list[tuple[str, str]] = field(default_factory=list)  # marker, reason
    problems: list[tuple[str, str]] = field(default_factory=list)  # file or run, reason

    @property
    def ok(self) -> bool:
        """Whether everything found could be used."""
        return not self.quarantined and not self.problems


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunFiles:
    """What the folder of a run says, read before the transaction."""

    run: RunDir
    config: dict[str, Any] | None
    attempts: list[dict[str, Any]]
    endpoint: dict[str, Any] | None

    @property
    def state(self) -> str:
        if self.endpoint is not None:
            return str(self.endpoint["status"])
        if not self.attempts:
            return "planned"
        outcome = (self.attempts[-1]["end"] or {}).get("outcome")
        return outcome if outcome in ("failed", "preempted") else "started"

    @property
    def open(self) -> bool:
        """Whether more is to come without a new claim."""
        return self.endpoint is None and (not self.attempts or self.attempts[-1]["end"] is None)


def ingest(home: str | os.PathLike[str], engine: Engine) -> Report:
    """Takes what is new: changed plans, and the runs that the spool's markers name.

    A marker is removed after its run is committed; it stays while the run goes on. What cannot be
    read, or contradicts what is stored, is quarantined and counted, and the rest goes on.
    """
    report = Report()
    spool.sweep(home)
    markers, rejected = spool.take(home)
    report.quarantined += rejected
    for batch in _batches(markers):
        _ingest_markers(home, engine, batch, report)
    with reading(engine) as connection:
        rows = connection.execute(select(tables.Study.name, tables.Study.plan))
        loaded = {row.name: row.plan for row in rows}
    for study in study_names(home):
        _load_plan(home, engine, study, report, loaded=loaded.get(study))
    return report


def sync(home: str | os.PathLike[str], engine: Engine) -> Report:
    """Reads every plan and every run folder again. Any number of times, with the same result."""
    report = Report()
    spool.sweep(home)
    for study in study_names(home):
        _load_plan(home, engine, study, report)
    for kind in KINDS:
        try:
            names = sorted(os.listdir(os.path.join(home, kind)))
        except FileNotFoundError:
            continue
        runs = []
        for name in names:
            if name.startswith("."):
                continue
            try:
                runs.append(RunDir.of(home, kind, name))
            except ValueError as error:
                report.problems.append((f"{kind}/{name}", str(error)))
        for batch in _batches([run for run in runs if run.path.is_dir()]):
            _ingest_runs(engine, batch, report)
    markers, rejected = spool.take(home)
    report.quarantined += rejected
    for marked in _batches(markers):
        _ingest_markers(home, engine, marked, report)
    return report


def ingest_run(home: str | os.PathLike[str], engine: Engine, run: RunDir) -> Report:
    """Takes one run's news, and its marker if there is one."""
    report = Report()
    marker = spool.Marker(
        path=spool.spool_path(home) / f"{run.kind}-{run.id}", kind=run.kind, run_id=run.id
    )
    _ingest_markers(home, engine, [marker], report)
    return report


def _ingest_markers(
    home: str | os.PathLike[str], engine: Engine, markers: Sequence[spool.Marker], report: Report
) -> None:
    read: dict[str, tuple[spool.Marker, _RunFiles]] = {}
    failed: list[tuple[spool.Marker, str]] = []
    for marker in markers:
        try:
            run = RunDir.of(home, marker.kind, marker.run_id)
            if not run.path.is_dir():
                raise DamagedError(f"{run.path}: no such run folder")
            read[run.id] = (marker, _read_run(run))
        except (DamagedError, ValueError) as error:
            failed.append((marker, str(error)))
    conflicts = _store(engine, [files for _, files in read.values()], report)
    failed += [(read[run_id][0], reason) for run_id, reason in conflicts.items()]
    for marker, reason in failed:
        if spool.quarantine(home, marker.path, reason) is not None:
            report.quarantined.append((marker.path.name, reason))
    for run_id, (marker, files) in read.items():
        if run_id in conflicts:
            continue
        if files.open:
            report.waiting += 1
            continue
        spool.clear(marker)
        # A new attempt may have left its marker after the folder was read and before ours went.
        if files.endpoint is None and len(files.run.attempts()) != len(files.attempts):
            spool.mark(home, files.run)


def _ingest_runs(engine: Engine, runs: Iterable[RunDir], report: Report) -> None:
    read = []
    for run in runs:
        try:
            read.append(_read_run(run))
        except DamagedError as error:
            report.problems.append((f"{run.kind}-{run.id}", str(error)))
    conflicts = _store(engine, read, report)
    report.problems += [(run_id, reason) for run_id, reason in conflicts.items()]


def _read_run(run: RunDir) -> _RunFiles:
    endpoint = read_endpoint(run)
    try:
        config = run.config()
    except FileNotFoundError:
        config = None
    return _RunFiles(run=run, config=config, attempts=read_attempts(run), endpoint=endpoint)


def _store(engine: Engine, batch: Sequence[_RunFiles], report: Report) -> dict[str, str]:
    """Writes a batch in one transaction; returns run id -> reason for those that contradict."""
    if not batch:
        return {}
    ordered = sorted(batch, key=lambda files: files.run.id)
    values, conflicts = transact(engine, lambda connection: _store_batch(connection, ordered))
    report.runs += len(batch) - len(conflicts)
    report.values += values
    return conflicts


def _store_batch(connection: Connection, batch: Sequence[_RunFiles]) -> tuple[int, dict[str, str]]:
    stored = _lock_runs(connection, [(files.run.id, files.run.kind) for files in batch])
    conflicts: dict[str, str] = {}
    final = [files.run.id for files in batch if stored[files.run.id][1] in _FINAL]
    known = _stored_endpoints(connection, final)
    fresh = []
    for files in batch:
        run = files.run
        if stored[run.id][0] != run.kind:
            conflicts[run.id] = f"{run.id}: stored as {stored[run.id][0]}, found as {run.kind}"
        elif run.id in known and files.endpoint is not None:
            if not same_result(known[run.id], files.endpoint):
                conflicts[run.id] = f"{run.endpoint_path}: differs from the result stored before"
        elif run.id not in known:
            fresh.append(files)
    good = [files for files in batch if files.run.id not in conflicts]
    _write_runs(connection, fresh)
    _write_facts(connection, good)
    rows = [row for files in fresh if files.endpoint for row in _value_rows(files.endpoint)]
    if rows:
        connection.execute(insert(_table(tables.Endpoint)), rows)
    return len(rows), conflicts


def _lock_runs(
    connection: Connection, runs: Sequence[tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Makes sure that the runs have rows, and locks them; returns id -> (kind, state)."""
    table = _table(tables.Run)
    _upsert(
        connection,
        tables.Run,
        [{"id": run_id, "kind": kind, "state": "planned"} for run_id, kind in runs],
        conflict=("id",),
        change=(),
    )
    columns = (table.c.id, table.c.kind, table.c.state)
    found: dict[str, tuple[str, str]] = {}
    for part in _batches([run_id for run_id, _ in runs], 500):
        query = select(*columns).where(table.c.id.in_(part)).order_by(table.c.id)
        for row in connection.execute(query.with_for_update()):
            found[row.id] = (row.kind, row.state)
    return found


def _stored_endpoints(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The endpoints that the database holds, as far as `same_result` compares them."""
    run, value, artifact = (
        tables.Run.__table__,
        tables.Endpoint.__table__,
        tables.Artifact.__table__,
    )
    found: dict[str, dict[str, Any]] = {}
    if not ids:
        return found
    for row in connection.execute(select(run).where(run.c.id.in_(ids))).mappings():
        found[row["id"]] = {
            "run_id": row["id"],
            "kind": row["kind"],
            "status": row["state"],
            "values": [],
            "columns": {name: row[name] for name in COLUMNS},
            "artifacts": [],
        }
    for row in connection.execute(select(value).where(value.c.run_id.in_(ids))).mappings():
        found[row["run_id"]]["values"].append(row)
    for row in connection.execute(select(artifact).where(artifact.c.run_id.in_(ids))).mappings():
        found[row["run_id"]]["artifacts"].append(row)
    return found


def _write_runs(connection: Connection, batch: Sequence[_RunFiles]) -> None:
    """State and columns of runs that had no endpoint stored."""
    unfinished, finished = [], []
    for files in batch:
        changes: dict[str, Any] = {"run": files.run.id, "state": files.state}
        endpoint = files.endpoint
        if endpoint is None:
            unfinished.append(changes)
            continue
        changes |= {name: _column(endpoint, name) for name in COLUMNS}
        changes |= {name: endpoint[name] for name in _ENDPOINT_FACTS}
        changes["endpoint_attempt"] = endpoint["attempt"]
        finished.append(changes)
    _update_runs(connection, unfinished)
    _update_runs(connection, finished)
    artifacts = [
        {"run_id": files.run.id, **artifact}
        for files in batch
        if files.endpoint
        for artifact in files.endpoint["artifacts"]
    ]
    if artifacts:
        connection.execute(insert(_table(tables.Artifact)), artifacts)


def _write_facts(connection: Connection, batch: Sequence[_RunFiles]) -> None:
    """Config, parents and attempts: what any number of readings may write again."""
    _update_runs(
        connection,
        [
            _config_row(files.run.id, files.config["config"])
            for files in batch
            if files.config is not None
        ],
    )
    _write_edges(
        connection,
        [
            (files.run.id, role, parent)
            for files in batch
            if files.config is not None
            for role, parent in files.config.get("parents", {}).items()
        ],
    )
    attempts = [
        _attempt_row(files.run.id, attempt) for files in batch for attempt in files.attempts
    ]
    _upsert(
        connection,
        tables.Attempt,
        attempts,
        conflict=("run_id", "number"),
        change=_ATTEMPT_COLUMNS,
    )


def _config_row(run_id: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"run": run_id, "config": config, "dataset": _dataset(config)}


def _update_runs(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Sets columns of runs; every row has the same keys, of which `run` is the id."""
    if not rows:
        return
    table = _table(tables.Run)
    names = [name for name in rows[0] if name != "run"]
    statement = (
        update(table)
        .where(table.c.id == bindparam("run"))
        .values({name: bindparam(name) for name in names})
    )
    connection.execute(statement, list(rows))


def _write_edges(connection: Connection, edges: Iterable[tuple[str, str, str]]) -> None:
    _upsert(
        connection,
        tables.Edge,
        [{"child": child, "role": role, "parent": parent} for child, role, parent in edges],
        conflict=("child", "role"),
        change=("parent",),
    )


def _attempt_row(run_id: str, attempt: dict[str, Any]) -> dict[str, Any]:
    end = attempt["end"] or {}
    row = {name: attempt.get(name) for name in _ATTEMPT_COLUMNS if name not in _END_COLUMNS}
    row |= {name: end.get(name) for name in _END_COLUMNS}
    return {"run_id": run_id, "number": attempt["attempt"], **row}


def _column(endpoint: dict[str, Any], name: str) -> Any:
    value = endpoint["columns"].get(name)
    return None if value is None else COLUMNS[name][0](value)


def _value_rows(endpoint: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "run_id": endpoint["run_id"],
            "metric": value["metric"],
            "provenance_key": _digest(value_key(value)[1], 32),
            "position": position,
            "value": None if value["value"] is None else float(value["value"]),
            "status": endpoint["status"],
            "unit": value["unit"],
            "better": value.get("better"),
            "provenance": value["provenance"],
        }
        for position, value in enumerate(endpoint["values"])
    ]


def _load_plan(
    home: str | os.PathLike[str],
    engine: Engine,
    study: str,
    report: Report,
    *,
    loaded: str | None = None,
) -> None:
    """Makes the study's members those of its current plan, and takes the results of its runs that
    the database does not have (a run that another study finished, a marker that was lost).
    """
    if not is_name(study):
        report.problems.append((f"studies/{study}", "not a study's name"))
        return
    try:
        path = current_plan_path(home, study)
        if path is None:
            return
        if loaded is not None and path.name == f"plan-{loaded}.json":
            return
        plan = read_plan(path)
        if plan.study != study or path.name != f"plan-{plan.hash}.json":
            raise DamagedError(f"{path}: belongs to study {plan.study!r}, plan {plan.hash!r}")
    except DamagedError as error:
        report.problems.append((f"studies/{study}", str(error)))
        return
    states = transact(engine, lambda connection: _write_plan(connection, plan))
    report.studies += 1
    missing = [
        RunDir.of(home, run.kind, run.id) for run in plan.runs if states[run.id][1] not in _FINAL
    ]
    for batch in _batches([run for run in missing if run.endpoint_path.exists()]):
        _ingest_runs(engine, batch, report)


def _write_plan(connection: Connection, plan: PlanFile) -> dict[str, tuple[str, str]]:
    runs = sorted(plan.runs, key=lambda run: run.id)
    states = _lock_runs(connection, [(run.id, run.kind) for run in runs])
    _upsert(
        connection,
        tables.Study,
        [{"name": plan.study, "plan": plan.hash, "created_at": plan.created_at}],
        conflict=("name",),
        change=("plan", "created_at"),
    )
    _update_runs(
        connection, [_config_row(run.id, run.config) for run in runs if run.config is not None]
    )
    _write_edges(
        connection,
        [(run.id, role, parent) for run in runs for role, parent in run.parents.items()],
    )
    connection.execute(delete(tables.Member).where(tables.Member.study == plan.study))
    members: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in runs:
        for member in run.members:
            key = _digest(canonical_json(member.axes), 16)
            members[run.id, member.arm, key] = {
                "study": plan.study,
                "run_id": run.id,
                "arm": member.arm,
                "axes_key": key,
                "axes": member.axes,
                "is_primary": member.primary,
                "planned": run.facts,
            }
    if members:
        connection.execute(insert(_table(tables.Member)), list(members.values()))
    return states


def _upsert(
    connection: Connection,
    model: type[tables.Base],
    rows: Sequence[dict[str, Any]],
    *,
    conflict: tuple[str, ...],
    change: tuple[str, ...],
) -> None:
    """Inserts rows; where the key `conflict` is taken, sets the columns `change` of that row.

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


def _table(model: type[tables.Base]) -> Table:
    assert isinstance(model.__table__, Table)
    return model.__table__


def _dataset(config: dict[str, Any]) -> str | None:
    data = config.get("data")
    dataset = data.get("dataset") if isinstance(data, dict) else None
    name = dataset.get("name") if isinstance(dataset, dict) else dataset
    return name if isinstance(name, str) else None


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _batches(items: Sequence[Any], size: int = _BATCH_RUNS) -> Iterable[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
