"""Crossing of two frontiers, and compute gain of one arm over another, with their uncertainty.

Both are functions of two fitted power laws, y = E + a x^-b, and of their paired draws.

Legend: B draws, G grid points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq

from ..as_json import number
from ..fitting.bootstrap import LEVEL
from ..notebook_repr import Brief
from ..result import Crossover, Gain, Middle

GRID_PER_DECADE = 24
GAIN_POINTS = 40
LEAST_DRAWS = 10  # fewer usable draws make no interval


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Line(Brief):
    """One arm's law under one form: parameters of the point fit [1] and the draws [B] (NaN)."""

    arm: str
    status: str  # "ok" or why there is no fit
    point: Mapping[str, np.ndarray]
    draws: Mapping[str, np.ndarray]
    low: float  # the arm's own range of x
    high: float
    # (first, last, points) of a grid -> log y of every draw there: many pairs ask for the same.
    known: dict[tuple[float, float, int], np.ndarray] = field(default_factory=dict)

    def drawn(self, grid: np.ndarray) -> np.ndarray:
        """Return log y [B, G] of every draw on a grid of log x."""
        key = (float(grid[0]), float(grid[-1]), len(grid))
        if key not in self.known:
            self.known.clear()
            self.known[key] = log_curve(self.draws, grid)
        return self.known[key]


def log_curve(params: Mapping[str, np.ndarray], log_x: np.ndarray) -> np.ndarray:
    """Compute log y [B, G] of power laws at log x."""
    power: np.ndarray = np.log(params["a"])[:, None] - params["b"][:, None] * log_x
    if "E" not in params:
        return power
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log(params["E"])[:, None], power))


def inverse(params: Mapping[str, np.ndarray], y: np.ndarray) -> np.ndarray:
    """Solve for the x [B, G] at which each law reaches y [B, G] or [G]; inf where it never does."""
    floor = params["E"][:, None] if "E" in params else 0.0
    b = params["b"][:, None]
    excess = y - floor
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = np.exp(
            (np.log(params["a"])[:, None] - np.log(np.where(excess > 0, excess, np.nan))) / b
        )
    return np.where(np.isfinite(x), x, np.inf)


