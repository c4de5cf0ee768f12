"""Over-training law: L(C, M) = E + (a M^eta + b M^-eta) C^-eta (arXiv:2403.08540, eq. 4).

M = D / N is the number of training tokens per parameter and C = 6 N D. Equal M gives parallel
lines in log-log: training past the optimum costs a constant factor in reducible loss.
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
STEEPEST: Final = 2.0  # largest eta searched


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(base.CurveLaw):
    """The over-training law; parameters E, a, b, eta."""

    falls = True
    amplitudes = ("a", "b")

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

    def on(self, data: Data, log_y: np.ndarray) -> Terms:
        log_c, log_m = _axes(data.columns)
        u, v = log_c - log_c.mean(), log_m - log_m.mean()
        num = len(u)
        features = np.zeros((3, num, 4))
        features[1, :, 1] = features[2, :, 2] = 1.0
        features[1, :, 3] = v - u
        features[2, :, 3] = -v - u
        low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
        return Terms(
            features_KnP=features,
            offset_Kn=np.stack([np.full(num, log_y.min()), np.zeros(num), np.zeros(num)]),
            low_P=np.array([0.0, low, low, 1e-4]),
            high_P=np.array([np.exp(np.ptp(log_y)), high, high, STEEPEST]),
            amplitude_K=(0, 1, 2),
            floors=(0,),  # E in units of the lowest y
            grid_GQ=np.geomspace(0.01, 1.5, 60)[:, None],
        )

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Terms)
        return grid_starts(curve, log_y, weights)

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,)

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        log_c, log_m = _axes(data.columns)
        eta = theta_BP[:, 3]
        return {
            "E": base.floor(theta_BP[:, 0], log_y),
            "a": np.exp(theta_BP[:, 1] + eta * (log_c.mean() - log_m.mean())),
            "b": np.exp(theta_BP[:, 2] + eta * (log_c.mean() + log_m.mean())),
            "eta": eta,
        }

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        if params["E"][0] == 0.0:
            return (notice("W-FLOOR-ZERO", "E = 0: the data show no irreducible loss"),)
        return ()

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_c, log_m = _axes(columns)
        eta = params["eta"][:, None]
        up = np.exp(np.log(params["a"])[:, None] + eta * (log_m - log_c))
        down = np.exp(np.log(params["b"])[:, None] - eta * (log_m + log_c))
        return np.asarray(params["E"][:, None] + up + down)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The M at which a C sees the lowest loss: a M^eta = b M^-eta.
        best = base.exp_or_nan((np.log(params["b"]) - np.log(params["a"])) / (2 * params["eta"]))
        return {"tokens_per_parameter_optimal": best}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        # a M^eta = b M^-eta at the optimum, C = 6 N^2 M.
        log_m = (np.log(params["b"]) - np.log(params["a"])) / (2 * params["eta"])
        log_n = 0.5 * (np.log(x / 6.0)[None, :] - log_m[:, None])
        return base.exp_or_nan(log_n), base.exp_or_nan(log_n + log_m[:, None])

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
    """Return log C and log M."""
    given = base.sizes(columns)
    if given is None:
        raise ValueError("overtraining: parameters and tokens (n, d) are needed")
    log_n, log_d = np.log(given[0]), np.log(given[1])
    return np.log(6.0) + log_n + log_d, log_d - log_n
