"""Resampling: by run, by cluster or by residual, with the corrections that small studies need.

Points of one run, of one trunk or of one model size are not independent: resampling them one by one
makes intervals too narrow (SE of an exponent 2 to 4 times, docs/analysis.md). A study of five
budgets has the other trouble: residuals of a fit with p parameters to n points are too small by
sqrt((n - p) / n), and a normal quantile stands where Student's belongs. `by="residual"` corrects
both.

Legend: B draws, n rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..notebook_repr import Brief
from ..table import Data

LEVEL = 0.95  # of every interval in this package
FEW = 20  # fewer runs than this and "auto" takes residuals
ROUGH = 10  # fewer clusters than this and the interval is called rough


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Clusters(Brief):
    """What is resampled: a number for each row, equal for rows that go together."""

    by: str
    ids_n: np.ndarray
    num: int


def choose(data: Data, by: str) -> str:
    """ "auto" resolved: by run, or by residual when there are few runs of one row each."""
    if by != "auto":
        return by
    runs = clusters(data, "run")
    several_rows = runs.num < data.num_rows
    return "residual" if runs.num < FEW and not several_rows else "run"


def clusters(data: Data, by: str) -> Clusters:
    """The clusters of `by`: "run" (run_id, else the row), "point" (the row) or a column."""
    if by in ("point", "residual") or (by == "run" and not data.has_run_ids):
        return Clusters(by=by, ids_n=np.arange(data.num_rows), num=data.num_rows)
    column = "run_id" if by == "run" else by
    if column not in data.frame.columns:
        names = ", ".join(str(one) for one in data.frame.columns[:30])
        raise ValueError(
            f"--by: {by!r} is not run, point, residual, auto or a column; has: {names}"
        )
    values = data.frame[column]
    if values.isna().any():
        raise ValueError(f"--by: column {column!r} is missing in {int(values.isna().sum())} rows")
    ids = np.unique(values.astype(str).to_numpy(dtype=str), return_inverse=True)[1].ravel()
    return Clusters(by=by, ids_n=ids, num=int(ids.max()) + 1)


def weights(
    ids_n: np.ndarray, draws: int, rng: np.random.Generator, strata_n: np.ndarray | None = None
) -> np.ndarray:
    """How often each row appears in each resample of clusters with replacement, [B, n].

    With `strata_n` each stratum keeps its number of clusters; a cluster must lie in one stratum.
    """
    num = int(ids_n.max()) + 1
    count = np.zeros((draws, num))
    stratum = np.zeros(num, dtype=int)
    if strata_n is not None:
        stratum[ids_n] = strata_n
    for one in np.unique(stratum):
        members = np.flatnonzero(stratum == one)
        picks = rng.integers(len(members), size=(draws, len(members)))
        flat = picks + len(members) * np.arange(draws)[:, None]
        got = np.bincount(flat.ravel(), minlength=draws * len(members))
        count[:, members] = got.reshape(draws, len(members))
    return count[:, ids_n]


def weights_of_some(
    num_rows: int, num_some: int, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """As `weights` when every row is a cluster, for `num_some` of `num_rows` rows only."""
    total = rng.binomial(num_rows, num_some / num_rows, size=draws)
    picks = rng.integers(num_some, size=int(total.sum()))
    flat = picks + num_some * np.repeat(np.arange(draws), total)
    return np.bincount(flat, minlength=draws * num_some).reshape(draws, num_some).astype(float)


def noise_factor(num_rows: int, num_params: int) -> tuple[float, float]:
    """Factor on residuals, and the Student over normal part of it, for n rows and p parameters.

    The first is sqrt(n / (n - p)) t / z: draws made with it have percentiles that cover. ValueError
    when n <= p.
    """
    free = num_rows - num_params
    if free < 1:
        raise ValueError(f"residual bootstrap: {num_rows} rows and {num_params} parameters")
    upper = 0.5 + LEVEL / 2
    stretch = float(stats.t.ppf(upper, free) / stats.norm.ppf(upper))
    return float(np.sqrt(num_rows / free)) * stretch, stretch


def residual_noise(
    residuals: np.ndarray, num_params: int, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return noise [B, rows] to add to log y: inflated residuals, drawn with replacement."""
    factor, _ = noise_factor(len(residuals), num_params)
    centred = (residuals - residuals.mean()) * factor
    return np.asarray(centred[rng.integers(len(centred), size=shape)])


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of finite draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def intervals(
    draws: Mapping[str, np.ndarray], at_bound: Collection[str]
) -> dict[str, tuple[float | None, float | None]]:
    """Return the percentile interval of every parameter, from its finite draws.

    A parameter on the edge of its search box has none, nor has a floor that is 0 in every draw:
    the draws end at the edge too, and say nothing of how well the data know it.
    """
    free = {key: values for key, values in draws.items() if key not in at_bound and values.any()}
    return {key: interval(values) for key, values in free.items()}


def errors(draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The standard deviation of the draws of each parameter."""
    found = {}
    for key, values in draws.items():
        # Scaled first: an amplitude that is hardly determined has squares beyond any float.
        largest = float(np.abs(values).max()) or 1.0
        found[key] = float((values / largest).std(ddof=1)) * largest
    return found
