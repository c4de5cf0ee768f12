"""The config of a run as its folder holds it, once it is the one that the run's id was made of."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...results_db.record import RunDir
from .config import decode_run
from .identity import run_id


class Stored(NamedTuple):
    """Decoded content of config.json."""

    config: Any
    parents: dict[str, str]  # ids by role


def read(run_dir: RunDir) -> Stored:
    """Read the decoded config of a run and its parents' ids.

    Raises: FileNotFoundError: there is none. DamagedError: it is no config, or another run's.
        ValueError: it was altered, or does not fit this code.
    """
    content = run_dir.config()
    try:
        config = decode_run(run_dir.kind, content["config"])
    except ValueError as error:
        raise ValueError(f"{run_dir.config_path}: {error}") from error
    stored = Stored(config, content.get("parents", {}))
    found = run_id(run_dir.kind, *stored)
    if found != run_dir.id:
        raise ValueError(
            f"{run_dir.config_path}: its content has the id {found}, the folder says "
            f"{run_dir.id}; {run_dir.rewrite}"
        )
    return stored
