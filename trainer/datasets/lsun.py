"""LSUN, one category: exported image folders, or its lmdb where the `lmdb` package is installed.

FOLDER holds CATEGORY_train and CATEGORY_val with image files at any depth, or the published
databases CATEGORY_train_lmdb and CATEGORY_val_lmdb. Object categories (cat, horse, ..) have one
part only, called CATEGORY or CATEGORY_lmdb. `num_val_held_out` images of the training part are for
validation instead of a validation part: a scene category has 300 images there.

LSUN has no classes: every label is 0.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...results_db.record import default_home
from ..accounting.config import STRICT, CountInt
from . import Facts, Split
from ._files import (
    FileSplit,
    check_image_file,
    decode_image,
    digest_of,
    file_facts,
    image_names,
    need_folder,
    need_split,
)

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The category, and its split where LSUN does not give one."""

    __pydantic_config__ = STRICT

    category: Annotated[str, Field(pattern="^[a-z0-9_]+$")] = "bedroom"  # as in its file names
    # Validation images, held out of the training part; 0: the validation part.
    num_val_held_out: CountInt = 0
    on_broken: Literal["error", "skip"] = "error"  # skip: all are decoded once, the bad left out


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest; hash every file the first time. ValueError names a missing file."""
    source = _source(config, need_folder("lsun", folder))
    keys = source.keys()
    return Facts(
        digest=source.digest(),
        num_classes=1,
        num_train=len(keys["train"]),
        num_val=len(keys["val"]),
        skipped=source.skipped,
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the images of one half, sorted by name or key."""
    need_split(split)
    return _source(config, need_folder("lsun", folder)).open(split)


def _source(config: Config, root: Path) -> _Folders | _Databases:
    name = config.category
    layouts: tuple[tuple[type[_Folders | _Databases], dict[str, str]], ...] = (
        (_Folders, {"train": f"{name}_train", "val": f"{name}_val"}),
        (_Databases, {"train": f"{name}_train_lmdb", "val": f"{name}_val_lmdb"}),
        (_Databases, {"train": f"{name}_lmdb"}),
        (_Databases, {"train": name}),
        (_Folders, {"train": name}),
    )
    for kind, places in layouts:
        found = all((root / place).is_dir() for place in places.values())
        is_database = found and (root / places["train"] / "data.mdb").is_file()
        if found and is_database == (kind is _Databases):
            if "val" not in places and config.num_val_held_out == 0:
                raise ValueError(
                    f"data: {root / places['train']} has no validation part; give "
                    "dataset.num_val_held_out, the number of its images to hold out"
                )
            if config.num_val_held_out > 0:
                places = {"train": places["train"]}
            return kind(config, root, places)
    raise ValueError(
        f"data: {root} holds no LSUN {name}; allowed: {name}_train and {name}_val, as folders of "
        f"images or with _lmdb as databases, or one part called {name} or {name}_lmdb"
    )


def _split(config: Config, keys: dict[str, list[str]], where: Path) -> dict[str, list[str]]:
    """Train and val; held-out images are the first in an order of hashes, which is the same
    everywhere.
    """
    if "val" in keys:
        return keys
    names, count = keys["train"], config.num_val_held_out
    if count >= len(names):
        raise ValueError(
            f"dataset.num_val_held_out: {count} is not allowed; {where} has {len(names)} images"
        )
    order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    held = set(order[:count])
    return {
        "train": [name for name in names if name not in held],
        "val": [name for name in names if name in held],
    }


