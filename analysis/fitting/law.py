"""Define the interface of the laws in analysis/laws, and a fit in the parameters of its law.

Legend: B draws, n rows, P parameters of the solver, S starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..notebook_repr import Brief
from ..notices import Notice
from ..table import Data
from .optimum import num_distinct as num_distinct
from .solve import Curve, least_absolute, minimise, some_rows

# Starts count as agreeing when their objectives differ by less than this fraction.
AGREE = 1e-6
# A floor below this fraction of the smallest value is no floor.
NO_FLOOR = 1e-6
# Logs of numbers that a float can hold are smaller.
LARGEST_LOG = 700.0
# Rows up to which an L1 fit ends in exact linear programs.
MAX_EXACT_ROWS = 1000
# Tables up to this size are refitted from several starts in every draw; they are the ones with
# several minima.
FEW_ROWS = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Solved(Brief):
    """B weighted fits of one law."""

    params: dict[str, np.ndarray]  # name -> [B]; NaN where a draw could not be fitted
    theta_BP: np.ndarray  # the solver's parameters, for warm starts
    objective_B: np.ndarray  # summed loss
    decrement_B: np.ndarray  # what a further step promises, as a fraction of the objective
    fitted_log_Bn: np.ndarray | None = (
        None  # log of the fitted values (only asked for the point fit)
    )
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
    x_is_compute: ClassVar[bool] = True  # False: x is a loss, and a lower one is a larger run
    falls: ClassVar[bool] = False  # True: no parameters of it describe a metric that rises
    beyond_zero: ClassVar[tuple[str, ...]] = ()  # parameters that mean nothing when they may be 0
    amplitudes: ClassVar[tuple[str, ...]] = ()  # parameters that follow their exponents
    resampled_within: ClassVar[str | None] = None  # role whose groups a resample must keep
    raw: ClassVar[bool] = False  # True: residuals are differences of y, which may be negative
    config: Any

    def strata(self, data: Data) -> np.ndarray:
        """Return the number of the group that a resample keeps, of each row."""
        assert self.resampled_within is not None
        return np.unique(data.columns[self.resampled_within], return_inverse=True)[1].ravel()

    def link(self, y: np.ndarray) -> np.ndarray:
        """Return y on the scale of the residuals: its log, or itself where `raw`."""
        return y if self.raw else np.log(y)

    def unlink(self, z: np.ndarray) -> np.ndarray:
        """Return y of a linked one."""
        return z if self.raw else np.exp(z)

    @abstractmethod
    def names(self, data: Data) -> tuple[str, ...]:
        """The parameters' names, in order."""

    def is_amplitude(self, name: str) -> bool:
        """Whether a parameter is a factor in front of a power, by name (`s_ARM` counts as `s`)."""
        return name in self.amplitudes or name.split("_")[0] in self.amplitudes

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
    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The compute-optimal N and D [B, n] at FLOPs x, or None if the law does not know."""

    @abstractmethod
    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        """Which resamples still determine the law, [B] booleans."""

    @abstractmethod
    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Noise-free columns by role that this law describes exactly, and its parameters there."""


