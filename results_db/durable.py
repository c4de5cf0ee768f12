"""The one durable writer: what must survive a crash is written here and nowhere else.

A file or folder appears under its final name complete or not at all: it is made under a temporary
name in the same folder, synced, renamed (or linked, where the first writer must win), and the
folder is synced. A sync that failed is never tried again on the same file, because the kernel may
have dropped the pages that it could not write.

All calls are looked up on `os` when they are made, so that a fault harness can replace them.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import hash_cache
from .processes import host_name, process_is_alive
from .strict_json import DamagedError, canonical_json, read_json

MANIFEST = "manifest.json"
_PREFIX = ".tmp-"
_TEMPORARY = re.compile(r"^\.tmp-(?P<host>[A-Za-z0-9_.-]*)@(?P<pid>\d+)@[0-9a-f]{12}@")
_FOREIGN_TEMPORARY_SECONDS = 24 * 3600  # a writer on another host cannot be asked whether it lives
_CHUNK_BYTES = 1 << 20

# Hashes of large files that this process has read or written. So many bytes take longer than the
# clock of a file system ticks, so that a change after them shows in the file's times.
_REMEMBERED_BYTES = 64 << 20
_hashed: dict[tuple[int, ...], dict[str, Any]] = {}

# Temporary names this process is using right now: a sweep in another thread must leave them alone.
_in_flight: set[str] = set()


class MisplacedError(DamagedError):
    """A file or folder belongs to another run than the one where it lies."""


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file `path` by `data`, durably. On any error the old content stays.

    A folder in its place is put aside.
    """
    final = Path(path)
    with _temporary(final) as temporary:
        _write_synced(temporary, data)
        _replace(temporary, final)
        sync_folder(final.parent)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Replace the file `path` by the canonical JSON of `obj`, durably; ValueError on NaN."""
    write_bytes(path, canonical_json(obj).encode() + b"\n")


def create_exclusive(path: str | os.PathLike[str], data: bytes) -> bool:
    """Create the file `path` with `data`, durably, if no file has that name.

    Returns: True when this call made the file, False when the name was taken. Of any number of
        callers on any number of hosts exactly one gets True, and nobody ever sees a part of the
        content under the name.

    Raises:
        OSError: also where the file system has no hard links; there is no weaker way round.
    """
    final = Path(path)
    if os.path.lexists(final):
        return False
    with _temporary(final) as temporary:
        _write_synced(temporary, data)
        try:
            os.link(temporary, final)
        except FileExistsError:
            # Over NFS the reply to a link that worked can be lost and the repeated request then
            # fails: two names on our own file prove that the first one was ours.
            if os.stat(temporary).st_nlink < 2:
                return False
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise OSError(
                    error.errno,
                    "the file system makes no hard links, which exclusive files need",
                    str(final),
                ) from error
            raise
        sync_folder(final.parent)
    return True


def replace_fast(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file `path` by `data` atomically, without a sync.

    This is for heartbeats, which may be lost.
    """
    final = Path(path)
    with _temporary(final) as temporary:
        with open(temporary, "xb") as file:
            file.write(data)
        _replace(temporary, final)


def put_aside(path: str | os.PathLike[str]) -> Path:
    """Rename what is damaged, so that its name is free; return the new path, NAME.damaged-TOKEN."""
    damaged = Path(path)
    aside = damaged.with_name(f"{damaged.name}.damaged-{secrets.token_hex(4)}")
    os.rename(damaged, aside)
    return aside


def _replace(temporary: Path, final: Path) -> None:
    try:
        os.replace(temporary, final)
    except IsADirectoryError:
        put_aside(final)
        os.replace(temporary, final)


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Add one line to a log, without a sync.

    After a torn line (a crash) the new one starts on a line of its own.
    """
    if "\n" in line:
        raise ValueError(f"line: contains a line break, allowed is one line: {line[:80]!r}")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o666), "ab+", buffering=0) as file:
        torn = False
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + line.encode() + b"\n")


class Staging:
    """A folder being filled under a temporary name; `path` is that folder, `meta` goes into its
    manifest.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta

    def file(self, name: str) -> Path:
        """Return the path at which to write the file `name` of the folder."""
        return self.path / _checked_name(name)


@contextlib.contextmanager
def stage_folder(
    final_path: str | os.PathLike[str],
    attempt: int | None = None,
    meta: dict[str, Any] | None = None,
) -> Iterator[Staging]:
    """Stage a folder that appears at `final_path` complete and durable when the block ends well.

    The block gets a `Staging` beside that path. Every file is synced and listed in `manifest.json`:
    {"name", "attempt", "files": {name: {"sha256", "bytes"}}, "meta"}. When the block or a write
    fails, nothing is left under the final name.

    Raises:
        FileExistsError: the final name is taken (`remove_folder` first).
    """
    final = Path(final_path)
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "the folder is there already", str(final))
    with _temporary(final) as temporary:
        os.mkdir(temporary)
        staging = Staging(temporary, dict(meta or {}))
        yield staging
        files = {}
        for name in _files_below(temporary):
            files[name] = _sync_and_hash(temporary / name)
        manifest = {"name": final.name, "attempt": attempt, "files": files, "meta": staging.meta}
        _write_synced(temporary / MANIFEST, canonical_json(manifest).encode() + b"\n")
        for folder, _, _ in os.walk(temporary, topdown=False):
            sync_folder(folder)
        os.rename(temporary, final)
        sync_folder(final.parent)


