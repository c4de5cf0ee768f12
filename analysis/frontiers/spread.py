"""The spread of an answer over choices: the form of the law, and how the envelope is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..as_json import number
from ..notebook_repr import Brief
from ..result import Frontier
from .arms import FORMS, Arm, Setup, law
from .crossover import Line, crossing, gain, middle_of, nearest_root
from .envelopes import ENVELOPES, Points

INTERPOLATED = "interpolated"  # straight pieces between the points, in logs: no law at all


def goodness(arm: Arm) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return form -> scatter of the points about it, and form -> AICc; None for too few points.

    AICc counts the noise as a parameter.
    """
    scatter: dict[str, float | None] = {}
    aicc: dict[str, float | None] = {}
    for form, fit in arm.fits.items():
        scatter[form] = aicc[form] = None
        num, params = fit.n, len(fit.params)
        if fit.status != "ok" or num <= params:
            continue
        square = float((fit.residuals**2).sum())
        scatter[form] = float(np.sqrt(square / (num - params)))
        spare = num - params - 2
        if spare > 0 and square > 0:
            k = params + 1
            aicc[form] = num * np.log(square / num) + 2 * k + 2 * k * (k + 1) / spare
    return scatter, aicc


def lower(aicc: Mapping[str, float | None]) -> str:
    """Return the form with the lower AICc; the straight one where they cannot be compared."""
    known = {form: one for form, one in aicc.items() if one is not None}
    if len(known) < len(FORMS):
        return "straight"
    return min(known, key=lambda form: (known[form], form != "straight"))


def leading_form(frontiers: Mapping[str, Frontier]) -> str:
    """Return the form with the lower sum of AICc over the arms that have both."""
    both = [one.aicc for one in frontiers.values() if None not in one.aicc.values()]
    total = {form: sum(one[form] or 0.0 for one in both) for form in FORMS}
    return lower(total) if both else "straight"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Spread(Brief):
    """Every arm's laws through every envelope, without draws, and its interpolated frontier."""

    direction: str
    window: float
    lines: dict[tuple[str, str], dict[str, Line]]  # (arm, form) -> envelope -> law
    pareto: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # -> log x, log y of points

    def gains(self, arm: str, reference: str, form: str) -> dict[str, float | None]:
        """Return envelope -> gain in the middle of the shared compute, by `form`."""
        found: dict[str, float | None] = {}
        for name, first, second in self._both(arm, reference, form):
            one = gain(first, second, form=form, direction=self.direction)
            found[name] = None if one.middle is None else one.middle.gain
        found[INTERPOLATED] = self._interpolated_gain(arm, reference, form)
        return found

    def crossings(self, one: str, other: str, form: str) -> dict[str, float | None]:
        """Return envelope -> x of the crossing by `form`, None where there is none."""
        found = {
            name: number(crossing(first, second, self.window))
            for name, first, second in self._both(one, other, form)
        }
        found[INTERPOLATED] = self._interpolated_crossing(one, other, form)
        return found

    def _both(self, one: str, other: str, form: str) -> list[tuple[str, Line, Line]]:
        first, second = self.lines[one, form], self.lines[other, form]
        return [(name, first[name], second[name]) for name in first if name in second]

    def _interpolated_crossing(self, one: str, other: str, form: str) -> float | None:
        if (one, form) not in self.pareto or (other, form) not in self.pareto:
            return None
        first, second = self.pareto[one, form], self.pareto[other, form]
        low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
        if low >= high:
            return None
        at = np.unique(np.concatenate([first[0], second[0], [low, high]]))
        at = at[(at >= low) & (at <= high)]
        gap = np.interp(at, *first) - np.interp(at, *second)
        place, _ = nearest_root(at, gap[None], 0.5 * (low + high))
        return number(np.exp(place[0]))

    def _interpolated_gain(self, arm: str, reference: str, form: str) -> float | None:
        if (arm, form) not in self.pareto or (reference, form) not in self.pareto:
            return None
        own, other = self.pareto[arm, form], self.pareto[reference, form]
        name = next(iter(self.lines[arm, form]))
        middle = np.log(middle_of(self.lines[arm, form][name], self.lines[reference, form][name]))
        sign = 1.0 if self.direction == "lower" else -1.0
        value, values = sign * float(np.interp(middle, *own)), sign * other[1]
        inside = own[0][0] <= middle <= own[0][-1] and values.min() <= value <= values.max()
        if not inside:
            return None
        order = np.argsort(values, kind="stable")
        return number(np.exp(np.interp(value, values[order], other[0][order]) - middle))


def of(setup: Setup, arms: list[Arm]) -> Spread:
    """Fit every form through every envelope of every arm."""
    lines: dict[tuple[str, str], dict[str, Line]] = {}
    interpolated: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    for arm in arms:
        points = {name: setup.envelope(name, arm.data) for name in ENVELOPES}
        for form in FORMS:
            lines[arm.name, form] = {}
            for name, some in points.items():
                if some.status != "ok":
                    continue
                log_x, log_y = _values(some, arm, form)
                one = _line(arm, form, log_x, log_y)
                if one is not None:
                    lines[arm.name, form][name] = one
                if name == "pareto" and len(log_x) > 1 and one is not None:
                    interpolated[arm.name, form] = log_x, log_y
    return Spread(
        direction=setup.data.direction,
        window=setup.request.window,
        lines=lines,
        pareto=interpolated,
    )


def _values(points: Points, arm: Arm, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Return log x and log y of an envelope, the luck of the selected taken off."""
    use = points.use_Bk[0]
    log_y = points.log_y_Bk[0, use]
    if points.row_k is not None and form in arm.lifts:
        log_y = log_y + arm.lifts[form][points.row_k[use]]
    return points.log_x_k[use], log_y


def _line(arm: Arm, form: str, log_x: np.ndarray, log_y: np.ndarray) -> Line | None:
    """Return the law through points of an arm; None if they do not determine it."""
    fit = arm.fits[form]
    if fit.status != "ok" or len(np.unique(np.round(log_x, 9))) < len(fit.params):
        return None
    use = np.ones((1, len(log_x)), dtype=bool)
    params = law(form).least_squares(log_x[None], log_y[None], use, fit.params)
    if not all(np.isfinite(one[0]) for one in params.values()):
        return None
    x = arm.data.columns["x"]
    return Line(
        arm=arm.name, status="ok", point=params, draws={}, low=float(x.min()), high=float(x.max())
    )
