"""Classes, images and shards of a data set: what counts as one, by the same rules in every set."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from ._decode import shown

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
HALVES = {"train": "training", "val": "validation"}
LABEL_LIMIT = 1 << 31  # class numbers of a data set are below
_MOST_NAMED = 5  # in an error

# error: a class that lacks images in a half is refused. keep: it stays a class. leave_out: it is no
# class if neither half has images of it.
OnEmptyClass = Literal["error", "keep", "leave_out"]

# Names that systems put into folders of images; so is every name with a leading dot.
_SYSTEM = frozenset(
    (
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),  # NAS
        *("__macosx", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "thumbnails", "desktop.ini", "$recycle.bin", "recycler"),
        *("system volume information", "found.000"),  # Windows
        *("lost+found", "__pycache__"),
    )
)


def is_hidden(name: str) -> bool:
    """Tell if an entry of a folder is hidden or a system's, and so neither class nor image."""
    return name.startswith(".") or name.lower() in _SYSTEM


# ------------------------------------------------------------------------------ folders of images


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder without hidden and system entries, sorted.

    ValueError names a folder that cannot be listed.
    """
    try:
        with os.scandir(folder) as listed:
            return sorted((e for e in listed if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise ValueError(f"data: {shown(folder)} cannot be listed: {error.strerror}") from error


def class_folders(folder: Path) -> list[str]:
    """List the names of the folders in `folder`, through links.

    Raises: ValueError for a link that leads nowhere, back above itself, or to the folder of another
    class.
    """
    above = _line_of(folder)
    seen: dict[tuple[int, int], str] = {}
    for entry in entries(folder):
        if not _is_folder(entry):
            continue
        place = _place(entry.path)
        if place in above:
            raise ValueError(
                f"data: {shown(entry.path)} is a link to a folder that it lies in; allowed: a "
                "folder of images of one class"
            )
        if place in seen:
            raise ValueError(
                f"data: {shown(entry.path)} and {shown(seen[place])} are one folder; allowed: a "
                "folder of its own for each class"
            )
        seen[place] = entry.path
    return [os.path.basename(path) for path in seen.values()]


def image_names(root: Path, below: str) -> list[str]:
    """List the image files anywhere under `root/below`, as names relative to `root`, sorted.

    Links are followed, but for those that lead back above themselves. ValueError names what cannot
    be listed and a link that leads nowhere. A link with the name of an image is listed wherever it
    leads: reading it tells.
    """
    names = []
    waiting = [(below, _line_of(root))]
    while waiting:
        prefix, above = waiting.pop()
        place = _place(root / prefix)
        if place in above:
            continue
        for entry in entries(root / prefix):
            if _is_folder(entry):
                waiting.append((f"{prefix}/{entry.name}", above | {place}))
            elif _is_image(entry.name):
                names.append(f"{prefix}/{entry.name}")
    return sorted(names)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        if entry.is_dir():
            return True
        if not entry.is_symlink() or _is_image(entry.name):
            return False
        os.stat(entry.path)
    except OSError as error:
        if _is_image(entry.name):
            return False
        link = (
            f"is a link to {shown(os.readlink(entry.path))}, which " if entry.is_symlink() else ""
        )
        raise ValueError(
            f"data: {shown(entry.path)} {link}cannot be read: {error.strerror}"
        ) from error
    return False


def _place(path: str | Path) -> tuple[int, int]:
    """Return device and number of a folder, which are the same by every way to it."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise ValueError(f"data: {shown(path)} cannot be read: {error.strerror}") from error
    return info.st_dev, info.st_ino


def _line_of(folder: Path) -> frozenset[tuple[int, int]]:
    """Return the places of a folder and of all folders above it."""
    real = folder.resolve()
    return frozenset(_place(path) for path in (real, *real.parents))


# ---------------------------------------------------------------------------------------- classes

Label = TypeVar("Label", str, int)


def classes_of(
    where: Path,
    labels: Mapping[str, Collection[Label]],
    declared: Iterable[Label],
    on_empty_class: OnEmptyClass,
    names: Mapping[Label, str] | None = None,
) -> list[Label]:
    """Return the classes, sorted: class number i is the i-th.

    `labels` has those with readable images in each half, `declared` those that the set names beside
    them. ValueError names classes that a half lacks, unless `on_empty_class` allows it.
    """
    classes: list[Label] = []
    lacking: list[tuple[Label, list[str]]] = []
    known: set[Label] = set(declared)
    known.update(labels["train"], labels["val"])
    for label in sorted(known):
        without = [half for half in HALVES if label not in labels[half]]
        if not without or on_empty_class == "keep":
            classes.append(label)
        elif on_empty_class == "error" or len(without) == 1:
            lacking.append((label, without))
    if lacking:
        first, without = lacking[0]
        several = f" ({len(lacking)} such classes: {_listed([x for x, _ in lacking])})"
        called = names.get(first) if names else None
        text = f"{first!r}" + (f" ({called})" if called else "")
        # A class that one half has cannot be left out: its images would go without a word.
        cures = "keep or leave_out" if len(without) == 2 else "keep"
        raise ValueError(
            f"data: {shown(where)}: class {text} has no readable images for "
            f"{' or '.join(HALVES[half] for half in without)}"
            f"{several if len(lacking) > 1 else ''}; allowed: classes with images in both halves, "
            f"or the option dataset.on_empty_class={cures}"
        )
    if not classes:
        raise ValueError(f"data: {shown(where)} has no class with images; allowed: one or more")
    return classes


