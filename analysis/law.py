"""What every law in analysis/fits is: the interface, and the solver's answer in the law's own parameters.

Legend: B draws, n rows, P parameters of the solver, S starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .result import Notice
from .solve import NO_FLOOR, Curve, Terms, grid_starts, least_absolute, minimise
from .table import Data

# Starts count as agreeing when their objectives differ by less than this fraction.
AGREE = 1e-6
# A floor below this fraction of the smallest value has no gradient left: a warm start is lifted to it.
LIVE_FLOOR = 0.02
# Tables up to this size are refitted from several starts in every draw; they are the ones with
# several minima.
FEW_ROWS = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Solved:
    """B weighted fits of one law."""

    params: dict[str, np.ndarray]  # name -> [B]; NaN where a draw could not be fitted
    theta_BP: np.ndarray  # the solver's parameters, for warm starts
    objective_B: np.ndarray  # summed loss
    decrement_B: np.ndarray  # what a further step promises, as a fraction of the objective
    fitted_log_Bn: np.ndarray | None = None  # log of the fitted values (only asked for the point fit)
    at_bound: tuple[str, ...] = ()  # parameters on the edge of their box (point fit)
    agree: float | None = None  # share of starts that ended in the best minimum (point fit)
    num_params: int = 0  # degrees of freedom used up
    notices: tuple[Notice, ...] = ()  # what only the law can see


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a law cannot be fitted to some data."""

    status: str  # one word: too_few, no_spread, collinear, no_minimum ...
    reason: str  # a sentence


class Law(ABC):
    """One scaling law. Subclasses are final; `config` is the module's Config."""

    losses: ClassVar[tuple[str, ...]] = ("huber", "l1", "l2")  # objectives it can be fitted with
    resampled_within: ClassVar[str | None] = None  # role whose groups a resample must keep
    config: Any

    @abstractmethod
    def names(self, data: Data) -> tuple[str, ...]:
        """The parameters' names, in order."""

    @abstractmethod
    def refuse(self, data: Data) -> Refusal | None:
        """Why the data are degenerate for this law, or None."""

    @abstractmethod
    def solve(
        self,
        data: Data,
        log_y: np.ndarray,
        weights: np.ndarray,
        *,
        loss: str,
        delta: float,
        start: Solved | None = None,
    ) -> Solved:
        """The law fitted to `log_y` with `weights`, each [n] or [B, n]; `start`: the point fit."""

    @abstractmethod
    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """y [B, n] of parameters [B] at columns (role -> [n])."""

    @abstractmethod
    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Functions of the parameters worth an interval, name -> [B]."""

    @abstractmethod
    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        """Which resamples still determine the law, [B] booleans."""

    @abstractmethod
    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Noise-free columns by role that this law describes exactly, and its parameters there."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CurveFit:
    """What `fit_curve` found; the law turns theta into its own parameters."""

    theta_BP: np.ndarray
    objective_B: np.ndarray
    decrement_B: np.ndarray
    at_bound_P: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    agree: float | None = None


def fit_curve(
    curve: Curve,
    log_y: np.ndarray,
    weights: np.ndarray,
    *,
    loss: str,
    delta: float,
    start: Solved | None,
    starts_SP: np.ndarray | None = None,
    floors: tuple[int, ...] = (),
) -> CurveFit:
    """The best minimum over the starts: for one problem, or warm from `start` for a batch.

    `starts_SP` None: the grid of `curve`, which must then be `Terms`. `floors` are the parameters
    that are logs of floors.
    """
    several = log_y.ndim == 2 or weights.ndim == 2
    plain_y = log_y if log_y.ndim == 1 else log_y.mean(axis=0)
    plain_w = weights if weights.ndim == 1 else np.ones(curve.num_rows)
    if starts_SP is None and (start is None or curve.num_rows <= FEW_ROWS):
        assert isinstance(curve, Terms)
        starts_SP = grid_starts(curve, plain_y, plain_w)
    if not several:
        assert starts_SP is not None
        found = minimise(curve, log_y, weights, starts_SP, loss=loss, delta=delta)
        best = int(np.argmin(found.objective_B))
        lowest = float(found.objective_B[best])
        theta = found.theta_BP[best]
        slack = AGREE * lowest + 1e-20
        if loss == "l1":
            theta = least_absolute(curve, log_y, weights, theta)
            exact = float((weights * np.abs(curve.log_y(theta[None])[0] - log_y)).sum())
            slack = 1e-3 * lowest + 1e-20
            lowest = exact
        agree = float(np.mean(found.objective_B <= found.objective_B[best] + slack))
        return CurveFit(
            theta_BP=theta[None],
            objective_B=np.array([lowest]),
            decrement_B=found.decrement_B[best : best + 1],
            at_bound_P=found.at_bound_BP[best],
            agree=agree,
        )
    assert start is not None
    warm = start.theta_BP[0].copy()
    lifted = plain_y.min() + np.log(LIVE_FLOOR)
    for one in floors:
        warm[one] = max(warm[one], lifted)
    tries = [warm]
    if curve.num_rows <= FEW_ROWS and starts_SP is not None:
        tries += list(starts_SP[:3])
    num_draws = len(log_y) if log_y.ndim == 2 else len(weights)
    best_theta = np.empty((num_draws, len(warm)))
    best = np.full(num_draws, np.inf)
    decrement = np.full(num_draws, np.inf)
    for one in tries:
        found = minimise(
            curve, log_y, weights, np.repeat(one[None], num_draws, axis=0), loss=loss, delta=delta
        )
        better = found.objective_B < best
        best_theta[better] = found.theta_BP[better]
        best[better] = found.objective_B[better]
        decrement[better] = found.decrement_B[better]
    return CurveFit(theta_BP=best_theta, objective_B=best, decrement_B=decrement)


def floor_from_log(log_floor: np.ndarray, log_smallest: float) -> np.ndarray:
    """The floor itself; exactly 0 when it is too small to be told from none."""
    floor = np.exp(log_floor)
    return np.where(log_floor < log_smallest + np.log(NO_FLOOR), 0.0, floor)


def few_or_flat(data: Data, least: int, spread: tuple[str, ...]) -> Refusal | None:
    """The refusals that laws share: too few rows, a column that does not vary, a constant y."""
    if data.num_rows < least:
        return Refusal(
            status="too_few",
            reason=f"{data.num_rows} rows; this law needs {least} at least",
        )
    for role in spread:
        values = np.log(data.columns[role])
        if np.ptp(values) < 1e-9:
            return Refusal(
                status="no_spread",
                reason=f"{data.roles[role]} has one value only ({data.columns[role][0]:g})",
            )
    if np.ptp(np.log(data.columns["y"])) < 1e-12:
        return Refusal(
            status="no_spread",
            reason=f"{data.roles['y']} has one value only ({data.columns['y'][0]:g})",
        )
    return None


def distinct(*columns: np.ndarray) -> np.ndarray:
    """A number for each row; equal rows (to 9 digits) have equal numbers."""
    keys = np.stack([np.round(np.log(one), 9) for one in columns], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def num_distinct(ids_n: np.ndarray, weights_Bn: np.ndarray) -> np.ndarray:
    """How many different `ids` have weight in each draw, [B]."""
    total = np.zeros((len(weights_Bn), int(ids_n.max()) + 1))
    order = np.argsort(ids_n, kind="stable")
    first = np.flatnonzero(np.diff(ids_n[order], prepend=-1))
    total[:, ids_n[order][first]] = np.add.reduceat(weights_Bn[:, order], first, axis=1)
    return (total > 0).sum(axis=1)
