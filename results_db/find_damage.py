"""Finds every damaged file of a home: all is read, whatever hashes are remembered."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .endpoint import KINDS
from .recorded_files import (
    CODES,
    CODES_MANIFEST,
    FINAL,
    artifact_file,
    code_entries,
    codes_manifest,
    compare,
    folder_cure,
    staged_manifest,
)
from .rundir import RunDir
from .state import read_attempts, read_endpoint
from .strict_json import DamagedError

_LEAVE_WEIGHTS = ("extractor", "tokenizer", "generator")

CheckConfig = Callable[[RunDir], object]  # raises ValueError or DamagedError


def folders(home: str | os.PathLike[str]) -> list[Path]:
    """List every folder of a home that should be a run's."""
    found: list[Path] = []
    for kind in KINDS:
        folder = Path(home) / kind
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        found += [folder / name for name in names if not name.startswith(".")]
    return found


def damages(folder: Path, check_config: CheckConfig) -> Iterator[str]:
    """Yield a line for each damaged or misplaced file below a run's folder.

    The line has the file's path and the cure.
    """
    try:
        run = RunDir(folder)
    except ValueError as error:
        yield str(error)
        return
    yield from _failures(lambda: check_config(run))
    yield from _attempts(run)
    for checkpoint in sorted(run.checkpoints_path.glob("step-*")):
        yield from _weights(run, checkpoint)
    wrong = list(_failures(_endpoint, run))
    yield from wrong
    endpoint = None if wrong else read_endpoint(run)
    finished = endpoint is not None and endpoint["status"] == "done"
    if (run.path / FINAL).exists() or (finished and run.kind in _LEAVE_WEIGHTS):
        yield from _weights(run, run.path / FINAL)
    if finished and run.kind == "codes":
        yield from _codes(run)
    for entry in endpoint["artifacts"] if endpoint is not None else ():
        if entry["name"] != CODES_MANIFEST:
            yield from _failures(artifact_file, run, endpoint, entry["name"], fresh=True)


def _endpoint(run: RunDir) -> None:
    endpoint = read_endpoint(run)
    if endpoint is None:
        return
    ends = {record["attempt"]: record["end"] or {} for record in read_attempts(run)}
    recorded = ends.get(endpoint["attempt"], {}).get("endpoint_sha256")
    if recorded is not None:  # homes made before, and attempts killed at their end, have none
        compare(run.endpoint_path, {"sha256": recorded}, run.redo, fresh=True)


def _attempts(run: RunDir) -> Iterator[str]:
    wrong: list[str] = []

    def check() -> None:
        for record in read_attempts(run):
            wrong.extend(record["damage"])
            path = run.attempt_path(record["attempt"])
            run.check_owner(path, record.get("run"), "or remove it: it only counts as an attempt")

    yield from _failures(check)
    yield from wrong


def _weights(run: RunDir, folder: Path) -> Iterator[str]:
    wrong = list(_failures(staged_manifest, run, folder))
    yield from wrong
    if not wrong:
        cure = folder_cure(run, folder)
        for name, entry in sorted(staged_manifest(run, folder)["files"].items()):
            yield from _failures(compare, folder / name, entry, cure, fresh=True)


def _codes(run: RunDir) -> Iterator[str]:
    wrong = list(_failures(codes_manifest, run, fresh=True))
    yield from wrong
    if not wrong:
        manifest = codes_manifest(run)
        for entry in code_entries(run, manifest, sorted(manifest["shards"])):
            path = run.path / CODES / entry["file"]
            if "sha256" in entry:
                yield from _failures(compare, path, entry, run.redo, fresh=True)
            elif not path.is_file():
                yield f"{path}: missing; {run.redo}"


def _failures(check: Callable[..., object], *arguments: object, **options: object) -> Iterator[str]:
    """Yield the line of the error that a check raises."""
    try:
        check(*arguments, **options)
    except (DamagedError, ValueError) as error:
        yield " ".join(str(error).split())
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"
