"""Compares what a run left with what was recorded of it: weights with their manifest, codes with
theirs and that with the endpoint, artifacts with the endpoint.

Every function raises DamagedError, which names the file and says what to do, or MisplacedError,
where a file is another run's.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .durable import read_manifest, sha256_file
from .endpoint import artifact_path, is_name
from .rundir import RunDir
from .state import read_endpoint
from .strict_json import DamagedError, read_json

CODES = "codes"  # folder of a code set in its run
CODES_MANIFEST = "codes-manifest"  # the manifest's name among the artifacts
FINAL = "final"  # folder of a run's weights
_THREADS = 8  # that hash files at the same time


def folder_cure(run: RunDir, folder: Path) -> str:
    """Return the cure for a damaged folder of weights."""
    return run.redo if folder.name == FINAL else "or remove it: the run goes on without it"


def staged_manifest(run: RunDir, folder: Path) -> dict[str, Any]:
    """Read the manifest of a run's folder of weights without comparing the files with it."""
    cure = folder_cure(run, folder)
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        raise DamagedError(f"{error}; {cure}") from error
    meta = manifest.get("meta")
    run.check_owner(folder, meta.get("run") if isinstance(meta, dict) else None, cure)
    return manifest


def artifact_file(
    run: RunDir, endpoint: Mapping[str, Any], name: str, *, fresh: bool = False
) -> Path:
    """Return the file of an artifact that the endpoint lists, after comparing its hash."""
    entries = {entry["name"]: entry for entry in endpoint["artifacts"]}
    if name not in entries:
        raise DamagedError(f"{run.endpoint_path}: lists no artifact {name!r}; {run.redo}")
    path = run.path / artifact_path(entries[name]["file"])
    compare(path, entries[name], run.redo, fresh=fresh)
    return path


def codes_manifest(run: RunDir, *, fresh: bool = False) -> dict[str, Any]:
    """Read the manifest of a codes run after comparing it with the hash in the endpoint.

    There is nothing to compare it with where the run has no endpoint yet.
    """
    path = run.path / CODES / "manifest.json"
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing; {run.redo}") from error
    except DamagedError as error:
        raise DamagedError(f"{error}; {run.redo}") from error
    if not isinstance(manifest, dict):
        raise DamagedError(f"{path}: not a manifest; {run.redo}")
    run.check_owner(path.parent, manifest.get("run"))
    endpoint = read_endpoint(run)
    if endpoint is not None:
        if any(entry["name"] == CODES_MANIFEST for entry in endpoint["artifacts"]):
            artifact_file(run, endpoint, CODES_MANIFEST, fresh=fresh)
    return manifest


def code_entries(
    run: RunDir, manifest: Mapping[str, Any], splits: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the manifest's entries of the shards and labels of the splits.

    Entries of labels have no hash in older homes.
    """
    entries = [entry for split in splits for entry in manifest["shards"][split]]
    for split in splits:
        nameless = {"file": f"labels-{split}.npy"}
        entries.append(manifest.get("labels", {}).get(split, nameless))
    for entry in entries:
        if not is_name(entry["file"]):
            raise DamagedError(f"{run.path / CODES}: lists a file {entry['file']!r}; {run.redo}")
    return entries


def code_files(run: RunDir, manifest: Mapping[str, Any], splits: Sequence[str]) -> list[str]:
    """Compare the shards and labels of the splits with the manifest; gives the files for which it
    has no hash.
    """
    entries = code_entries(run, manifest, splits)
    listed = [entry for entry in entries if "sha256" in entry]

    def check(entry: Mapping[str, Any]) -> None:
        compare(run.path / CODES / entry["file"], entry, run.redo)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(check, listed))
    return [entry["file"] for entry in entries if "sha256" not in entry]


def compare(path: Path, entry: Mapping[str, Any], cure: str, *, fresh: bool = False) -> None:
    """Raise DamagedError unless the file at `path` has the sha256 of its entry."""
    try:
        found = sha256_file(path, fresh=fresh)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing; {cure}") from error
    except DamagedError as error:
        raise DamagedError(f"{error}; {cure}") from error
    if found != entry["sha256"]:
        raise DamagedError(f"{path}: not the file that was recorded (sha256 differs); {cure}")
