"""Chinchilla approach 2: the minimum of each isoFLOP budget, and power laws through the minima.

At every budget C the loss is a parabola (or cubic) in log N; its minimum gives N*, D* and L*, and
N* = n_coef C^a, D* = d_coef C^b, L* = loss_a C^-loss_b are least squares lines in log-log.
Interior-minimum rule: a budget whose minimum lies outside its own sizes, or has none, is left out.
A parabola misplaces the optimum when the grid is wide or off centre (Open Athena, "Problems with
Chinchilla Approach 2"), so the other polynomial and approach 3 are computed beside it and a
disagreement is a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..direction import signed
from ..fitting import law as base
from ..fitting import optimum
from ..notices import Notice, notice
from ..table import Data
from . import chinchilla

REQUIRES: Final = ("x", "n", "d", "y")
MAX_SPAN: Final = 1.1  # compute of one budget, largest over smallest
MAX_SUM: Final = 0.01  # by which a + b may differ from 1 where C = 6 N D
DISAGREE: Final = 0.05  # relative difference of N* between the methods that is a warning


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    degree: int = 2  # 2: parabola in log N (the published approach); 3: cubic
    gap: float = 0.05  # decades of FLOPs between two rows that start another budget

    def __post_init__(self) -> None:
        if self.degree not in (2, 3):
            raise ValueError(f"degree: {self.degree!r} is not allowed; 2 or 3")
        if not self.gap > 0:
            raise ValueError(f"gap: {self.gap!r} is not allowed; a number of decades > 0")


@final
class Law(base.Law):
    """Parameters a, n_coef, b, d_coef, loss_a, loss_b; least squares only."""

    losses = ("l2",)
    amplitudes = ("n_coef", "d_coef", "loss_a")
    resampled_within = "budget"

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("a", "n_coef", "b", "d_coef", "loss_a", "loss_b")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 2 * (self.config.degree + 1), ("x", "n"))
        if refusal is not None:
            return refusal
        ratio, rows = optimum.widest(data.columns["x"], self.strata(data))
        if ratio > MAX_SPAN and "budget" not in data.columns:
            return base.Refusal(
                status="no_budgets",
                reason=f"one budget would hold {rows} rows over {ratio:.3g}x of "
                f"{data.roles['x']}, {MAX_SPAN:g}x is the most: name the column of the budgets "
                "(--budget), cut at smaller jumps (--gap), or use --law chinchilla",
            )
        found = self._minima(data, "n", data.columns["y"][None], np.ones((1, data.num_rows)))
        num = int(found.inside_BG.sum())
        if num < 2:
            why = "; ".join(
                f"{np.exp(at):.3g}: {reason}"
                for at, reason in zip(found.log_x_G[:6], found.why_G, strict=False)
                if reason
            )
            return base.Refusal(
                status="no_minimum",
                reason=f"{num} of {len(found.why_G)} budgets have a minimum inside their sizes; "
                f"2 are needed ({why})",
            )
        return None

    def strata(self, data: Data) -> np.ndarray:
        """Return the budget of every row: as its column says, or cut at jumps of compute."""
        if "budget" in data.columns:
            return np.unique(data.columns["budget"], return_inverse=True)[1].ravel()
        return optimum.budgets(data.columns["x"], self.config.gap)

    def _minima(
        self, data: Data, role: str, y_Bn: np.ndarray, weights_Bn: np.ndarray, degree: int = 0
    ) -> optimum.Minima:
        """Find the best point of every budget: the lowest or, where more is better, the highest."""
        found = optimum.minima(
            data.columns["x"],
            data.columns[role],
            signed(y_Bn, data.direction),
            weights_Bn,
            degree=degree or self.config.degree,
            number=self.strata(data),
        )
        return dataclasses.replace(
            found,
            value_BG=signed(found.value_BG, data.direction),
            fitted_Bn=signed(found.fitted_Bn, data.direction),
        )

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
        y_Bn = np.exp(np.atleast_2d(log_y))
        num_draws = max(len(y_Bn), weights.shape[0] if weights.ndim == 2 else 1)
        weights_Bn = np.broadcast_to(weights, (num_draws, data.num_rows))
        model = self._minima(data, "n", y_Bn, weights_Bn)
        tokens = self._minima(data, "d", y_Bn, weights_Bn)
        use = model.inside_BG & tokens.inside_BG
        # Centred, so that a coefficient at the middle budget is not an extrapolation to C = 1.
        a, log_n, count = optimum.lines(model.log_x_G, model.place_BG, use)
        b, log_d, _ = optimum.lines(model.log_x_G, tokens.place_BG, use)
        with np.errstate(invalid="ignore"):
            log_value = np.log(model.value_BG)
        fall, log_l, _ = optimum.lines(model.log_x_G, log_value, use & np.isfinite(log_value))
        params = {
            "a": a,
            "n_coef": np.exp(log_n),
            "b": b,
            "d_coef": np.exp(log_d),
            "loss_a": np.exp(log_l),
            "loss_b": -fall,
        }
        with np.errstate(invalid="ignore"):
            fitted = np.log(model.fitted_Bn)
        residual = np.where(np.isfinite(fitted), fitted - np.atleast_2d(log_y), 0.0)
        return base.Solved(
            params=params,
            theta_BP=np.stack(list(params.values()), axis=1),
            objective_B=(weights_Bn * 0.5 * residual**2).sum(axis=1),
            decrement_B=np.zeros(num_draws),
            fitted_log_Bn=np.where(np.isfinite(fitted), fitted, np.atleast_2d(log_y)),
            num_params=(self.config.degree + 1) * len(model.why_G),
            notices=self._notices(data, model, log_y, weights, params) if start is None else (),
        )

    def _notices(
        self,
        data: Data,
        model: optimum.Minima,
        log_y: np.ndarray,
        weights: np.ndarray,
        params: Mapping[str, np.ndarray],
    ) -> tuple[Notice, ...]:
        """Edge minima, few budgets, and the comparison with the other methods."""
        found = [
            notice("W-EDGE", f"budget {np.exp(at):.3g}: {why}; left out")
            for at, why in zip(model.log_x_G, model.why_G, strict=True)
            if why
        ]
        good = model.inside_BG[0]
        if good.sum() < 3:
            found.append(notice("W-RANGE", f"{int(good.sum())} budgets make the lines; 3 or more"))
        total = float(params["a"][0] + params["b"][0])
        work = data.columns["n"] * data.columns["d"] / data.columns["x"]
        if np.ptp(np.log(work)) < 1e-3 and abs(total - 1) > MAX_SUM:
            text = f"a + b = {total:.3f} though C is proportional to N D: it must be 1"
            found.append(notice("W-BUDGETS", text))
        middle = model.log_x_G[good].mean()
        places = {"parabola" if self.config.degree == 2 else "cubic": _size(params, middle)}
        other = 5 - self.config.degree
        beside = self._minima(data, "n", np.exp(log_y)[None], np.atleast_2d(weights), degree=other)
        a, log_n, count = optimum.lines(beside.log_x_G, beside.place_BG, beside.inside_BG)
        if count[0] >= 2:
            places["cubic" if other == 3 else "parabola"] = float(np.exp(log_n + a * middle)[0])
        third = chinchilla.Law(chinchilla.Config())
        if data.direction == "lower" and third.refuse(data) is None:
            answer = third.solve(data, log_y, weights, loss="l2", delta=np.inf)
            if not answer.at_bound:
                n_best, _ = third.optimum(answer.params, np.exp(np.array([middle])))
                places["approach 3"] = float(n_best[0, 0])
        values = np.log(list(places.values()))
        if np.ptp(values) > np.log1p(DISAGREE):
            shown = ", ".join(f"{name} {size:.4g}" for name, size in places.items())
            found.append(notice("W-PARABOLA", f"N* at C = {np.exp(middle):.3g}: {shown}"))
        return tuple(found)

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
        y = data.columns["y"][None]
        return np.asarray(self._minima(data, "n", y, weights_Bn).inside_BG.sum(axis=1) >= 2)

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        x = np.repeat(np.geomspace(1e18, 1e21, 5), 9)
        params = {"a": 0.5, "n_coef": 0.1, "b": 0.5, "d_coef": 1 / 0.6}
        params |= {"loss_a": 20.0, "loss_b": 0.05}
        best = params["n_coef"] * x ** params["a"]
        u = np.tile(np.linspace(-1.2, 1.2, 9), 5) + rng.uniform(-0.1, 0.1, x.size)
        n = best * np.exp(u)
        lowest = params["loss_a"] * x ** -params["loss_b"]
        return {"x": x, "n": n, "d": x / (6 * n), "y": lowest * (1 + 0.05 * u**2)}, params


def _size(params: Mapping[str, np.ndarray], log_x: float) -> float:
    return float(params["n_coef"][0] * np.exp(params["a"][0] * log_x))
