"""Bring the database level with the files: by the spool's markers, or from scratch."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, select, union

from . import home_registry, schema, spool, store
from .endpoint import KINDS, is_name
from .engine import reading, transact
from .plan_file import PlanFile, PlannedRun, current_plan_path, read_plan, study_names
from .rows import RunFiles, read_run
from .rundir import RunDir
from .store import Replaced, batches
from .strict_json import DamagedError

_LISTED = 20  # lines about replaced values; a report as JSON has all

_Result = TypeVar("_Result")


@dataclass(kw_only=True, slots=True)
class Report:
    """Report what an ingest or a sync took, and what it could not use."""

    studies: int = 0  # plans loaded
    runs: int = 0  # run folders read
    values: int = 0  # endpoint values added
    waiting: int = 0  # markers of runs that have no end yet
    replaced: list[Replaced] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)  # runs and studies that no file has any more
    kept: list[str] = field(default_factory=list)  # the same, of a database of several homes
    homes: list[str] = field(default_factory=list)  # the other homes that `kept` is kept for
    quarantined: list[tuple[str, str]] = field(default_factory=list)  # marker, reason
    problems: list[tuple[str, str]] = field(default_factory=list)  # file or run, reason

    @property
    def ok(self) -> bool:
        """Tell whether everything could be used."""
        return not self.quarantined and not self.problems

    def lines(self) -> list[str]:
        """List what was replaced, removed and refused, a line each."""
        lines = [
            f"replaced: {each.run_id}: {each.metric} {_number(each.old)} -> {_number(each.new)}"
            for each in self.replaced[:_LISTED]
        ]
        if more := self.replaced[_LISTED:]:
            lines.append(f"replaced: {len(more)} more values")
        if self.removed:
            lines.append(f"removed, because no readable file has them: {_names(self.removed)}")
        if self.kept:
            lines.append(
                f"kept, though no readable file has them: {_names(self.kept)}; the database"
                f" may hold them for {', '.join(self.homes)}"
            )
        lines += [f"quarantined: {name}: {reason}" for name, reason in self.quarantined]
        return lines + [f"problem: {name}: {reason}" for name, reason in self.problems]

    def news(self, held: Sequence[spool.Held]) -> list[str]:
        """Summarise for readers of tables: a line on replaced values, on quarantine, on plans."""
        lines = []
        if self.replaced:
            runs = len({each.run_id for each in self.replaced})
            first = self.replaced[0]
            lines.append(
                f"{_count(runs, 'run')} done again, {_count(len(self.replaced), 'value')} replaced;"
                f" the first is {first.run_id}: {first.metric} {_number(first.old)} ->"
                f" {_number(first.new)}"
            )
        entries = {each.name: each.reason for each in reversed(held)} | dict(self.quarantined)
        if entries:
            name = min(entries)
            reason = " ".join(entries[name].split())[:300]
            lines.append(
                f"{_count(len(entries), 'run')} in quarantine, so values may be missing or old;"
                f" the first is {name}: {reason}; mend or remove it, then `tokenlaw sync`"
            )
        plans = [each for each in self.problems if each[0] not in entries]
        if plans:
            name, reason = plans[0]
            lines.append(f"{_count(len(plans), 'problem')}; the first is {name}: {reason}")
        return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "none" if value is None else repr(value)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if names[3:] else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"


@dataclass(kw_only=True, slots=True)
class _Pass:
    """Carry news from a home to its database, once."""

    home: Path
    engine: Engine
    report: Report = field(default_factory=Report)
    rejected: set[str] = field(default_factory=set)  # markers' names of runs that cannot be used
    held: set[str] | None = None  # markers' names that were in quarantine before
    registered: bool = False

    def write(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do `work` in a transaction that also registers the home."""
        if self.registered:
            return transact(self.engine, work)
        identity = home_registry.identify(self.home, self.engine)

        def first(connection: Connection) -> _Result:
            home_registry.register(connection, identity)
            return work(connection)

        result = transact(self.engine, first)
        self.registered = True
        return result

    def store(
        self, batch: Sequence[RunFiles], planned: frozenset[str] | None = None
    ) -> store.Written:
        """Write a batch of runs in one transaction."""
        if not batch:
            return store.Written(files={})
        written = self.write(
            lambda connection: store.write_runs(connection, batch, planned=planned)
        )
        self.report.runs += len(written.files)
        self.report.values += written.values
        self.report.replaced += written.replaced
        self.report.problems += [
            (f"{files.run.kind}-{files.run.id}", line) for files in batch for line in files.damage
        ]
        return written

    def reject(self, run: RunDir, reason: str) -> None:
        """Name a run that cannot be used, and keep it in quarantine."""
        if not run.path.is_dir():
            return  # removed since it was found: there is nothing to mend
        name = f"{run.kind}-{run.id}"
        self.report.problems.append((name, reason))
        self.rejected.add(name)
        if self.held is None:
            self.held = {held.name for held in spool.quarantined(self.home)}
        if name not in self.held:
            spool.hold(self.home, run, reason)


