"""Envelopes of an arm's runs: pareto, binned, hull, isoflop and model, one interface for all.

An envelope is a set of points (x, y) per draw. `pareto`, `binned` and `hull` select runs; `isoflop`
and `model` compute points from all runs, which no lucky run can pull down alone.

Legend: B draws, n runs, k points of the envelope. Values: y, negated if more is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..direction import signed
from ..fitting import optimum
from ..fitting.law import Solved
from ..laws import chinchilla
from ..notebook_repr import Brief
from ..table import Data

BINS_PER_DECADE = 4.0
MODEL_POINTS = 12  # points of the model-based envelope
# A run that this many others dominate is in a resample's Pareto set with probability e^-15 at most.
DEPTH = 15
THIN_ABOVE = 400  # runs from which that is used


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Points(Brief):
    """An envelope in B draws: which of k places it uses, and its log y there."""

    status: str  # "ok" or why there is none
    log_x_k: np.ndarray
    log_y_Bk: np.ndarray
    use_Bk: np.ndarray
    row_k: np.ndarray | None  # the run of each place; None where points are no runs


def pareto(
    x: np.ndarray, y: np.ndarray, *, direction: str = "lower", tolerance: float = 0.0
) -> np.ndarray:
    """Return the row numbers of the Pareto set, x ascending: no other run has x <= and a better y.

    Ties: of runs with equal x and y the first row stays; of equal x only the best y; of equal y
    only the lowest x. A row with a NaN or infinite x or y is never in the set. `direction` says
    whether "lower" or "higher" y is better. With a `tolerance` runs whose x differ by that share,
    counted from the cheapest of them, are of equal x.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    value = signed(y, direction)
    rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not len(rows):
        return rows
    place = x[rows] if tolerance == 0 else cells(x[rows], np.log1p(tolerance))
    order = rows[np.lexsort([rows, value[rows], place])]
    lowest = np.minimum.accumulate(value[order])
    first = np.concatenate([[True], value[order][1:] < lowest[:-1]])
    return np.asarray(order[first])


def cells(x: np.ndarray, width: float) -> np.ndarray:
    """Return the cell of every row: from the cheapest on, runs within `width` (log) of the first.

    With a width of 0 every x has a cell of its own.
    """
    log_x = np.log(x) if width > 0 else x
    order = np.argsort(log_x, kind="stable")
    ordered = log_x[order]
    if width == 0:
        number = np.cumsum(np.diff(ordered, prepend=ordered[0]) > 0)
    else:
        number = np.empty(len(x), dtype=int)
        first, cell = 0, 0
        while first < len(x):
            end = int(np.searchsorted(ordered, ordered[first] + width + 1e-12, side="right"))
            number[first:end] = cell
            first, cell = end, cell + 1
    answer = np.empty(len(x), dtype=int)
    answer[order] = number
    return answer


def candidates(
    name: str, data: Data, direction: str, start: float, bins_per_decade: float = BINS_PER_DECADE
) -> np.ndarray:
    """Return the row numbers of the runs that an envelope can use in a resample of single runs."""
    x, value = data.columns["x"], signed(data.columns["y"], direction)
    everything = np.arange(len(x))
    if len(x) <= THIN_ABOVE or name in ("isoflop", "model"):
        return everything
    if name == "binned":
        bins = optimum.bin_numbers(x, bins_per_decade, start)
        order = np.lexsort([value, bins])
        place = np.arange(len(x)) - np.searchsorted(bins[order], bins[order], side="left")
        return np.sort(order[place < DEPTH])
    left = everything
    kept = []
    for _ in range(DEPTH):
        if not len(left):
            break
        layer = left[pareto(x[left], value[left])]
        kept.append(layer)
        left = np.setdiff1d(left, layer, assume_unique=True)
    return np.sort(np.concatenate(kept))