class _Folders:
    """Exported image files."""

    def __init__(self, config: Config, root: Path, places: dict[str, str]) -> None:
        self._config, self._root = config, root
        names = {split: image_names(root, place) for split, place in places.items()}
        for split, place in places.items():
            if not names[split]:
                raise ValueError(f"data: {root / place} holds no images")
        check = check_image_file if config.on_broken == "skip" else None
        self._facts = file_facts(root, [n for part in names.values() for n in part], check)
        broken = {fact.name for fact in self._facts if fact.broken}
        self.skipped = len(broken)
        good = {split: [n for n in part if n not in broken] for split, part in names.items()}
        self._keys = _split(config, good, root / places["train"])

    def keys(self) -> dict[str, list[str]]:
        return self._keys

    def digest(self) -> str:
        good = (fact for fact in self._facts if not fact.broken)
        return digest_of(good, f"val {len(self._keys['val'])}")

    def open(self, split: str) -> Split:
        names = self._keys[split]
        return FileSplit(self._root, names, np.zeros(len(names), np.int64))


class _Databases:
    """The published lmdb: key = name, value = encoded image."""

    def __init__(self, config: Config, root: Path, places: dict[str, str]) -> None:
        self._config, self._root, self._places = config, root, places
        names = [f"{place}/data.mdb" for place in places.values()]
        check = _broken_entries if config.on_broken == "skip" else None
        self._facts = file_facts(root, names, check)
        keys, self.skipped = {}, 0
        for split, fact in zip(places, self._facts, strict=True):
            listed = _database_keys((root / fact.name).parent, fact.sha256)
            broken = set(fact.broken or ())
            self.skipped += len(broken)
            keys[split] = [key for place, key in enumerate(listed) if place not in broken]
        self._keys = _split(config, keys, root / places["train"])

    def keys(self) -> dict[str, list[str]]:
        return self._keys

    def digest(self) -> str:
        left_out = [fact.broken for fact in self._facts if fact.broken]
        return digest_of(self._facts, f"val {len(self._keys['val'])} {left_out or ''}")

    def open(self, split: str) -> Split:
        place = self._places.get(split, self._places["train"])
        return _Entries(self._root / place, self._keys[split])


class _Entries:
    """Some entries of one database."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self._path, self._keys = path, keys
        self._database: Any = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def image(self, index: int) -> np.ndarray:
        with self._lock:
            if self._database is None:
                self._database = _open_database(self._path)
        with self._database.begin(write=False) as reading:
            encoded = reading.get(self._keys[index].encode())
        name = f"{self._path} key {self._keys[index]}"
        if encoded is None:
            raise ValueError(f"data: {name} is missing")
        return decode_image(bytes(encoded), name)

    def label(self, index: int) -> int:
        return 0


@lru_cache(maxsize=4)
def _open_database(path: Path) -> Any:
    # lmdb refuses to open one file twice in a process.
    try:
        import lmdb
    except ImportError:
        raise ValueError(
            f"data: {path} is an lmdb, and the package lmdb is not installed; install it, or "
            "export the images to a folder"
        ) from None
    return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=256)


def _database_keys(path: Path, sha256: str) -> list[str]:
    """Sorted keys; listing millions takes minutes, so the list is kept beside the file hashes."""
    kept = default_home() / "cache" / "files" / f"lmdb-{sha256[:16]}.txt"
    try:
        return kept.read_text().split()
    except FileNotFoundError:
        pass
    with _open_database(path).begin(write=False) as reading:
        keys = sorted(bytes(key).decode() for key in reading.cursor().iternext(values=False))
    _keep_keys(kept, keys)
    return keys


def _keep_keys(path: Path, keys: list[str]) -> None:
    from ...results_db.durable import replace_fast

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_fast(path, "\n".join(keys).encode())


def _broken_entries(path: Path, name: str) -> tuple[int, ...]:
    """Find the places, among the sorted keys, of the images that cannot be decoded."""
    with _open_database(path.parent).begin(write=False) as reading:
        keys = sorted(bytes(key) for key in reading.cursor().iternext(values=False))
        bad = []
        for place, key in enumerate(keys):
            try:
                decode_image(bytes(reading.get(key)), f"{path} key {key!r}")
            except ValueError:
                bad.append(place)
    return tuple(bad)
