"""Data-constrained scaling: L = E + A / N'^alpha + B / D'^beta (arXiv:2305.16264, eq. 5 and 6).

N parameters, D training tokens, U unique ones. Repeated tokens count less and less, D' = U_D (1 + r
(1 - exp(-R_D / r))) with R_D = D / U_D - 1 repetitions and U_D = min(U, D); parameters beyond those
that are optimal for the unique tokens count less in the same way, with r_n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.formula import Formula, FormulaLaw, log_mean
from ..notices import Notice, notice
from ..table import Data

REQUIRES: Final = ("n", "d", "u", "y")
STEEPEST: Final = 3.0  # largest exponent
LOG_REPEATS: Final = (-3.0, 8.0)  # of r_d and r_n


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The law has no options."""


@final
class Law(FormulaLaw):
    """Parameters E, A, B, alpha, beta, r_d, r_n; A and B for N and D as given."""

    falls = True
    amplitudes = ("A", "B")

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("E", "A", "B", "alpha", "beta", "r_d", "r_n")

    def refuse(self, data: Data) -> base.Refusal | None:
        refusal = base.few_or_flat(data, 8, ("n", "d", "u"))
        if refusal is not None:
            return refusal
        if not (data.columns["d"] > 1.01 * data.columns["u"]).any():
            return base.Refusal(
                status="no_spread", reason="no row repeats its unique tokens: r_d cannot be told"
            )
        return None

    def centred(self, data: Data) -> dict[str, np.ndarray]:
        log_d = log_mean(data.columns["d"])
        return {
            "n": np.log(data.columns["n"]) - log_mean(data.columns["n"]),
            "d": np.log(data.columns["d"]) - log_d,
            "u": np.log(np.minimum(data.columns["u"], data.columns["d"])) - log_d,
        }

    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        low, high = float(log_y.min()), float(log_y.max())
        few, many = LOG_REPEATS
        return (
            [0.0, low - 25.0, low - 25.0, 1e-3, 1e-3, few, few],
            [float(np.exp(low)), high + 25.0, high + 25.0, STEEPEST, STEEPEST, many, many],
        )

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,)

    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(np.log(_loss(theta_BP, columns)))

    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        n, d, u = (curve.columns[role] for role in ("n", "d", "u"))
        grid = (0.1, 0.25, 0.4, 0.7)
        for repeats in (1.0, 2.5, 4.0):
            useful = _useful(d, u, np.array(repeats))
            for alpha in grid:
                for beta in grid:
                    columns = [np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * useful)]
                    yield (alpha, beta, repeats), np.stack(columns, axis=1)

    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        return [float(amplitudes[0]), *np.log(amplitudes[1:]), *exponents, 3.0]

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        alpha, beta = theta_BP[:, 3], theta_BP[:, 4]
        return {
            "E": theta_BP[:, 0],
            "A": np.exp(theta_BP[:, 1] + alpha * log_mean(data.columns["n"])),
            "B": np.exp(theta_BP[:, 2] + beta * log_mean(data.columns["d"])),
            "alpha": alpha,
            "beta": beta,
            "r_d": np.exp(theta_BP[:, 5]),
            "r_n": np.exp(theta_BP[:, 6]),
        }

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        if params["E"][0] == 0.0:
            return (notice("W-FLOOR-ZERO", "E = 0: the data show no irreducible loss"),)
        return ()

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        logs = {role: np.log(columns[role]) for role in ("n", "d")}
        logs["u"] = np.log(np.minimum(columns["u"], columns["d"]))
        as_logs = [np.log(params[name]) for name in ("A", "B")]
        repeats = [np.log(params[name]) for name in ("r_d", "r_n")]
        theta = [params["E"], *as_logs, params["alpha"], params["beta"], *repeats]
        return _loss(np.stack(theta, axis=1), logs)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None  # it depends on the unique tokens there are

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        columns = data.columns
        rows = base.distinct(columns["n"], columns["d"], columns["u"])
        good = base.num_distinct(rows, weights_Bn) >= 7
        for role in ("n", "d", "u"):
            good &= base.num_distinct(base.distinct(columns[role]), weights_Bn) >= 2
        repeated = columns["d"] > 1.01 * columns["u"]
        return good & ((weights_Bn > 0) & repeated).any(axis=1)

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        grid = np.meshgrid(
            np.geomspace(1e7, 5e9, 7), np.geomspace(1e9, 1e11, 6), np.geomspace(1e8, 1e10, 4)
        )
        columns = {role: one.ravel() for role, one in zip("ndu", grid, strict=True)}
        columns["n"] = columns["n"] * np.exp(rng.uniform(-0.1, 0.1, columns["n"].size))
        params = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.36}
        params |= {"r_d": 15.4, "r_n": 5.3}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params


def _useful(total: np.ndarray, unique: np.ndarray, log_repeats: np.ndarray) -> np.ndarray:
    """Return the log of what `total` is worth when only `unique` of it is new (both logs)."""
    repeats = np.exp(log_repeats)
    again = np.exp(np.minimum(total.real - unique.real, 60.0)) * _phase(total - unique) - 1.0
    return np.asarray(unique + np.log(1.0 + repeats * (1.0 - np.exp(-again / repeats))))


def _phase(log: np.ndarray) -> np.ndarray | float:
    """Return exp of the imaginary part, by which complex steps pass through."""
    return np.exp(1j * log.imag) if np.iscomplexobj(log) else 1.0


def _loss(theta_BP: np.ndarray, logs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return L [B, n] of (E, log A, log B, alpha, beta, log r_d, log r_n) at logs of N, D, U_D."""
    floor, log_a, log_b, alpha, beta, log_rd, log_rn = (theta_BP[:, at][:, None] for at in range(7))
    # The parameters that are optimal for U_D tokens: alpha A N^-alpha = beta B U_D^-beta.
    best = (np.log(alpha) + log_a - np.log(beta) - log_b + beta * logs["u"]) / alpha
    fewer = logs["n"] <= best.real
    unique = np.where(fewer, logs["n"], best)
    log_n = np.where(fewer, logs["n"], _useful(logs["n"] + 0.0 * unique, unique, log_rn))
    log_d = _useful(logs["d"] + 0.0 * log_rd, logs["u"], log_rd)
    return np.asarray(floor + np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d))
