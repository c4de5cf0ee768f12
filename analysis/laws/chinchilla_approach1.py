"""Chinchilla approach 1: the run with the lowest loss at every compute, and lines through its size.

The runs (or, with checkpoints, the training curves) are cut into bins of log C; the lowest loss of
each bin gives N* and D*, and N* = n_coef C^a, D* = d_coef C^b are least squares lines in log-log. A
bin whose winner is the smallest or the largest model of the table says only that the optimum lies
beyond, and is left out (interior rule), and so is a bin that a cheaper one beats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..direction import signed
from ..fitting import law as base
from ..fitting import optimum
from ..notices import notice
from ..table import Data

REQUIRES: Final = ("x", "n", "d", "y")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    bins_per_decade: float = 4.0  # bins of equal width in log C, from the cheapest row on
    interior: bool = True  # leave out bins won by the smallest or the largest model

    def __post_init__(self) -> None:
        if not self.bins_per_decade > 0:
            raise ValueError(f"bins_per_decade: {self.bins_per_decade!r} is not allowed; > 0")


@final
class Law(base.Law):
    """Parameters a, n_coef, b, d_coef, loss_a, loss_b; least squares only."""

    losses = ("l2",)
    amplitudes = ("n_coef", "d_coef", "loss_a")

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("a", "n_coef", "b", "d_coef", "loss_a", "loss_b")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 3, ("x", "n"))
        if refusal is not None:
            return refusal
        _, use = self._winners(data, data.columns["y"][None], np.ones((1, data.num_rows)))
        if use.sum() < 2:
            return base.Refusal(
                status="no_minimum",
                reason=f"{int(use.sum())} bins are won by a model between the smallest and the "
                "largest; 2 are needed",
            )
        return None

    def _winners(
        self, data: Data, y_Bn: np.ndarray, weights_Bn: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        x, n = data.columns["x"], data.columns["n"]
        bins = optimum.bin_numbers(x, self.config.bins_per_decade, float(x.min()))
        found = optimum.winners(bins, signed(y_Bn, data.direction), weights_Bn)
        use = found.use_BG
        if self.config.interior:
            size = n[found.row_BG]
            use = use & (size > n.min() * (1 + 1e-9)) & (size < n.max() * (1 - 1e-9))
        return found.row_BG, use

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
        y_Bn = np.atleast_2d(log_y)
        num_draws = max(len(y_Bn), weights.shape[0] if weights.ndim == 2 else 1)
        weights_Bn = np.broadcast_to(weights, (num_draws, data.num_rows))
        y_Bn = np.broadcast_to(y_Bn, weights_Bn.shape)
        row, use = self._winners(data, y_Bn, weights_Bn)
        log_x = np.log(data.columns["x"])[row]
        middle = log_x[use].mean() if use.any() else 0.0
        u = log_x - middle
        a, log_n, count = optimum.lines(u, np.log(data.columns["n"])[row], use)
        b, log_d, _ = optimum.lines(u, np.log(data.columns["d"])[row], use)
        fall, log_l, _ = optimum.lines(u, np.take_along_axis(y_Bn, row, axis=1), use)
        params = {
            "a": a,
            "n_coef": np.exp(log_n - a * middle),
            "b": b,
            "d_coef": np.exp(log_d - b * middle),
            "loss_a": np.exp(log_l - fall * middle),
            "loss_b": -fall,
        }
        fitted = log_l[:, None] + fall[:, None] * (np.log(data.columns["x"]) - middle)
        chosen = np.zeros(weights_Bn.shape, dtype=bool)
        np.put_along_axis(chosen, row, use, axis=1)
        with np.errstate(invalid="ignore"):
            residual = np.where(chosen, fitted - y_Bn, 0.0)
        notices = []
        if start is None:
            num, left = int(use[0].sum()), int((~use[0]).sum())
            if left:
                notices.append(
                    notice("W-EDGE", f"{left} bins are left out: won by an extreme size, or beaten")
                )
            if num < 5:
                notices.append(
                    notice("W-RANGE", f"{num} bins make the lines; 5 or more are better")
                )
        return base.Solved(
            params=params,
            theta_BP=np.stack(list(params.values()), axis=1),
            objective_B=(0.5 * residual**2).sum(axis=1),
            decrement_B=np.zeros(num_draws),
            fitted_log_Bn=np.where(chosen, fitted, y_Bn) if start is None else None,
            num_params=2,
            notices=tuple(notices),
        )

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_x = np.log(columns["x"])
        return np.asarray(
            np.exp(np.log(params["loss_a"])[:, None] - params["loss_b"][:, None] * log_x)
        )

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        log_x = np.log(x)
        log_n = np.log(params["n_coef"])[:, None] + params["a"][:, None] * log_x
        log_d = np.log(params["d_coef"])[:, None] + params["b"][:, None] * log_x
        return base.exp_or_nan(log_n), base.exp_or_nan(log_d)

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        y_Bn = np.broadcast_to(data.columns["y"], weights_Bn.shape)
        return np.asarray(self._winners(data, y_Bn, weights_Bn)[1].sum(axis=1) >= 2)

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        # One compute per bin; the winner of each lies exactly on the line.
        budget = np.geomspace(1e18, 1e20, 9)
        params = {"a": 0.5, "n_coef": 0.1, "b": 0.5, "d_coef": 1 / 0.6}
        params |= {"loss_a": 20.0, "loss_b": 0.05}
        x = np.repeat(budget, 5)
        u = np.tile(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 9) * rng.uniform(0.8, 1.2, x.size)
        n = params["n_coef"] * x ** params["a"] * np.exp(u)
        lowest = params["loss_a"] * x ** -params["loss_b"]
        return {"x": x, "n": n, "d": x / (6 * n), "y": lowest * (1 + 0.05 * u**2)}, params
