"""Farseer: L(N, D) = exp(s3 N^g3 + q3) + exp(s2 N^g2 + q2) D^-exp(s1 N^g1 + q1) (arXiv:2506.10972).

The floor, the size of the data term and its exponent all follow the number of parameters N; D is
training tokens. Chinchilla's law is the case in which the last two do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.formula import Formula, FormulaLaw, log_mean
from ..table import Data

REQUIRES: Final = ("n", "d", "y")
STEEPEST: Final = 2.0  # largest |g|


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(FormulaLaw):
    """Parameters s1, q1, g1 (exponent of D), s2, q2, g2 (its size), s3, q3, g3 (floor)."""

    falls = True
    amplitudes = ("s1", "q1", "s2", "q2", "s3", "q3")

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("s1", "q1", "g1", "s2", "q2", "g2", "s3", "q3", "g3")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 10, ("n", "d"))
        if refusal is not None:
            return refusal
        sizes = len(np.unique(base.distinct(data.columns["n"])))
        if sizes < 4:
            return base.Refusal(
                status="no_spread", reason=f"{sizes} different parameters; this law needs 4"
            )
        return None

    def centred(self, data: Data) -> dict[str, np.ndarray]:
        return {role: np.log(data.columns[role]) - log_mean(data.columns[role]) for role in "nd"}

    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        low, high = float(log_y.min()), float(log_y.max())
        slope = [-5.0, -STEEPEST]
        return (
            [
                slope[0],
                -6.0,
                slope[1],
                slope[0],
                low - 25.0,
                slope[1],
                slope[0],
                low - 6.0,
                slope[1],
            ],
            [5.0, 2.0, STEEPEST, 5.0, high + 25.0, STEEPEST, 5.0, high + 1.0, STEEPEST],
        )

    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        log_exponent, log_size, log_floor = (
            _bent(theta_BP[:, at : at + 3], columns["n"]) for at in (0, 3, 6)
        )
        return _log_sum(log_floor, log_size - np.exp(log_exponent) * columns["d"])

    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        n, d = curve.columns["n"], curve.columns["d"]
        for alpha in (0.1, 0.2, 0.35, 0.6):
            for beta in (0.1, 0.2, 0.35, 0.6):
                columns = [np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)]
                yield (alpha, beta), np.stack(columns, axis=1)

    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        alpha, beta = exponents
        floor, model, data = (float(one) for one in amplitudes)
        # The slope and the bend of log(E + A N^-alpha) at the mean of log N.
        share = model / (floor + model)
        bend = -alpha * (1.0 - share)
        first = [0.0, np.log(beta), 0.1, 0.0, np.log(data), 0.1]
        return [*first, -alpha * share, np.log(floor + model), bend]

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        log_n, log_d = log_mean(data.columns["n"]), log_mean(data.columns["d"])
        params = {}
        for at in range(3):
            slope, level, bend = theta_BP[:, 3 * at : 3 * at + 3].T
            bend = _away_from_zero(bend)
            params[f"s{at + 1}"] = slope / bend * np.exp(-bend * log_n)
            params[f"q{at + 1}"] = level - slope / bend
            params[f"g{at + 1}"] = bend
        # About the mean of log D the size of the data term holds D^exponent, which depends on N
        # too: the curve gives D about that mean.
        return {**params, "log_d": np.full(len(theta_BP), log_d)}

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_n = np.log(columns["n"])
        parts = [
            params[f"s{at}"][:, None] * np.exp(params[f"g{at}"][:, None] * log_n)
            + params[f"q{at}"][:, None]
            for at in (1, 2, 3)
        ]
        log_d = np.log(columns["d"]) - params["log_d"][:, None]
        return np.asarray(np.exp(parts[2]) + np.exp(parts[1] - np.exp(parts[0]) * log_d))

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        rows = base.distinct(data.columns["n"], data.columns["d"])
        sizes = base.distinct(data.columns["n"])
        return (base.num_distinct(rows, weights_Bn) >= 9) & (
            base.num_distinct(sizes, weights_Bn) >= 4
        )

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        n, d = np.meshgrid(np.geomspace(1e8, 1e10, 9), np.geomspace(1e9, 1e12, 9))
        n = n.ravel() * np.exp(rng.uniform(-0.1, 0.1, n.size))
        columns = {"n": n, "d": d.ravel()}
        params = {"s1": -0.06, "q1": 0.1, "g1": 0.14, "s2": -0.02, "q2": -1.0, "g2": 0.2}
        params |= {"s3": 4.0, "q3": -1.0, "g3": -0.1, "log_d": log_mean(columns["d"])}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params


def _bent(theta_B3: np.ndarray, log_n: np.ndarray) -> np.ndarray:
    """Return level + slope (n^bend - 1) / bend [B, n], a line in log n where bend is 0."""
    slope, level, bend = (theta_B3[:, at][:, None] for at in range(3))
    bend = _away_from_zero(bend)
    return np.asarray(level + slope * (np.exp(bend * log_n) - 1.0) / bend)


def _away_from_zero(bend: np.ndarray) -> np.ndarray:
    """Return the exponent, moved off 0 by less than any fit can see."""
    return np.where(np.abs(bend.real) < 1e-7, bend + 2e-7, bend)


def _log_sum(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return log(exp(first) + exp(second)), also of complex logs."""
    top = np.maximum(first.real, second.real)
    return np.asarray(top + np.log(np.exp(first - top) + np.exp(second - top)))
