"""What a plan knows of the images: counts and digest, from the data where they are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import parts
from trainer.config import decode_part

from .grid import Tree, assigned, split_path

COUNTS = ("num_classes", "num_train", "num_val")


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The study's data tree with what is known filled in."""

    tree: Tree
    folder: str | None  # goes to settings, never into ids
    missing: str | None  # why the study cannot be launched as it is


def data_facts(tree: Tree, fixed: Iterable[tuple[str, Any]], data: str | None) -> DataFacts:
    """The data of a study whose tree is `tree`; `data` is NAME:FOLDER and replaces the data set.

    Images at hand (bundled, or in the folder) are opened once for counts and digest. Otherwise the
    study's own counts are taken, and the digest stays null. ValueError when neither is there.
    """
    for path, value in fixed:
        stage, rest = split_path(path)
        if stage == "data":
            tree = assigned(tree, rest, value)
    folder: str | None = None
    dataset = tree.get("dataset")
    if data is not None:
        name, colon, folder = data.partition(":")
        if not colon or not folder:
            raise ValueError(f"--data: {data!r}; allowed: NAME:FOLDER, e.g. parquet:images")
        parts.load("trainer.datasets", name)
        stated = dataset.get("name") if isinstance(dataset, Mapping) else dataset
        dataset = dataset if stated == name else name
        folder = str(Path(folder).expanduser().absolute())
    if dataset is None:
        known = ", ".join(parts.names("trainer.datasets"))
        raise ValueError(f"data.dataset: is required; allowed: {known}")
    try:
        decoded = decode_part("trainer.datasets", dataset)
    except ValueError as error:
        raise ValueError(f"data.dataset: {error}") from None
    tree = {**tree, "dataset": dataset}
    if folder is None and all(tree.get(name) is not None for name in COUNTS):
        missing = (
            f"data: the {decoded.name} images of this study are not at hand; "
            f"allowed: --data {decoded.name}:FOLDER"
        )
        return DataFacts(tree, None, None if tree.get("digest") else missing)
    module = parts.load("trainer.datasets", decoded.name)
    found = module.describe(decoded.config, None if folder is None else Path(folder))
    known_facts = {name: getattr(found, name) for name in (*COUNTS, "digest")}
    return DataFacts({**tree, **known_facts}, folder, None)
