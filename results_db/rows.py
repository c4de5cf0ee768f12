"""Read the files of a run, and turn files and plans into rows of the tables."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import schema
from .endpoint import COLUMNS, value_key
from .plan_file import PlanFile
from .rundir import RunDir, attempt_numbers
from .state import read_attempts, read_endpoint
from .strict_json import DamagedError, canonical_json

_ENDPOINT_FACTS = ("reason", "commit", "dirty", "versions", "finished_at")
_END_COLUMNS = ("outcome", "error_class", "error", "step", "ended_at", "seconds")

Rows = dict[str, list[dict[str, Any]]]  # table -> rows of one run


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """Hold what the folder of a run gave before the transaction."""

    run: RunDir
    stamp: tuple[Any, ...]  # what shows that the folder has changed since
    config: dict[str, Any] | None  # config.json
    attempts: list[dict[str, Any]]
    endpoint: dict[str, Any] | None

    @property
    def state(self) -> str:
        """Return the state that the database keeps."""
        if self.endpoint is not None:
            return str(self.endpoint["status"])
        if not self.attempts:
            return "planned"
        outcome = (self.attempts[-1]["end"] or {}).get("outcome")
        return outcome if outcome in ("failed", "preempted") else "started"

    @property
    def damage(self) -> list[str]:
        """List the records of attempts that could not be read; they count as missing."""
        return [line for attempt in self.attempts for line in attempt["damage"]]

    @property
    def open(self) -> bool:
        """Tell whether more is to come without a new claim."""
        return self.endpoint is None and (not self.attempts or self.attempts[-1]["end"] is None)

    @property
    def changed(self) -> bool:
        """Tell whether the folder has changed since it was read."""
        return _stamp(self.run) != self.stamp


def read_run(run: RunDir) -> RunFiles:
    """Read the files of a run.

    Raises:
        DamagedError: there is no such folder, or a file is not what it should be.
    """
    stamp = _stamp(run)
    try:
        config = run.config()
    except FileNotFoundError:
        config = None
    endpoint = None if stamp[1] is None else read_endpoint(run)
    if config is endpoint is None and not stamp[0] and not run.path.is_dir():
        raise DamagedError(f"{run.path}: no such run folder")
    return RunFiles(
        run=run,
        stamp=stamp,
        config=config,
        attempts=read_attempts(run, attempt_numbers(stamp[0])),
        endpoint=endpoint,
    )


def run_rows(files: RunFiles) -> Rows:
    """Return the rows of a run as its folder gives them."""
    run_id, endpoint = files.run.id, files.endpoint
    row: dict[str, Any] = {column.name: None for column in schema.Run.__table__.columns}
    row |= {"id": run_id, "kind": files.run.kind, "state": files.state}
    parents: dict[str, str] = {}
    if files.config is not None:
        row |= config_columns(files.config["config"])
        parents = files.config.get("parents", {})
    if endpoint is not None:
        row |= {name: _column(endpoint, name) for name in COLUMNS}
        row |= {name: endpoint[name] for name in _ENDPOINT_FACTS}
        row["endpoint_attempt"] = endpoint["attempt"]
    return {
        "run": [row],
        "edge": edge_rows(run_id, parents),
        "attempt": [_attempt_row(run_id, attempt) for attempt in files.attempts],
        "endpoint": [] if endpoint is None else _value_rows(endpoint),
        "artifact": [
            {"run_id": run_id, **artifact} for artifact in (endpoint or {}).get("artifacts", ())
        ],
    }


def config_columns(config: dict[str, Any] | None) -> dict[str, Any]:
    """Return the columns of a run that its config gives."""
    return {"config": config, "dataset": None if config is None else _dataset(config)}


def edge_rows(run_id: str, parents: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the edges of a run to its parents, given as role -> run id."""
    return [{"child": run_id, "role": role, "parent": parent} for role, parent in parents.items()]


def _attempt_row(run_id: str, attempt: dict[str, Any]) -> dict[str, Any]:
    end = attempt["end"] or {}
    names = [column.name for column in schema.Attempt.__table__.columns]
    row = {name: (end if name in _END_COLUMNS else attempt).get(name) for name in names}
    return row | {"run_id": run_id, "number": attempt["attempt"]}


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


def member_rows(plan: PlanFile) -> list[dict[str, Any]]:
    """Return the members of a study, each once."""
    members: dict[tuple[str, str, str], dict[str, Any]] = {}
    for run in plan.runs:
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
    return list(members.values())


def _dataset(config: dict[str, Any]) -> str | None:
    data = config.get("data")
    dataset = data.get("dataset") if isinstance(data, dict) else None
    name = dataset.get("name") if isinstance(dataset, dict) else dataset
    return name if isinstance(name, str) else None


def _stamp(run: RunDir) -> tuple[Any, ...]:
    try:
        attempts = tuple(sorted(os.listdir(run.attempts_path)))
    except (FileNotFoundError, NotADirectoryError):
        attempts = ()
    try:
        info = os.stat(run.endpoint_path, follow_symlinks=False)
    except FileNotFoundError:
        return attempts, None
    return attempts, (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
