"""Joint law of a Frechet distance and the loss per image: gFID = E_arm + s_arm exp(k loss).

All arms (tokenizers) share the rate k at which the excess distance falls with the loss; each has a
floor E of its own, because its reconstructions bound its samples, and, with scale="arm", an s of its
own, because bits per image of two tokenizers differ by a constant. From a cheap loss it predicts gFID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from .. import law as base
from ..codes import notice
from ..solve import Terms
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
class Law(base.Law):
    """Parameters k (per unit of loss), s or s_ARM (at loss 0), and E, E_ARM or none."""

    resampled_within = "group"

    def __init__(self, config: Config) -> None:
        self.config = config

    def names(self, data: Data) -> tuple[str, ...]:
        arms = sorted(set(data.columns["group"]))
        floors = [f"E_{arm}" for arm in arms] if self.config.floor == "arm" else []
        if self.config.floor == "shared":
            floors = ["E"]
        scales = [f"s_{arm}" for arm in arms] if self.config.scale == "arm" else ["s"]
        return ("k", *floors, *scales)

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
        terms, floors, middle, width = self._terms(data, log_y)
        found = base.fit_curve(
            terms, log_y, weights, loss=loss, delta=delta, start=start, floors=floors
        )
        theta = found.theta_BP
        names = self.names(data)
        k = theta[:, -1] / width
        params = {"k": k}
        for at, name in enumerate(names[1:]):
            if at in floors:
                params[name] = base.floor_from_log(theta[:, at], float(log_y.min()))
            else:
                params[name] = np.exp(theta[:, at] - k * middle)
        notices = []
        if start is None:
            zero = [name for name in names if name.startswith("E") and params[name][0] == 0.0]
            if zero:
                notices.append(notice("W-FLOOR-ZERO", f"no floor is seen: {', '.join(zero)} = 0"))
        return base.Solved(
            params=params,
            theta_BP=theta,
            objective_B=found.objective_B,
            decrement_B=found.decrement_B,
            fitted_log_Bn=terms.log_y(theta) if start is None else None,
            at_bound=("k",) if start is None and found.at_bound_P[-1] else (),
            agree=found.agree,
            num_params=theta.shape[1],
            notices=tuple(notices),
        )

    def _terms(
        self, data: Data, log_y: np.ndarray
    ) -> tuple[Terms, tuple[int, ...], float, float]:
        """Terms, the indices of floors, and the centre and width of the loss axis."""
        loss, group = data.columns["x"], data.columns["group"]
        middle, width = float(loss.mean()), float(np.ptp(loss))
        u = (loss - middle) / width
        arms = sorted(set(group))
        num, names = len(loss), self.names(data)
        column = {name: at for at, name in enumerate(names[1:])}  # k is last in theta
        features, offsets, amplitudes = [], [], []

        def add(name: str, mask: np.ndarray, slope: np.ndarray) -> None:
            one = np.zeros((num, len(names)))
            one[:, column[name]] = 1.0
            one[:, -1] = slope
            features.append(one)
            offsets.append(np.where(mask, 0.0, -np.inf))
            amplitudes.append(column[name])

        for name in names[1:]:
            arm = name[2:]
            mask = group == arm if arm in arms and "_" in name else np.ones(num, dtype=bool)
            add(name, mask, np.zeros(num) if name.startswith("E") else u)
        low, high = float(log_y.min()) - 25.0, float(log_y.max()) + 25.0
        size = len(names)
        grid = np.geomspace(0.05, 12.0, 30)
        terms = Terms(
            features_KnP=np.stack(features),
            offset_Kn=np.stack(offsets),
            low_P=np.array([low] * (size - 1) + [-20.0]),
            high_P=np.array([high] * (size - 1) + [20.0]),
            amplitude_K=tuple(amplitudes),
            grid_GQ=np.concatenate([-grid[::-3], grid])[:, None],
        )
        floors = tuple(at for name, at in column.items() if name.startswith("E"))
        return terms, floors, middle, width

    def curve(
        self, params: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        group = columns.get("group", np.full(len(columns["x"]), ""))
        known = {name[2:] for name in params if name[:2] in ("E_", "s_")}
        unknown = sorted(set(group) - known) if known else []
        if unknown:
            raise ValueError(f"group: the law has no arm {unknown[0]!r}; it has {sorted(known)}")
        excess = np.exp(params["k"][:, None] * columns["x"])
        answer = np.empty_like(excess)
        for arm in sorted(set(group)):
            mask = group == arm
            scale = params["s"] if "s" in params else params[f"s_{arm}"]
            floor = params["E"] if "E" in params else params.get(f"E_{arm}", np.zeros(len(scale)))
            answer[:, mask] = floor[:, None] + scale[:, None] * excess[:, mask]
        return answer

    def derive(self, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {}

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
        params = {"k": 0.006}
        if self.config.floor != "none":
            params |= {"E_crt": 2.0, "E_vq": 3.0} if self.config.floor == "arm" else {"E": 2.0}
        params |= {"s_crt": 0.004, "s_vq": 0.005} if self.config.scale == "arm" else {"s": 0.004}
        arrays = {name: np.array([value]) for name, value in params.items()}
        columns = {"x": loss, "group": group}
        return {**columns, "y": self.curve(arrays, columns)[0]}, params
