"""Remembered hashes of files that were read, so that they are not read again while nothing changed.

A line of a small file in the user's cache folder holds the version of a file (device, inode, size,
mtime_ns, ctime_ns) and its sha256. No user can set ctime, so an edited file is read again whatever
its size and mtime say. The memory is of one host, where devices have their numbers. It may be
deleted at any time: lines that are damaged are left out, and a memory that another user could have
written is not used at all.
"""

import contextlib
import os
import re
import secrets
import stat
import time
import zlib
from pathlib import Path

Version = tuple[int, ...]

LEAST_BYTES = 1 << 20  # smaller files are read as quickly as they are looked up
LIMIT_BYTES = 4 << 20  # of the memory; the older half is then dropped
# A change within the same tick of a file system's clock leaves ctime as it is; the slowest clocks
# tick once in two seconds.
_SETTLED_SECONDS = 2.0
_UNUSED_SECONDS = 90 * 24 * 3600.0  # hosts that are gone leave their memory behind
_ENTRY = re.compile(rb"([0-9a-f]{64}) ([0-9a-f]{8})")

_memories: dict[Path, dict[bytes, bytes]] = {}  # those that this process has read


def version(info: os.stat_result) -> Version:
    """Return the numbers that change with the content of a file."""
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def known(host: str, info: os.stat_result) -> str | None:
    """Return the remembered sha256 of a file of that version; None when it must be read."""
    if info.st_size < LEAST_BYTES:
        return None
    key = _key(version(info))
    match = _ENTRY.fullmatch(_memory(_path(host)).get(key, b""))
    if match is None or int(match[2], 16) != zlib.crc32(key + match[1]):
        return None
    return match[1].decode()


def remember(host: str, info: os.stat_result, sha256: str) -> None:
    """Keep the sha256 of a file that was read, if a later change would be seen.

    The memory only spares time: where it cannot be written nothing is kept, and nothing is said.
    """
    if info.st_size < LEAST_BYTES or time.time() - info.st_ctime < _SETTLED_SECONDS:
        return
    if known(host, info) == sha256:
        return
    path, key = _path(host), _key(version(info))
    entry = sha256.encode() + b" %08x" % zlib.crc32(key + sha256.encode())
    _memory(path)[key] = entry
    with contextlib.suppress(OSError):
        _append(path, key + b"=" + entry + b"\n")


def _key(of: Version) -> bytes:
    return " ".join(map(str, of)).encode()


def _path(host: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base else Path(os.path.expanduser("~")) / ".cache"
    return folder / "tokenlaw" / f"hashes-{host}"


def _memory(path: Path) -> dict[bytes, bytes]:
    if path not in _memories:
        content = b""
        with contextlib.suppress(OSError):
            content = _content(path)
        # Entries are looked at when they are asked for: there may be many.
        lines = (line.partition(b"=") for line in content.splitlines())
        _memories[path] = {key: entry for key, _, entry in lines if entry}
    return _memories[path]


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        _refuse_foreign(descriptor)
        return file.read(2 * LIMIT_BYTES)


def _append(path: Path, line: bytes) -> None:
    # One write at the end of the file: lines of several processes do not mix.
    os.makedirs(path.parent, mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        _refuse_foreign(descriptor)
        size = os.fstat(descriptor).st_size
        # A line that a crash cut short, or damage, must not swallow this one.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (b"\n" if torn else b"") + line)
    finally:
        os.close(descriptor)
    if size == 0:
        _drop_unused(path.parent)
    if size > LIMIT_BYTES:
        _halve(path)


def _halve(path: Path) -> None:
    kept = _content(path)[-LIMIT_BYTES // 2 :].partition(b"\n")[2]
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(kept)
    os.replace(temporary, path)


def _drop_unused(folder: Path) -> None:
    for path in folder.iterdir():
        ours = path.name.lstrip(".").startswith("hashes-")
        if ours and time.time() - path.lstat().st_mtime > _UNUSED_SECONDS:
            path.unlink()


def _refuse_foreign(descriptor: int) -> None:
    info = os.fstat(descriptor)
    shared = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or shared:
        raise PermissionError("a memory of hashes that others may have written")
