"""The winner's curse: how far the best of K noisy runs lies below their mean."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ..fitting.law import distinct
from ..fitting.optimum import bin_numbers
from ..table import Data


def expected_lead(num_runs: float) -> float:
    """Compute the expected lead of the best of K standard normal runs over their mean.

    K = 5: 1.163.
    """
    if num_runs <= 1:
        return 0.0
    z = np.linspace(-9.0, 9.0, 4001)
    density = num_runs * stats.norm.pdf(z) * stats.norm.cdf(z) ** (num_runs - 1)
    return float(np.trapezoid(z * density, z))


def false_gain(num_runs: float, noise: float, slope: float) -> float:
    """Compute the gain that K runs per budget seem to give over 1: exp(lead noise / slope).

    `noise` is the run-to-run standard deviation of log y, `slope` the b of y ~ x^-b.
    """
    return float(np.exp(expected_lead(num_runs) * noise / abs(slope)))


def runs_per_budget(data: Data, bins_per_decade: float, start: float) -> float:
    """Return the median number of runs in a bin of compute."""
    bins = bin_numbers(data.columns["x"], bins_per_decade, start)
    return float(np.median(np.unique(bins, return_counts=True)[1]))


def replicate_noise(data: Data) -> float | None:
    """Return the standard deviation of log y between runs that differ only in seed; else None."""
    inputs = [data.columns[role] for role in ("x", "n", "d") if role in data.columns]
    ids = distinct(*inputs)
    count = np.bincount(ids)
    free = int((count - 1).sum())
    if free < 3:
        return None
    log_y = np.log(data.columns["y"])
    mean = np.bincount(ids, log_y) / count
    return float(np.sqrt(((log_y - mean[ids]) ** 2).sum() / free))