def ingest(home: str | os.PathLike[str], engine: Engine) -> Report:
    """Take what is new: changed plans, and the runs that the spool's markers name.

    The rows of these runs become those that their folders give, whatever was stored before. A
    marker is removed after its run is committed; it stays while the run goes on. What cannot be
    read is quarantined and counted, and the rest goes on.
    """
    passage = _Pass(home=Path(home), engine=engine)
    spool.sweep(home)
    markers, rejected = spool.take(home)
    passage.report.quarantined += rejected
    for batch in batches(markers):
        _ingest_markers(passage, batch)
    with reading(engine) as connection:
        rows = connection.execute(select(schema.Study.name, schema.Study.plan))
        loaded = {row.name: row.plan for row in rows}
    for study in study_names(home):
        plan = _read_plan(passage, study, loaded=loaded.get(study))
        if plan is not None:
            _load_plan(passage, plan)
    return passage.report


def ingest_run(home: str | os.PathLike[str], engine: Engine, run: RunDir) -> Report:
    """Take one run's news, and its marker if there is one."""
    passage = _Pass(home=Path(home), engine=engine)
    marker = spool.Marker(
        path=spool.spool_path(home) / f"{run.kind}-{run.id}", kind=run.kind, run_id=run.id
    )
    _ingest_markers(passage, [marker])
    return passage.report


def sync(home: str | os.PathLike[str], engine: Engine) -> Report:
    """Make every table what the plans and the run folders say, as a new database would have it.

    Runs and studies whose files are gone are removed, except from a database that other homes write
    to as well. A run whose files cannot be read counts as gone, is named and is in quarantine.

    Raises:
        ValueError: there is no such folder.
    """
    if not os.path.isdir(home):
        raise ValueError(f"home: nothing is there: {str(home)!r}; allowed: the folder of a launch")
    passage = _Pass(home=Path(home), engine=engine)
    spool.sweep(home)
    held = spool.quarantined(home)
    plans = [plan for name in study_names(home) if (plan := _read_plan(passage, name)) is not None]
    kinds: dict[str, str] = {}  # of all runs: a plan's word counts first, then the first folder's
    facts: dict[str, PlannedRun] = {}  # what plans know of a run: the first that has its config
    for run in (run for plan in plans for run in plan.runs):
        kinds.setdefault(run.id, run.kind)
        if run.id not in facts or (facts[run.id].config is None and run.config is not None):
            facts[run.id] = run
    planned = frozenset(kinds)
    stored: set[str] = set()
    for kind in KINDS:
        for batch in batches(_run_dirs(passage, kind)):
            written = passage.store(_readings(passage, batch, kinds), planned)
            for run_id, reason in written.refused.items():
                passage.reject(RunDir.of(home, kind, run_id), reason)
            for run_id, files in written.files.items():
                stored.add(run_id)
                if files.config is not None:
                    facts.pop(run_id, None)
    for plan in plans:
        _load_plan(passage, plan, [run for run in plan.runs if facts.get(run.id) is run])
    _remove_gone(passage, {plan.study for plan in plans}, kinds, stored)
    spool.release(each for each in held if each.name not in passage.rejected)
    markers, unreadable = spool.take(home)
    passage.report.quarantined += unreadable
    news = []
    for marker in markers:
        run_dir = passage.home / marker.kind / marker.run_id
        if marker.path.name in passage.rejected or not run_dir.is_dir():
            spool.clear(marker)  # said already, or there is nothing to say
        else:
            news.append(marker)
    for marked in batches(news):
        _ingest_markers(passage, marked)
    return passage.report


def _ingest_markers(passage: _Pass, markers: Sequence[spool.Marker]) -> None:
    read: dict[str, tuple[spool.Marker, RunFiles]] = {}
    failed: list[tuple[spool.Marker, str]] = []
    for marker in markers:
        try:
            files = read_run(RunDir.of(passage.home, marker.kind, marker.run_id))
            read[files.run.id] = (marker, files)
        except (DamagedError, ValueError) as error:
            failed.append((marker, str(error)))
    written = passage.store([files for _, files in read.values()])
    failed += [(read[run_id][0], reason) for run_id, reason in written.refused.items()]
    for marker, reason in failed:
        if spool.quarantine(passage.home, marker.path, reason) is not None:
            passage.report.quarantined.append((marker.path.name, reason))
    for run_id, files in written.files.items():
        if files.open:
            passage.report.waiting += 1
            continue
        spool.clear(read[run_id][0])
        # News may have left its marker after the folder was read and before ours went.
        if files.changed and files.run.path.is_dir():
            spool.mark(passage.home, files.run)
    settled = {read[run_id][0].path.name for run_id in written.files}
    spool.release(held for held in spool.quarantined(passage.home) if held.name in settled)


