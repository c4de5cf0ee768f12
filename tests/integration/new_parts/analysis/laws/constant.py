"""The law that nothing depends on anything: y = m."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..table import Data

REQUIRES: Final = ("x", "y")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """No options."""


@final
class Law(base.Law):
    """Parameter m, the geometric mean; least squares only."""

    losses = ("l2",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("m",)

    def refuse(self, data: Data) -> base.Refusal | None:
        return base.few_or_flat(data, 2, ())

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
        log_y_Bn, weights_Bn = np.broadcast_arrays(np.atleast_2d(log_y), np.atleast_2d(weights))
        mean_B = (log_y_Bn * weights_Bn).sum(1) / weights_Bn.sum(1)
        error_Bn = log_y_Bn - mean_B[:, None]
        return base.Solved(
            params={"m": np.exp(mean_B)},
            theta_BP=mean_B[:, None],
            objective_B=(weights_Bn * error_Bn**2).sum(1),
            decrement_B=np.zeros(len(mean_B)),
            fitted_log_Bn=np.broadcast_to(mean_B[:, None], log_y_Bn.shape),
            num_params=1,
        )

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        return params["m"][:, None] * np.ones(len(columns["x"]))

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        return weights_Bn.sum(1) > 0

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        return {"x": np.geomspace(1, 10, 5), "y": np.full(5, 2.0)}, {"m": 2.0}
