"""Images in folders, one per class, as ImageNet: FOLDER/train/CLASS/* and FOLDER/val/CLASS/*.

Class numbers are those of the sorted class names (for ImageNet: sorted WordNet ids, the order of
the published models). Both halves have the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from ..accounting.config import STRICT, CountInt
from . import Facts, Split
from ._classes import (
    SUFFIXES,
    OnEmptyClass,
    class_folders,
    classes_of,
    image_names,
)
from ._decode import Reading, pixel_rules, readability, shown
from ._files import (
    FileSplit,
    check_image_file,
    digest_of,
    file_facts,
    in_both,
    need_folder,
    need_split,
)
from ._held_out import check_held_out, held_out

VERSION = 1

REMEMBER_FROM = 10_000  # files from which one process asks the file system only once


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Reading):
    """Treatment of files that are no images, and the split where the folder does not give one."""

    __pydantic_config__ = STRICT

    on_broken: Literal["error", "skip"] = "error"  # skip: all are decoded once, the bad left out
    on_empty_class: OnEmptyClass = field(default="error", metadata={"id_default": "error"})
    # validation images where there is no folder `val`
    num_val_held_out: CountInt = field(default=0, metadata={"id_default": 0})


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest; hash every file the first time.

    ValueError names a folder that is missing or cannot be listed, and a class without images.
    """
    found = _scan(config, need_folder("imagefolder", folder))
    return Facts(
        digest=found.digest,
        num_classes=len(found.classes),
        num_train=len(found.names["train"]),
        num_val=len(found.names["val"]),
        skipped=found.skipped,
        class_names=found.classes,
        in_both=found.in_both,
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the images of one half, in the order of their sorted names."""
    need_split(split)
    root = need_folder("imagefolder", folder)
    found = _scan(config, root)
    number = {label: index for index, label in enumerate(found.classes)}
    names = found.names[split]
    labels_N = np.array([number[_class_of(name)] for name in names], np.int64)
    return FileSplit(root, names, labels_N, config)


def _class_of(name: str) -> str:
    return name.split("/")[1]


@dataclass(frozen=True, slots=True)
class _Scan:
    """Result of scanning the folder once."""

    classes: tuple[str, ...]
    names: dict[str, list[str]]  # of each half, without the broken ones
    digest: str
    skipped: int
    in_both: tuple[str, ...]


def _scan(config: Config, root: Path) -> _Scan:
    if not (root / "train").is_dir():
        raise ValueError(
            f"data: {shown(root / 'train')} is not there; imagefolder needs FOLDER/train/CLASS/* "
            "and FOLDER/val/CLASS/*"
        )
    has_val = (root / "val").is_dir()
    check_held_out(config.num_val_held_out, has_val, root / "train")
    parts = ("train", "val") if has_val else ("train",)
    classes = {part: tuple(class_folders(root / part)) for part in parts}
    # Adding or removing a file changes the time of its folder: enough to ask for a large set that
    # was read before by this process.
    folders = [root / part / name for part in parts for name in ("", *classes[part])]
    times = tuple(path.stat().st_mtime_ns for path in folders)
    found = _scan_at(config, root, times, tuple(classes.items()))
    if sum(map(len, found.names.values())) < REMEMBER_FROM:
        _scan_at.cache_clear()
    return found


@lru_cache(maxsize=2)
def _scan_at(
    config: Config,
    root: Path,
    times: tuple[int, ...],
    folders: tuple[tuple[str, tuple[str, ...]], ...],
) -> _Scan:
    names = {part: image_names(root, part) for part, _ in folders}
    for part, listed in names.items():
        if flat := [name for name in listed if name.count("/") < 2]:
            raise ValueError(
                f"data: {shown(root / flat[0])} lies in no class folder; allowed: "
                f"{part}/CLASS/IMAGE"
            )
        if not listed:
            raise ValueError(f"data: {root / part} holds no images ({', '.join(SUFFIXES)})")
    classes = _classes(config, root, folders, _halves(config, root, names))
    check = partial(check_image_file, reading=config) if config.on_broken == "skip" else None
    listed = [name for part in names.values() for name in part]
    facts = file_facts(root, listed, check, readability(config))
    broken = {fact.name for fact in facts if fact.broken}
    good = {part: [n for n in names[part] if n not in broken] for part in names}
    halves = _halves(config, root, good)
    if broken:
        classes = _classes(config, root, folders, halves)
    also = f" val {config.num_val_held_out}" if config.num_val_held_out else ""
    return _Scan(
        classes=tuple(classes),
        names=halves,
        digest=digest_of((f for f in facts if not f.broken), pixel_rules(config) + also),
        skipped=len(broken),
        in_both=in_both(facts, halves),
    )


def _classes(
    config: Config,
    root: Path,
    folders: tuple[tuple[str, tuple[str, ...]], ...],
    halves: dict[str, list[str]],
) -> list[str]:
    met = {half: set(map(_class_of, names)) for half, names in halves.items()}
    declared = {name for _, found in folders for name in found}
    return classes_of(root, met, declared, config.on_empty_class)


def _halves(config: Config, root: Path, names: dict[str, list[str]]) -> dict[str, list[str]]:
    """Divide the training images where there is no folder `val`."""
    if not config.num_val_held_out:
        return names
    train = names["train"]
    _, labels_N = np.unique([_class_of(name) for name in train], return_inverse=True)
    is_val_N = held_out(train, labels_N, config.num_val_held_out, shown(root / "train"))
    return {
        "train": [name for name, is_val in zip(train, is_val_N, strict=True) if not is_val],
        "val": [name for name, is_val in zip(train, is_val_N, strict=True) if is_val],
    }