def crossover(
    first: Line, second: Line, *, form: str, direction: str = "lower", window: float = 2.0
) -> Crossover:
    """Find where the laws of two arms cross, within their data and `window` decades beyond.

    A draw that does not cross counts as a crossing beyond the end at which the order would change,
    so that the interval is open (None) there when enough draws do so.
    """
    arms = (first.arm, second.arm)
    low = min(first.low, second.low) / 10**window
    high = max(first.high, second.high) * 10**window
    searched = (low, high)
    bad = next((one for one in (first, second) if one.status != "ok"), None)
    if bad is not None:
        return Crossover(
            arms=arms,
            form=form,
            window=window,
            status=f"{bad.arm}: {bad.status}",
            x=None,
            y=None,
            ci95=(None, None),
            p_no_crossing=None,
            searched=searched,
            outside_data=None,
            decades_outside=None,
            better_below=None,
            better_above=None,
        )
    # The difference of two straight lines is straight: its ends tell its root exactly.
    straight = "E" not in first.point and "E" not in second.point
    num = 2 if straight else int(np.log10(high / low) * GRID_PER_DECADE) + 2
    grid = np.linspace(np.log(low), np.log(high), num)
    sign = 1.0 if direction == "lower" else -1.0

    def ahead(
        one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], at: np.ndarray
    ) -> np.ndarray:
        """Above 0 where the second arm is better."""
        return np.asarray(sign * (log_curve(one, at) - log_curve(other, at)))

    gap = ahead(first.point, second.point, grid)
    # The crossing that matters is the one nearest to the compute both arms cover.
    both = (max(first.low, second.low), min(first.high, second.high))
    middle = 0.5 * (np.log(both[0]) + np.log(both[1]))
    place, count = nearest_root(grid, gap, middle)
    winner_low = arms[int(gap[0, 0] > 0)]
    winner_high = arms[int(gap[0, -1] > 0)]
    x = y = decades = None
    outside = None
    if np.isfinite(place[0]):
        at = int(np.searchsorted(grid, place[0]))
        root = float(
            brentq(
                lambda u: float(ahead(first.point, second.point, np.array([u]))[0, 0]),
                grid[max(at - 1, 0)],
                grid[min(at, num - 1)],
            )
        )
        x = float(np.exp(root))
        y = float(np.exp(log_curve(first.point, np.array([root]))[0, 0]))
        distance = max(np.log10(both[0] / x), np.log10(x / both[1]), 0.0)
        outside, decades = bool(distance > 0), float(distance)
        step = 1e-6 * (grid[-1] - grid[0])
        below = ahead(first.point, second.point, np.array([root - step]))[0, 0]
        winner_low = arms[int(below > 0)]
        winner_high = arms[1 - int(below > 0)]
    ci95: tuple[float | None, float | None] = (None, None)
    p_none = None
    good = _usable(first, second)
    if good.sum() >= LEAST_DRAWS:
        gaps = sign * (first.drawn(grid) - second.drawn(grid))
        gaps = gaps if good.all() else gaps[good]
        target = np.log(x) if x is not None else middle
        places, _ = nearest_root(grid, gaps, target)
        none = ~np.isfinite(places)
        p_none = float(none.mean())
        if x is not None:
            # Order of the point fit below its crossing: a draw that keeps it crosses further up.
            keeps = (gaps[:, num // 2] > 0) == (winner_low == arms[1])
            places = np.where(none, np.where(keeps, np.inf, -np.inf), places)
            ends = np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
            ci95 = (number(np.exp(ends[0])) or None, number(np.exp(ends[1])))
    return Crossover(
        arms=arms,
        form=form,
        window=window,
        status="ok" if x is not None else "no crossing",
        x=x,
        y=y,
        ci95=ci95,
        p_no_crossing=p_none,
        searched=searched,
        outside_data=outside,
        decades_outside=decades,
        better_below=winner_low,
        better_above=winner_high,
        crossings=int(count[0]),
    )


def crossing(first: Line, second: Line, window: float) -> float:
    """Return the x at which two laws cross, nearest to their shared data; inf if they do not."""
    low = np.log(min(first.low, second.low)) - window * np.log(10.0)
    high = np.log(max(first.high, second.high)) + window * np.log(10.0)
    grid = np.linspace(low, high, int((high - low) / np.log(10.0) * GRID_PER_DECADE) + 2)
    gap = log_curve(first.point, grid) - log_curve(second.point, grid)
    place, _ = nearest_root(grid, gap, float(np.log(middle_of(first, second))))
    return float(np.exp(place[0]))


def gain(
    arm: Line,
    reference: Line,
    *,
    form: str,
    direction: str = "lower",
    grid: np.ndarray | None = None,
) -> Gain:
    """Compute gain(C) = C_ref(L(C)) / C over the arm's own compute.

    Above 1, the reference needs more.

    `direction` is the metric's; a reference that does not improve with compute reaches nothing.
    """
    bad = next((one for one in (arm, reference) if one.status != "ok"), None)
    if bad is not None:
        return Gain(
            arm=arm.arm,
            reference=reference.arm,
            form=form,
            status=f"{bad.arm}: {bad.status}",
        )
    x = np.geomspace(arm.low, arm.high, GAIN_POINTS) if grid is None else np.asarray(grid, float)
    log_x = np.log(x)
    point, needed = _gains(arm.point, reference.point, log_x, direction)
    low = high = unreachable = None
    good = _usable(arm, reference)
    if good.sum() >= LEAST_DRAWS:
        one = {key: values[good] for key, values in arm.draws.items()}
        other = {key: values[good] for key, values in reference.draws.items()}
        draws, _ = _gains(one, other, log_x, direction)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0, method="nearest")
        unreachable = np.isinf(draws).mean(axis=0)
    middle = middle_of(arm, reference)
    at_middle, _ = _gains(arm.point, reference.point, np.log([middle]), direction)
    ends: tuple[float | None, float | None] = (None, None)
    if good.sum() >= LEAST_DRAWS:
        draws, _ = _gains(one, other, np.log([middle]), direction)
        tail = (1 - LEVEL) / 2
        pair = np.quantile(draws[:, 0], [tail, 1 - tail], method="nearest")
        ends = (number(pair[0]), number(pair[1]))
    outside = (needed[0] < reference.low) | (needed[0] > reference.high)
    outside |= (x < arm.low * (1 - 1e-9)) | (x > arm.high * (1 + 1e-9))
    return Gain(
        arm=arm.arm,
        reference=reference.arm,
        form=form,
        status="ok",
        middle=Middle(
            x=middle,
            gain=number(at_middle[0, 0]),
            ci95=ends,
            interval=int(good.sum()) >= LEAST_DRAWS,
        ),
        x=tuple(float(one) for one in x),
        gain=tuple(number(one) for one in point[0]),
        low=() if low is None else tuple(number(one) for one in low),
        high=() if high is None else tuple(number(one) for one in high),
        p_unreachable=() if unreachable is None else tuple(float(one) for one in unreachable),
        outside_data=tuple(bool(one) for one in outside),
    )


def middle_of(first: Line, second: Line) -> float:
    """Return the geometric middle of the compute that both arms cover, or of the gap between."""
    return float(np.sqrt(max(first.low, second.low) * min(first.high, second.high)))


def _gains(
    arm: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    log_x: np.ndarray,
    direction: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gain [B, G] and the reference's compute [B, G]; inf if it misses the value."""
    needed = inverse(reference, np.exp(log_curve(arm, log_x)))
    improves = reference["b"] > 0 if direction == "lower" else reference["b"] < 0
    needed = np.where(improves[:, None], needed, np.inf)
    return needed / np.exp(log_x), needed


def _usable(first: Line, second: Line) -> np.ndarray:
    """Mark the draws that both arms have; none where one has no interval."""
    totals = [_total(one.draws) for one in (first, second)]
    if not all(len(one) for one in totals):
        return np.zeros(0, dtype=bool)
    return np.asarray(np.isfinite(totals[0]) & np.isfinite(totals[1]))


def _total(params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sum all parameters: NaN where any parameter is."""
    if not params:
        return np.empty(0)
    return np.asarray(np.sum(list(params.values()), axis=0))


def nearest_root(
    grid: np.ndarray, gaps: np.ndarray, target: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find the sign change of each row nearest to `target` (inf: none), and count all of them."""
    left, right = gaps[:, :-1], gaps[:, 1:]
    change = (left > 0) != (right > 0)
    share = np.where(change, left / np.where(change, left - right, 1.0), 0.0)
    place = grid[:-1] + share * np.diff(grid)
    far = np.where(change, np.abs(place - target), np.inf)
    best = far.argmin(axis=1)
    rows = np.arange(len(gaps))
    return np.where(change.any(axis=1), place[rows, best], np.inf), change.sum(axis=1)
