"""Facts of the images that a plan needs: counts and digest, from the data if they are at hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..trainer import parts
from ..trainer.accounting.config import DataConfig, decode_part, to_tree
from .grid import Tree

COUNTS = ("num_classes", "num_train", "num_val")


class DataFacts:
    """Fills in the data of a study; `data` is NAME:FOLDER and replaces the data set.

    Images at hand (bundled, or in the folder) are opened once for counts and digest. Otherwise the
    study's own counts are taken, and the digest stays null.
    """

    def __init__(self, data: str | None = None) -> None:
        self.folder: str | None = None  # goes to settings, never into ids
        self.missing: str | None = None  # why the study cannot be launched as it is
        self._name: str | None = None
        self._known: dict[str, dict[str, Any]] = {}  # text of a data set -> its facts
        self._counts: dict[tuple[str, str], tuple[int, ...]] = {}  # and split -> images by class
        if data is not None:
            name, colon, folder = data.partition(":")
            if not colon or not folder:
                raise ValueError(f"--data: {data!r}; allowed: NAME:FOLDER, e.g. parquet:images")
            parts.load("datasets", name)
            self._name = name
            self.folder = str(Path(folder).expanduser().absolute())

    def filled(self, tree: Tree) -> Tree:
        """Fill the data tree with the known facts of the images; ValueError if too few."""
        dataset = tree.get("dataset")
        if self._name is not None:
            # The study's own options of this data set hold; those of another do not apply.
            stated = dataset.get("name") if isinstance(dataset, Mapping) else dataset
            dataset = dataset if stated == self._name else self._name
        if dataset is None:
            known = ", ".join(parts.names("datasets"))
            raise ValueError(f"data.dataset: is required; allowed: {known}")
        key = json.dumps(dataset, sort_keys=True)
        if self.folder is None and all(tree.get(name) is not None for name in COUNTS):
            self._declared(dataset, tree)
            return {**tree, "dataset": dataset}
        if key not in self._known:
            decoded = _decoded(dataset)
            module = parts.load("datasets", decoded.name)
            found = module.describe(decoded.config, Path(self.folder) if self.folder else None)
            self._known[key] = {name: getattr(found, name) for name in (*COUNTS, "digest")}
        return {**tree, "dataset": dataset, **self._known[key]}

    def label_counts(self, data: DataConfig, split: str) -> tuple[int, ...] | None:
        """Count the images of each class of "train" or "val"; None without the images."""
        if not self._known:
            return None
        key = (json.dumps(to_tree(data.dataset), sort_keys=True), split)
        if key not in self._counts:
            module = parts.load("datasets", data.dataset.name)
            folder = Path(self.folder) if self.folder else None
            images = module.open_split(data.dataset.config, folder, split)
            found = Counter(images.label(index) for index in range(len(images)))
            self._counts[key] = tuple(found[label] for label in range(data.num_classes))
        return self._counts[key]

    def _declared(self, dataset: Any, tree: Tree) -> None:
        if tree.get("digest") is None:
            name = _decoded(dataset).name
            self.missing = (
                f"data: the {name} images of this study are not at hand; "
                f"allowed: --data {name}:FOLDER"
            )


def _decoded(dataset: Any) -> Any:
    try:
        return decode_part("datasets", dataset)
    except ValueError as error:
        raise ValueError(f"data.dataset: {error}") from None
