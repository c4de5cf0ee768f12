"""Images in folders, one per class, as ImageNet: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*.

Class numbers are those of the sorted class names of the training half (for ImageNet: sorted WordNet
ids, the order of the published models).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..accounting.config import STRICT
from . import Facts, Split
from ._decode import Reading, pixel_rules, readability
from ._files import (
    SUFFIXES,
    FileSplit,
    check_image_file,
    digest_of,
    file_facts,
    image_names,
    need_folder,
    need_split,
)

VERSION = 1

REMEMBER_FROM = 10_000  # files from which one process asks the file system only once


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Reading):
    """Treatment of files that are no images."""

    __pydantic_config__ = STRICT

    on_broken: Literal["error", "skip"] = "error"  # skip: all are decoded once, the bad left out


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest; hash every file the first time.

    ValueError names a missing folder, or a class of the validation half that the training half does
    not have.
    """
    found = _scan(config, need_folder("imagefolder", folder))
    return Facts(
        digest=found.digest,
        num_classes=len(found.classes),
        num_train=len(found.names["train"]),
        num_val=len(found.names["val"]),
        skipped=found.skipped,
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the images of one half, in the order of their sorted names."""
    need_split(split)
    root = need_folder("imagefolder", folder)
    found = _scan(config, root)
    number = {label: index for index, label in enumerate(found.classes)}
    names = found.names[split]
    labels_N = np.array([number[name.split("/")[1]] for name in names], np.int64)
    return FileSplit(root, names, labels_N, config)


@dataclass(frozen=True, slots=True)
class _Scan:
    """Result of scanning the folder once."""

    classes: tuple[str, ...]
    names: dict[str, list[str]]  # of each half, without the broken ones
    digest: str
    skipped: int


def _scan(config: Config, root: Path) -> _Scan:
    classes = _class_folders(root, "train")
    in_val = _class_folders(root, "val")
    if unknown := sorted(set(in_val) - set(classes)):
        raise ValueError(
            f"data: {root / 'val' / unknown[0]} is a class that {root / 'train'} does not have"
        )
    # Adding or removing a file changes the time of its folder: enough to ask for a large set that
    # was read before by this process.
    folders = [root / "train" / name for name in classes] + [root / "val" / name for name in in_val]
    times = tuple(path.stat().st_mtime_ns for path in [root / "train", root / "val", *folders])
    found = _scan_at(config, root, times, tuple(classes))
    if sum(map(len, found.names.values())) < REMEMBER_FROM:
        _scan_at.cache_clear()
    return found


@lru_cache(maxsize=2)
def _scan_at(config: Config, root: Path, times: tuple[int, ...], classes: tuple[str, ...]) -> _Scan:
    names = {}
    for split in ("train", "val"):
        names[split] = image_names(root, split)
        if flat := [name for name in names[split] if name.count("/") < 2]:
            raise ValueError(
                f"data: {root / flat[0]} lies in no class folder; allowed: {split}/CLASS/IMAGE"
            )
        if not names[split]:
            raise ValueError(f"data: {root / split} holds no images ({', '.join(SUFFIXES)})")
    check = partial(check_image_file, reading=config) if config.on_broken == "skip" else None
    facts = file_facts(root, names["train"] + names["val"], check, readability(config))
    broken = {fact.name for fact in facts if fact.broken}
    return _Scan(
        classes=classes,
        names={split: [n for n in names[split] if n not in broken] for split in names},
        digest=digest_of((fact for fact in facts if not fact.broken), pixel_rules(config)),
        skipped=len(broken),
    )


def _class_folders(root: Path, split: str) -> list[str]:
    try:
        with os.scandir(root / split) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise ValueError(
            f"data: {root / split} cannot be read: {error.strerror}; imagefolder needs "
            "FOLDER/train/CLASS/* and FOLDER/val/CLASS/*"
        ) from error
