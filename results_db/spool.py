"""Markers that say which run folders hold news for the database.

An attempt leaves one when it claims its run, when its endpoint is linked and when it ends;
ingesting reads only these and removes a marker after the news is committed. What cannot be read is
moved to spool/quarantine with its reason.
"""

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .durable import sweep_temporaries, write_bytes, write_json
from .endpoint import KINDS, is_name
from .masking import mask_secrets
from .rundir import RunDir
from .strict_json import DamagedError, canonical_json, read_json

QUARANTINE = "quarantine"
_REASON = ".reason.json"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Marker:
    """A marker in the spool, checked: it names a kind and a run id."""

    path: Path
    kind: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Held:
    """Name a marker in quarantine."""

    name: str  # that it had in the spool
    reason: str
    path: Path  # the file that holds the reason


def spool_path(home: str | os.PathLike[str]) -> Path:
    """Return the spool folder under `home`."""
    return Path(home) / "spool"


def mark(home: str | os.PathLike[str], run_dir: str | os.PathLike[str] | RunDir) -> Path:
    """Mark, durably, that a run has news for the database. Repeated calls are harmless."""
    run = RunDir(run_dir)
    folder = spool_path(home)
    os.makedirs(folder, exist_ok=True)
    path = folder / f"{run.kind}-{run.id}"
    write_bytes(path, canonical_json({"kind": run.kind, "id": run.id}).encode() + b"\n")
    return path


def pending(home: str | os.PathLike[str]) -> list[Marker]:
    """Return the markers in the spool, by name; quarantine files that are no markers."""
    return take(home)[0]


def take(home: str | os.PathLike[str]) -> tuple[list[Marker], list[tuple[str, str]]]:
    """Return the spool's markers, and (name, reason) of the files quarantined on the way."""
    folder = spool_path(home)
    markers: list[Marker] = []
    rejected: list[tuple[str, str]] = []
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return markers, rejected
    for name in names:
        if name == QUARANTINE or name.startswith("."):
            continue
        path = folder / name
        try:
            markers.append(_checked(path))
        except FileNotFoundError:
            continue  # another process has ingested it since
        except DamagedError as error:
            if quarantine(home, path, str(error)) is not None:
                rejected.append((name, str(error)))
    return markers, rejected


def clear(marker: Marker) -> None:
    """Remove a marker. Call this only after its news is committed."""
    with _where_writable():
        marker.path.unlink(missing_ok=True)


def quarantine(
    home: str | os.PathLike[str], path: str | os.PathLike[str], reason: str
) -> Path | None:
    """Move a file of the spool to spool/quarantine, with the reason beside it.

    Returns None when it was gone already. In a home that may only be read it stays.
    """
    folder = spool_path(home) / QUARANTINE
    target = folder / f"{Path(path).name[:150]}.{secrets.token_hex(4)}"
    try:
        os.makedirs(folder, exist_ok=True)
        os.rename(path, target)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return Path(path)
    reason = mask_secrets(reason)[:4000]
    write_json(target.with_name(target.name + _REASON), {"file": Path(path).name, "reason": reason})
    return target


def quarantined(home: str | os.PathLike[str]) -> list[Held]:
    """List everything in quarantine, by name."""
    folder = spool_path(home) / QUARANTINE
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    held = []
    for name in names:
        if not name.endswith(_REASON):
            continue
        try:
            entry = read_json(folder / name)
            held.append(Held(str(entry["file"]), str(entry["reason"]), folder / name))
        except FileNotFoundError:
            continue  # another process has released it since
        except (DamagedError, KeyError, TypeError):
            original = name.removesuffix(_REASON).rpartition(".")[0]
            held.append(Held(original, "its reason cannot be read", folder / name))
    return held


def hold(home: str | os.PathLike[str], run: RunDir, reason: str) -> None:
    """Put a run in quarantine that has no marker in the spool."""
    with _where_writable():
        quarantine(home, mark(home, run), reason)


def release(held: Iterable[Held]) -> None:
    """Remove markers, and the reasons beside them, from quarantine."""
    for each in held:
        marker = each.path.with_name(each.path.name.removesuffix(_REASON))
        with _where_writable():
            if not marker.is_dir() or marker.is_symlink():  # a folder may hold what is not ours
                marker.unlink(missing_ok=True)
            each.path.unlink(missing_ok=True)


def sweep(home: str | os.PathLike[str]) -> None:
    """Remove temporary files that dead writers left in the spool."""
    with _where_writable():
        sweep_temporaries(spool_path(home))


@contextlib.contextmanager
def _where_writable() -> Iterator[None]:
    """Pass over a change to a home that may only be read: its markers are taken every time."""
    try:
        yield
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


def _checked(path: Path) -> Marker:
    content = read_json(path, limit_bytes=4096)
    kind, _, run_id = path.name.partition("-")
    if kind not in KINDS:
        raise DamagedError(f"{path.name}: unknown kind {kind!r}, allowed are {', '.join(KINDS)}")
    if not is_name(run_id):
        raise DamagedError(f"{path.name}: not a run id")
    if content != {"kind": kind, "id": run_id}:
        raise DamagedError(f"{path.name}: the content does not say what the name says")
    return Marker(path=path, kind=kind, run_id=run_id)
