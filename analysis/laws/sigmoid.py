"""Sigmoid of a bounded metric against compute: y = bottom + (top - bottom) / (1 + (x_mid / x)^s).

An accuracy or another share that starts near chance and ends at a ceiling (arXiv:2405.10938 fits
such curves to benchmarks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.formula import Formula, FormulaLaw, log_mean
from ..table import Data

REQUIRES: Final = ("x", "y")
STEEPEST: Final = 5.0  # largest |s|


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    floor: str | float = "none"  # the bottom: "none": 0; "free": fitted; a number: chance level

    def __post_init__(self) -> None:
        if isinstance(self.floor, str):
            if self.floor not in ("none", "free"):
                raise ValueError(f"floor: {self.floor!r} is not allowed; none, free or a number")
        elif not (np.isfinite(self.floor) and self.floor > 0):
            raise ValueError(f"floor: {self.floor!r} is not allowed; none, free or a number > 0")


@final
class Law(FormulaLaw):
    """Parameters top, x_mid, s (s > 0: y rises with x) and bottom unless the floor is none."""

    amplitudes = ("x_mid",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return (*([] if self.config.floor == "none" else ["bottom"]), "top", "x_mid", "s")

    def refuse(self, data: Data) -> base.Refusal | None:
        least = 4 + (self.config.floor == "free")
        refusal = base.few_or_flat(data, least, ("x",))
        if refusal is not None:
            return refusal
        if len(np.unique(base.distinct(data.columns["x"]))) < least:
            return base.Refusal(
                status="no_spread",
                reason=f"{data.roles['x']} has fewer than {least} different values",
            )
        lowest = float(data.columns["y"].min())
        if not isinstance(self.config.floor, str) and self.config.floor >= lowest:
            return base.Refusal(
                status="floor_above_data",
                reason=f"the given floor {self.config.floor:g} is not below the smallest "
                f"{data.roles['y']} ({lowest:g})",
            )
        return None

    def centred(self, data: Data) -> dict[str, np.ndarray]:
        return {"x": np.log(data.columns["x"]) - log_mean(data.columns["x"])}

    def box(self, log_y: np.ndarray) -> tuple[list[float], list[float]]:
        low, high = float(log_y.min()), float(log_y.max())
        free = self.config.floor == "free"
        # A top far above the data is a power law; one of ten times the largest y is the edge.
        return (
            [*[0.0] * free, low - 2.0, -60.0, -STEEPEST],
            [*[float(np.exp(low))] * free, high + np.log(10.0), 60.0, STEEPEST],
        )

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,) if self.config.floor == "free" else ()

    def evaluate(self, theta_BP: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        log_top, middle, slope = (theta_BP[:, at][:, None] for at in (-3, -2, -1))
        bottom: np.ndarray | float = 0.0
        if self.config.floor == "free":
            bottom = theta_BP[:, :1]
        elif not isinstance(self.config.floor, str):
            bottom = self.config.floor
        share = 1.0 / (1.0 + np.exp(slope * (middle - columns["x"])))
        return np.asarray(np.log(bottom + (np.exp(log_top) - bottom) * share))

    def designs(self, curve: Formula) -> Iterable[tuple[tuple[float, ...], np.ndarray]]:
        x = curve.columns["x"]
        width = float(np.ptp(x))
        for middle in np.linspace(x.min() - width / 2, x.max() + width / 2, 17):
            for size in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
                for slope in (size / width, -size / width):
                    share = 1.0 / (1.0 + np.exp(slope * (middle - x)))
                    bottom = [1.0 - share] if self.config.floor != "none" else []
                    yield (middle, slope), np.stack([*bottom, share], axis=1)

    def start(self, exponents: tuple[float, ...], amplitudes: np.ndarray) -> list[float]:
        bottom = [float(amplitudes[0])] if self.config.floor == "free" else []
        return [*bottom, float(np.log(amplitudes[-1])), *exponents]

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        params = {
            "top": np.exp(theta_BP[:, -3]),
            "x_mid": np.exp(theta_BP[:, -2] + log_mean(data.columns["x"])),
            "s": theta_BP[:, -1],
        }
        if self.config.floor == "none":
            return params
        if self.config.floor == "free":
            return {"bottom": theta_BP[:, 0], **params}
        return {"bottom": np.full(len(theta_BP), float(self.config.floor)), **params}

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        away = np.log(params["x_mid"])[:, None] - np.log(columns["x"])
        share = np.exp(-np.logaddexp(0.0, params["s"][:, None] * away))
        bottom = params.get("bottom", np.zeros(len(share)))[:, None]
        return np.asarray(bottom + (params["top"][:, None] - bottom) * share)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        least = 3 + (self.config.floor == "free")
        return np.asarray(base.num_distinct(base.distinct(data.columns["x"]), weights_Bn) >= least)

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        x = np.geomspace(1e17, 1e22, 24) * np.exp(rng.uniform(-0.1, 0.1, 24))
        params = {"top": 0.8, "x_mid": 5e19, "s": 0.6}
        if self.config.floor != "none":
            bottom = 0.1 if self.config.floor == "free" else float(self.config.floor)
            params = {"bottom": bottom, **params, "top": bottom + 0.7}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {"x": x, "y": self.curve(arrays, {"x": x})[0]}, params
