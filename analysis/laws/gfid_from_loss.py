"""Joint law of a Frechet distance and the loss per image: gFID = E_arm + s_arm exp(k loss).

All arms (tokenizers) share the rate k at which the excess distance falls with the loss; each has a
floor E of its own, because its reconstructions bound its samples, and, with scale="arm", an s of
its own, because bits per image of two tokenizers differ by a constant. It predicts gFID from a
cheap loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from ..fitting import law as base
from ..fitting.solve import Curve, Terms, grid_starts
from ..notices import Notice, notice
from ..table import Data

REQUIRES: Final = ("x", "y", "group")  # x: loss per image; group: the arm


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the law."""

    # "shared": one s for all arms; "arm": each its own (needs 3 runs an arm).
    scale: str = "shared"
    # "arm": each arm its own floor; "shared": one; "none": no floor (a straight line in log gFID).
    floor: str = "arm"

    def __post_init__(self) -> None:
        if self.scale not in ("shared", "arm"):
            raise ValueError(f"scale: {self.scale!r} is not allowed; shared or arm")
        if self.floor not in ("arm", "shared", "none"):
            raise ValueError(f"floor: {self.floor!r} is not allowed; arm, shared or none")


@final
class Law(base.CurveLaw):
    """Parameters k (per unit of loss), s or s_ARM (at loss 0), and E, E_ARM or none."""

    x_is_compute = False
    amplitudes = ("s",)
    resampled_within = "group"

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        arms = sorted(set(data.columns["group"]))
        floors = [f"E_{arm}" for arm in arms] if self.config.floor == "arm" else []
        if self.config.floor == "shared":
            floors = ["E"]
        scales = [f"s_{arm}" for arm in arms] if self.config.scale == "arm" else ["s"]
        return (*floors, *scales, "k")

    def refuse(self, data: Data) -> base.Refusal | None:
        num_params = len(self.names(data))
        refusal = base.few_or_flat(data, num_params, ("x",))
        if refusal is not None:
            return refusal
        least = 1 + (self.config.scale == "arm") + (self.config.floor == "arm")
        for arm in sorted(set(data.columns["group"])):
            own = np.unique(data.columns["x"][data.columns["group"] == arm])
            if len(own) < least:
                return base.Refusal(
                    status="too_few",
                    reason=f"arm {arm} has {len(own)} different losses; {least} are needed",
                )
        return None

    def on(self, data: Data, log_y: np.ndarray) -> Terms:
        loss, group = data.columns["x"], data.columns["group"]
        names = self.names(data)[:-1]
        arms = sorted(set(group))
        middle, width = _axis(loss)
        num, size = len(loss), len(names) + 1
        features = np.zeros((len(names), num, size))
        offset = np.zeros((len(names), num))
        is_floor = np.array([name.startswith("E") for name in names])
        for at, name in enumerate(names):
            if is_floor[at]:
                offset[at] = log_y.min()  # E in units of the lowest y
            else:
                features[at, :, at] = 1.0
                features[at, :, -1] = (loss - middle) / width
            if name[2:] in arms:
                offset[at] = np.where(group == name[2:], offset[at], -np.inf)
        low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
        top = float(np.exp(np.ptp(log_y)))
        grid = np.geomspace(0.05, 12.0, 30)
        return Terms(
            features_KnP=features,
            offset_Kn=offset,
            low_P=np.append(np.where(is_floor, 0.0, low), -20.0),
            high_P=np.append(np.where(is_floor, top, high), 20.0),
            amplitude_K=tuple(range(len(names))),
            floors=self.floors(data),
            grid_GQ=np.concatenate([-grid[::-3], grid])[:, None],
        )

    def starts(self, curve: Curve, log_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        assert isinstance(curve, Terms)
        return grid_starts(curve, log_y, weights)

    def floors(self, data: Data) -> tuple[int, ...]:
        return tuple(at for at, name in enumerate(self.names(data)) if name.startswith("E"))

    def public(self, theta_BP: np.ndarray, data: Data, log_y: np.ndarray) -> dict[str, np.ndarray]:
        middle, width = _axis(data.columns["x"])
        k = theta_BP[:, -1] / width
        params = {}
        for at, name in enumerate(self.names(data)[:-1]):
            if name.startswith("E"):
                params[name] = base.floor(theta_BP[:, at], log_y)
            else:
                params[name] = np.exp(theta_BP[:, at] - k * middle)
        return {**params, "k": k}

    def remarks(self, params: Mapping[str, np.ndarray], data: Data) -> tuple[Notice, ...]:
        zero = [name for name in params if name.startswith("E") and params[name][0] == 0.0]
        if zero:
            return (notice("W-FLOOR-ZERO", f"no floor is seen: {', '.join(zero)} = 0"),)
        return ()

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        group = columns.get("group", np.full(len(columns["x"]), ""))
        known = {name[2:] for name in params if name[:2] in ("E_", "s_")}
        unknown = sorted(set(group) - known) if known else []
        if unknown:
            raise ValueError(f"group: the law has no arm {unknown[0]!r}; it has {sorted(known)}")
        excess = np.exp(params["k"][:, None] * columns["x"])
        answer: np.ndarray = np.empty_like(excess)
        for arm in sorted(set(group)):
            mask = group == arm
            scale = params["s"] if "s" in params else params[f"s_{arm}"]
            floor = params["E"] if "E" in params else params.get(f"E_{arm}", np.zeros(len(scale)))
            answer[:, mask] = floor[:, None] + scale[:, None] * excess[:, mask]
        return answer

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

    def optimum(
        self, params: Mapping[str, np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        return None

    def enough(self, data: Data, weights_Bn: np.ndarray) -> np.ndarray:
        least = 1 + (self.config.scale == "arm") + (self.config.floor == "arm")
        good = base.num_distinct(base.distinct(data.columns["x"]), weights_Bn) >= 2
        for arm in sorted(set(data.columns["group"])):
            mask = data.columns["group"] == arm
            ids = base.distinct(data.columns["x"][mask])
            good &= base.num_distinct(ids, weights_Bn[:, mask]) >= least
        return good

    def synthetic(self, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        loss = np.concatenate([np.linspace(900, 1300, 9), np.linspace(850, 1250, 9)])
        loss = loss + rng.uniform(-5, 5, loss.size)
        group = np.repeat(["crt", "vq"], 9)
        params: dict[str, float] = {}
        if self.config.floor != "none":
            params |= {"E_crt": 2.0, "E_vq": 3.0} if self.config.floor == "arm" else {"E": 2.0}
        params |= {"s_crt": 0.004, "s_vq": 0.005} if self.config.scale == "arm" else {"s": 0.004}
        params["k"] = 0.006
        arrays = {name: np.array([value]) for name, value in params.items()}
        columns = {"x": loss, "group": group}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params


def _axis(loss: np.ndarray) -> tuple[float, float]:
    """Middle and width of the loss axis: the solver's exponent is per width."""
    return float(loss.mean()), float(np.ptp(loss))
