"""A read-only copy of the code for jobs that wait in a queue: what is edited in the meantime cannot
reach them.

The copy is of the commit that is checked out, in `snapshots/COMMIT` of the home; uncommitted
changes are left out, with a warning, unless the working tree is asked for. Where the code is not a
git checkout (an installed package) its files are copied as they are.
"""

from __future__ import annotations

import compileall
import hashlib
import io
import os
import py_compile
import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ..results_db.durable import stage_folder, write_json
from ..results_db.provenance import CODE_ROOT, SNAPSHOT_COMMIT, provenance

PACKAGE = "tokenlaw"
_SHOWN = 5  # changed files named in the warning


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Code that jobs import."""

    path: Path
    commit: str | None
    dirty: bool | None
    warning: str | None  # what the jobs will not see


def take(home: Path, *, root: Path = CODE_ROOT, working_tree: bool = False) -> Snapshot:
    """Return the snapshot of the code in `root`; make it if it is not there yet.

    With `working_tree` it has the files as they are, changes included; else those of the commit.
    """
    if (root / SNAPSHOT_COMMIT).exists():
        known = provenance(root)
        return Snapshot(path=root, commit=known["commit"], dirty=known["dirty"], warning=None)
    commit = provenance(root)["commit"]
    changed = [] if commit is None else _changed(root)
    if commit is None or working_tree:
        dirty = None if commit is None else bool(changed)
        files = _files_of_tree(root)
        name = f"{commit[:16]}-{_digest(files)}" if commit else _digest(files)
        content = {"commit": commit, "dirty": dirty}
        return Snapshot(
            path=_stored(home, name, files, content), commit=commit, dirty=dirty, warning=None
        )
    path = _stored(home, commit, _files_of_commit(root, commit), {"commit": commit, "dirty": False})
    warning = None
    if changed:
        shown = ", ".join(changed[:_SHOWN]) + (", ..." if len(changed) > _SHOWN else "")
        warning = f"jobs run commit {commit[:12]}; uncommitted changes are not part of it: {shown}"
    return Snapshot(path=path, commit=commit, dirty=False, warning=warning)


def _changed(root: Path) -> list[str]:
    """List the files of the packages that differ from the commit, new ones included."""
    status = _git(root, "status", "--porcelain", "--", *_places(root)).decode()
    return [line[3:] for line in status.splitlines()]


def _stored(home: Path, name: str, files: dict[str, bytes], content: dict[str, object]) -> Path:
    path = home / "snapshots" / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with stage_folder(path) as staging:
            for relative, data in files.items():
                target = staging.path / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            write_json(staging.path / SNAPSHOT_COMMIT, content)
            # Compiled here, since jobs cannot write there; by content, since times are lost in
            # copies.
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            compileall.compile_dir(
                staging.path, quiet=2, invalidation_mode=mode, stripdir=str(staging.path)
            )
    except OSError:
        if path.exists():  # another launch was faster
            return path
        raise
    _make_read_only(path)
    return path


def _files_of_commit(root: Path, commit: str) -> dict[str, bytes]:
    places = _places(root)
    archive = _git(root, "archive", "--format=tar", commit, *places)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                folder, _, inside = member.name.partition("/")
                files[f"{places[folder]}/{inside}"] = file.read()
    return files


def _files_of_tree(root: Path) -> dict[str, bytes]:
    files = {}
    for place, package in _places(root).items():
        for folder, folders, names in os.walk(root / place):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink():
                    inside = path.relative_to(root / place).as_posix()
                    files[f"{package}/{inside}"] = path.read_bytes()
    return files


def _places(root: Path) -> dict[str, str]:
    """Return the folders of `root` that hold the code, and where a snapshot puts each.

    In a checkout `tokenlaw/trainer` is a link to `trainer`; a snapshot and an installed package
    have plain folders inside `tokenlaw`.
    """
    places = {PACKAGE: PACKAGE}
    for entry in sorted((root / PACKAGE).iterdir()):
        if entry.is_symlink():
            folder = entry.resolve().relative_to(root.resolve()).as_posix()
            places[folder] = f"{PACKAGE}/{entry.name}"
    return places


def _digest(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()[:16]


def _make_read_only(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            (Path(folder) / name).chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        Path(folder).chmod(0o555)


def remove(path: Path) -> None:
    """Remove a snapshot that nothing uses any more."""
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o755)
    shutil.rmtree(path)


def _git(root: Path, *arguments: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
