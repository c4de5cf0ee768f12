"""Smoothly broken power law with one break (arXiv:2210.14891, eq. 1 with n = 1).

y = E + a x^-b (1 + (x / x_break)^(1/f))^(-c f): the slope is b before the break and b + c after it;
f sets how gradual the change is. It needs many points: six parameters at most from one column.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.solve import Curve
from ..notices import Notice, notice
from ..table import Data

REQUIRES: Final = ("x", "y")
STEEPEST: Final = 4.0  # largest |b| and |c|
SHARPEST: Final = 0.02  # smallest f; sharper breaks cannot be told apart
SMOOTHEST: Final = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    floor: str = "none"  # "none": E = 0; "free": E is fitted

    def __post_init__(self) -> None:
        if self.floor not in ("none", "free"):
            raise ValueError(f"floor: {self.floor!r} is not allowed; none or free")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Broken(Curve):
    """theta = (E / unit,) log a', b, c, log break, log f, with log x = u about its mean."""

    u: np.ndarray
    floor: bool
    log_unit: float  # log of the lowest y, the unit of E
    low_P: np.ndarray
    high_P: np.ndarray

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return len(self.u)

    def log_y(self, theta_BP: np.ndarray) -> np.ndarray:
        return self.slopes(theta_BP)[0]

    def slopes(self, theta_BP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        body = theta_BP[:, 1:] if self.floor else theta_BP
        log_a, b, c, at, log_f = (body[:, one][:, None] for one in range(5))
        f = np.exp(log_f)
        t = (self.u - at) / f
        soft = np.logaddexp(0.0, t)
        gate = np.exp(-np.logaddexp(0.0, -t))
        z = log_a - b * self.u - c * f * soft
        jac = np.stack(
            np.broadcast_arrays(1.0, -self.u, -f * soft, c * gate, -c * f * (soft - t * gate), z)[
                :5
            ],
            axis=2,
        )
        if not self.floor:
            return z, jac, None
        with np.errstate(divide="ignore"):
            total = np.logaddexp(np.log(theta_BP[:, :1]) + self.log_unit, z)
        share = np.exp(z - total)
        of_floor = np.exp(self.log_unit - total)
        return total, np.concatenate([of_floor[:, :, None], share[:, :, None] * jac], 2), None

    def thin(self, rows: np.ndarray) -> Broken:
        return dataclasses.replace(self, u=self.u[rows])

    def bend(self, slope_Bn: np.ndarray, jac_BnP: np.ndarray, extra: np.ndarray) -> np.ndarray:
        raise AssertionError("first order only")


@final
class Law(base.CurveLaw):
    """Parameters a, b, c, x_break, f and E with floor="free"."""

    amplitudes = ("a",)
    beyond_zero = ("c",)

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        floor = ("E",) if self.config.floor == "free" else ()
        return (*floor, "a", "b", "c", "x_break", "f")

    def refuse(self, data: Data) -> base.Refusal | None:
        least = len(self.names(data)) + 1
        refusal = base.few_or_flat(data, least, ("x",))
        if refusal is not None:
            return refusal
        if len(np.unique(base.distinct(data.columns["x"]))) < least:
            return base.Refusal(
                status="no_spread",
                reason=f"{data.roles['x']} has fewer than {least} different values",
            )
        return None

    def on(self, data: Data, log_y: np.ndarray) -> Broken:
        log_x = np.log(data.columns["x"])
        u = log_x - log_x.mean()
        free = self.config.floor == "free"
        low_y, high_y = float(log_y.min()), float(log_y.max())
        low = [low_y - 25.0, -STEEPEST, -STEEPEST, u.min(), np.log(SHARPEST)]
        high = [high_y + 25.0, STEEPEST, STEEPEST, u.max(), np.log(SMOOTHEST)]
        return Broken(
            u=u,
            floor=free,
            log_unit=low_y,
            low_P=np.array([0.0] * free + low),
            high_P=np.array([1.0] * free + high),
        )

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Broken)
        return _starts(curve.u, log_y, weights, curve.floor)

    def floors(self, data: Data) -> tuple[int, ...]:
        return (0,) if self.config.floor == "free" else ()

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        centre = np.log(data.columns["x"]).mean()
        body = theta_BP[:, -5:]
        params = {
            "a": np.exp(body[:, 0] + body[:, 1] * centre),
            "b": body[:, 1],
            "c": body[:, 2],
            "x_break": np.exp(body[:, 3] + centre),
            "f": np.exp(body[:, 4]),
        }
        if self.config.floor == "free":
            return {"E": base.floor(theta_BP[:, 0], log_y), **params}
        return params

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        if self.config.floor == "free" and params["E"][0] == 0.0:
            return (notice("W-FLOOR-ZERO", "E = 0: the data show no floor"),)
        return ()

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        log_x = np.log(columns["x"])
        f = params["f"][:, None]
        soft = np.logaddexp(0.0, (log_x - np.log(params["x_break"])[:, None]) / f)
        log_power = np.log(params["a"])[:, None] - params["b"][:, None] * log_x
        power = np.exp(log_power - params["c"][:, None] * f * soft)
        return np.asarray(power + params["E"][:, None] if "E" in params else power)

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"b_after": params["b"] + params["c"]}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        least = 6 + (self.config.floor == "free")
        return np.asarray(base.num_distinct(base.distinct(data.columns["x"]), weights_Bn) >= least)

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        x = np.geomspace(1e16, 1e22, 40) * np.exp(rng.uniform(-0.05, 0.05, 40))
        params = {"a": 50.0, "b": 0.05, "c": 0.12, "x_break": 2e19, "f": 0.6}
        if self.config.floor == "free":
            params = {"E": 0.5, **params}
        arrays = {name: np.array([value]) for name, value in params.items()}
        return {"x": x, "y": self.curve(arrays, {"x": x})[0]}, params


def _starts(u: np.ndarray, log_y: np.ndarray, weights: np.ndarray, free: bool) -> np.ndarray:
    """Search the best grid points over (break, f, floor).

    The rest is linear least squares on logs.
    """
    places = np.quantile(u, np.linspace(0.1, 0.9, 9))
    softness = np.array([0.1, 0.4, 1.2])
    shares = np.array([0.0, 0.5, 0.8, 0.95]) if free else np.array([0.0])
    found = []
    root = np.sqrt(weights)
    for share in shares:
        reducible = np.log(np.exp(log_y) - share * np.exp(log_y.min()))
        for at in places:
            for f in softness:
                soft = f * np.logaddexp(0.0, (u - at) / f)
                columns = np.stack([np.ones_like(u), -u, -soft], axis=1)
                answer = np.linalg.lstsq(columns * root[:, None], reducible * root, rcond=None)[0]
                z = columns @ answer
                model = np.logaddexp(np.log(share) + log_y.min(), z) if share else z
                left = float((weights * (model - log_y) ** 2).sum())
                theta = [share] * free + [*answer, at, np.log(f)]
                found.append((left, theta))
    found.sort(key=lambda one: one[0])
    return np.array([theta for _, theta in found[:6]])
