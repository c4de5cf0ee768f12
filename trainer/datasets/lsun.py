"""LSUN, one category: exported image folders, or its lmdb where the `lmdb` package is installed.

FOLDER holds CATEGORY_train and CATEGORY_val with image files at any depth, or the published
databases CATEGORY_train_lmdb and CATEGORY_val_lmdb. Object categories (cat, horse, ..) have one
part only, called CATEGORY or CATEGORY_lmdb. `num_val_held_out` images of the training part are for
validation instead of a validation part: a scene category has 300 images there.

LSUN has no classes: every label is 0.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...results_db.record import default_home
from ..accounting.config import STRICT, CountInt
from . import Facts, Split
from ._classes import HALVES, image_names
from ._decode import Reading, decode_image, pixel_rules, readability, shown
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Reading):
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
        in_both=source.in_both(),
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
            if config.num_val_held_out > 0:
                places = {"train": places["train"]}
            check_held_out(config.num_val_held_out, "val" in places, root / places["train"])
            return kind(config, root, places)
    raise ValueError(
        f"data: {root} holds no LSUN {name}; allowed: {name}_train and {name}_val, as folders of "
        f"images or with _lmdb as databases, or one part called {name} or {name}_lmdb"
    )


def _split(config: Config, keys: dict[str, list[str]], where: Path) -> dict[str, list[str]]:
    """Divide the keys into train and val; ValueError when a half has no readable images."""
    if "val" not in keys:
        names = keys["train"]
        labels_N = np.zeros(len(names), np.int64)
        is_val_N = held_out(names, labels_N, config.num_val_held_out, shown(where))
        keys = {
            "train": [name for name, is_val in zip(names, is_val_N, strict=True) if not is_val],
            "val": [name for name, is_val in zip(names, is_val_N, strict=True) if is_val],
        }
    for half, listed in keys.items():
        if not listed:
            raise ValueError(
                f"data: {shown(where)} has no readable images for {HALVES[half]}; allowed: one or "
                "more"
            )
    return keys


class _Folders:
    """Exported image files."""

    def __init__(self, config: Config, root: Path, places: dict[str, str]) -> None:
        self._config, self._root = config, root
        names = {split: image_names(root, place) for split, place in places.items()}
        for split, place in places.items():
            if not names[split]:
                raise ValueError(f"data: {root / place} holds no images")
        check = partial(check_image_file, reading=config) if config.on_broken == "skip" else None
        listed = [n for part in names.values() for n in part]
        self._facts = file_facts(root, listed, check, readability(config))
        broken = {fact.name for fact in self._facts if fact.broken}
        self.skipped = len(broken)
        good = {split: [n for n in part if n not in broken] for split, part in names.items()}
        self._keys = _split(config, good, root / places["train"])

    def keys(self) -> dict[str, list[str]]:
        return self._keys

    def digest(self) -> str:
        good = (fact for fact in self._facts if not fact.broken)
        return digest_of(good, f"val {len(self._keys['val'])}{pixel_rules(self._config)}")

    def in_both(self) -> tuple[str, ...]:
        return in_both(self._facts, self._keys)

    def open(self, split: str) -> Split:
        names = self._keys[split]
        return FileSplit(self._root, names, np.zeros(len(names), np.int64), self._config)


class _Databases:
    """The published lmdb: key = name, value = encoded image."""

    def __init__(self, config: Config, root: Path, places: dict[str, str]) -> None:
        self._config, self._root, self._places = config, root, places
        names = [f"{place}/data.mdb" for place in places.values()]
        check = partial(_broken_entries, reading=config) if config.on_broken == "skip" else None
        self._facts = file_facts(root, names, check, readability(config))
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
        also = f"val {len(self._keys['val'])} {left_out or ''}{pixel_rules(self._config)}"
        return digest_of(self._facts, also)

    def in_both(self) -> tuple[str, ...]:
        """List the keys of both halves where two databases are equal: entries have no hashes."""
        train = set(self._keys["train"])
        equal = len({fact.sha256 for fact in self._facts}) == 1
        return tuple(key for key in self._keys["val"] if equal and key in train)

    def open(self, split: str) -> Split:
        place = self._places.get(split, self._places["train"])
        return _Entries(self._root / place, self._keys[split], self._config)


class _Entries:
    """Some entries of one database."""

    def __init__(self, path: Path, keys: list[str], reading: Reading) -> None:
        self._path, self._keys, self._reading = path, keys, reading
        self._database: Any = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    def image(self, index: int) -> np.ndarray:
        with self._lock:
            if self._database is None:
                self._database = _open_database(self._path)
        with self._database.begin(write=False) as reading:
            encoded = reading.get(_bytes(self._keys[index]))
        name = f"{self._path} key {self._keys[index]}"
        if encoded is None:
            raise ValueError(f"data: {shown(name)} is missing")
        return decode_image(bytes(encoded), name, self._reading)

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
        return [key for key in _text(kept.read_bytes()).split("\n") if key]
    except FileNotFoundError:
        pass
    with _open_database(path).begin(write=False) as reading:
        keys = sorted(_text(bytes(key)) for key in reading.cursor().iternext(values=False))
    _keep_keys(kept, keys)
    return keys


def _keep_keys(path: Path, keys: list[str]) -> None:
    from ...results_db.durable import replace_fast

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_fast(path, _bytes("\n".join(keys)))


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")  # names may be any bytes


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _broken_entries(path: Path, name: str, reading: Reading) -> tuple[int, ...]:
    """Find the places, among the sorted keys, of the images that cannot be decoded."""
    with _open_database(path.parent).begin(write=False) as entries:
        keys = sorted(_text(bytes(key)) for key in entries.cursor().iternext(values=False))
        bad = []
        for place, key in enumerate(keys):
            try:
                decode_image(bytes(entries.get(_bytes(key))), f"{path} key {key}", reading)
            except ValueError:
                bad.append(place)
    return tuple(bad)
