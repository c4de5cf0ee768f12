"""Images in parquet files of the Hugging Face layout: `image` = struct(bytes, path), `label` = int.

The folder (or its `data` folder) holds train*.parquet and val*.parquet, or test*.parquet where
there is no val*; or folders train, validation, test of parquet files. Class numbers are the places
of the labels among the sorted labels.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..accounting.config import STRICT, CountInt
from . import Facts, Split
from ._classes import (
    OnEmptyClass,
    check_series,
    checked_ids,
    classes_of,
    entries,
    label_map,
    refuse_row_ids,
)
from ._decode import Reading, decode_image, pixel_rules, readability, shown
from ._files import digest_of, file_facts, need_folder, need_split
from ._held_out import check_held_out, held_out

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
    on_empty_class: OnEmptyClass = field(default="error", metadata={"id_default": "error"})
    # validation images where there are no files of them
    num_val_held_out: CountInt = field(default=0, metadata={"id_default": 0})


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest; hash every file the first time.

    ValueError names a missing file and a class without images.
    """
    found = _scan(config, need_folder("parquet", folder))
    return Facts(
        digest=found.digest,
        num_classes=len(found.classes),
        num_train=sum(len(rows.labels_N) for rows in found.halves["train"]),
        num_val=sum(len(rows.labels_N) for rows in found.halves["val"]),
        skipped=found.skipped,
        labels=label_map(found.classes),
        class_names=found.class_names,
        in_both=found.in_both,
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the rows of one half, files in the order of their names."""
    need_split(split)
    return _Rows(_scan(config, need_folder("parquet", folder)).halves[split], config)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Rows of a file that belong to one half, with their class numbers."""

    path: Path
    rows_N: np.ndarray
    labels_N: np.ndarray


@dataclass(frozen=True, slots=True)
class _Scan:
    """Result of scanning the folder once."""

    halves: dict[str, list[_Chosen]]
    classes: list[int]  # label ids by class number
    class_names: tuple[str, ...]
    digest: str
    skipped: int
    in_both: tuple[str, ...]


def _scan(config: Config, root: Path) -> _Scan:
    files = _files(root, config.num_val_held_out)
    names = {path: path.relative_to(root).as_posix() for part in files.values() for path in part}
    ids = {path: _labels(path, config) for path in names}
    declared = _declared_names(files["train"][0], config)
    halves, classes = _halves(config, root, files, names, ids, declared, {})
    check = _broken_rows(config) if config.on_broken == "skip" else None
    facts = file_facts(root, names.values(), check, _rules(config))
    skipped = {fact.name: fact.broken for fact in facts if fact.broken}
    if skipped:
        halves, classes = _halves(config, root, files, names, ids, declared, skipped)
    # The broken rows are part of what the set is: they are left out.
    left_out = "".join(f"{name}{rows}" for name, rows in sorted(skipped.items()))
    also = f"{config.image_column}\0{config.label_column}\0{left_out}{pixel_rules(config)}"
    if config.num_val_held_out:
        also += f" val {config.num_val_held_out}"
    called = dict(enumerate(declared))
    return _Scan(
        halves=halves,
        classes=classes,
        class_names=tuple(called.get(label, str(label)) for label in classes),
        digest=digest_of(facts, also),
        skipped=sum(map(len, skipped.values())),
        in_both=_in_both(halves, names, {fact.name: fact.sha256 for fact in facts}),
    )


def _halves(
    config: Config,
    root: Path,
    files: dict[str, list[Path]],
    names: dict[Path, str],
    ids: dict[Path, np.ndarray],
    declared: list[str],
    skipped: dict[str, tuple[int, ...]],
) -> tuple[dict[str, list[_Chosen]], list[int]]:
    """Divide the rows that are not skipped, with class numbers; and the label id of each class."""
    halves: dict[str, list[_Chosen]] = {}
    for part, paths in files.items():
        halves[part] = []
        for path in paths:
            rows_N = np.delete(np.arange(len(ids[path])), skipped.get(names[path], ()))
            halves[part].append(_Chosen(path, rows_N, ids[path][rows_N]))
    if config.num_val_held_out:
        halves = _held_out(halves["train"], names, config.num_val_held_out)
    met = {part: np.concatenate([r.labels_N for r in halves[part]]) for part in halves}
    for part, ids_N in met.items():
        if not len(ids_N):
            raise ValueError(f"data: {shown(root)} holds no images in its {part} files")
    last = max(int(ids_N.max()) for ids_N in met.values())
    if declared and last >= len(declared):
        raise ValueError(
            f"data: {shown(root)} has the label {last}, its schema names {len(declared)} classes"
        )
    if not declared:
        refuse_row_ids(met["train"], files["train"][0], config.label_column)
    called = dict(enumerate(declared))
    unique = {part: set(np.unique(ids_N).tolist()) for part, ids_N in met.items()}
    classes = classes_of(root, unique, called, config.on_empty_class, called)
    for part, chosen in halves.items():
        halves[part] = [
            _Chosen(rows.path, rows.rows_N, np.searchsorted(classes, rows.labels_N))
            for rows in chosen
        ]
    return halves, classes


def _held_out(train: list[_Chosen], names: dict[Path, str], count: int) -> dict[str, list[_Chosen]]:
    keys = [f"{names[rows.path]} {row}" for rows in train for row in rows.rows_N.tolist()]
    _, labels_N = np.unique(np.concatenate([r.labels_N for r in train]), return_inverse=True)
    is_val_N = held_out(keys, labels_N, count, shown(train[0].path.parent))
    ends = np.cumsum([len(rows.rows_N) for rows in train])[:-1]
    halves: dict[str, list[_Chosen]] = {"train": [], "val": []}
    for rows, is_val_R in zip(train, np.split(is_val_N, ends), strict=True):
        for half, chosen_R in (("train", ~is_val_R), ("val", is_val_R)):
            halves[half].append(_Chosen(rows.path, rows.rows_N[chosen_R], rows.labels_N[chosen_R]))
    return halves


def _in_both(
    halves: dict[str, list[_Chosen]], names: dict[Path, str], content: dict[str, str]
) -> tuple[str, ...]:
    """List the rows of both halves in files of equal content: rows have no hashes."""
    train: dict[str, list[np.ndarray]] = {}
    for rows in halves["train"]:
        train.setdefault(content[names[rows.path]], []).append(rows.rows_N)
    found: list[str] = []
    for rows in halves["val"]:
        name = names[rows.path]
        if same := train.get(content[name]):
            shared_R = rows.rows_N[np.isin(rows.rows_N, np.concatenate(same))]
            found += [f"{name} row {row}" for row in shared_R.tolist()]
    return tuple(found)


class _Rows:
    """Rows of several files as one sequence; row groups are read when they are needed."""

    def __init__(self, chosen: list[_Chosen], config: Config) -> None:
        self._config, self._files = config, [rows.path for rows in chosen]
        # A value that many rows share stays one value in memory.
        shared = [f"{config.image_column}.bytes"]
        self._readers = [_reader(path, config, shared) for path in self._files]
        places, unpacked = [], []
        for number, part in enumerate(chosen):
            metadata = self._readers[number].metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            unpacked += [metadata.row_group(g).total_byte_size for g in range(len(sizes))]
            groups = np.repeat(np.arange(len(sizes)), sizes)
            rows = np.concatenate([np.arange(size) for size in sizes] or [np.arange(0)])
            place_N3 = np.stack([np.full_like(groups, number), groups, rows], axis=1)
            places.append(place_N3[part.rows_N])
        self._place_N3 = np.concatenate(places)
        self._labels_N = np.concatenate([part.labels_N for part in chosen])
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


def _files(root: Path, num_val_held_out: int) -> dict[str, list[Path]]:
    """Parquet files of each half, sorted by name; only `train` where images are held out.

    ValueError when there are none, or when their series are incomplete.
    """
    places = [place for place in (root, root / "data") if place.is_dir() and _layout(place)]
    if len(places) > 1:
        raise ValueError(
            f"data: {shown(root)} and its folder data both hold training files; allowed: one place"
        )
    if not places:
        listed = entries(root)
        seen = ", ".join([shown(entry.name) for entry in listed[:8]]) or "nothing"
        fits = [e.path for e in listed if e.is_dir() and _layout(Path(e.path))]
        cure = f"; give the folder below it: --data parquet:{shown(fits[0])}" if fits else ""
        raise ValueError(
            f"data: {shown(root)} holds {seen}; parquet needs train*.parquet and val*.parquet (or "
            f"test*.parquet), or folders of these names, there or in its folder data{cure}"
        )
    files = _layout(places[0])
    check_held_out(num_val_held_out, "val" in files, places[0])
    for part in files.values():
        check_series(part)
    return files


def _layout(place: Path) -> dict[str, list[Path]]:
    """Parquet files of each half in a folder, or in its folders; empty without training files."""
    listed = entries(place)

    def below(*prefixes: str) -> list[Path]:
        found: list[Path] = []
        for prefix in prefixes:
            found = found or [
                Path(entry.path)
                for entry in listed
                if entry.name.startswith(prefix) and entry.name.endswith(".parquet")
            ]
        return found

    def in_folders(*names: str) -> list[Path]:
        found: list[Path] = []
        for entry in listed:
            if not found and entry.name in names and entry.is_dir():
                inner = entries(Path(entry.path))
                found = [Path(e.path) for e in inner if e.name.endswith(".parquet")]
        return found

    halves = {"train": below("train"), "val": below("val", "test")}
    if not halves["train"]:
        val = in_folders("val", "validation", "valid") or in_folders("test")
        halves = {"train": in_folders("train"), "val": val}
    return {half: paths for half, paths in halves.items() if paths} if halves["train"] else {}


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
    return checked_ids(column.to_numpy(), shown(path))


def _declared_names(path: Path, config: Config) -> list[str]:
    """Read the class names in the schema's Hugging Face metadata; empty where there are none."""
    import pyarrow.parquet as pq

    with _naming(str(path)):
        stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if stored is None:
        return []
    try:
        feature: Any = json.loads(stored)
    except ValueError as error:
        raise ValueError(
            f"data: {shown(path)}: its metadata 'huggingface' is no JSON: {error}"
        ) from error
    for key in ("info", "features", config.label_column, "names"):
        feature = feature.get(key) if isinstance(feature, dict) else None
    return [str(name) for name in feature] if isinstance(feature, list) else []


def _rules(config: Config) -> str:
    return f"{config.image_column} {readability(config)}"


def _broken_rows(config: Config) -> Any:
    """Make a `check` for files of many images that finds the rows that cannot be decoded."""

    def check(path: Path, name: str) -> tuple[int, ...]:
        num_rows = len(_labels(path, config))
        rows = _Rows([_Chosen(path, np.arange(num_rows), np.zeros(num_rows, np.int64))], config)

        def fails(index: int) -> bool:
            try:
                rows.image(index)
            except ValueError:
                return True
            return False

        with ThreadPoolExecutor() as pool:
            bad = list(pool.map(fails, range(num_rows)))
        return tuple(index for index, is_bad in enumerate(bad) if is_bad)

    return check
