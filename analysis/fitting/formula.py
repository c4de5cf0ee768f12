"""Laws given by their formula alone: exact slopes by complex steps, starts by linear projection.

Legend: B draws, n rows, P parameters of the solver, S starts.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import nnls

from ..notices import Notice
from ..table import Data
from .law import CurveLaw
from .solve import GRID_ROWS, Curve, some_rows

# f(x + ih) = f(x) + ih f'(x) + O(h^2): no difference is taken, so h may be as small as this.
STEP: Final = 1e-30
NUM_STARTS: Final = 6

Evaluate = Callable[[np.ndarray, Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Formula(Curve):
    """A formula on the rows of one table; `evaluate` takes complex parameters [B, P]."""

    evaluate: Evaluate
    columns: Mapping[str, np.ndarray]
    low_P: np.ndarray
    high_P: np.ndarray

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return len(next(iter(self.columns.values())))

    def log_y(self, theta_BP: np.ndarray) -> np.ndarray:
        return self.evaluate(theta_BP, self.columns)

    def slopes(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        z_Bn = self.log_y(theta_BP)
        jac_BnP = np.empty((*z_Bn.shape, theta_BP.shape[1]))
        for at in range(theta_BP.shape[1]):
            moved = theta_BP.astype(complex)
            moved[:, at] += 1j * STEP
            jac_BnP[:, :, at] = self.evaluate(moved, self.columns).imag / STEP
        return z_Bn, jac_BnP, None

    def thin(self, rows: np.ndarray) -> Formula:
        kept = {role: values[rows] for role, values in self.columns.items()}
        return dataclasses.replace(self, columns=kept)

    def bend(self, slope_Bn: np.ndarray, jac_BnP: np.ndarray, extra: np.ndarray) -> np.ndarray:
        raise AssertionError("first order only")


class FormulaLaw(CurveLaw):
    """A law whose leaf gives the formula, its box, and designs that are linear in amplitudes."""

    @abstractmethod
    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the linked y [B, n] at the centred columns; complex parameters stay complex."""

    @abstractmethod
    def centred(self, data: Data) -> dict[str, np.ndarray]:
        """Return what the formula needs of each row: logs about their means."""

    @abstractmethod
    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        """Return the lowest and highest parameters of the solver."""

    @abstractmethod
    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        """Yield exponents and the columns [n, K] whose non-negative sum is y."""

    @abstractmethod
    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        """Return the solver's parameters of a projected fit."""

    def on(self, data: Data, log_y: np.ndarray) -> Formula:
        low, high = self.box(log_y)
        return Formula(
            evaluate=self.evaluate,
            columns=self.centred(data),
            low_P=np.array(low),
            high_P=np.array(high),
        )

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Formula)
        rows = some_rows(log_y, weights, GRID_ROWS)
        thin, y = curve.thin(rows), self.unlink(log_y[rows])
        # Errors count as fractions where the residuals are logs.
        size = np.sqrt(weights[rows]) / (1.0 if self.raw else y)
        found = []
        for exponents, design in self.designs(thin):
            scaled = design * size[:, None]
            norm = np.sqrt((scaled**2).sum(axis=0)) + 1e-300
            amplitudes, left = nnls(scaled / norm, y * size)
            found.append((left, self.start(exponents, np.maximum(amplitudes, 1e-6) / norm)))
        found.sort(key=lambda pair: pair[0])
        return np.array([theta for _, theta in found[:NUM_STARTS]])

    def floors(self, data: Data) -> tuple[int, ...]:
        return ()

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        return ()


def log_mean(values: np.ndarray) -> float:
    """Return the mean of the logs: where a column is centred."""
    return float(np.log(values).mean())