def verify_folder(path: str | os.PathLike[str], *, fresh: bool = False) -> dict[str, Any]:
    """Compare every file of a staged folder with its manifest and return the manifest.

    Files that did not change since they were hashed are not read again, unless `fresh`.

    Raises: DamagedError: names the first file that is missing, altered, a link, or not the folder's
        own.
    """
    manifest = read_manifest(path)
    for name, expected in sorted(manifest["files"].items()):
        file = Path(path) / name
        try:
            found = _hash(Path(path) / _checked_name(name), fresh)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{file}: {error}") from error
        if found != expected:
            raise DamagedError(
                f"{file}: {found['bytes']} bytes whose sha256 or size is not the manifest's"
            )
    return manifest


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a staged folder without comparing the files with it.

    Raises: DamagedError: there is none, or it is of a folder of another name.
    """
    folder = Path(path)
    if not folder.is_dir() or folder.is_symlink():
        raise DamagedError(f"{folder}: no such folder")
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError as error:
        raise DamagedError(f"{folder / MANIFEST}: missing") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{folder / MANIFEST}: not a manifest")
    if manifest.get("name") != folder.name:
        raise DamagedError(
            f"{folder / MANIFEST}: belongs to a folder called {manifest.get('name')!r}"
        )
    return manifest


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder, if it is there, so that nobody sees it half-removed under its name."""
    final = Path(path)
    with _temporary(final) as temporary:
        try:
            os.rename(final, temporary)
        except FileNotFoundError:
            return
        sync_folder(final.parent)


def sweep_temporaries(folder: str | os.PathLike[str], *, all_writers: bool = False) -> list[str]:
    """Remove the temporaries of dead writers in `folder` (not below it); return their names.

    A temporary of a process alive on this host is kept, one of another host for a day. With
    `all_writers` only this process's own are kept: for a folder that the caller alone may write.
    """
    removed: list[str] = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return removed
    for name in sorted(names):
        match = _TEMPORARY.match(name)
        if match is None or name in _in_flight:
            continue
        path = Path(folder) / name
        if not all_writers and not _is_stale(path, match["host"], int(match["pid"])):
            continue
        _remove_temporary(path)
        removed.append(name)
    return removed


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: str | os.PathLike[str], *, fresh: bool = False) -> str:
    """Return the sha256 of a plain file, in hex; `fresh`: read it even if a hash is remembered."""
    return str(_hash(Path(path), fresh)["sha256"])


def remember_hash(path: str | os.PathLike[str], sha256: str) -> None:
    """Remember the sha256, in hex, of a plain file that this process has just written.

    The file need not be read again for its hash. Small files are read all the same.
    """
    info = os.lstat(path)
    if info.st_size >= _REMEMBERED_BYTES:
        _hashed[hash_cache.version(info)] = {"sha256": sha256, "bytes": info.st_size}


@contextlib.contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """Give a fresh temporary path beside `final`; remove what is left there at the end."""
    name = f"{_PREFIX}{host_name()}@{os.getpid()}@{secrets.token_hex(6)}@{final.name[:100]}"
    _in_flight.add(name)
    path = final.parent / name
    try:
        yield path
    except BaseException:
        # The reason to report is the first error; what cannot be removed now is swept when the next
        # attempt starts.
        with contextlib.suppress(OSError):
            _remove_temporary(path)
        raise
    else:
        _remove_temporary(path)
    finally:
        _in_flight.discard(name)


def _remove_temporary(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return


def _is_stale(path: Path, host: str, pid: int) -> bool:
    if host == host_name():
        return pid == os.getpid() or not process_is_alive(pid)
    try:
        return time.time() - os.lstat(path).st_mtime > _FOREIGN_TEMPORARY_SECONDS
    except FileNotFoundError:
        return False


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file, ThreadPoolExecutor(1) as pool:
        found = pool.submit(_hash, path)  # the disk works meanwhile
        os.fsync(file.fileno())
        return found.result()


def _hash(path: Path, fresh: bool = False) -> dict[str, Any]:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise DamagedError(f"{path}: not a plain file")
    with open(path, "rb") as file:
        # Of the open file: a network file system asks its server when a file is opened.
        info = os.fstat(file.fileno())
        version = hash_cache.version(info)
        if not fresh:
            if version in _hashed:
                return dict(_hashed[version])
            if (known := hash_cache.known(host_name(), info)) is not None:
                return {"sha256": known, "bytes": info.st_size}
        digest = hashlib.sha256()
        size = 0
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        unchanged = hash_cache.version(os.fstat(file.fileno())) == version
    found = {"sha256": digest.hexdigest(), "bytes": size}
    if unchanged:
        if size >= _REMEMBERED_BYTES:
            _hashed[version] = dict(found)
        hash_cache.remember(host_name(), info, digest.hexdigest())
    return found


def _files_below(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink():
                raise ValueError(f"{path}: a link, allowed are plain files and folders")
        names += [(Path(parent) / name).relative_to(folder).as_posix() for name in files]
    if MANIFEST in names:
        raise ValueError(
            f"{folder / MANIFEST}: the manifest is written by the writer, choose another name"
        )
    return sorted(names)


def _checked_name(name: str) -> str:
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError(
            f"file name: {name!r}, allowed is a relative path that stays inside the folder"
        )
    return name
