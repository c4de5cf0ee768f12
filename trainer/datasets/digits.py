"""scikit-learn's bundled handwritten digits: 1,797 real 8x8 images of 10 classes, no download.

Digits keep their natural 8x8 pixels here; the trainer resizes them to the run's resolution.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..accounting.config import STRICT, CountInt
from . import Facts, Split
from ._held_out import held_out

VERSION = 1

NUM_CLASSES = 10
NUM_VAL = 360  # a fifth, the same share of every class


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to choose but the split."""

    __pydantic_config__ = STRICT

    split_seed: CountInt = 0  # which images are for validation


class Digits:
    """One half of the set, in memory."""

    def __init__(self, images_NHWC: np.ndarray, labels_N: np.ndarray) -> None:
        self._images_NHWC = images_NHWC
        self._labels_N = labels_N

    def __len__(self) -> int:
        return len(self._labels_N)

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 RGB [8, 8, 3]."""
        image_HWC: np.ndarray = self._images_NHWC[index]
        return image_HWC

    def label(self, index: int) -> int:
        return int(self._labels_N[index])


def describe(config: Config, folder: Path | None) -> Facts:
    """Return counts and digest. `folder` is not used: the images come with scikit-learn."""
    images_NHWC, labels_N, val_N = _load(config.split_seed)
    return Facts(
        digest=_digest(config.split_seed),
        num_classes=NUM_CLASSES,
        num_train=int((~val_N).sum()),
        num_val=int(val_N.sum()),
    )


def open_split(config: Config, folder: Path | None, split: str) -> Split:
    """Open the "train" or "val" half."""
    if split not in ("train", "val"):
        raise ValueError(f"split: {split!r}, allowed: train, val")
    images_NHWC, labels_N, val_N = _load(config.split_seed)
    chosen_N = val_N if split == "val" else ~val_N
    return Digits(images_NHWC[chosen_N], labels_N[chosen_N])


@cache
def _load(split_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = _table()
    grey_NHW = np.rint(table[:, :-1].astype(np.float64) * (255 / 16)).astype(np.uint8)
    images_NHWC = np.repeat(grey_NHW.reshape(-1, 8, 8, 1), 3, axis=3)
    images_NHWC.flags.writeable = False
    labels_N = table[:, -1].astype(np.int64)
    return images_NHWC, labels_N, _validation(labels_N, split_seed)


def _table() -> np.ndarray:
    """Read a table of one row per image: 64 pixels in 0 .. 16 and the class."""
    # `sklearn.datasets.load_digits` reads this same file, but importing it takes 2 s, which every
    # plan and every worker would pay.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("dataset: digits needs scikit-learn, whose bundled images they are")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


def _validation(labels_N: np.ndarray, split_seed: int) -> np.ndarray:
    """Mask of the validation images: NUM_VAL in all, shared over the classes by largest remainder,
    chosen by hash order, which no library version can change.
    """
    names = [f"digits {split_seed} {index}" for index in range(len(labels_N))]
    return held_out(names, labels_N, NUM_VAL, "digits")


@cache
def _digest(split_seed: int) -> str:
    images_NHWC, labels_N, val_N = _load(split_seed)
    digest = hashlib.sha256()
    for array in (images_NHWC, labels_N.astype("<i8"), val_N.astype(np.uint8)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