def draw(
    name: str,
    data: Data,
    log_y_Bn: np.ndarray,
    weights_Bn: np.ndarray,
    *,
    direction: str,
    start: float,
    tolerance: float = 0.0,
    bins: float = BINS_PER_DECADE,
    point: Solved | None = None,
) -> Points:
    """Compute the envelope `name` of each resample.

    `bins` in each decade begin at `start`; runs whose x differ by the share `tolerance` are of
    equal x; `point` is the model's fit.
    """
    x = data.columns["x"]
    num_draws = len(weights_Bn)
    log_y_Bn = np.broadcast_to(log_y_Bn, weights_Bn.shape)
    value = log_y_Bn if direction == "lower" else -log_y_Bn
    if name == "isoflop":
        if "n" not in data.columns:
            return _none("needs the parameters (--n)", num_draws)
        sign = 1.0 if direction == "lower" else -1.0
        found = optimum.minima(x, data.columns["n"], sign * np.exp(log_y_Bn), weights_Bn)
        if found.inside_BG[0].sum() < 2:
            return _none("fewer than 2 budgets have a minimum inside their sizes", num_draws)
        good = found.inside_BG & (sign * found.value_BG > 0)
        log_y = np.log(np.where(good, sign * found.value_BG, 1.0))
        return Points(status="ok", log_x_k=found.log_x_G, log_y_Bk=log_y, use_Bk=good, row_k=None)
    if name == "model":
        return _model(data, log_y_Bn, weights_Bn, direction, point)
    if name in ("pareto", "binned", "hull"):
        binned = name == "binned"
        cell = optimum.bin_numbers(x, bins, start) if binned else cells(x, np.log1p(tolerance))
        won = optimum.winners(cell, value, weights_Bn, monotone=not binned)
        use = np.zeros(weights_Bn.shape, dtype=bool)
        np.put_along_axis(use, won.row_BG, won.use_BG, axis=1)
        if name == "hull":
            for one in range(num_draws):
                rows = np.flatnonzero(use[one])
                rows = rows[np.argsort(x[rows], kind="stable")]
                keep = rows[_lower_hull(np.log(x[rows]), value[one, rows])]
                use[one] = False
                use[one, keep] = True
    else:
        raise ValueError(f"envelope: {name!r} is not known; known: {', '.join(ENVELOPES)}")
    places = np.flatnonzero(use.any(axis=0))
    places = places[np.argsort(x[places], kind="stable")]
    return Points(
        status="ok",
        log_x_k=np.log(x[places]),
        log_y_Bk=log_y_Bn[:, places],
        use_Bk=use[:, places],
        row_k=places,
    )


def _lower_hull(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the indices of the points (u ascending, v descending) on the lower convex hull."""
    kept: list[int] = []
    for at in range(len(u)):
        while len(kept) >= 2:
            a, b = kept[-2], kept[-1]
            turn = (u[b] - u[a]) * (v[at] - v[a]) - (v[b] - v[a]) * (u[at] - u[a])
            if turn > 0:
                break
            kept.pop()
        kept.append(at)
    return np.array(kept, dtype=int)


def _model(
    data: Data,
    log_y_Bn: np.ndarray,
    weights_Bn: np.ndarray,
    direction: str,
    point: Solved | None,
) -> Points:
    """Fit approach 3 to all runs; return the compute-optimal loss on a grid of compute."""
    num_draws = len(weights_Bn)
    if "n" not in data.columns or "d" not in data.columns:
        return _none("needs parameters and tokens (--n, --d)", num_draws)
    if direction != "lower":
        return _none("only for metrics of which less is better", num_draws)
    law = chinchilla.Law(chinchilla.Config())
    refusal = law.refuse(data)
    if refusal is not None:
        return _none(refusal.reason, num_draws)
    x = data.columns["x"]
    grid = np.geomspace(x.min(), x.max(), MODEL_POINTS)
    if point is None:
        found = law.solve(data, log_y_Bn[0], weights_Bn[0], loss="l2", delta=1.0)
    else:
        found = law.solve(data, log_y_Bn, weights_Bn, loss="l2", delta=1.0, start=point)
    y = law.curve(found.params, {"x": grid})
    return Points(
        status="ok",
        log_x_k=np.log(grid),
        log_y_Bk=np.log(y),
        use_Bk=np.isfinite(y),
        row_k=None,
    )


def model_point(data: Data) -> Solved | None:
    """Fit approach 3 once to warm-start the draws of the model envelope; None if it cannot."""
    law = chinchilla.Law(chinchilla.Config())
    if "n" not in data.columns or "d" not in data.columns or law.refuse(data) is not None:
        return None
    log_y = np.log(data.columns["y"])
    return law.solve(data, log_y, np.ones(data.num_rows), loss="l2", delta=1.0)


def _none(status: str, num_draws: int) -> Points:
    nothing = np.zeros((num_draws, 0))
    return Points(
        status=status,
        log_x_k=np.zeros(0),
        log_y_Bk=nothing,
        use_Bk=nothing.astype(bool),
        row_k=None,
    )


ENVELOPES = ("pareto", "binned", "hull", "isoflop", "model")
