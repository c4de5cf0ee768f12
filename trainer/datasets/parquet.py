"""Images in parquet files of the Hugging Face layout: `image` = struct(bytes, path), `label` = int.

The folder (or its `data` folder) holds train*.parquet and val*.parquet, or test*.parquet where
there is no val*.
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..accounting.config import STRICT
from . import Facts, Split
from ._files import decode_image, digest_of, file_facts, need_folder, need_split

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1

# Encoded images up to this size are kept; of larger sets the last row groups that were read.
KEEP_BYTES = 2 << 30
KEEP_GROUPS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Names of the columns, and what to do with images that cannot be read."""

    __pydantic_config__ = STRICT

    image_column: str = "image"  # struct with the encoded file in `bytes`
    label_column: str = "label"  # class number
    on_broken: Literal["error", "skip"] = "error"  # skip: all are decoded once, the bad left out


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest; hash every file the first time. ValueError names a missing file."""
    root = need_folder("parquet", folder)
    files = _files(root)
    names = [path.relative_to(root).as_posix() for split in files.values() for path in split]
    check = _broken_rows(config) if config.on_broken == "skip" else None
    facts = {fact.name: fact for fact in file_facts(root, names, check)}
    skipped = {name: fact.broken or () for name, fact in facts.items()}
    labels = {
        split: np.concatenate(
            [
                np.delete(_labels(path, config), skipped[path.relative_to(root).as_posix()])
                for path in files[split]
            ]
        )
        for split in files
    }
    for split, values in labels.items():
        if not len(values):
            raise ValueError(f"data: {root} holds no images in its {split} files")
    last = max(int(values.max()) for values in labels.values())
    declared = _declared_classes(files["train"][0], config)
    if declared is not None and last >= declared:
        raise ValueError(f"data: {root} has the label {last}, its schema names {declared} classes")
    # The broken rows are part of what the set is: they are left out.
    left_out = "".join(f"{name}{rows}" for name, rows in sorted(skipped.items()) if rows)
    columns = f"{config.image_column}\0{config.label_column}\0{left_out}"
    return Facts(
        digest=digest_of(facts.values(), columns),
        num_classes=declared or last + 1,
        num_train=len(labels["train"]),
        num_val=len(labels["val"]),
        skipped=sum(map(len, skipped.values())),
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the rows of one half, files in the order of their names."""
    need_split(split)
    root = need_folder("parquet", folder)
    files = _files(root)[split]
    skipped: list[tuple[int, ...]] = [()] * len(files)
    if config.on_broken == "skip":
        names = [path.relative_to(root).as_posix() for path in files]
        skipped = [fact.broken or () for fact in file_facts(root, names, _broken_rows(config))]
    return _Rows(files, skipped, config)


class _Rows:
    """Rows of several files as one sequence; row groups are read when they are needed."""

    def __init__(self, files: list[Path], skipped: list[tuple[int, ...]], config: Config) -> None:
        import pyarrow.parquet as pq

        self._config, self._files = config, files
        self._readers = [pq.ParquetFile(path) for path in files]
        places, labels = [], []
        for number, (path, left_out) in enumerate(zip(files, skipped, strict=True)):
            metadata = self._readers[number].metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            groups = np.repeat(np.arange(len(sizes)), sizes)
            rows = np.concatenate([np.arange(size) for size in sizes] or [np.arange(0)])
            place_N3 = np.stack([np.full_like(groups, number), groups, rows], axis=1)
            places.append(np.delete(place_N3, left_out, axis=0))
            labels.append(np.delete(_labels(path, config), left_out))
        self._place_N3 = np.concatenate(places)
        self._labels_N = np.concatenate(labels)
        # A reader is not made for several threads; decoding, which takes the time, runs outside.
        self._lock = threading.Lock()
        small = sum(path.stat().st_size for path in files) <= KEEP_BYTES
        self._read = lru_cache(maxsize=None if small else KEEP_GROUPS)(self._read_group)

    def __len__(self) -> int:
        return len(self._labels_N)

    def image(self, index: int) -> np.ndarray:
        number, group, row = (int(part) for part in self._place_N3[index])
        with self._lock:
            encoded = self._read(number, group)[row].as_py()
        name = f"{self._files[number]} row group {group} row {row}"
        if encoded is None:
            raise ValueError(f"data: {name} has no bytes in {self._config.image_column!r}")
        return decode_image(encoded, name)

    def label(self, index: int) -> int:
        return int(self._labels_N[index])

    def _read_group(self, number: int, group: int) -> pa.Array:
        column = f"{self._config.image_column}.bytes"
        table = self._readers[number].read_row_group(group, columns=[column])
        return table.column(0).combine_chunks().field("bytes")


def _files(root: Path) -> dict[str, list[Path]]:
    """Parquet files of each half, sorted by name."""
    for place in (root, root / "data"):
        train = sorted(place.glob("train*.parquet"))
        val = sorted(place.glob("val*.parquet")) or sorted(place.glob("test*.parquet"))
        if train and val:
            return {"train": train, "val": val}
    seen = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"data: {root} holds {seen}; parquet needs train*.parquet and val*.parquet (or "
        "test*.parquet) there or in its folder data"
    )


def _labels(path: Path, config: Config) -> np.ndarray:
    """Class numbers of all rows, after the columns were checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        reader = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"data: {path} cannot be read as parquet: {error}") from error
    with reader:
        schema = reader.schema_arrow
        for name in (config.image_column, config.label_column):
            if name not in schema.names:
                raise ValueError(
                    f"data: {path} has no column {name!r}; its columns are "
                    f"{', '.join(schema.names)}"
                )
        kind = schema.field(config.image_column).type
        if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise ValueError(
                f"data: {path}: column {config.image_column!r} is {kind}; allowed: "
                "struct<bytes: binary, path: string>"
            )
        column = reader.read(columns=[config.label_column]).column(0)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"data: {path}: column {config.label_column!r} must hold whole numbers without gaps"
        )
    labels_N: np.ndarray = column.to_numpy().astype(np.int64)
    if len(labels_N) and labels_N.min() < 0:
        raise ValueError(f"data: {path} has the label {labels_N.min()}; allowed: 0 and above")
    return labels_N


def _declared_classes(path: Path, config: Config) -> int | None:
    """Number of class names in the schema's Hugging Face metadata, where there is any."""
    import pyarrow.parquet as pq

    stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    feature = json.loads(stored).get("info", {}).get("features", {}).get(config.label_column, {})
    names = feature.get("names") if isinstance(feature, dict) else None
    return len(names) if names else None


def _broken_rows(config: Config) -> Any:
    """Make a `check` for files of many images that finds the rows that cannot be decoded."""

    def check(path: Path, name: str) -> tuple[int, ...]:
        rows = _Rows([path], [()], config)

        def fails(index: int) -> bool:
            try:
                rows.image(index)
            except ValueError:
                return True
            return False

        with ThreadPoolExecutor() as pool:
            bad = list(pool.map(fails, range(len(rows))))
        return tuple(index for index, is_bad in enumerate(bad) if is_bad)

    return check
