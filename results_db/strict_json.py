"""Read and write JSON strictly: no NaN, no key twice, one text for one value."""

import errno
import json
import math
import os
import stat
from typing import Any

# Reasons to refuse this file alone; others (no memory, too many open files) concern the process.
_OF_THE_FILE = frozenset(
    {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EIO, errno.EISDIR, errno.ENOTDIR}
)


class DamagedError(RuntimeError):
    """A file is missing, truncated, altered or not what it claims to be; the message names it."""


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(obj: Any, *, check_keys: bool = True) -> str:
    """Return the canonical JSON text of `obj`: sorted keys, no spaces, ASCII.

    Without `check_keys` a key that is not a string becomes one, in half the time.

    Raises:
        ValueError: a NaN, an infinity or a key that is not a string; the message gives the place.
    """
    if check_keys:
        _refuse_non_json(obj, "")
    try:
        return _ENCODER.encode(obj)
    except ValueError:
        _refuse_non_json(obj, "")
        raise


def read_json(path: str | os.PathLike[str], *, limit_bytes: int = 16 << 20) -> Any:
    """Decode a JSON file strictly: no NaN or infinity, no key given twice.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: not a plain file, larger than `limit_bytes`, or not such JSON.
    """
    data = read_plain(path, limit_bytes=limit_bytes)
    try:
        content = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            object_pairs_hook=_unique_keys,
        )
        if b"\\u" in data:
            _refuse_unstorable_text(content)
        return content
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not strict JSON: {error}") from error


def read_plain(path: str | os.PathLike[str], *, limit_bytes: int = 16 << 20) -> bytes:
    """Read a file that must be a plain one: no link is followed, no pipe waited for.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: not a plain file, larger than `limit_bytes`, or not readable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise DamagedError(f"{path}: not a plain file")
            if info.st_size > limit_bytes:
                raise DamagedError(f"{path}: {info.st_size} bytes, at most {limit_bytes} are read")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limit_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedError(f"{path}: not a plain file") from error
        if error.errno in _OF_THE_FILE:
            raise DamagedError(f"{path}: {error.strerror}") from error
        raise


def _refuse_non_json(obj: Any, place: str) -> None:
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{place or 'value'}: {obj}, allowed are finite numbers and null")
    elif isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise ValueError(f"{place or 'object'}: key {key!r}, allowed are strings")
            _refuse_non_json(value, f"{place}.{key}" if place else key)
    elif isinstance(obj, list | tuple):
        for index, value in enumerate(obj):
            _refuse_non_json(value, f"{place}[{index}]")


def _refuse_unstorable_text(obj: Any) -> None:
    """Refuse half characters and NUL, which JSON can spell and databases cannot hold."""
    if isinstance(obj, str):
        obj.encode()
        if "\0" in obj:
            raise ValueError("text with a NUL character")
    elif isinstance(obj, dict):
        for key, value in obj.items():
            _refuse_unstorable_text(key)
            _refuse_unstorable_text(value)
    elif isinstance(obj, list):
        for value in obj:
            _refuse_unstorable_text(value)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} given twice")
    return result
