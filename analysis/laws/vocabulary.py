"""Loss over parameters, vocabulary, text: L = E + A N^-alpha + G V^-gamma + B V^kappa D^-beta.

N non-vocabulary parameters, V vocabulary size, D training text in units that do not depend on V
(characters). Losses of different vocabularies are compared after normalising by a unigram model
(arXiv:2407.13623), which makes them negative: residuals are differences and E has any sign. Beside
the law of that paper a larger vocabulary needs more text (kappa): of the public runs with the
largest vocabularies held out, the root mean square miss falls from .14 to .09.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.formula import Formula, FormulaLaw, log_mean
from ..table import Data

REQUIRES: Final = ("n", "v", "d", "y")
STEEPEST: Final = 3.0  # largest exponent
SIZES: Final = ("n", "v", "d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(FormulaLaw):
    """Parameters E, A, G, B, alpha, gamma, beta, kappa; A, G and B for N, V and D as given."""

    losses = ("l2",)  # a knee in log units says nothing of differences
    raw = True
    falls = True
    amplitudes = ("A", "G", "B")

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("E", "A", "G", "B", "alpha", "gamma", "beta", "kappa")

    def refuse(self, data: Data) -> base.Refusal | None:
        return base.few_or_flat(data, 9, SIZES)

    def centred(self, data: Data) -> dict[str, np.ndarray]:
        return {role: np.log(data.columns[role]) - log_mean(data.columns[role]) for role in SIZES}

    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        size = float(np.ptp(log_y)) or 1.0
        top = float(np.log(size))
        low = [float(log_y.min()) - 1e3 * size, *[top - 25.0] * 3, *[1e-3] * 3, -STEEPEST]
        return low, [float(log_y.max()), *[top + 25.0] * 3, *[STEEPEST] * 4]

    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        total = theta_BP[:, :1]
        for at, role in enumerate(SIZES):
            log_a, power = theta_BP[:, 1 + at][:, None], theta_BP[:, 4 + at][:, None]
            log = log_a - power * columns[role]
            if role == "d":
                log = log + theta_BP[:, 7:] * columns["v"]
            total = total + np.exp(log)
        return total

    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        columns = curve.columns
        one = np.ones_like(columns["n"])
        grid = (0.05, 0.15, 0.4, 1.0)
        for alpha in grid:
            for gamma in grid:
                for beta in grid:
                    powers = [
                        np.exp(-power * columns[role])
                        for role, power in zip(SIZES, (alpha, gamma, beta), strict=True)
                    ]
                    yield (alpha, gamma, beta, 0.0), np.stack([one, -one, *powers], axis=1)

    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        return [float(amplitudes[0] - amplitudes[1]), *np.log(amplitudes[2:]), *exponents]

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        params = {"E": theta_BP[:, 0]}
        for at, (name, role) in enumerate(zip("AGB", SIZES, strict=True)):
            level = theta_BP[:, 1 + at] + theta_BP[:, 4 + at] * log_mean(data.columns[role])
            if role == "d":
                level = level - theta_BP[:, 7] * log_mean(data.columns["v"])
            params[name] = np.exp(level)
        for at, name in enumerate(("alpha", "gamma", "beta", "kappa")):
            params[name] = theta_BP[:, 4 + at]
        return params

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        total = params["E"][:, None] + np.zeros(len(columns["n"]))
        powers = zip("AGB", ("alpha", "gamma", "beta"), SIZES, strict=True)
        for size, power, role in powers:
            log = np.log(params[size])[:, None] - params[power][:, None] * np.log(columns[role])
            if role == "d":
                log = log + params["kappa"][:, None] * np.log(columns["v"])
            total = total + np.exp(log)
        return total

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        rows = base.distinct(*(data.columns[role] for role in SIZES))
        good = base.num_distinct(rows, weights_Bn) >= 8
        for role in SIZES:
            good &= base.num_distinct(base.distinct(data.columns[role]), weights_Bn) >= 3
        return good

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        grid = np.meshgrid(
            np.geomspace(3e7, 3e9, 5), np.geomspace(4e3, 6e4, 5), np.geomspace(1e9, 1e11, 5)
        )
        columns = {role: one.ravel() for role, one in zip(SIZES, grid, strict=True)}
        columns["n"] = columns["n"] * np.exp(rng.uniform(-0.1, 0.1, columns["n"].size))
        params = {"E": -6.0, "A": 60.0, "G": 15.0, "B": 150.0}
        params |= {"alpha": 0.25, "gamma": 0.4, "beta": 0.3, "kappa": 0.1}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params
