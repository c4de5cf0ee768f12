"""Pictures of stripes: four directions, four classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..accounting.config import STRICT, PositiveInt
from . import Facts

VERSION = 1
SIDE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How many there are."""

    __pydantic_config__ = STRICT

    num_train: PositiveInt = 80
    num_val: PositiveInt = 24


class Stripes:
    """One half; every image is a function of its index."""

    def __init__(self, first: int, count: int) -> None:
        self._first, self._count = first, count

    def __len__(self) -> int:
        return self._count

    def image(self, index: int) -> np.ndarray:
        number = self._first + index
        y, x = np.mgrid[:SIDE, :SIDE]
        along = (x, y, x + y, x - y)[number % 4] + number // 4
        grey = (127.5 * (1 + np.sin(along * (0.6 + 0.05 * (number % 7))))).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    def label(self, index: int) -> int:
        return (self._first + index) % 4


def describe(config: Config, folder: Path | None) -> Facts:
    digest = hashlib.sha256(f"{config.num_train} {config.num_val}".encode()).hexdigest()
    return Facts(digest=digest, num_classes=4, num_train=config.num_train, num_val=config.num_val)


def open_split(config: Config, folder: Path | None, split: str) -> Stripes:
    if split == "train":
        return Stripes(0, config.num_train)
    return Stripes(config.num_train, config.num_val)
