"""Images in parquet files of the Hugging Face layout: `image` = struct(bytes, path), `label` = int.

The folder (or its `data` folder) holds train*.parquet and val*.parquet, or test*.parquet where
there is no val*.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..accounting.config import STRICT
from . import Facts, Split
from ._decode import Reading, decode_image, pixel_rules, readability, shown
from ._files import digest_of, file_facts, need_folder, need_split

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1

# Encoded images up to this size are kept; of larger sets the last row groups that were read.
KEEP_BYTES = 2 << 30
KEEP_GROUPS = 64

# Encoded images hardly shrink. A row group that unpacks to more than both of these is no set of
# images, and is refused before memory is taken.
UNPACKED_BYTES = 256 << 20
UNPACKED_RATIO = 16  # to its size on disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Reading):
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
    facts = {fact.name: fact for fact in file_facts(root, names, check, _rules(config))}
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
    columns = f"{config.image_column}\0{config.label_column}\0{left_out}{pixel_rules(config)}"
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
        facts = file_facts(root, names, _broken_rows(config), _rules(config))
        skipped = [fact.broken or () for fact in facts]
    return _Rows(files, skipped, config)


class _Rows:
    """Rows of several files as one sequence; row groups are read when they are needed."""

    def __init__(self, files: list[Path], skipped: list[tuple[int, ...]], config: Config) -> None:
        self._config, self._files = config, files
        # A value that many rows share stays one value in memory.
        shared = [f"{config.image_column}.bytes"]
        self._readers = [_reader(path, config, shared) for path in files]
        places, labels, unpacked = [], [], []
        for number, (path, left_out) in enumerate(zip(files, skipped, strict=True)):
            metadata = self._readers[number].metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            unpacked += [metadata.row_group(g).total_byte_size for g in range(len(sizes))]
            groups = np.repeat(np.arange(len(sizes)), sizes)
            rows = np.concatenate([np.arange(size) for size in sizes] or [np.arange(0)])
            place_N3 = np.stack([np.full_like(groups, number), groups, rows], axis=1)
            places.append(np.delete(place_N3, left_out, axis=0))
            labels.append(np.delete(_labels(path, config), left_out))
        self._place_N3 = np.concatenate(places)
        self._labels_N = np.concatenate(labels)
        # A reader is not made for several threads; decoding, which takes the time, runs outside.
        self._lock = threading.Lock()
        small = sum(unpacked) <= KEEP_BYTES
        self._read = lru_cache(maxsize=None if small else KEEP_GROUPS)(self._read_group)

    def __len__(self) -> int:
        return len(self._labels_N)

    def image(self, index: int) -> np.ndarray:
        number, group, row = (int(part) for part in self._place_N3[index])
        name = f"{self._files[number]} row group {group} row {row}"
        with self._lock:
            column = self._read(number, group)
            if isinstance(column, ValueError):
                raise ValueError(f"{column} (row {row})") from column
            with _naming(name):
                encoded = column[row].as_py()
        if encoded is None:
            raise ValueError(f"data: {shown(name)} has no bytes in {self._config.image_column!r}")
        return decode_image(encoded, name, self._config)

    def label(self, index: int) -> int:
        return int(self._labels_N[index])

    def _read_group(self, number: int, group: int) -> pa.Array | ValueError:
        """Read the encoded images of a row group; the error instead, so that it is met once."""
        column = f"{self._config.image_column}.bytes"
        try:
            with _naming(f"{self._files[number]} row group {group}"):
                table = self._readers[number].read_row_group(group, columns=[column])
                return table.column(0).combine_chunks().field("bytes")
        except ValueError as error:
            return error


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


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn every error of the parquet library into a ValueError with the name of the place."""
    import pyarrow as pa

    try:
        yield
    except MemoryError as error:
        raise MemoryError(f"data: {shown(name)}: no memory to read it") from error
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"data: {shown(name)} cannot be read as parquet: {why}") from error


def _reader(path: Path, config: Config, shared: list[str]) -> Any:
    """Open a file, after a look at the sizes that it declares.

    `shared`: columns in which equal values stay one. ValueError when reading it would take far more
    memory than a file of images of this size can need.
    """
    import pyarrow.parquet as pq

    with _naming(str(path)):
        reader = pq.ParquetFile(path)
        metadata = reader.metadata
        on_disk = path.stat().st_size
        columns = {
            column.path: column for column in map(reader.schema.column, range(len(reader.schema)))
        }
    if metadata.num_rows > on_disk:
        raise ValueError(
            f"data: {shown(path)} declares {metadata.num_rows} rows in {on_disk} bytes; allowed: "
            "at least a byte for each"
        )
    wanted = (f"{config.image_column}.bytes", config.label_column)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in range(row_group.num_columns):
            chunk = row_group.column(place)
            if chunk.path_in_schema not in wanted:
                continue
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            packed = max(0, min(packed, on_disk))
            if unpacked < 0 or unpacked > max(UNPACKED_BYTES, UNPACKED_RATIO * packed):
                raise ValueError(
                    f"data: {shown(path)} row group {group}: {chunk.path_in_schema} unpacks from "
                    f"{packed} to {unpacked} bytes; allowed: {UNPACKED_BYTES >> 20} MiB, or "
                    f"{UNPACKED_RATIO} times its size on disk"
                )
    if not set(shared) <= set(columns):
        return reader
    reader.close()
    with _naming(str(path)):
        return pq.ParquetFile(path, read_dictionary=shared)


def _labels(path: Path, config: Config) -> np.ndarray:
    """Class numbers of all rows, after the columns were checked."""
    import pyarrow as pa

    reader = _reader(path, config, [])
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
        with _naming(f"{path} column {config.label_column}"):
            column = reader.read(columns=[config.label_column]).column(0)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"data: {path}: column {config.label_column!r} must hold whole numbers without gaps"
        )
    labels_N = column.to_numpy().astype(np.int64)
    if len(labels_N) and labels_N.min() < 0:
        raise ValueError(f"data: {path} has the label {labels_N.min()}; allowed: 0 and above")
    return labels_N


def _declared_classes(path: Path, config: Config) -> int | None:
    """Number of class names in the schema's Hugging Face metadata, where there is any."""
    import pyarrow.parquet as pq

    with _naming(str(path)):
        stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    try:
        feature: Any = json.loads(stored)
    except ValueError as error:
        raise ValueError(
            f"data: {shown(path)}: its metadata 'huggingface' is no JSON: {error}"
        ) from error
    for key in ("info", "features", config.label_column, "names"):
        feature = feature.get(key) if isinstance(feature, dict) else None
    return len(feature) if isinstance(feature, list) and feature else None


def _rules(config: Config) -> str:
    return f"{config.image_column} {readability(config)}"


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