class CurveLaw(Law):
    """A law that is one smooth curve, fitted by the Newton solver; leaves give the curve and its
    names.

    The solver's parameters are the last ones of `names`, in that order.
    """

    @abstractmethod
    def on(self, data: Data, log_y: np.ndarray) -> Curve:
        """The curve on these rows; `log_y` [n] sets the parameters' box."""

    @abstractmethod
    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Where to start, [S, P], best first; `log_y` and `weights` are [n]."""

    @abstractmethod
    def floors(self, data: Data) -> tuple[int, ...]:
        """The solver's parameters that are floors: at 0 they are a result, not an edge."""

    @abstractmethod
    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        """The law's parameters, name -> [B], of the solver's."""

    def finite(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        """`public`, with NaN for what no float can hold (an amplitude far from the data)."""
        with np.errstate(over="ignore", invalid="ignore"):
            params = self.public(theta_BP, data, log_y)
        return {name: np.where(np.isfinite(one), one, np.nan) for name, one in params.items()}

    @abstractmethod
    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        """Warnings that only this law can see, about its point fit."""

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
        plain_y = log_y if log_y.ndim == 1 else log_y.mean(axis=0)
        curve = self.on(data, plain_y)
        if log_y.ndim == 2 or weights.ndim == 2:
            assert start is not None
            return self._refit(data, curve, log_y, weights, loss=loss, delta=delta, start=start)
        if start is None:
            # In a large table some of the rows tell which start is the best one.
            rows = some_rows(log_y, weights)
            thin = curve if len(rows) == curve.num_rows else curve.thin(rows)
            starts = self.starts(thin, log_y[rows], weights[rows])
            found = minimise(thin, log_y[rows], weights[rows], starts, loss=loss, delta=delta)
        else:  # beside another objective's fit, whose optimum is the one start
            thin, starts = curve, start.theta_BP
            found = minimise(curve, log_y, weights, starts, loss=loss, delta=delta)
        agree = _agreeing(found.objective_B, loss)
        if thin is not curve:
            starts = found.theta_BP[int(np.argmin(found.objective_B))][None]
            found = minimise(curve, log_y, weights, starts, loss=loss, delta=delta)
        best = int(np.argmin(found.objective_B))
        lowest = float(found.objective_B[best])
        theta_BP = found.theta_BP[best : best + 1]
        if loss == "l1" and start is None and curve.num_rows <= MAX_EXACT_ROWS:
            theta_BP = least_absolute(curve, log_y, weights, theta_BP[0])[None]
            lowest = float((weights * np.abs(curve.log_y(theta_BP)[0] - log_y)).sum())
        params = self.finite(theta_BP, data, log_y)
        hit = found.at_bound_BP[best].copy()
        hit[list(self.floors(data))] = False
        return Solved(
            params=params,
            theta_BP=theta_BP,
            objective_B=np.array([lowest]),
            decrement_B=found.decrement_B[best : best + 1],
            fitted_log_Bn=curve.log_y(theta_BP),
            at_bound=tuple(np.array(self.names(data)[-len(hit) :])[hit].tolist()),
            agree=agree,
            num_params=theta_BP.shape[1],
            notices=self.remarks(params, data),
        )

    def _refit(
        self,
        data: Data,
        curve: Curve,
        log_y: np.ndarray,
        weights: np.ndarray,
        *,
        loss: str,
        delta: float,
        start: Solved,
    ) -> Solved:
        """Every draw from the point fit; and from more where the point fit had several minima."""
        plain_y = log_y if log_y.ndim == 1 else log_y.mean(axis=0)
        tries = [start.theta_BP[0]]
        if curve.num_rows <= FEW_ROWS and (start.agree is None or start.agree < 1.0):
            plain_w = weights if weights.ndim == 1 else np.ones(curve.num_rows)
            tries += list(self.starts(curve, plain_y, plain_w)[:2])
        num_draws = len(log_y) if log_y.ndim == 2 else len(weights)
        theta = np.empty((num_draws, start.theta_BP.shape[1]))
        lowest = np.full(num_draws, np.inf)
        decrement = np.full(num_draws, np.inf)
        for one in tries:
            first = np.repeat(one[None], num_draws, axis=0)
            found = minimise(curve, log_y, weights, first, loss=loss, delta=delta)
            better = found.objective_B < lowest
            theta[better] = found.theta_BP[better]
            lowest[better] = found.objective_B[better]
            decrement[better] = found.decrement_B[better]
        return Solved(
            params=self.finite(theta, data, plain_y),
            theta_BP=theta,
            objective_B=lowest,
            decrement_B=decrement,
            num_params=theta.shape[1],
        )

    def one_step(
        self,
        data: Data,
        log_y: np.ndarray,
        weights_Bn: np.ndarray,
        point: Solved,
        *,
        loss: str,
        delta: float,
    ) -> dict[str, np.ndarray]:
        """The parameters of every weighting after one Newton step from the point fit, name -> [B].

        For tables so large that the step is as good as the refit, and for the influence of rows.
        """
        curve = self.on(data, log_y)
        theta = point.theta_BP
        knee = np.inf if loss == "l2" else delta
        z, jac, extra = curve.slopes(theta)
        r = z - log_y
        if loss == "l1":
            knee = 1.4826 * float(np.median(np.abs(r))) + 1e-12
        scores = np.clip(r, -knee, knee)[0][:, None] * jac[0]  # [n, P]
        flat = np.where(np.abs(r) <= knee, 1.0, 0.0)
        hess = (jac[0] * flat[0][:, None]).T @ jac[0]
        if extra is not None:
            hess = hess + curve.bend(np.clip(r, -knee, knee), jac, extra)[0]
        free = ~((theta[0] <= curve.low_P) | (theta[0] >= curve.high_P))
        moved = np.repeat(theta, len(weights_Bn), axis=0)
        inside = np.ix_(free, free)
        # The weights' own gradient at the optimum of equal weights, which is about zero.
        pull = (weights_Bn - 1.0) @ scores
        size = np.sqrt(np.diag(hess)[free])
        scaled = hess[inside] / size / size[:, None]
        moved[:, free] -= (np.linalg.pinv(scaled, rcond=1e-12) @ (pull[:, free] / size).T).T / size
        return self.finite(np.clip(moved, curve.low_P, curve.high_P), data, log_y)


def _agreeing(objective_B: np.ndarray, loss: str) -> float:
    """The share of starts that ended in the best minimum."""
    lowest = float(objective_B.min())
    # The stand-in for L1 is not exact, so its minima agree less closely.
    slack = lowest * (1e-3 if loss == "l1" else AGREE) + 1e-12
    return float(np.mean(objective_B <= lowest + slack))


def floor(share_B: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    """A floor given in units of the lowest y; exactly 0 when it cannot be told from none."""
    value_B: np.ndarray = np.where(share_B < NO_FLOOR, 0.0, share_B) * np.exp(log_y.min())
    return value_B


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
    y = data.columns["y"]
    if np.ptp(y) < 1e-12 * np.abs(y).max():
        return Refusal(
            status="no_spread",
            reason=f"{data.roles['y']} has one value only ({data.columns['y'][0]:g})",
        )
    return None


def distinct(*columns: np.ndarray) -> np.ndarray:
    """A number for each row; equal rows (to 9 digits) have equal numbers."""
    ids = np.zeros(len(columns[0]), dtype=np.int64)
    for one in columns:
        _, own = np.unique(np.round(np.log(one), 9), return_inverse=True)
        _, ids = np.unique(ids * (int(own.max()) + 1) + own, return_inverse=True)
    return ids


def exp_or_nan(log: np.ndarray) -> np.ndarray:
    """exp(log), NaN where no float can hold it."""
    return np.exp(np.where(np.abs(log) < LARGEST_LOG, log, np.nan))


def sizes(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """N and D of columns that hold them, or one of them and x = 6 N D; None if they do not."""
    if "n" in columns and "d" in columns:
        return columns["n"], columns["d"]
    if "n" in columns and "x" in columns:
        return columns["n"], columns["x"] / (6.0 * columns["n"])
    if "d" in columns and "x" in columns:
        return columns["x"] / (6.0 * columns["d"]), columns["d"]
    return None
