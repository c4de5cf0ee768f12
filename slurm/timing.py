"""Times shapes of runs where the runs would train: `tokenlaw plan --calibrate`.

An executor starts one process, `python -m tokenlaw.trainer.calibrate SPEC RESULT`, with what a run
asks for; both files lie in a folder of the home, which all nodes see.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results_db.durable import write_json
from ..results_db.strict_json import read_json
from .resources import Resources

if TYPE_CHECKING:
    from .base import BaseExecutor

SPEC, RESULT, LOG = "spec.json", "result.json", "output.log"
_FILE_SECONDS = 10.0  # for a file of another node to be seen here
_WORDS = 300  # characters of the last line of a log


def command(folder: Path, python: str = sys.executable) -> list[str]:
    """Build the command of the process that carries out SPEC in `folder`."""
    return [
        python,
        "-P",
        "-m",
        "tokenlaw.trainer.calibrate",
        str(folder / SPEC),
        str(folder / RESULT),
    ]


def one_process(resources: Resources) -> Resources:
    """Reduce a run's resources to those of one of its processes: more are not timed."""
    return replace(
        resources,
        nodes=1,
        gpus=min(resources.gpus, 1),
        cpus=max(1, resources.cpus * resources.nodes // resources.group_size),
        processes=None,
    )


def measure_on(place: BaseExecutor, kind: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Make a function that times a spec (trainer/calibrate.py describes it) on `place`.

    The process has the resources of a run of `kind`. The function returns the result. It raises
    RuntimeError when the process failed, ValueError when the place lacks the resources.
    """

    def measure(spec: Mapping[str, Any]) -> Mapping[str, Any]:
        folder = place.context.home / "launches" / f"calibrate-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        write_json(folder / SPEC, dict(spec))
        keep = False
        try:
            ended = place.calibrate(folder, kind)
            found = _result(folder)
            # What a process of another node said before it broke is worth reading.
            keep = found is None and (folder / LOG).exists()
        finally:
            if not keep:
                shutil.rmtree(folder)
        if found is None:
            raise RuntimeError(f"--calibrate: {ended}")
        if "error" in found:
            raise ValueError(found["error"])
        return found

    return measure


def last_words(folder: Path) -> str:
    """Return `; last words: ...; PATH` of the log, or nothing where it is empty."""
    try:
        lines = (folder / LOG).read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f"; last words: {said[-1][:_WORDS]}; {folder / LOG}" if said else ""


def wait_for_result(folder: Path) -> None:
    """Wait until RESULT is there, at most as long as a network file system takes to show it."""
    end = time.monotonic() + _FILE_SECONDS
    while RESULT not in os.listdir(folder) and time.monotonic() < end:
        time.sleep(0.2)


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        found = read_json(folder / RESULT)
    except FileNotFoundError:
        return None
    assert isinstance(found, dict)
    return found