def label_map(classes: Sequence[int]) -> tuple[int, ...] | None:
    """Return the label ids by class number; None where they are the same."""
    return None if list(classes) == list(range(len(classes))) else tuple(classes)


def checked_ids(labels_N: np.ndarray, name: str) -> np.ndarray:
    """Return label ids as int64. ValueError names one that cannot be the number of a class."""
    if len(labels_N):
        low, high = int(labels_N.min()), int(labels_N.max())
        if low < 0 or high >= LABEL_LIMIT:
            raise ValueError(
                f"data: {name} has the label {low if low < 0 else high}; allowed: 0 to 2^31 - 1"
            )
    return labels_N.astype(np.int64)


def refuse_row_ids(labels_N: np.ndarray, where: Path, column: str) -> None:
    """Raise ValueError when labels tell images apart, not classes: as many ids as images."""
    if len(labels_N) > 1 and len(np.unique(labels_N)) == len(labels_N):
        raise ValueError(
            f"data: {shown(where)}: column {column!r} has {len(labels_N)} labels for "
            f"{len(labels_N)} training images; allowed: labels of classes, fewer than images"
        )


# ----------------------------------------------------------------------------------------- shards

_SHARD = re.compile(
    r"(?P<stem>.*?)(?P<number>\d+)(?:[-_ ]?of[-_ ]?(?P<total>\d+)(?:-[0-9a-f]{8,})?)?", re.DOTALL
)
_SHARD_LIKE = re.compile(r"\d[-_ ]?of[-_ ]?\d")
_COPY = re.compile(r"(?P<base>.*?)(?:[ _-]*\(\d+\)|[ _-]+copy(?:[ _-]*\d+)?)", re.I | re.DOTALL)


def check_series(files: Sequence[Path]) -> None:
    """Raise ValueError when the shards of one half are incomplete or there twice, by their names.

    `-of-N` says how many there are. Other numbers count from 0 or 1, or have leading zeros; numbers
    that do neither (years, sizes) tell nothing.
    """
    series: dict[tuple[str, str | None], dict[int, Path]] = {}
    stems = {path.stem: path for path in files}
    for path in files:
        if (copy := _COPY.fullmatch(path.stem)) and copy["base"] in stems:
            raise _twice(stems[copy["base"]], path)
        match = _SHARD.fullmatch(path.stem)
        if match is None and _SHARD_LIKE.search(path.stem):
            raise ValueError(f"data: {shown(path)}: its name is no shard's; allowed: NAME-I-of-N")
        if match is None:
            continue
        known = series.setdefault((match["stem"], match["total"]), {})
        if (other := known.setdefault(int(match["number"]), path)) is not path:
            raise _twice(other, path)
    for (stem, total), known in series.items():
        first = next(iter(known.values()))
        if total is not None and (rest := [p for p in files if p not in known.values()]):
            raise _twice(first, rest[0])
        if (whole := stems.get(stem.rstrip("-_. "))) is not None:
            raise _twice(whole, first)
        _complete(stem, total, known)


def _complete(stem: str, total: str | None, known: Mapping[int, Path]) -> None:
    first = next(iter(known.values()))
    texts = [_number(stem, path) for path in known.values()]
    low, high = min(known), max(known)
    if total is not None:
        start = 0 if low == 0 or high < int(total) else 1
        wanted = range(start, start + int(total))
        if beyond := sorted(set(known) - set(wanted)):
            raise ValueError(
                f"data: {shown(known[beyond[0]])}: its number is not allowed; its series has "
                f"{int(total)} files"
            )
    else:
        if low > 1 and not any(text.startswith("0") for text in texts):
            return
        wanted = range(min(low, 1), high + 1)
    if missing := list(islice((i for i in wanted if i not in known), _MOST_NAMED + 1)):
        width = len(texts[0]) if any(t.startswith("0") for t in texts if t != "0") else 1
        lost = [f"{stem}{i:0{width}d}{f'-of-{total}' if total else ''}" for i in missing]
        raise ValueError(
            f"data: {shown(first.parent)} lacks {_listed(lost)}; allowed: a whole series of "
            f"files, and it has {len(known)} of {len(wanted)}"
        )


def _number(stem: str, path: Path) -> str:
    match = re.match(r"\d+", path.stem[len(stem) :])
    return match[0] if match else ""


def _twice(one: Path, other: Path) -> ValueError:
    return ValueError(
        f"data: {shown(one)} and {shown(other)} are not of one series; allowed: one series of "
        "files for each half, each file once"
    )


def _listed(items: Sequence[object]) -> str:
    """Join the first few of a list."""
    more = ", .." if len(items) > _MOST_NAMED else ""
    return ", ".join(shown(str(item)) for item in items[:_MOST_NAMED]) + more
