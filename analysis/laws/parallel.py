"""Parallel scaling: L(N, P) = E + A (N (k ln P + 1))^-alpha (arXiv:2505.10475, eq. 6).

N parameters, P parallel streams of one model: P streams count as k ln P + 1 times the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.formula import Formula, FormulaLaw, log_mean
from ..table import Data

REQUIRES: Final = ("n", "p", "y")
STEEPEST: Final = 3.0  # largest alpha
LARGEST_K: Final = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(FormulaLaw):
    """Parameters E, A, alpha, k; A for N as given."""

    falls = True
    amplitudes = ("A",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("E", "A", "alpha", "k")

    def refuse(self, data: Data) -> base.Refusal | None:
        return base.few_or_flat(data, 5, ("n", "p"))

    def centred(self, data: Data) -> dict[str, np.ndarray]:
        n, p = data.columns["n"], data.columns["p"]
        return {"n": np.log(n) - log_mean(n), "p": np.log(p)}

    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        low, high = float(log_y.min()), float(log_y.max())
        return [0.0, low - 25.0, 1e-3, 0.0], [np.exp(low), high + 25.0, STEEPEST, LARGEST_K]

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,)

    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        floor, log_a, alpha, k = (theta_BP[:, at][:, None] for at in range(4))
        work = columns["n"] + np.log(k * columns["p"] + 1.0)
        return np.asarray(np.log(floor + np.exp(log_a - alpha * work)))

    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        n, log_p = curve.columns["n"], curve.columns["p"]
        for alpha in np.geomspace(0.02, 1.5, 16):
            for k in (0.02, 0.1, 0.3, 1.0, 3.0):
                power = np.exp(-alpha * (n + np.log1p(k * log_p)))
                yield (alpha, k), np.stack([np.ones_like(n), power], axis=1)

    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        return [float(amplitudes[0]), float(np.log(amplitudes[1])), *exponents]

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        alpha = theta_BP[:, 2]
        return {
            "E": theta_BP[:, 0],
            "A": np.exp(theta_BP[:, 1] + alpha * log_mean(data.columns["n"])),
            "alpha": alpha,
            "k": theta_BP[:, 3],
        }

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        factor = params["k"][:, None] * np.log(columns["p"]) + 1.0
        work = np.log(columns["n"]) + np.log(factor)
        power = np.exp(np.log(params["A"])[:, None] - params["alpha"][:, None] * work)
        return np.asarray(params["E"][:, None] + power)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        rows = base.distinct(data.columns["n"], data.columns["p"])
        sizes, streams = base.distinct(data.columns["n"]), base.distinct(data.columns["p"])
        return (
            (base.num_distinct(rows, weights_Bn) >= 4)
            & (base.num_distinct(sizes, weights_Bn) >= 3)
            & (base.num_distinct(streams, weights_Bn) >= 2)
        )

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        n, p = np.meshgrid(np.geomspace(5e7, 5e9, 8), [1.0, 2.0, 4.0, 8.0])
        n = n.ravel() * np.exp(rng.uniform(-0.1, 0.1, n.size))
        params = {"E": 1.2, "A": 90.0, "alpha": 0.25, "k": 0.35}
        arrays = {name: np.array([value]) for name, value in params.items()}
        columns = {"n": n, "p": p.ravel()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params
