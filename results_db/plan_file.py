"""Reads a study's current plan file, which defines the study's members."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .endpoint import KINDS, check_name
from .strict_json import DamagedError, read_json

WRITE_ANEW = "launch the study again, which writes it anew"
_LIMIT_BYTES = 1 << 30  # a plan of 100,000 runs is well below
_NOT_FACTS = frozenset({"id", "kind", "parents", "members", "config"})


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedMember:
    """A run under one arm and set of axes of the study."""

    arm: str
    axes: dict[str, Any]
    primary: bool  # of several evaluations of a subject, the one that tables show


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """A run as the plan has it."""

    id: str
    kind: str
    parents: dict[str, str]  # role -> run id
    members: tuple[PlannedMember, ...]
    config: dict[str, Any] | None
    facts: dict[str, Any]  # params, flops_train, gpu_hours ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """A plan, decoded."""

    study: str
    hash: str
    created_at: str
    runs: tuple[PlannedRun, ...]
    # name, classes, train, val, skipped, digest, labels, class_names of each data set
    data: tuple[dict[str, Any], ...] = ()

    def data_lines(self) -> list[str]:
        """Describe each data set in a line for people."""
        return [data_line(entry) for entry in self.data]


def data_line(data: Mapping[str, Any]) -> str:
    """Describe a data set in a line for people: its classes, images, and those left out."""
    text = (
        f"{data['name']}: {data['classes']:,} classes, {data['train']:,} training and "
        f"{data['val']:,} validation images"
    )
    return f"{text}, {data['skipped']:,} skipped" if data["skipped"] else text


def study_names(home: str | os.PathLike[str]) -> list[str]:
    """List the studies that have a folder under `home`."""
    folder = Path(home) / "studies"
    try:
        return sorted(name for name in os.listdir(folder) if (folder / name).is_dir())
    except FileNotFoundError:
        return []


def current_plan_path(home: str | os.PathLike[str], study: str) -> Path | None:
    """Return the plan file that defines a study: the one current.json names, else the newest.

    Raises:
        DamagedError: current.json names no plan file of the study, and there are several.
    """
    folder = Path(home) / "studies" / check_name("study", study)
    plans = sorted(
        folder.glob("plan-*.json"), key=lambda path: (path.lstat().st_mtime_ns, path.name)
    )
    pointer = folder / "current.json"
    try:
        name = read_json(pointer, limit_bytes=4096).get("plan")
        if not isinstance(name, str) or not name.startswith("plan-") or "/" in name:
            raise DamagedError(f"{pointer}: names no plan file")
        return folder / name
    except FileNotFoundError:
        return plans[-1] if plans else None
    except (DamagedError, AttributeError) as error:
        if len(plans) == 1:
            return plans[0]  # nothing else can have been meant
        why = error if isinstance(error, DamagedError) else f"{pointer}: names no plan file"
        raise DamagedError(f"{why}; {WRITE_ANEW}") from error


def read_plan(path: str | os.PathLike[str]) -> PlanFile:
    """Read the plan in a file.

    Raises:
        DamagedError: it is missing, or no plan; names the field and the cure.
    """
    try:
        return _decoded(read_json(path, limit_bytes=_LIMIT_BYTES))
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing; {WRITE_ANEW}") from error
    except DamagedError as error:
        raise DamagedError(f"{error}; {WRITE_ANEW}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedError(f"{path}: not a plan: {what}; {WRITE_ANEW}") from error


def _decoded(content: dict[str, Any]) -> PlanFile:
    if content["scheme"] != 1:
        raise ValueError(f"scheme: {content['scheme']!r}, allowed is 1")
    seen: set[str] = set()
    runs = []
    for entry in content["runs"]:
        run = _run(entry)
        if run.id in seen:
            raise ValueError(f"run {run.id} is listed twice")
        seen.add(run.id)
        runs.append(run)
    return PlanFile(
        study=check_name("study", content["study"]),
        hash=check_name("hash", content["hash"]),
        created_at=str(content.get("created_at", "")),
        runs=tuple(runs),
        data=tuple(dict(entry) for entry in content.get("data") or ()),
    )


def _run(entry: dict[str, Any]) -> PlannedRun:
    run_id = check_name("id", entry["id"])
    if entry["kind"] not in KINDS:
        raise ValueError(f"run {run_id}: kind {entry['kind']!r}, allowed are {', '.join(KINDS)}")
    members = tuple(
        PlannedMember(
            arm=check_name("arm", member["arm"]),
            axes=dict(member.get("axes") or {}),
            primary=member.get("primary", True) is not False,
        )
        for member in entry.get("members") or ()
    )
    return PlannedRun(
        id=run_id,
        kind=entry["kind"],
        parents={
            check_name("role", role): check_name("parent", parent)
            for role, parent in (entry.get("parents") or {}).items()
        },
        members=members,
        config=entry.get("config"),
        facts={name: value for name, value in entry.items() if name not in _NOT_FACTS},
    )
