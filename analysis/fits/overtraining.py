"""Over-training law: L(C, M) = E + (a M^eta + b M^-eta) C^-eta (arXiv:2403.08540, eq. 4).

M = D / N is the number of training tokens per parameter and C = 6 N D. Equal M gives parallel
lines in log-log: training past the optimum costs a constant factor in reducible loss.
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
STEEPEST: Final = 2.0  # largest eta searched


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(base.Law):
    """The over-training law; parameters E, a, b, eta."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("E", "a", "b", "eta")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 4, ())
        if refusal is not None:
            return refusal
        n, d = data.columns["n"], data.columns["d"]
        if np.ptp(np.log(d / n)) < 1e-6:
            return base.Refusal(
                status="collinear", reason="all rows have the same tokens per parameter"
            )
        if np.ptp(np.log(d) + np.log(n)) < 1e-9:
            return base.Refusal(status="no_spread", reason="all rows have the same compute")
        if len(np.unique(base.distinct(n, d))) < 4:
            return base.Refusal(status="no_spread", reason="fewer than 4 different (N, D)")
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
        log_c, log_m = _axes(data.columns)
        middle_c, middle_m = float(log_c.mean()), float(log_m.mean())
        u, v = log_c - middle_c, log_m - middle_m
        num = len(u)
        features = np.zeros((3, num, 4))
        features[0, :, 0] = features[1, :, 1] = features[2, :, 2] = 1.0
        features[1, :, 3] = v - u
        features[2, :, 3] = -v - u
        low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
        terms = Terms(
            features_KnP=features,
            offset_Kn=np.zeros((3, num)),
            low_P=np.array([low, low, low, 1e-4]),
            high_P=np.array([high, high, high, STEEPEST]),
            amplitude_K=(0, 1, 2),
            grid_GQ=np.geomspace(0.01, 1.5, 60)[:, None],
        )
        found = base.fit_curve(
            terms, log_y, weights, loss=loss, delta=delta, start=start, floors=(0,)
        )
        theta = found.theta_BP
        eta = theta[:, 3]
        params = {
            "E": base.floor_from_log(theta[:, 0], float(log_y.min())),
            "a": np.exp(theta[:, 1] + eta * (middle_c - middle_m)),
            "b": np.exp(theta[:, 2] + eta * (middle_c + middle_m)),
            "eta": eta,
        }
        notices = ()
        if start is None and params["E"][0] == 0.0:
            notices = (notice("W-FLOOR-ZERO", "E = 0: the data show no irreducible loss"),)
        at_bound = tuple(
            name
            for name, hit in zip(params, found.at_bound_P, strict=False)
            if hit and name in ("a", "b", "eta")
        )
        return base.Solved(
            params=params,
            theta_BP=theta,
            objective_B=found.objective_B,
            decrement_B=found.decrement_B,
            fitted_log_Bn=terms.log_y(theta) if start is None else None,
            at_bound=at_bound,
            agree=found.agree,
            num_params=4,
            notices=notices,
        )

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_c, log_m = _axes(columns)
        eta = params["eta"][:, None]
        up = np.exp(np.log(params["a"])[:, None] + eta * (log_m - log_c))
        down = np.exp(np.log(params["b"])[:, None] - eta * (log_m + log_c))
        return params["E"][:, None] + up + down

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The M at which a C sees the lowest loss: a M^eta = b M^-eta.
        best = np.exp((np.log(params["b"]) - np.log(params["a"])) / (2 * params["eta"]))
        return {"tokens_per_parameter_optimal": best}

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        rows = base.distinct(data.columns["n"], data.columns["d"])
        ratio = base.distinct(data.columns["d"] / data.columns["n"])
        return (base.num_distinct(rows, weights_Bn) >= 4) & (
            base.num_distinct(ratio, weights_Bn) >= 2
        )

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        n, m = np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(5, 640, 6))
        n = n.ravel() * np.exp(rng.uniform(-0.1, 0.1, n.size))
        params = {"E": 1.8, "a": 100.0, "b": 2000.0, "eta": 0.13}
        arrays = {name: np.array([value]) for name, value in params.items()}
        columns = {"n": n, "d": n * m.ravel()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params


def _axes(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """log C and log M."""
    log_n, log_d = np.log(columns["n"]), np.log(columns["d"])
    return np.log(6.0) + log_n + log_d, log_d - log_n
