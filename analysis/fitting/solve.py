"""Robust fits of laws to log values: one damped Newton method, many weighted refits at once.

A law that is a sum of exponentials and floors, `y = sum_k exp(offset_k + F_k . theta) + floor`, is
one `Terms` object: a power law is one term, a floor adds a term, Chinchilla has three. There the
gradient and the Hessian of log y are exact and cheap, the linear part is found by non-negative
least squares on a grid of exponents (variable projection), and one Newton polish takes the place of
thousands of starts. A bootstrap of B draws is one call on [B, n] weights. Amplitudes are fitted as
logs; floors as they are, so that "no floor" is the edge of the box and is reached exactly.

Legend: B draws, n rows, K terms, P parameters, G grid points.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from scipy.optimize import linprog, nnls

from ..notebook_repr import Brief

LOSSES: Final = ("huber", "l1", "l2")
# Knee of the Huber loss that stands in for L1 in a batch, as a fraction of the residuals' median
# size; the single point fit ends in exact linear programs.
L1_KNEE: Final = 1e-3
# The continuation in delta divides the knee by this much at a time.
KNEE_STEP: Final = 6.0
# Rows on which the grid is searched, and those of a large table on which the starts are compared;
# the last polish uses all rows.
GRID_ROWS: Final = 300
THIN_ROWS: Final = 1500
# Grid points with this many times the best squared error are no starts.
HOPELESS: Final = 50.0
# Draws solved at a time: bounds the memory of a batch.
MAX_BATCH: Final = 3_000_000


class Curve(Brief, ABC):
    """A law on the rows of one table, as the solver sees it: log y, slopes, the box."""

    low_P: np.ndarray
    high_P: np.ndarray
    num_rows: int

    @abstractmethod
    def log_y(self, theta_BP: np.ndarray) -> np.ndarray:
        """log y, [B, n]."""

    @abstractmethod
    def slopes(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """log y [B, n], its derivatives [B, n, P], what `bend` needs (None: first order only)."""

    @abstractmethod
    def thin(self, rows: np.ndarray) -> Curve:
        """The same curve on some of its rows."""

    @abstractmethod
    def bend(self, slope_Bn: np.ndarray, jac_BnP: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """sum_i slope_i (second derivative of log y_i), [B, P, P]."""

    def of(self, draws_B: np.ndarray) -> Curve:
        """The curve of these draws only; another one where draws have rows of their own."""
        return self


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # no slots: cached properties
class Terms(Curve):
    """A sum of exponentials and floors on one table."""

    features_KnP: np.ndarray  # log features of every term; zeros for a floor
    offset_Kn: np.ndarray  # log of a fixed factor, -inf where the term is absent
    low_P: np.ndarray
    high_P: np.ndarray
    amplitude_K: tuple[int, ...]  # which parameter is the term's amplitude; -1: it has none
    floors: tuple[int, ...] = ()  # amplitudes that are no logs: the term is theta exp(offset)
    grid_GQ: np.ndarray  # where to look for the parameters that are no amplitudes, in their order

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return int(self.features_KnP.shape[1])

    @property
    def exponents(self) -> tuple[int, ...]:
        """The parameters that are no amplitudes."""
        return tuple(
            one for one in range(self.features_KnP.shape[2]) if one not in self.amplitude_K
        )

    @cached_property
    def _outer(self) -> np.ndarray:
        """The outer products of the features, [K n, P P]."""
        num_params = self.features_KnP.shape[2]
        flat = self.features_KnP.reshape(-1, num_params)
        return np.asarray(
            (flat[:, :, None] * flat[:, None, :]).reshape(-1, num_params * num_params)
        )

    def thin(self, rows: np.ndarray) -> Terms:
        return dataclasses.replace(
            self, features_KnP=self.features_KnP[:, rows], offset_Kn=self.offset_Kn[:, rows]
        )

    def _shares(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log y [B, n] and each term's share of y [B, K, n]."""
        num_terms, num_rows, num_params = self.features_KnP.shape
        flat = self.features_KnP.reshape(num_terms * num_rows, num_params)
        log_BKn = (theta_BP @ flat.T).reshape(-1, num_terms, num_rows) + self.offset_Kn
        for term, at in enumerate(self.amplitude_K):
            if at in self.floors:
                with np.errstate(divide="ignore"):
                    log_BKn[:, term] += np.log(theta_BP[:, at])[:, None]
        if num_terms == 1:
            return log_BKn[:, 0], np.ones_like(log_BKn)
        top_Bn = log_BKn.max(axis=1)
        share_BKn = np.exp(log_BKn - top_Bn[:, None])
        total_Bn = share_BKn.sum(axis=1)
        share_BKn /= total_Bn[:, None]
        return top_Bn + np.log(total_Bn), share_BKn

    def log_y(self, theta_BP: np.ndarray) -> np.ndarray:
        return self._shares(theta_BP)[0]

    def slopes(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        z_Bn, share_BKn = self._shares(theta_BP)
        jac_nBP = np.matmul(share_BKn.transpose(2, 0, 1), self.features_KnP.transpose(1, 0, 2))
        jac_BnP = np.ascontiguousarray(jac_nBP.transpose(1, 0, 2))
        for term, at in enumerate(self.amplitude_K):
            if at in self.floors:
                jac_BnP[:, :, at] += np.exp(self.offset_Kn[term] - z_Bn)
        return z_Bn, jac_BnP, share_BKn

    def bend(self, slope_Bn: np.ndarray, jac_BnP: np.ndarray, extra: np.ndarray) -> np.ndarray:
        num_terms, num_rows, num_params = self.features_KnP.shape
        if num_terms == 1:  # log y is linear in theta
            assert not self.floors
            return np.zeros((len(slope_Bn), num_params, num_params))
        weighted = (slope_Bn[:, None, :] * extra).reshape(len(slope_Bn), -1)
        own = (weighted @ self._outer).reshape(-1, num_params, num_params)
        return np.asarray(
            own - np.matmul((jac_BnP * slope_Bn[:, :, None]).transpose(0, 2, 1), jac_BnP)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class OwnRows(Curve):
    """The power law with a floor, theta = (E / unit, log a, b), where every draw has its own x.

    Resamples of a frontier select a few of many runs each; only those are looked at.
    """

    u_Bk: np.ndarray  # log x about its middle
    log_unit: float  # log of the unit of E
    low_P: np.ndarray
    high_P: np.ndarray

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return int(self.u_Bk.shape[1])

    def of(self, draws_B: np.ndarray) -> OwnRows:
        return dataclasses.replace(self, u_Bk=self.u_Bk[draws_B])

    def thin(self, rows: np.ndarray) -> OwnRows:
        return dataclasses.replace(self, u_Bk=self.u_Bk[:, rows])

    def log_y(self, theta_BP: np.ndarray) -> np.ndarray:
        power_Bk = np.exp(theta_BP[:, 1:2] - theta_BP[:, 2:] * self.u_Bk)
        return np.asarray(np.log(theta_BP[:, :1] * np.exp(self.log_unit) + power_Bk))

    def slopes(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        power_Bk = np.exp(theta_BP[:, 1:2] - theta_BP[:, 2:] * self.u_Bk)
        y_Bk = theta_BP[:, :1] * np.exp(self.log_unit) + power_Bk
        share_Bk = power_Bk / y_Bk
        jac_BkP = np.stack([np.exp(self.log_unit) / y_Bk, share_Bk, -self.u_Bk * share_Bk], axis=2)
        return np.log(y_Bk), jac_BkP, share_Bk

    def bend(self, slope_Bn: np.ndarray, jac_BnP: np.ndarray, extra: np.ndarray) -> np.ndarray:
        weight_Bk = slope_Bn * extra
        answer: np.ndarray = -np.matmul(
            (jac_BnP * slope_Bn[:, :, None]).transpose(0, 2, 1), jac_BnP
        )
        answer[:, 1, 1] += weight_Bk.sum(axis=1)
        first = (weight_Bk * self.u_Bk).sum(axis=1)
        answer[:, 1, 2] -= first
        answer[:, 2, 1] -= first
        answer[:, 2, 2] += (weight_Bk * self.u_Bk**2).sum(axis=1)
        return answer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Solution(Brief):
    """Minima of B weighted problems."""

    theta_BP: np.ndarray
    objective_B: np.ndarray  # the summed loss
    decrement_B: np.ndarray  # what a Newton step still promises, as a fraction of the objective
    at_bound_BP: np.ndarray  # parameters that ended on the edge of their box


def losses(r: np.ndarray, delta: float) -> np.ndarray:
    """Huber's loss of each residual: r^2/2 up to delta, delta (|r| - delta/2) beyond."""
    if np.isinf(delta):
        return np.asarray(0.5 * r * r)
    size = np.abs(r)
    inside = np.minimum(size, delta)
    return np.asarray(inside * (size - 0.5 * inside))


def objective(r: np.ndarray, loss: str, delta: float) -> float:
    """The summed loss of residuals: "huber" with its delta, "l1" sum |r|, "l2" sum r^2/2."""
    if loss == "l1":
        return float(np.abs(r).sum())
    return float(losses(r, np.inf if loss == "l2" else delta).sum())


def newton(
    curve: Curve,
    log_y: np.ndarray,
    weights: np.ndarray,
    start_BP: np.ndarray,
    *,
    delta: float,
    steps: int = 150,
) -> Solution:
    """Damped Newton descent of sum_i w_i huber(curve_i - log_y_i) from `start_BP`, inside the box.

    `log_y` and `weights` are [n] or [B, n]. Draws that have converged leave the batch. An
    indefinite Hessian is used with the absolute values of its eigenvalues, so every step goes
    downhill.
    """
    theta_BP = np.clip(np.array(start_BP, dtype=float), curve.low_P, curve.high_P)
    num_draws, num_params = theta_BP.shape
    y_Bn = np.broadcast_to(log_y, (num_draws, curve.num_rows))
    w_Bn = np.broadcast_to(weights, (num_draws, curve.num_rows))
    identity = np.eye(num_params)
    # A draw of a bootstrap need not be as exact as the point fit.
    tolerance = 1e-13 if num_draws <= 16 else 1e-10

    damping_B = np.full(num_draws, 1e-3)
    decrement_B = np.full(num_draws, np.inf)
    best_B = (w_Bn * losses(curve.log_y(theta_BP) - y_Bn, delta)).sum(axis=1)
    live = np.arange(num_draws)
    for _ in range(steps):
        if not live.size:
            break
        theta, w, y = theta_BP[live], w_Bn[live], y_Bn[live]
        own = curve if live.size == num_draws else curve.of(live)
        z, jac, extra = own.slopes(theta)
        r = z - y
        size = np.abs(r)
        slope = w * np.clip(r, -delta, delta)  # w rho'(r)
        # min(1, delta/|r|): the curvature of the parabola that touches the loss from above.
        above = w * (delta / np.maximum(size, delta) if np.isfinite(delta) else 1.0)
        grad = np.matmul(slope[:, None, :], jac)[:, 0]
        inside = above if extra is None else np.where(size <= delta, w, 0.0)
        hess = np.matmul((jac * inside[:, :, None]).transpose(0, 2, 1), jac)
        if extra is not None:
            hess = hess + own.bend(slope, jac, extra)
        scale = np.sqrt(np.matmul(above[:, None, :], jac * jac)[:, 0]) + 1e-150

        pinned = ((theta <= curve.low_P) & (grad > 0)) | ((theta >= curve.high_P) & (grad < 0))
        free = ~pinned
        scaled = hess / scale[:, :, None] / scale[:, None, :] * free[:, :, None] * free[:, None, :]
        values, vectors = np.linalg.eigh(scaled + identity * pinned[:, None, :])
        g = np.matmul((np.where(pinned, 0.0, grad) / scale)[:, None, :], vectors)[:, 0]
        bowl = np.maximum(np.abs(values), 1e-11)
        decrement_B[live] = (g * g / bowl).sum(axis=1) / np.maximum(best_B[live], 1e-300)
        move = np.matmul(vectors, (g / (bowl + damping_B[live][:, None]))[:, :, None])[:, :, 0]
        trial = np.clip(theta - np.where(pinned, 0.0, move / scale), curve.low_P, curve.high_P)

        got = (w * losses(own.log_y(trial) - y, delta)).sum(axis=1)
        better = got < best_B[live]
        tiny = best_B[live] < 1e-28 * curve.num_rows  # an exact fit
        decrement_B[live[tiny]] = 0.0
        done = (decrement_B[live] < tolerance) | (~better & (damping_B[live] > 1e6)) | tiny
        theta_BP[live[better]] = trial[better]
        best_B[live[better]] = got[better]
        damping_B[live] = np.where(better, damping_B[live] / 8, damping_B[live] * 6 + 1e-10)
        live = live[~done]
    at_bound = (theta_BP <= curve.low_P) | (theta_BP >= curve.high_P)
    return Solution(
        theta_BP=theta_BP, objective_B=best_B, decrement_B=decrement_B, at_bound_BP=at_bound
    )


def minimise(
    curve: Curve,
    log_y: np.ndarray,
    weights: np.ndarray,
    start_BP: np.ndarray,
    *,
    loss: str = "huber",
    delta: float = 1e-3,
) -> Solution:
    """The minimum of each draw's summed loss from its start, in batches.

    A knee far below the residuals makes the loss nearly L1, where Newton stalls on the kinks: the
    knee is lowered from the residuals' own size in steps (continuation).
    """
    num_draws = len(start_BP)
    size = max(1, MAX_BATCH // max(1, curve.num_rows * len(curve.low_P)))
    if num_draws > size:
        parts = [
            minimise(
                curve,
                log_y[at : at + size] if log_y.ndim == 2 else log_y,
                weights[at : at + size] if weights.ndim == 2 else weights,
                start_BP[at : at + size],
                loss=loss,
                delta=delta,
            )
            for at in range(0, num_draws, size)
        ]
        return Solution(
            theta_BP=np.concatenate([one.theta_BP for one in parts]),
            objective_B=np.concatenate([one.objective_B for one in parts]),
            decrement_B=np.concatenate([one.decrement_B for one in parts]),
            at_bound_BP=np.concatenate([one.at_bound_BP for one in parts]),
        )
    if loss == "l2":
        return newton(curve, log_y, weights, start_BP, delta=np.inf)
    r_Bn = curve.log_y(np.clip(start_BP, curve.low_P, curve.high_P)) - log_y
    typical = float(np.median(np.abs(r_Bn))) + 1e-12
    goal = typical * L1_KNEE if loss == "l1" else delta
    knee = typical
    theta_BP = start_BP
    while knee > goal * KNEE_STEP:
        theta_BP = newton(curve, log_y, weights, theta_BP, delta=knee, steps=25).theta_BP
        knee /= KNEE_STEP
    found = newton(curve, log_y, weights, theta_BP, delta=goal)
    if loss == "l1":
        r_Bn = curve.log_y(found.theta_BP) - log_y
        values = (np.broadcast_to(weights, r_Bn.shape) * np.abs(r_Bn)).sum(axis=1)
        return Solution(
            theta_BP=found.theta_BP,
            objective_B=values,
            decrement_B=found.decrement_B,
            at_bound_BP=found.at_bound_BP,
        )
    return found


def least_absolute(
    curve: Curve, log_y: np.ndarray, weights: np.ndarray, start_P: np.ndarray, *, steps: int = 30
) -> np.ndarray:
    """The exact minimum of sum_i w_i |r_i| near `start_P`: linear programs in a shrinking box."""
    theta: np.ndarray = np.clip(start_P, curve.low_P, curve.high_P)
    live = weights > 0
    w = weights[live]
    num, num_params = int(live.sum()), len(theta)
    radius = 0.1
    best = float((w * np.abs(curve.log_y(theta[None])[0] - log_y)[live]).sum())
    for _ in range(steps):
        z, jac_BnP, _ = curve.slopes(theta[None])
        r = (z[0] - log_y)[live]
        jac = jac_BnP[0][live]
        low = np.maximum(curve.low_P - theta, -radius)
        high = np.minimum(curve.high_P - theta, radius)
        # Variables: the step, and the positive and negative part of each residual.
        answer = linprog(
            np.concatenate([np.zeros(num_params), w, w]),
            A_eq=np.hstack([jac, -np.eye(num), np.eye(num)]),
            b_eq=-r,
            bounds=[*zip(low, high, strict=True), *[(0, None)] * (2 * num)],
            method="highs",
        )
        if answer.status != 0:
            break
        trial = np.clip(theta + answer.x[:num_params], curve.low_P, curve.high_P)
        got = float((w * np.abs(curve.log_y(trial[None])[0] - log_y)[live]).sum())
        if got < best:
            small = best - got < 1e-14 * best
            theta, best = trial, got
            if small:
                break
        else:
            radius /= 8
            if radius < 1e-9:
                break
    return theta


def grid_starts(
    terms: Terms, log_y: np.ndarray, weights: np.ndarray, *, most: int = 5
) -> np.ndarray:
    """The best `most` grid points that are not neighbours, with their amplitudes, [S, P].

    Variable projection: at fixed exponents the amplitudes solve a non-negative least squares
    problem on relative errors (weights 1/y).
    """
    rows = some_rows(log_y, weights, GRID_ROWS)
    features, offset = terms.features_KnP[:, rows], terms.offset_Kn[:, rows]
    y, w = log_y[rows], np.sqrt(weights[rows])
    exponents = list(terms.exponents)
    num_terms = len(terms.amplitude_K)
    linear = sorted(set(terms.amplitude_K) - {-1})
    # Terms with one amplitude add up; a term without one is moved to the other side.
    log_GKn = np.einsum("gq,knq->gkn", terms.grid_GQ, features[:, :, exponents]) + offset - y
    value_GKn = np.exp(np.minimum(log_GKn, 300.0)) * w
    columns = np.zeros((len(terms.grid_GQ), len(linear), len(y)))
    target = np.broadcast_to(w, (len(terms.grid_GQ), len(y))).copy()
    for term in range(num_terms):
        if terms.amplitude_K[term] < 0:
            target -= value_GKn[:, term]
        else:
            columns[:, linear.index(terms.amplitude_K[term])] += value_GKn[:, term]
    norm = np.sqrt((columns**2).sum(axis=2)) + 1e-300
    columns /= norm[:, :, None]
    gram = np.matmul(columns, columns.transpose(0, 2, 1)) + 1e-10 * np.eye(len(linear))
    right = np.matmul(columns, target[:, :, None])[:, :, 0]
    root = np.linalg.cholesky(gram)
    small = np.linalg.solve(root, right[:, :, None])[:, :, 0]
    amplitude = np.empty_like(right)
    for at in range(len(gram)):
        amplitude[at] = nnls(root[at].T, small[at])[0]
    left = ((np.matmul(amplitude[:, None, :], columns)[:, 0] - target) ** 2).sum(axis=1)

    span = np.ptp(terms.grid_GQ, axis=0)
    place = terms.grid_GQ / np.where(span > 0, span, 1.0)
    chosen: list[int] = []
    for at in np.argsort(left, kind="stable"):
        if len(chosen) >= 2 and left[at] > HOPELESS * left[chosen[0]]:
            break
        if all(np.abs(place[at] - place[one]).max() > 0.12 for one in chosen):
            chosen.append(int(at))
        if len(chosen) == most:
            break
    starts = np.zeros((len(chosen), len(terms.low_P)))
    starts[:, exponents] = terms.grid_GQ[chosen]
    # An amplitude of zero starts small but alive, or its gradient would vanish.
    tiny = 1e-3 / norm[chosen]
    found = amplitude[chosen] / norm[chosen]
    logs = np.log(np.maximum(found, tiny))
    for at, one in enumerate(linear):
        starts[:, one] = found[:, at] if one in terms.floors else logs[:, at]
    return np.clip(starts, terms.low_P, terms.high_P)


def some_rows(log_y: np.ndarray, weights: np.ndarray, most: int = THIN_ROWS) -> np.ndarray:
    """Rows with weight; `most` of them, evenly along the sorted values, when there are many."""
    rows = np.flatnonzero(weights > 0)
    if len(rows) <= 2 * most:
        return rows
    order = rows[np.argsort(log_y[rows], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, most).astype(int)])
