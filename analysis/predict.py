"""Predictions of a stored fit: the curve, its draws, and intervals of the mean and of a new run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import parts
from .bootstrap import LEVEL
from .law import Law
from .result import Fit, Prediction


def law_of(fit: Fit) -> Law:
    """The law of a fit, with its options."""
    module = parts.load("fits", fit.law)
    return module.Law(module.Config(**fit.options))


def curve(fit: Fit, columns: Mapping[str, Any]) -> np.ndarray:
    """The fitted y at `columns` (role -> values), [n]."""
    _refuse(fit)
    params = {name: np.array([value]) for name, value in fit.params.items()}
    return law_of(fit).curve(params, _arrays(columns))[0]


def curve_draws(fit: Fit, columns: Mapping[str, Any]) -> np.ndarray:
    """The y of every draw at `columns`, [draws, n]."""
    _refuse(fit)
    params = {name: fit.draws[:, at] for at, name in enumerate(fit.names)}
    arrays = _arrays(columns)
    if not len(fit.draws):
        return np.empty((0, len(next(iter(arrays.values())))))
    return law_of(fit).curve(params, arrays)


def predict(fit: Fit, columns: Mapping[str, Any]) -> Prediction:
    """y with 95% intervals at `columns`; without draws the intervals are NaN.

    The interval of the mean holds the law itself; that of a new run adds the scatter of the fitted
    rows, with the degrees of freedom the parameters took.
    """
    arrays = _arrays(columns)
    y = curve(fit, arrays)
    low = np.full(len(y), np.nan)
    high, low_new, high_new = low.copy(), low.copy(), low.copy()
    draws = curve_draws(fit, arrays)
    if len(draws):
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        free = max(1, len(fit.residuals) - len(fit.params))
        noise = fit.residuals * np.sqrt(len(fit.residuals) / free)
        # One fixed generator: the same fit gives the same interval.
        rng = np.random.default_rng(fit.bootstrap.seed if fit.bootstrap else 0)
        picked = noise[rng.integers(len(noise), size=(len(draws), len(y)))]
        low_new, high_new = np.quantile(draws * np.exp(picked), [tail, 1 - tail], axis=0)
    return Prediction(
        y=y,
        low=low,
        high=high,
        low_new=low_new,
        high_new=high_new,
        decades_outside=outside(fit, arrays),
    )


def outside(fit: Fit, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """How many decades each point lies beyond the fitted range of its worst column; 0 inside."""
    found = np.zeros(len(next(iter(columns.values()))))
    for role, (low, high) in fit.ranges.items():
        if role in ("x", "n", "d") and role in columns:
            values = columns[role]
            found = np.maximum(found, np.log10(np.maximum(low / values, values / high)))
    return np.where(found > 1e-12, found, 0.0)


def _arrays(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {}
    for role, values in columns.items():
        if role == "group":
            arrays[role] = np.atleast_1d(np.asarray(values, dtype=str))
        else:
            arrays[role] = np.atleast_1d(np.asarray(values, dtype=float))
    return arrays


def _refuse(fit: Fit) -> None:
    if fit.status != "ok":
        raise ValueError(f"fit: {fit.law} has no numbers ({fit.status}: {fit.reason})")
