"""Images of a training half that are held out for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def held_out(names: Sequence[str], labels_N: np.ndarray, count: int, where: str) -> np.ndarray:
    """Return a mask of `count` images for validation, the same share of every class.

    Shares are rounded by largest remainder. Of each class the images are the first in an order of
    hashes of `names`, which no library version can change.
    """
    if not 0 < count < len(names):
        raise ValueError(
            f"dataset.num_val_held_out: {count} is not allowed; {where} has {len(names)} images"
        )
    shares = np.bincount(labels_N) * count / len(labels_N)
    quotas = np.floor(shares).astype(int)
    for label in np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]:
        quotas[label] += 1
    digests = [hashlib.sha256(n.encode("utf-8", "surrogateescape")).digest() for n in names]
    mask_N = np.zeros(len(names), dtype=bool)
    for index in sorted(range(len(names)), key=digests.__getitem__):
        label = labels_N[index]
        if quotas[label] > 0:
            quotas[label] -= 1
            mask_N[index] = True
    return mask_N


def check_held_out(count: int, has_val: bool, where: Path) -> None:
    """Raise ValueError when a set lacks a validation half, or has one and is to hold out more."""
    if has_val and count:
        raise ValueError(
            f"dataset.num_val_held_out: {count} is not allowed; {where} has a validation "
            "half; allowed: 0"
        )
    if not has_val and not count:
        raise ValueError(
            f"data: {where} has no validation half; give dataset.num_val_held_out, the "
            "number of its images to hold out"
        )