def _run_dirs(passage: _Pass, kind: str) -> list[RunDir]:
    try:
        with os.scandir(passage.home / kind) as entries:
            folders = {entry.name: entry.is_dir() for entry in entries}
    except FileNotFoundError:
        return []
    runs = []
    for name, is_folder in sorted(folders.items()):
        if name.startswith("."):
            continue
        try:
            run = RunDir.of(passage.home, kind, name)
        except ValueError as error:
            passage.report.problems.append((f"{kind}/{name}", str(error)))
            continue
        if is_folder:
            runs.append(run)
    return runs


def _readings(
    passage: _Pass, runs: Sequence[RunDir], kinds: dict[str, str] | None = None
) -> list[RunFiles]:
    """Read those runs that can be; with `kinds`, those whose ids are of no other kind yet."""
    readings = []
    for run in runs:
        try:
            files = read_run(run)
            if kinds is not None and kinds.setdefault(run.id, run.kind) != run.kind:
                raise DamagedError(f"{run.id}: known as {kinds[run.id]}, found as {run.kind}")
            readings.append(files)
        except DamagedError as error:
            passage.reject(run, str(error))
    return readings


def _read_plan(passage: _Pass, study: str, *, loaded: str | None = None) -> PlanFile | None:
    """Read a study's current plan; None when it has none, or that of the hash `loaded`."""
    try:
        return _current_plan(passage.home, study, loaded)
    except DamagedError as error:
        passage.report.problems.append((f"studies/{study}", str(error)))
        return None


def _current_plan(home: Path, study: str, loaded: str | None = None) -> PlanFile | None:
    if not is_name(study):
        raise DamagedError("not a study's name")
    path = current_plan_path(home, study)
    if path is None or path.name == f"plan-{loaded}.json":
        return None
    plan = read_plan(path)
    if plan.study != study or path.name != f"plan-{plan.hash}.json":
        raise DamagedError(f"{path}: belongs to study {plan.study!r}, plan {plan.hash!r}")
    return plan


def _load_plan(passage: _Pass, plan: PlanFile, facts: Sequence[PlannedRun] | None = None) -> None:
    """Make the study's members those of its plan; without `facts`, take the results of its runs
    that the database does not have (a run that another study finished, a marker that was lost).
    """
    known = passage.write(lambda connection: store.write_plan(connection, plan, facts))
    passage.report.studies += 1
    if facts is not None:
        return
    missing = [
        RunDir.of(passage.home, run.kind, run.id)
        for run in plan.runs
        if known[run.id].state not in store.FINAL
    ]
    for batch in batches([run for run in missing if run.endpoint_path.exists()]):
        written = passage.store(_readings(passage, batch))
        for run in batch:
            if run.id in written.refused:
                passage.reject(run, written.refused[run.id])


def _remove_gone(
    passage: _Pass, studies: set[str], kinds: Mapping[str, str], stored: set[str]
) -> None:
    """Remove what no file gives: studies beside `studies`, and rows of runs beside the `stored`
    ones; of a run that a plan names, `kinds` among them, the plan's facts stay.
    """
    with reading(passage.engine) as connection:
        names = connection.execute(select(schema.Study.name)).scalars().all()
        parts = union(*(select(model.run_id) for model in schema.OF_A_RUN))
        full = set(connection.execute(parts).scalars())
        query = select(schema.Run.id, schema.Run.kind, schema.Run.state).order_by(schema.Run.id)
        strays = [
            run_id
            for run_id, kind, state in connection.execute(query)
            if run_id not in stored
            and (kinds.get(run_id) != kind or state != "planned" or run_id in full)
        ]
    identity = home_registry.identify(passage.home, passage.engine)

    def remove_study(connection: Connection) -> list[str]:
        others = home_registry.others(connection, identity)
        if not others and not _has_plan(passage.home, study):
            store.remove_study(connection, study)
        return others

    def remove_runs(connection: Connection) -> list[str]:
        # Under the locks, because another process may store these runs at the same time.
        locked = store.lock_stored(connection, batch)
        others = home_registry.others(connection, identity)
        if not others:
            gone = [
                run_id
                for run_id, kind in locked.items()
                if kinds.get(run_id, kind) != kind or not _is_there(passage.home, kind, run_id)
            ]
            store.remove_runs(connection, gone, kinds)
        return others

    for study in sorted(set(names) - studies):
        _note(passage.report, [f"study {study}"], transact(passage.engine, remove_study))
    for batch in batches(strays):
        _note(passage.report, batch, transact(passage.engine, remove_runs))


def _note(report: Report, names: Sequence[str], others: list[str]) -> None:
    (report.kept if others else report.removed).extend(names)
    report.homes = others


def _has_plan(home: Path, study: str) -> bool:
    try:
        return _current_plan(home, study) is not None
    except DamagedError:
        return False


def _is_there(home: Path, kind: str, run_id: str) -> bool:
    try:
        read_run(RunDir.of(home, kind, run_id))
        return True
    except (DamagedError, ValueError):
        return False
