"""Power law y = E + a x^-b: a straight line in log-log, or one that bends towards a floor E."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.optimum import lines
from ..fitting.solve import Curve, OwnRows, Terms, grid_starts, newton
from ..notices import Notice, notice
from ..table import Data

REQUIRES: Final = ("x", "y")
STEEPEST: Final = 4.0  # largest |b| searched; laws of loss and FID against compute have 0.02 to 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    # "none": E = 0; "free": E is fitted; a number: E is that, in units of y (irreducible loss).
    floor: str | float = "none"

    def __post_init__(self) -> None:
        if isinstance(self.floor, str):
            if self.floor not in ("none", "free"):
                raise ValueError(f"floor: {self.floor!r} is not allowed; none, free or a number")
        elif not (np.isfinite(self.floor) and self.floor > 0):
            raise ValueError(f"floor: {self.floor!r} is not allowed; none, free or a number > 0")


@final
class Law(base.CurveLaw):
    """The power law; parameters a, b (b > 0: y falls with x) and E unless the floor is none."""

    amplitudes = ("a",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        return ("a", "b") if self.config.floor == "none" else ("E", "a", "b")

    def refuse(self, data: Data) -> base.Refusal | None:
        least = 3 if self.config.floor == "free" else 2
        refusal = base.few_or_flat(data, least, ("x",))
        if refusal is not None:
            return refusal
        if len(np.unique(np.round(np.log(data.columns["x"]), 9))) < least:
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

    def on(self, data: Data, log_y: np.ndarray) -> Terms:
        log_x = np.log(data.columns["x"])
        return self._terms(log_x - log_x.mean(), log_y)

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Terms)
        return grid_starts(curve, log_y, weights)

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,) if self.config.floor == "free" else ()

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        b = theta_BP[:, -1]
        params = {"a": np.exp(theta_BP[:, -2] + b * np.log(data.columns["x"]).mean()), "b": b}
        if self.config.floor == "free":
            return {"E": base.floor(theta_BP[:, 0], log_y), **params}
        if self.config.floor == "none":
            return params
        return {"E": np.full(len(b), float(self.config.floor)), **params}

    def warm(self, params: Mapping[str, float], data: Data, log_y: np.ndarray) -> base.Solved:
        """Known parameters as the start of refits on `data` (which may be other rows)."""
        middle = float(np.log(data.columns["x"]).mean())
        theta = [np.log(params["a"]) - params["b"] * middle, params["b"]]
        if self.config.floor == "free":
            theta = [params["E"] / float(np.exp(log_y.min())), *theta]
        return base.Solved(
            params={name: np.array([value]) for name, value in params.items()},
            theta_BP=np.array([theta]),
            objective_B=np.zeros(1),
            decrement_B=np.zeros(1),
            agree=1.0,
        )

    def least_squares(
        self,
        log_x_Bk: np.ndarray,
        log_y_Bk: np.ndarray,
        use_Bk: np.ndarray,
        params: Mapping[str, float],
    ) -> dict[str, np.ndarray]:
        """Fit every draw's law by least squares through its own points, from the point fit
        `params`.

        For floor "none" in closed form, for "free" by Newton.
        """
        middle = float(log_x_Bk[use_Bk].mean())
        u_Bk = np.where(use_Bk, log_x_Bk - middle, 0.0)
        v_Bk = np.where(use_Bk, log_y_Bk, 0.0)
        if self.config.floor == "none":
            slope, level, _ = lines(u_Bk, v_Bk, use_Bk)
            return {"a": np.exp(level - slope * middle), "b": -slope}
        assert self.config.floor == "free"
        unit, span = float(log_y_Bk[use_Bk].min()), float(np.ptp(log_y_Bk[use_Bk]))
        curve = OwnRows(
            u_Bk=u_Bk,
            log_unit=unit,
            low_P=np.array([0.0, unit - 25.0, -STEEPEST]),
            high_P=np.array([np.exp(span), unit + span + 25.0, STEEPEST]),
        )
        first = [
            params["E"] * np.exp(-unit),
            np.log(params["a"]) - params["b"] * middle,
            params["b"],
        ]
        start = np.repeat([first], len(u_Bk), axis=0)
        theta = newton(curve, v_Bk, use_Bk.astype(float), start, delta=np.inf).theta_BP
        with np.errstate(over="ignore"):
            a = np.exp(theta[:, 1] + theta[:, 2] * middle)
        return {"E": base.floor(theta[:, 0], np.array([unit])), "a": a, "b": theta[:, 2]}

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        if self.config.floor == "free" and params["E"][0] == 0.0:
            return (notice("W-FLOOR-ZERO", "E = 0: a straight line fits as well as a floor"),)
        return ()

    def _terms(self, u: np.ndarray, log_y: np.ndarray) -> Terms:
        """Return the terms of E + exp(a - b u); u is log x about its mean."""
        low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
        num = len(u)
        one, none = np.ones(num), np.zeros(num)
        slope = np.geomspace(0.01, STEEPEST, 40)
        if self.config.floor == "free":
            power = np.stack([none, one, -u], 1)
            return Terms(
                features_KnP=np.stack([np.zeros_like(power), power], axis=0),
                offset_Kn=np.stack([np.full(num, log_y.min()), none]),  # E in units of the lowest y
                low_P=np.array([0.0, low, -STEEPEST]),
                high_P=np.array([np.exp(np.ptp(log_y)), high, STEEPEST]),
                amplitude_K=(0, 1),
                floors=(0,),
                grid_GQ=np.concatenate([-slope[::-1], slope])[:, None],
            )
        power = np.stack([one, -u], 1)
        grid = np.concatenate([-slope[::-4], slope[::4]])[:, None]
        if self.config.floor == "none":
            return Terms(
                features_KnP=power[None],
                offset_Kn=np.zeros((1, num)),
                amplitude_K=(0,),
                grid_GQ=grid,
                low_P=np.array([low, -STEEPEST]),
                high_P=np.array([high, STEEPEST]),
            )
        return Terms(
            features_KnP=np.stack([np.zeros_like(power), power], axis=0),
            offset_Kn=np.stack([np.full(num, np.log(self.config.floor)), none], axis=0),
            amplitude_K=(-1, 0),
            grid_GQ=grid,
            low_P=np.array([low, -STEEPEST]),
            high_P=np.array([high, STEEPEST]),
        )

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_x = np.log(columns["x"])
        power = np.exp(np.log(params["a"])[:, None] - params["b"][:, None] * log_x)
        return np.asarray(power + params["E"][:, None] if "E" in params else power)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        least = 3 if self.config.floor == "free" else 2
        return base.num_distinct(base.distinct(data.columns["x"]), weights_Bn) >= least

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        x = np.geomspace(1e17, 1e21, 12) * np.exp(rng.uniform(-0.1, 0.1, 12))
        params = {"a": 60.0, "b": 0.11}
        if self.config.floor != "none":
            floor = 1.3 if self.config.floor == "free" else float(self.config.floor)
            params = {"E": floor, **params}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {"x": x, "y": self.curve(arrays, {"x": x})[0]}, params
