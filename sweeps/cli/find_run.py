"""Find a run's folder by its id, the first digits of it, or its path. No torch."""

from __future__ import annotations

import os
from pathlib import Path

from ...results_db.endpoint import KINDS
from ...results_db.record import RunDir


def run_folder(home: str | os.PathLike[str], text: str) -> RunDir:
    """Find the run that a user means. ValueError when there is none or several."""
    if "/" in text:
        folder = RunDir(text)
        if not folder.config_path.is_file():
            raise ValueError(f"RUN: {text!r} holds no config.json; allowed: a run's folder")
        return folder
    found = [
        RunDir.of(home, kind, name)
        for kind in KINDS
        for name in _names(Path(home) / kind)
        if name.startswith(text)
    ]
    exact = [run for run in found if run.id == text]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise ValueError(
            f"RUN: {text!r} is no run in {home}; allowed: the ids of `tokenlaw status STUDY --runs`"
        )
    several = ", ".join(f"{run.kind} {run.id}" for run in found[:5])
    raise ValueError(f"RUN: {text!r} fits {len(found)} runs; allowed: more digits of {several}")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
