"""Image files of data sets on disk: decoding, content hashes that are kept, and one digest of all.

Hashing a large set takes as long as reading it, so the hash of each file is kept under
$TOKENLAW_HOME/cache by its path, size and modification time; a second check only asks the file
system for those.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ...results_db.record import default_home

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
KEEP_EVERY = 512  # files between two writes of the cache
_T = TypeVar("_T")
_THREADS = min(16, (os.cpu_count() or 1) * 2)


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


def decode_image(source: bytes | Path, name: str) -> np.ndarray:
    """Decode an image into uint8 RGB [H, W, 3]. ValueError names a file that cannot be read."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            # Pillow warns of palettes with transparency unless alpha is made explicit first.
            palette = image.mode == "P" and "transparency" in image.info
            return np.asarray((image.convert("RGBA") if palette else image).convert("RGB"))
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"data: {name} cannot be read as an image: {error}") from error


def image_names(root: Path, below: str) -> list[str]:
    """Image files anywhere under `root/below`, as names relative to `root`, sorted."""
    found = []
    for parent, _, files in os.walk(root / below):
        prefix = Path(parent).relative_to(root).as_posix()
        found += [
            f"{prefix}/{file}" for file in files if os.path.splitext(file)[1].lower() in SUFFIXES
        ]
    return sorted(found)


@dataclass(frozen=True, slots=True)
class FileFact:
    """Name, size and hash of one file of a set, and its broken images."""

    name: str  # relative to the data folder
    size: int  # bytes
    sha256: str
    broken: tuple[int, ...] | None  # which of its images cannot be read; None: not tried


def file_facts(
    root: Path, names: Iterable[str], check: Callable[[Path, str], tuple[int, ...]] | None = None
) -> list[FileFact]:
    """Size and hash of every file, in the order of `names`, from the cache where it still holds.

    `check` tells which images of a file cannot be read; without it nothing is decoded. ValueError
    names a file that is missing.
    """
    path = _cache_path(root)
    known = _read_cache(path)
    facts: list[FileFact] = []
    fresh: list[str] = []

    def look(name: str) -> tuple[FileFact, str | None]:
        file = root / name
        try:
            info = file.stat()
        except OSError as error:
            raise ValueError(f"data: {file} cannot be read: {error.strerror}") from error
        kept = known.get(name)
        sha256 = broken = None
        if kept is not None and kept[:2] == (info.st_size, info.st_mtime_ns):
            sha256, broken = kept[2], kept[3]
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
        return fact, _cache_line(fact, info.st_mtime_ns)

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
        digest.update(f"{fact.name}\0{fact.size}\0{fact.sha256}\n".encode())
    return digest.hexdigest()


def check_image_file(path: Path, name: str) -> tuple[int, ...]:
    """Check a file of one image: the `check` of `file_facts`."""
    try:
        decode_image(path, name)
    except ValueError:
        return (0,)
    return ()


class FileSplit:
    """Images that are one file each."""

    def __init__(self, root: Path, names: list[str], labels_N: np.ndarray) -> None:
        self._root, self._names, self._labels_N = root, names, labels_N

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> np.ndarray:
        path = self._root / self._names[index]
        return decode_image(path, str(path))

    def label(self, index: int) -> int:
        return int(self._labels_N[index])


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"data: {path} cannot be read: {error.strerror}") from error


def _cache_path(root: Path) -> Path:
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return default_home() / "cache" / "files" / f"{key}.tsv"


def _cache_line(fact: FileFact, mtime_ns: int) -> str:
    broken = "-" if fact.broken is None else ",".join(map(str, fact.broken))
    name = fact.name.encode("unicode_escape").decode("ascii")  # no tabs or line breaks
    return f"{fact.size}\t{mtime_ns}\t{fact.sha256}\t{broken}\t{name}\n"


def _read_cache(path: Path) -> dict[str, tuple[int, int, str, tuple[int, ...] | None]]:
    """Read name -> size, mtime_ns, sha256, broken; a line torn by a crash is no entry."""
    known = {}
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    for line in text.splitlines(keepends=True):
        fields = line.split("\t")
        if len(fields) != 5 or not line.endswith("\n") or len(fields[2]) != 64:
            continue
        size, mtime_ns, sha256, broken, name = fields
        images = None
        if broken != "-":
            images = tuple(int(index) for index in broken.split(",") if index)
        name = name[:-1].encode("ascii").decode("unicode_escape")
        known[name] = (int(size), int(mtime_ns), sha256, images)
    return known


def _append(path: Path, lines: list[str]) -> None:
    """Add lines to the cache in one write, lest processes mix theirs; empty `lines`."""
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a crash tore ends here, at the cost of an empty line.
        with open(path, "ab", buffering=0) as file:
            file.write(("\n" + "".join(lines)).encode())
        lines.clear()


def _progress(items: Iterable[_T], total: int) -> Iterator[_T]:
    """Yield `items`, with a bar on stderr where reading them takes long and a person watches."""
    if total < 20_000 or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, "checking data", total, console=Console(stderr=True))
