"""Chinchilla approach 3: L(N, D) = E + A N^-alpha + B D^-beta (arXiv:2203.15556, eq. 2).

N parameters, D training tokens, C = 6 N D. From the five parameters follow the optimal sizes
N* ~ C^a, D* ~ C^b with a = beta / (alpha + beta), and the frontier's own exponent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from .. import law as base
from ..codes import notice
from ..solve import Terms
from ..table import Data

REQUIRES: Final = ("n", "d", "y")
STEEPEST: Final = 3.0  # largest exponent the polish may reach
GRID: Final = np.linspace(0.02, 1.5, 24)  # exponents of the variable projection grid
RAY: Final = 1e-6  # tokens per parameter that vary by less (in logs) lie on one ray


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(base.Law):
    """Approach 3; parameters E, A, B, alpha, beta; A and B for N and D as given."""

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

    def solve(
        self,
        data: Data,
        log_y: np.ndarray,
        weights: np.ndarray,
        *,
        loss: str,
        delta: float,
        start: base.Solved | None = None,
    ) -> base.Solved:
        log_n, log_d = np.log(data.columns["n"]), np.log(data.columns["d"])
        middle_n, middle_d = float(log_n.mean()), float(log_d.mean())
        terms = chinchilla_terms(log_n - middle_n, log_d - middle_d, log_y)
        found = base.fit_curve(
            terms, log_y, weights, loss=loss, delta=delta, start=start, floors=(0,)
        )
        theta = found.theta_BP
        alpha, beta = theta[:, 3], theta[:, 4]
        params = {
            "E": base.floor_from_log(theta[:, 0], float(log_y.min())),
            "A": np.exp(theta[:, 1] + alpha * middle_n),
            "B": np.exp(theta[:, 2] + beta * middle_d),
            "alpha": alpha,
            "beta": beta,
        }
        notices = []
        if start is None:
            if params["E"][0] == 0.0:
                notices.append(notice("W-FLOOR-ZERO", "E = 0: the data show no irreducible loss"))
            decades = float(np.ptp(log_d - log_n) / np.log(10))
            if decades < 1.0:
                notices.append(
                    notice(
                        "W-RIDGE",
                        f"tokens per parameter span {decades:.2f} decades; one is the least",
                    )
                )
        at_bound = tuple(
            name
            for name, hit in zip(params, found.at_bound_P, strict=False)
            if hit and name in ("alpha", "beta", "A", "B")
        )
        return base.Solved(
            params=params,
            theta_BP=theta,
            objective_B=found.objective_B,
            decrement_B=found.decrement_B,
            fitted_log_Bn=terms.log_y(theta) if start is None else None,
            at_bound=at_bound,
            agree=found.agree,
            num_params=5,
            notices=tuple(notices),
        )

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        if "n" in columns and "d" in columns:
            n, d = columns["n"], columns["d"]
        else:
            n, d = self.optimum(params, columns["x"])
        model = np.exp(np.log(params["A"])[:, None] - params["alpha"][:, None] * np.log(n))
        data = np.exp(np.log(params["B"])[:, None] - params["beta"][:, None] * np.log(d))
        return params["E"][:, None] + model + data

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The compute-optimal N* and D* [B, n] at FLOPs x = 6 N D (arXiv:2203.15556, eq. 4)."""
        alpha, beta = params["alpha"][:, None], params["beta"][:, None]
        log_a, log_b = np.log(params["A"])[:, None], np.log(params["B"])[:, None]
        log_g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
        work = np.log(x / 6.0)[None, :]
        log_n = log_g + beta / (alpha + beta) * work
        return np.exp(log_n), np.exp(work - log_n)

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


def chinchilla_terms(u: np.ndarray, v: np.ndarray, log_y: np.ndarray) -> Terms:
    """Terms of exp(e) + exp(a - alpha u) + exp(b - beta v); u, v are log N, log D about their means."""
    num = len(u)
    features = np.zeros((3, num, 5))
    features[0, :, 0] = features[1, :, 1] = features[2, :, 2] = 1.0
    features[1, :, 3] = -u
    features[2, :, 4] = -v
    low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
    alpha, beta = np.meshgrid(GRID, GRID, indexing="ij")
    return Terms(
        features_KnP=features,
        offset_Kn=np.zeros((3, num)),
        low_P=np.array([low, low, low, 1e-4, 1e-4]),
        high_P=np.array([high, high, high, STEEPEST, STEEPEST]),
        amplitude_K=(0, 1, 2),
        grid_GQ=np.stack([alpha.ravel(), beta.ravel()], axis=1),
    )
