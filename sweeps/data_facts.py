"""Facts of the images that a plan needs: counts and digest, from the data if they are at hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..trainer import parts
from ..trainer.accounting.config import DataConfig, Part, decode_part, to_tree
from .grid import Tree

COUNTS = ("num_classes", "num_train", "num_val")
FACTS = (*COUNTS, "digest", "labels")  # those that are fields of a run's data
_WORDS = {"num_classes": "classes", "num_train": "training images", "num_val": "validation images"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set of a plan."""

    name: str
    num_classes: int
    num_train: int
    num_val: int
    skipped: int | None = None  # unreadable images left out; None: the images are not at hand
    digest: str | None = None
    labels: tuple[int, ...] | None = None  # ids in the data by class number; None: the same numbers
    class_names: tuple[str, ...] = ()

    def counts(self) -> dict[str, Any]:
        """Return name and counts, as plans and `tokenlaw status` give them."""
        return {
            "name": self.name,
            "classes": self.num_classes,
            "train": self.num_train,
            "val": self.num_val,
            "skipped": self.skipped,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a plan file."""
        facts = {"digest": self.digest, "labels": self.labels, "class_names": self.class_names}
        return self.counts() | facts


class DataFacts:
    """Fills in the data of a study; `data` is NAME:FOLDER and replaces the data set.

    Images at hand (bundled, or in the folder) are opened once for counts and digest. Otherwise the
    study's own counts are taken, and the digest stays null. Images whose counts are not those that
    the study states are refused, unless `accept_counts`.
    """

    def __init__(self, data: str | None = None, *, accept_counts: bool = False) -> None:
        self.folder: str | None = None  # goes to settings, never into ids
        self.missing: str | None = None  # why the study cannot be launched as it is
        self.warnings: list[str] = []
        self._accept_counts = accept_counts
        self._name: str | None = None
        self._known: dict[str, DataSet] = {}  # text of a data set, or of its counts -> its facts
        self._counts: dict[tuple[str, str], tuple[int, ...]] = {}  # and split -> images by class
        if data is not None:
            name, colon, folder = data.partition(":")
            if not colon or not folder:
                raise ValueError(f"--data: {data!r}; allowed: NAME:FOLDER, e.g. parquet:images")
            parts.load("datasets", name)
            self._name = name
            self.folder = str(Path(folder).expanduser().absolute())

    @property
    def sets(self) -> tuple[DataSet, ...]:
        """Data sets that were filled in, each once."""
        return tuple(dict.fromkeys(self._known.values()))

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
            self._declared(key, dataset, tree)
            return {**tree, "dataset": dataset}
        if key not in self._known:
            decoded = _decoded(dataset)
            module = parts.load("datasets", decoded.name)
            found = module.describe(decoded.config, Path(self.folder) if self.folder else None)
            self._known[key] = DataSet(
                name=decoded.name,
                skipped=found.skipped,
                class_names=found.class_names,
                **{name: getattr(found, name) for name in FACTS},
            )
            if found.in_both:
                self._warn(
                    f"data: {self.folder or decoded.name}: {len(found.in_both)} of {found.num_val} "
                    "validation images have the content of training images, the first: "
                    f"{found.in_both[0]!r}"
                )
        self._compare(tree, self._known[key])
        facts = {name: getattr(self._known[key], name) for name in FACTS}
        return {**tree, "dataset": dataset, **facts}

    def _compare(self, tree: Tree, found: DataSet) -> None:
        """Compare the images with what the study states of them."""
        others = [
            f"{getattr(found, name)} {words}, the study states {tree[name]}"
            for name, words in _WORDS.items()
            if tree.get(name) not in (None, getattr(found, name))
        ]
        if tree.get("digest") not in (None, found.digest):
            others.append(f"the digest {found.digest}, the study states {tree['digest']}")
        if not others:
            return
        text = f"data: {self.folder or found.name} has {'; '.join(others)}"
        if not self._accept_counts:
            raise ValueError(
                f"{text}; allowed: those, or --accept-counts to plan with these images"
            )
        self._warn(f"{text}; accepted by --accept-counts")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def label_counts(self, data: DataConfig, split: str) -> tuple[int, ...] | None:
        """Count the images of each class of "train" or "val"; None without the images."""
        if all(known.skipped is None for known in self._known.values()):
            return None
        key = (json.dumps(to_tree(data.dataset), sort_keys=True), split)
        if key not in self._counts:
            module = parts.load("datasets", data.dataset.name)
            folder = Path(self.folder) if self.folder else None
            images = module.open_split(data.dataset.config, folder, split)
            found = Counter(images.label(index) for index in range(len(images)))
            self._counts[key] = tuple(found[label] for label in range(data.num_classes))
        return self._counts[key]

    def _declared(self, key: str, dataset: Any, tree: Tree) -> None:
        name = _decoded(dataset).name
        facts = {count: tree[count] for count in COUNTS}
        if all(isinstance(value, int) for value in facts.values()):
            self._known[f"{key} {facts}"] = DataSet(name=name, digest=tree.get("digest"), **facts)
        if tree.get("digest") is None:
            self.missing = (
                f"data: the {name} images of this study are not at hand; "
                f"allowed: --data {name}:FOLDER"
            )


def _decoded(dataset: object) -> Part:
    try:
        return decode_part("datasets", dataset)
    except ValueError as error:
        raise ValueError(f"data.dataset: {error}") from None
