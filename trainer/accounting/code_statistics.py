"""Count a code set: entropies by position, of prefixes, and of all positions together."""

from __future__ import annotations

from typing import Any

import numpy as np


def code_statistics(codes_NL: np.ndarray, num_codes: int) -> dict[str, Any]:
    """Estimate the entropies of a code set in bits (CRT Figure 10, VCQ Figure 2a), plug-in.

    entropy_bits[L]: of each position; entropy_pooled_bits: of all positions together; num_seen[L]:
    distinct codes of each position (for the Miller-Madow correction); conditional_entropy_bits[L]:
    of a position given the whole prefix, in this sample; conditional_entropy_permuted_bits[L]: the
    same after each position was shuffled across images, which keeps its marginal alone: the curve
    of codes without information on images; unique_prefix_share[L]: share of images whose first t
    codes no other image has.
    """
    images, length = codes_NL.shape
    entropy, seen = np.zeros(length), np.zeros(length, np.int64)
    conditional, unique, permuted = np.zeros(length), np.ones(length), np.zeros(length)
    pooled = np.zeros(num_codes, np.int64)
    prefixes, shuffled = _Prefixes(images, num_codes), _Prefixes(images, num_codes)
    rng = np.random.default_rng(0)
    for position in range(length):
        column = np.asarray(codes_NL[:, position], np.int64)
        counts = np.bincount(column, minlength=num_codes)
        pooled += counts
        entropy[position], seen[position] = _entropy(counts), np.count_nonzero(counts)
        if not prefixes.all_unique:
            conditional[position], unique[position] = prefixes.longer_by(column)
        if not shuffled.all_unique:
            permuted[position], _ = shuffled.longer_by(rng.permutation(column))
    return {
        "entropy_bits": entropy,
        "num_seen": seen,
        "conditional_entropy_bits": conditional,
        "conditional_entropy_permuted_bits": permuted,
        "unique_prefix_share": unique,
        "entropy_pooled_bits": _entropy(pooled),
        "pooled_counts": pooled,
        "num_sequences": images,
    }


class _Prefixes:
    """The prefixes of a set of sequences, taken one code further at a time."""

    def __init__(self, images: int, num_codes: int) -> None:
        self._number = np.zeros(images, np.uint64)  # of the prefix that a sequence has
        self._num_codes = np.uint64(num_codes)
        self._entropy = 0.0
        self.all_unique = False  # longer prefixes then change nothing

    def longer_by(self, column: np.ndarray) -> tuple[float, float]:
        """Return the entropy (bits) that one more code adds, and the share of unique prefixes."""
        # Prefixes are numbered afresh at each position, so there are no hash collisions.
        key = self._number * self._num_codes + column.astype(np.uint64)
        _, inverse, sizes = np.unique(key, return_inverse=True, return_counts=True)
        self._number = inverse.astype(np.uint64)
        before, self._entropy = self._entropy, _entropy(sizes)
        self.all_unique = len(sizes) == len(column)
        return self._entropy - before, np.count_nonzero(sizes == 1) / len(column)


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0].astype(np.float64)
    share = counts / counts.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))
