"""Data sets, one file each.

A part exposes `VERSION`, a frozen `Config` and

    describe(config, folder: Path | None) -> Facts     counts and content digest; ValueError when
                                                       something is missing, with its name
    open_split(config, folder, split) -> Split         "train" or "val"

Images are uint8 RGB arrays [H, W, 3]; a `Split` is indexed, so that data order is a function of
(seed, step), and may be read by several threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Facts of a data set that a plan must know."""

    digest: str  # sha256 over names and contents
    num_classes: int
    num_train: int
    num_val: int
    skipped: int = 0  # images that cannot be read and are left out of all counts
    labels: tuple[int, ...] | None = None  # ids in the data by class number; None: the same numbers
    class_names: tuple[str, ...] = ()  # by class number, where the data have names
    in_both: tuple[str, ...] = ()  # validation images with the content of a training image


class Split(Protocol):
    """An indexed set of labelled images."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray:
        """Decode image `index` as uint8 RGB [H, W, 3]. A broken file raises ValueError with its
        name.
        """
        ...

    def label(self, index: int) -> int: ...
