"""Compute-optimal sizes per budget: minima of fitted polynomials, winners of bins, lines through
them.

Legend: B draws, n rows, G budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..notebook_repr import Brief


def num_distinct(ids_n: np.ndarray, weights_Bn: np.ndarray) -> np.ndarray:
    """How many different `ids` have weight in each draw, [B]."""
    order = np.argsort(ids_n, kind="stable")
    first = np.flatnonzero(np.diff(ids_n[order], prepend=-1))
    return np.asarray((np.add.reduceat(weights_Bn[:, order], first, axis=1) > 0).sum(axis=1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Minima(Brief):
    """The minimum of every budget in every draw; NaN where `inside_BG` is False."""

    log_x_G: np.ndarray  # log of the budget (mean of its rows)
    place_BG: np.ndarray  # log size at the minimum
    value_BG: np.ndarray  # loss at the minimum
    inside_BG: np.ndarray  # a minimum exists and lies strictly inside the budget's sizes
    fitted_Bn: np.ndarray  # the polynomial at every row; NaN where it could not be fitted
    why_G: tuple[str, ...]  # "" or what is wrong with the budget in the first draw


def budgets(x: np.ndarray, gap: float = 0.05) -> np.ndarray:
    """The budget number of every row, 0 the cheapest: sorted x is cut at jumps of `gap` decades."""
    order = np.argsort(x, kind="stable")
    jumps = np.diff(np.log10(x[order]), prepend=np.log10(x[order[0]])) > gap
    number = np.empty(len(x), dtype=int)
    number[order] = np.cumsum(jumps)
    return number


def widest(x: np.ndarray, number: np.ndarray) -> tuple[float, int]:
    """Return the largest ratio of compute inside one budget, and the rows of that budget."""
    ratios = [float(np.ptp(np.log(x[number == one]))) for one in range(int(number.max()) + 1)]
    at = int(np.argmax(ratios))
    return float(np.exp(ratios[at])), int((number == at).sum())


def minima(
    x: np.ndarray,
    size: np.ndarray,
    y_Bn: np.ndarray,
    weights_Bn: np.ndarray,
    *,
    number: np.ndarray | None = None,
    degree: int = 2,
) -> Minima:
    """Find the minima of polynomials of `degree` (2 or 3) in log size, one per budget `number`.

    Left out, budgets are cut at jumps of compute.
    """
    number = budgets(x) if number is None else number
    num_budgets, num_draws = int(number.max()) + 1, len(weights_Bn)
    log_x = np.empty(num_budgets)
    place = np.full((num_draws, num_budgets), np.nan)
    value = np.full((num_draws, num_budgets), np.nan)
    inside = np.zeros((num_draws, num_budgets), dtype=bool)
    fitted = np.full((num_draws, len(x)), np.nan)
    why = []
    for budget in range(num_budgets):
        rows = np.flatnonzero(number == budget)
        log_x[budget] = np.log(x[rows]).mean()
        log_size = np.log(size[rows])
        middle, width = log_size.mean(), np.ptp(log_size) / 2
        ids = np.unique(np.round(log_size, 9), return_inverse=True)[1].ravel()
        if ids.max() < degree:
            why.append(f"{ids.max() + 1} sizes")
            continue
        u = (log_size - middle) / width
        w = weights_Bn[:, rows]
        y = np.broadcast_to(y_Bn, (num_draws, len(x)))[:, rows]
        can = num_distinct(ids, w) > degree
        power = u[:, None] ** np.arange(degree + 1)
        gram = np.einsum("bm,mi,mj->bij", w, power, power)
        right = (w * y) @ power
        gram[~can] = np.eye(degree + 1)
        c = np.linalg.solve(gram, right[:, :, None])[:, :, 0]
        fitted[:, rows] = np.where(can[:, None], c @ power.T, np.nan)
        cube = c[:, 3] if degree == 3 else np.zeros(num_draws)
        # The root of the derivative where the second derivative is positive, free of cancellation.
        square = c[:, 2] ** 2 - 3.0 * cube * c[:, 1]
        real = can & (square > 0)
        bottom = c[:, 2] + np.sqrt(np.where(real, square, 1.0))
        bowl = real & (bottom > 1e-12 * np.abs(c).max(axis=1))
        at_u = np.where(bowl, -c[:, 1] / np.where(bowl, bottom, 1.0), np.nan)
        low = np.where(w > 0, u, np.inf).min(axis=1)
        high = np.where(w > 0, u, -np.inf).max(axis=1)
        good = bowl & (at_u > low) & (at_u < high)
        inside[:, budget] = good
        place[:, budget] = np.where(good, middle + width * at_u, np.nan)
        value[:, budget] = np.where(
            good, (c * np.where(good, at_u, 0.0)[:, None] ** np.arange(degree + 1)).sum(1), np.nan
        )
        if good[0]:
            why.append("")
        else:
            why.append("minimum outside its sizes" if bowl[0] else "no minimum (concave)")
    return Minima(
        log_x_G=log_x,
        place_BG=place,
        value_BG=value,
        inside_BG=inside,
        fitted_Bn=fitted,
        why_G=tuple(why),
    )


def lines(
    u_G: np.ndarray, v_BG: np.ndarray, use_BG: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares lines v = slope u + level over the used points: slope, level, points, each [B].

    NaN where fewer than two points are used.
    """
    u_BG = np.broadcast_to(u_G, v_BG.shape)
    count = use_BG.sum(axis=1)
    enough = count >= 2
    total = np.where(enough, count, 1)
    v = np.where(use_BG, v_BG, 0.0)
    mean_u = np.where(use_BG, u_BG, 0.0).sum(axis=1) / total
    mean_v = v.sum(axis=1) / total
    du = np.where(use_BG, u_BG - mean_u[:, None], 0.0)
    dv = np.where(use_BG, v_BG - mean_v[:, None], 0.0)
    square = (du * du).sum(axis=1)
    flat = square <= 0
    slope = np.where(flat | ~enough, np.nan, (du * dv).sum(axis=1) / np.where(flat, 1.0, square))
    return slope, mean_v - slope * mean_u, count


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Winners(Brief):
    """The best run of every bin of x in every draw."""

    row_BG: np.ndarray  # its row number
    use_BG: np.ndarray  # the bin has a run, and no cheaper bin is better


