"""Image files of data sets on disk: content hashes that are kept, and one digest of all.

Hashing a large set takes as long as reading it, so the hash of each file is kept under
$TOKENLAW_HOME/cache by its path, size and modification time; a second check only asks the file
system for those.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...results_db.record import default_home
from ._decode import ReadError, Reading, decode_image, shown

KEEP_EVERY = 512  # files between two writes of the cache
_T = TypeVar("_T")
_THREADS = min(16, (os.cpu_count() or 1) * 2)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # a link that leads nowhere

# size, mtime_ns, sha256, which images are broken (by which rules), name in escapes
_LINE = re.compile(
    rb"(\d+)\t(-?\d+)\t([0-9a-f]{64})\t(?:-|[\d,]*|([0-9a-f]{8}):([\d,]*))\t"
    rb"((?:[ -\[\]-~]|\\[\\tnr]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U00(?:0[0-9a-f]|10)[0-9a-f]{4})+)"
)


def need_folder(dataset: str, folder: Path | None) -> Path:
    """Return the data folder. ValueError when none was given or there is none."""
    if folder is None:
        raise ValueError(
            f"data: {dataset} needs a folder; give --data {dataset}:FOLDER, or locations.data in "
            "the run's settings"
        )
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ValueError(f"data: {folder} is not a folder; {dataset} needs one")
    return folder


def need_split(split: str) -> None:
    if split not in ("train", "val"):
        raise ValueError(f"split: {split!r}, allowed: train, val")


@dataclass(frozen=True, slots=True)
class FileFact:
    """Name, size and hash of one file of a set, and its broken images."""

    name: str  # relative to the data folder
    size: int  # bytes
    sha256: str
    broken: tuple[int, ...] | None  # which of its images cannot be read; None: not tried


def file_facts(
    root: Path,
    names: Iterable[str],
    check: Callable[[Path, str], tuple[int, ...]] | None = None,
    rules: str = "",
) -> list[FileFact]:
    """Size and hash of every file, in the order of `names`, from the cache where it still holds.

    `check` tells which images of a file cannot be read; without it nothing is decoded. Its findings
    hold as long as `rules` is the same. ValueError names a file that is missing.
    """
    path = _cache_path(root)
    rule = hashlib.sha256(rules.encode()).hexdigest()[:8]
    known = _read_cache(path)
    facts: list[FileFact] = []
    fresh: list[str] = []

    def look(name: str) -> tuple[FileFact, str | None]:
        file = root / name
        info = _regular(file)
        if info is None:
            # A check of images finds it broken; any other raises, and so does a plain read.
            if check is not None and (missing := check(file, name)):
                return FileFact(name, 0, "", missing), None
            decode_image(file, file)
            raise ValueError(f"data: {shown(file)} changed while it was read")
        kept = known.get(name)
        sha256 = broken = None
        if kept is not None and kept[:2] == (info.st_size, info.st_mtime_ns):
            sha256 = kept[2]
            broken = kept[4] if kept[3] == rule else None
        if sha256 is not None and check is None:
            # What is broken was perhaps found for another config; this one did not ask.
            return FileFact(name, info.st_size, sha256, None), None
        if sha256 is not None and broken is not None:
            return FileFact(name, info.st_size, sha256, broken), None
        if sha256 is None:
            sha256 = _sha256(file)
        if check is not None:
            broken = check(file, name)
        fact = FileFact(name, info.st_size, sha256, broken)
        return fact, _cache_line(fact, info.st_mtime_ns, rule)

    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        for fact, line in _progress(pool.map(look, names), len(names)):
            facts.append(fact)
            if line is not None:
                fresh.append(line)
            if len(fresh) >= KEEP_EVERY:
                _append(path, fresh)
    _append(path, fresh)
    return facts


def digest_of(facts: Iterable[FileFact], also: str = "") -> str:
    """Hash (sha256) the sorted names, sizes and content hashes of files, and `also`."""
    digest = hashlib.sha256(also.encode())
    for fact in sorted(facts, key=lambda fact: fact.name):
        line = f"{fact.name}\0{fact.size}\0{fact.sha256}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))  # names may be any bytes
    return digest.hexdigest()


def in_both(facts: Iterable[FileFact], halves: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """List the files for validation that have the content of a file for training.

    `halves` has the names of each half, all of them in `facts`.
    """
    content = {fact.name: fact.sha256 for fact in facts}
    train = {content[name] for name in halves["train"]}
    return tuple(name for name in halves["val"] if content[name] in train)


def check_image_file(path: Path, name: str, reading: Reading | None = None) -> tuple[int, ...]:
    """Check a file of one image: the `check` of `file_facts`.

    ReadError where the machine cannot read a file that is there.
    """
    try:
        decode_image(path, path, reading)
    except ReadError as error:
        assert isinstance(error.__cause__, OSError)
        if error.__cause__.errno not in _GONE:
            raise
        return (0,)
    except ValueError:
        return (0,)
    return ()


class FileSplit:
    """Images that are one file each."""

    def __init__(
        self, root: Path, names: list[str], labels_N: np.ndarray, reading: Reading | None = None
    ) -> None:
        self._root, self._names, self._labels_N = root, names, labels_N
        self._reading = reading

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> np.ndarray:
        path = self._root / self._names[index]
        return decode_image(path, path, self._reading)

    def label(self, index: int) -> int:
        return int(self._labels_N[index])


def _regular(path: Path) -> os.stat_result | None:
    """Return the facts of a regular file; None for a broken link, a pipe, a device."""
    try:
        info = path.stat()
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise ReadError(f"data: {shown(path)} cannot be read: {error.strerror}") from error
    return info if stat.S_ISREG(info.st_mode) else None


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReadError(f"data: {shown(path)} cannot be read: {error.strerror}") from error


def _cache_path(root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return default_home() / "cache" / "files" / f"{key}.tsv"


def _cache_line(fact: FileFact, mtime_ns: int, rule: str) -> str:
    broken = "-" if fact.broken is None else f"{rule}:{','.join(map(str, fact.broken))}"
    name = fact.name.encode("unicode_escape").decode("ascii")  # no tabs or line breaks
    return f"{fact.size}\t{mtime_ns}\t{fact.sha256}\t{broken}\t{name}\n"


def _read_cache(path: Path) -> dict[str, tuple[int, int, str, str, tuple[int, ...] | None]]:
    """Read name -> size, mtime_ns, sha256, rule, broken images by that rule.

    A line that a crash or a full disk tore is no entry, whatever its bytes.
    """
    known = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    for line in content.split(b"\n")[:-1]:
        if (fields := _LINE.fullmatch(line)) is None:
            continue
        size, mtime_ns, sha256, rule, broken, name = fields.groups()
        images = None
        if rule is not None:
            images = tuple(int(index) for index in broken.split(b",") if index)
        text = name.decode("unicode_escape")
        rule = (rule or b"").decode()
        known[text] = (int(size), int(mtime_ns), sha256.decode(), rule, images)
    return known


def _append(path: Path, lines: list[str]) -> None:
    """Add lines to the cache in one write, lest processes mix theirs; empty `lines`."""
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a crash tore ends here, at the cost of an empty line.
        left = ("\n" + "".join(lines)).encode()
        try:
            with open(path, "ab", buffering=0) as file:
                while left:
                    left = left[file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        lines.clear()


def _progress(items: Iterable[_T], total: int) -> Iterator[_T]:
    """Yield `items`, with a bar on stderr where reading them takes long and a person watches."""
    if total < 20_000 or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, "checking data", total, console=Console(stderr=True))
