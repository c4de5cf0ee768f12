"""Chinchilla approach 3: L(N, D) = E + A N^-alpha + B D^-beta (arXiv:2203.15556, eq. 2).

N parameters, D training tokens, C = 6 N D. From the five parameters follow the optimal sizes
N* ~ C^a, D* ~ C^b with a = beta / (alpha + beta), and the frontier's own exponent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.solve import Curve, Terms, grid_starts
from ..notices import Notice, notice
from ..table import Data

REQUIRES: Final = ("n", "d", "y")
STEEPEST: Final = 3.0  # largest exponent the polish may reach
GRID: Final = np.linspace(0.02, 1.5, 24)  # exponents of the variable projection grid
RAY: Final = 1e-6  # tokens per parameter that vary by less (in logs) lie on one ray


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(base.CurveLaw):
    """Approach 3; parameters E, A, B, alpha, beta; A and B for N and D as given."""

    falls = True
    amplitudes = ("A", "B")

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("E", "A", "B", "alpha", "beta")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 5, ("n", "d"))
        if refusal is not None:
            return refusal
        per_parameter = np.log(data.columns["d"] / data.columns["n"])
        if np.ptp(per_parameter) < RAY:
            return base.Refusal(
                status="collinear",
                reason="all rows have the same tokens per parameter "
                f"({np.exp(per_parameter[0]):.3g}): alpha and beta cannot be told apart",
            )
        if len(np.unique(base.distinct(data.columns["n"], data.columns["d"]))) < 5:
            return base.Refusal(
                status="no_spread", reason="fewer than 5 different (N, D): five parameters need 5"
            )
        return None

    def on(self, data: Data, log_y: np.ndarray) -> Terms:
        log_n, log_d = np.log(data.columns["n"]), np.log(data.columns["d"])
        return chinchilla_terms(log_n - log_n.mean(), log_d - log_d.mean(), log_y)

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Terms)
        return grid_starts(curve, log_y, weights)

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,)

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        alpha, beta = theta_BP[:, 3], theta_BP[:, 4]
        return {
            "E": base.floor(theta_BP[:, 0], log_y),
            "A": np.exp(theta_BP[:, 1] + alpha * np.log(data.columns["n"]).mean()),
            "B": np.exp(theta_BP[:, 2] + beta * np.log(data.columns["d"]).mean()),
            "alpha": alpha,
            "beta": beta,
        }

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        found = []
        if params["E"][0] == 0.0:
            found.append(notice("W-FLOOR-ZERO", "E = 0: the data show no irreducible loss"))
        decades = float(np.ptp(np.log10(data.columns["d"] / data.columns["n"])))
        if decades < 1.0:
            found.append(
                notice(
                    "W-RIDGE", f"tokens per parameter span {decades:.2f} decades; 1 is the least"
                )
            )
        return tuple(found)

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        given = base.sizes(columns)
        if given is None:
            # In logs: with exponents near zero the optimum is a number that no float can hold, and
            # still has a loss.
            log_n, log_d = _log_optimum(params, columns["x"])
        else:
            log_n, log_d = np.log(given[0]), np.log(given[1])
        model = np.exp(np.log(params["A"])[:, None] - params["alpha"][:, None] * log_n)
        data = np.exp(np.log(params["B"])[:, None] - params["beta"][:, None] * log_d)
        return np.asarray(params["E"][:, None] + model + data)

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the compute-optimal N* and D* [B, n] at FLOPs x = 6 N D (arXiv:2203.15556, eq. 4).

        NaN where no float can hold one of them.
        """
        log_n, log_d = _log_optimum(params, x)
        return base.exp_or_nan(log_n), base.exp_or_nan(log_d)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        alpha, beta = params["alpha"], params["beta"]
        total = alpha + beta
        return {"a": beta / total, "b": alpha / total, "frontier_exponent": alpha * beta / total}

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        rows = base.distinct(data.columns["n"], data.columns["d"])
        sizes = base.distinct(data.columns["n"])
        return (base.num_distinct(rows, weights_Bn) >= 5) & (
            base.num_distinct(sizes, weights_Bn) >= 2
        )

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        n, d = np.meshgrid(np.geomspace(5e7, 5e9, 7), np.geomspace(1e9, 1e11, 7))
        n = n.ravel() * np.exp(rng.uniform(-0.1, 0.1, n.size))
        params = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
        arrays = {name: np.array([value]) for name, value in params.items()}
        columns = {"n": n, "d": d.ravel()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params


def _log_optimum(params: Mapping[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log N* and log D* [B, n] at FLOPs x."""
    alpha, beta = params["alpha"][:, None], params["beta"][:, None]
    log_a, log_b = np.log(params["A"])[:, None], np.log(params["B"])[:, None]
    log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
    work = np.log(x / 6.0)[None, :]
    log_n = log_g + beta / (alpha + beta) * work
    return log_n, work - log_n


def chinchilla_terms(u: np.ndarray, v: np.ndarray, log_y: np.ndarray) -> Terms:
    """Return the terms of E + exp(a - alpha u) + exp(b - beta v).

    u and v are log N and log D about their means.
    """
    num = len(u)
    features = np.zeros((3, num, 5))
    features[1, :, 1] = features[2, :, 2] = 1.0
    features[1, :, 3] = -u
    features[2, :, 4] = -v
    low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
    alpha, beta = np.meshgrid(GRID, GRID, indexing="ij")
    return Terms(
        features_KnP=features,
        offset_Kn=np.stack([np.full(num, log_y.min()), np.zeros(num), np.zeros(num)]),
        low_P=np.array([0.0, low, low, 1e-4, 1e-4]),
        high_P=np.array([np.exp(np.ptp(log_y)), high, high, STEEPEST, STEEPEST]),
        amplitude_K=(0, 1, 2),
        floors=(0,),  # E in units of the lowest y
        grid_GQ=np.stack([alpha.ravel(), beta.ravel()], axis=1),
    )