def bin_numbers(x: np.ndarray, bins_per_decade: float, start: float) -> np.ndarray:
    """The bin of every row; bins are equally wide in log x and the first begins at `start`."""
    place = np.log10(x / start) * bins_per_decade
    return np.floor(place + 1e-9).astype(int)


def winners(
    bins: np.ndarray, y_Bn: np.ndarray, weights_Bn: np.ndarray, *, monotone: bool = True
) -> Winners:
    """The lowest y of each bin among the rows with weight; of equal y the first row."""
    num_draws = max(len(weights_Bn), len(y_Bn))
    all_used = weights_Bn.shape == (1, 1)  # of a weight for all rows of all draws
    used = np.unique(bins)
    row = np.zeros((num_draws, len(used)), dtype=int)
    best = np.full((num_draws, len(used)), np.inf)
    everything = y_Bn if all_used else np.broadcast_to(y_Bn, weights_Bn.shape)
    for at, one in enumerate(used):
        rows = np.flatnonzero(bins == one)
        y = everything[:, rows]
        if not all_used:
            y = np.where(weights_Bn[:, rows] > 0, y, np.inf)
        first = y.argmin(axis=1)
        row[:, at] = rows[first]
        best[:, at] = y[np.arange(num_draws), first]
    use = np.isfinite(best)
    if monotone:
        before = np.minimum.accumulate(best, axis=1)
        use[:, 1:] &= best[:, 1:] < before[:, :-1]
    return Winners(row_BG=row, use_BG=use)
