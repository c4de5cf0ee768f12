"""Forward hold-outs: the error of a law's form, measured by fits without the largest runs.

Rows are cut along each axis (compute, and every column of its own) at several shares. The law is
fitted below a cut and predicts the rows above it. A mean miss beyond what noise and the error of
the parameters explain is an error of the form, and predictions as far outside are widened by it.

Legend: B cuts, n rows, P parameters of the solver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import nnls
from scipy.special import ndtri, stdtrit

from ..table import Data
from .bootstrap import LEVEL
from .law import CurveLaw, Law, Solved

CUTS: Final = (0.5, 0.6, 0.7, 0.8, 0.9)  # shares of the rows below a cut
LEVEL_OF_MISS: Final = 0.99  # two-sided; below it a miss is noise and error of the parameters
# Variance of a median over that of a mean, for normal noise: objectives close to L1 have it.
MEDIAN: Final = float(np.pi / 2)
# Factor on the scatter. A few runs with heavy tails scatter less than most of their successors:
# chosen on simulations of a power law with n = 5 and 8, normal and t3 noise (docs/analysis.md).
TAILS: Final = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Miss:
    """The mean miss above one cut of one axis, in logs, predicted over measured."""

    axis: str  # "compute", or the role of a column
    decades: float  # mean distance of the held-out rows beyond the fitted ones
    n_fit: int
    n_held: int
    bias: float
    rmse: float
    se: float  # of `bias` where the form is right: scatter x sqrt(1/n_held + leverage)
    beyond_noise: bool


def compute(law: Law, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the order of the runs from small to large: FLOPs, or the inverse of a loss."""
    if "x" not in columns:
        return np.asarray(6.0 * columns["n"] * columns["d"])
    return columns["x"] if law.x_is_compute else 1.0 / columns["x"]


def axes(law: Law, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the axes along which a prediction may lie outside the fitted rows."""
    own = {role: columns[role] for role in columns if role not in ("x", "y", "budget", "group")}
    if "x" in columns or {"n", "d"} <= set(columns):
        own["compute"] = compute(law, columns)
    return own


def inflation(loss: str, delta: float, residuals: np.ndarray) -> float:
    """Return the factor on the variance of parameters that are fitted by medians in effect."""
    size = 1.4826 * float(np.median(np.abs(residuals)))
    near_l1 = loss == "l1" or (loss == "huber" and delta < 0.5 * size)
    return MEDIAN if near_l1 else 1.0


def leverage(jac_nP: np.ndarray, at_P: np.ndarray) -> float:
    """Return at' (J'J)^-1 at: the variance of the law at a point, in units of the noise's."""
    size = np.sqrt((jac_nP**2).sum(axis=0)) + 1e-300
    covariance = np.linalg.pinv((jac_nP / size).T @ (jac_nP / size), rcond=1e-12)
    scaled = at_P / size
    return float(scaled @ covariance @ scaled)


def scatter(law: Law, data: Data, log_y: np.ndarray, point: Solved) -> float:
    """Return the standard deviation of a run about the law, with n - p degrees of freedom.

    Residuals of least squares, which a fit by medians leaves larger than they are: the part of the
    residuals that a change of the parameters explains is taken off.
    """
    assert point.fitted_log_Bn is not None
    residual = log_y - point.fitted_log_Bn[0]
    free = max(1, data.num_rows - len(point.params))
    if isinstance(law, CurveLaw):
        jac = law.on(data, log_y).slopes(point.theta_BP)[1][0]
        jac = jac / (np.sqrt((jac**2).sum(axis=0)) + 1e-300)
        residual = residual - jac @ np.linalg.lstsq(jac, residual, rcond=1e-9)[0]
    return TAILS * float(np.sqrt((residual**2).sum() / free))


def misses(
    law: Law, data: Data, log_y: np.ndarray, point: Solved, *, loss: str, delta: float
) -> tuple[Miss, ...]:
    """Return the misses above every cut that leaves more rows than parameters."""
    if not isinstance(law, CurveLaw):
        return ()
    cuts: list[tuple[str, np.ndarray, np.ndarray]] = []
    for name, values in axes(law, data.columns).items():
        log = np.log10(values)
        for share in CUTS:
            edge = np.quantile(log, share, method="higher") - 1e-9
            kept = log < edge
            if kept.sum() > point.num_params and not any(
                name == other and (kept == mask).all() for other, mask, _ in cuts
            ):
                cuts.append((name, kept, log))
    if not cuts:
        return ()
    weights = np.array([kept for _, kept, _ in cuts], dtype=float)
    can = law.enough(data, weights)
    cuts = [cut for cut, good in zip(cuts, can, strict=True) if good]
    if not cuts:
        return ()
    again = law.solve(data, log_y, weights[can], loss=loss, delta=delta, start=point)
    z_Bn, jac_BnP, _ = law.on(data, log_y).slopes(again.theta_BP)
    return tuple(
        _miss(name, kept, log, z_Bn[at] - log_y, jac_BnP[at], loss, delta)
        for at, (name, kept, log) in enumerate(cuts)
        if np.isfinite(z_Bn[at]).all()
    )


def _miss(
    axis: str,
    kept: np.ndarray,
    log: np.ndarray,
    miss_n: np.ndarray,
    jac_nP: np.ndarray,
    loss: str,
    delta: float,
) -> Miss:
    """Return one cut's miss and its standard error where the form is right."""
    held = ~kept
    free = int(kept.sum()) - jac_nP.shape[1]
    scatter = float(np.sqrt((miss_n[kept] ** 2).sum() / free))
    spread = leverage(jac_nP[kept], jac_nP[held].mean(axis=0)) * inflation(
        loss, delta, miss_n[kept]
    )
    se = scatter * float(np.sqrt(1.0 / held.sum() + spread))
    bias = float(miss_n[held].mean())
    worst = float(stdtrit(free, 0.5 + LEVEL_OF_MISS / 2)) * se
    return Miss(
        axis=axis,
        decades=float((log[held] - log[kept].max()).mean()),
        n_fit=int(kept.sum()),
        n_held=int(held.sum()),
        bias=bias,
        rmse=float(np.sqrt((miss_n[held] ** 2).mean())),
        se=se,
        beyond_noise=abs(bias) > worst and abs(bias) > 1e-9,
    )


def widening(found: Sequence[Miss], outside: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the 95% half-width of the error of the form, in logs, at each point.

    `outside`: axis -> decades beyond the fitted rows, 0 inside. Along an axis the mean square miss
    is A + B decades^2, fitted to its cuts; inside the fitted rows the residuals hold the error.
    """
    total = np.zeros(len(next(iter(outside.values()))) if outside else 1)
    z = float(ndtri(0.5 + LEVEL / 2))
    for axis, decades in outside.items():
        own = [one for one in found if one.axis == axis]
        if not any(one.beyond_noise for one in own):
            continue
        square = np.array([one.rmse**2 if one.beyond_noise else 0.0 for one in own])
        design = np.array([[1.0, one.decades**2] for one in own])
        (level, growth), _ = nnls(design, square)
        total += np.where(decades > 0, level + growth * decades**2, 0.0)
    return z * np.sqrt(total)
