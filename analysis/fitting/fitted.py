"""A fitted law: its parameters with intervals, its curve, and its predictions with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ...trainer import parts
from .. import notebook_repr
from ..as_json import dumps, encode
from ..notebook_repr import Brief
from ..notices import Item, LeftOut, Notice
from .bootstrap import LEVEL
from .forward import Miss, axes, widening
from .law import Law


def law_of(fit: Fit) -> Law:
    """The law of a fit, with its options."""
    module = parts.load("laws", fit.law)
    law: Law = module.Law(module.Config(**fit.options))
    return law


def curve(fit: Fit, columns: Mapping[str, Any]) -> np.ndarray:
    """The fitted y at `columns` (role -> values), [n]."""
    _refuse(fit)
    params = {name: np.array([value]) for name, value in fit.params.items()}
    return np.asarray(law_of(fit).curve(params, _arrays(columns))[0])


def curve_draws(fit: Fit, columns: Mapping[str, Any]) -> np.ndarray:
    """The y of every draw at `columns`, [draws, n]."""
    _refuse(fit)
    params = {name: fit.draws[:, at] for at, name in enumerate(fit.names)}
    arrays = _arrays(columns)
    if not len(fit.draws):
        return np.empty((0, len(next(iter(arrays.values())))))
    return law_of(fit).curve(params, arrays)


def predict(fit: Fit, columns: Mapping[str, Any]) -> Prediction:
    """y with 95% intervals at `columns`; without draws the intervals are NaN.

    The interval of the mean holds the law itself, if its form is right. That of a new run adds, in
    quadrature, the scatter of the fitted rows with Student's t, and outside the fitted rows the
    form's own error as forward hold-outs measured it.
    """
    arrays = _arrays(columns)
    y = curve(fit, arrays)
    low = np.full(len(y), np.nan)
    high, low_new, high_new = low.copy(), low.copy(), low.copy()
    draws = curve_draws(fit, arrays)
    if len(draws):
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
        free = max(1, len(fit.residuals) - len(fit.params))
        noise = stats.t.ppf(1 - tail, free) * fit.scatter
        form = widening(fit.forward, outside_by_axis(fit, arrays))
        law, beside = law_of(fit), noise**2 + form**2
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = law.link(y)
            below, above = middle - law.link(low), law.link(high) - middle
        low_new = law.unlink(middle - np.sqrt(np.maximum(below, 0.0) ** 2 + beside))
        high_new = law.unlink(middle + np.sqrt(np.maximum(above, 0.0) ** 2 + beside))
    return Prediction(
        y=y,
        low=low,
        high=high,
        low_new=low_new,
        high_new=high_new,
        decades_outside=outside(fit, arrays),
    )


def outside_by_axis(fit: Fit, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return how many decades each point lies beyond the fitted rows along each axis; 0 inside."""
    found = {}
    for axis, values in axes(law_of(fit), columns).items():
        if axis in fit.axis_ranges:
            low, high = fit.axis_ranges[axis]
            far = np.log10(np.maximum(low / values, values / high))
            found[axis] = np.where(far > 1e-12, far, 0.0)
    return found


def outside(fit: Fit, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how many decades each point lies beyond the fitted range of its worst column.

    0 inside. Compute counts where the point gives it.
    """
    far = outside_by_axis(fit, columns)
    if "x" not in columns:
        far.pop("compute", None)
    nothing = np.zeros(len(next(iter(columns.values()))))
    return np.asarray(np.max([nothing, *far.values()], axis=0))


def _arrays(columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {}
    for role, values in columns.items():
        if role == "group":
            arrays[role] = np.atleast_1d(np.asarray(values, dtype=str))
        else:
            arrays[role] = np.atleast_1d(np.asarray(values, dtype=float))
    return arrays


def _refuse(fit: Fit) -> None:
    if fit.status != "ok":
        raise ValueError(f"fit: {fit.law} has no numbers ({fit.status}: {fit.reason})")


Interval = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Check(Brief):
    """One check the package runs by itself."""

    name: str  # hold_out, lack_of_fit, influence, range, gradient, starts ...
    passed: bool | None  # None: the data do not allow the check
    text: str  # one sentence with the numbers
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """How the draws of a result were made."""

    by: str  # "run", "point", "residual" or the cluster column
    draws: int  # usable draws
    failed: int  # resamples that could not be fitted (fewer distinct points than parameters)
    clusters: int  # independent units that were resampled
    seed: int
    stretch: float = 1.0  # factor on the draws' distance from the point fit (Student t over normal)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Fit(Brief):
    """A fitted law: point fit, draws, what went in, what was left out, what to be careful about."""

    law: str  # file name in analysis/laws
    status: str  # "ok", or the reason in one word why there are no numbers
    reason: str = ""  # the same in a sentence
    options: dict[str, Any] = field(default_factory=dict)  # the law's Config
    group: str | None = None  # the arm, when fitted by group
    roles: dict[str, str] = field(default_factory=dict)  # role (x, y, n, d) -> column used
    flops_rule: str | None = None  # how the FLOPs on x were counted
    direction: str = "lower"  # whether "lower" or "higher" y is better
    direction_reason: str = ""  # who says so
    params: dict[str, float] = field(default_factory=dict)
    at_bound: tuple[str, ...] = ()  # parameters on the edge of their search box: no interval
    derived: dict[str, float] = field(default_factory=dict)  # functions of the parameters
    ci95: dict[str, Interval] = field(
        default_factory=dict
    )  # parameters and derived; empty without draws
    se: dict[str, float] = field(default_factory=dict)  # standard deviation of the draws
    names: tuple[str, ...] = ()  # the parameters in the order of the columns of `draws`
    draws: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # [draws, parameters]
    bootstrap: Bootstrap | None = None
    loss: str = "huber"  # huber, l1, l2, on log residuals
    delta: float = 1e-3  # Huber's knee, in log units
    objective: float | None = (
        None  # the SUM over rows (huber: 0.5 r^2 inside delta; l1: |r|; l2: 0.5 r^2)
    )
    beside: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # other objectives -> parameters
    n: int = 0  # rows fitted
    n_left_out: int = 0
    left_out: tuple[LeftOut, ...] = ()
    data_hash: str = (
        ""  # first 16 hex digits of sha256 over the fitted columns, order of rows ignored
    )
    run_ids: tuple[str, ...] = ()  # one per fitted row
    ranges: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # role -> (lowest, highest)
    axis_ranges: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # "compute" and the roles of columns -> (lowest, highest)
    scatter: float = 0.0  # of a run about the law, log units, n - p degrees of freedom
    forward: tuple[Miss, ...] = ()  # what forward hold-outs missed; empty without draws
    residuals: np.ndarray = field(
        default_factory=lambda: np.empty(0)
    )  # log y - log fitted, one per row
    checks: tuple[Check, ...] = ()
    warnings: tuple[Notice, ...] = ()
    checklist: tuple[Item, ...] = ()

    def curve(self, columns: Mapping[str, Any]) -> np.ndarray:
        """The fitted y at `columns` (role -> values), [n]; ValueError without numbers."""
        return curve(self, columns)

    def curve_draws(self, columns: Mapping[str, Any]) -> np.ndarray:
        """The y of every draw at `columns` (role -> values), [draws, n]."""
        return curve_draws(self, columns)

    def predict(self, columns: Mapping[str, Any]) -> Prediction:
        """y at `columns` (role -> values), with the intervals of the law and of a new run."""
        return predict(self, columns)

    def _brief(self) -> str:
        return notebook_repr.fit(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as what `json` accepts, draws and residuals included."""
        content: dict[str, Any] = encode(self)
        return content

    def to_json(self) -> str:
        """Return the JSON text of `to_dict`, keys sorted."""
        return dumps(self.to_dict())


class Fits(dict[str, Fit]):
    """The fits of the groups of a table, by name."""

    def __init__(self, group: str, num_without: int = 0) -> None:
        super().__init__()
        self.group = group  # the column that tells the groups
        self.num_without = num_without  # rows without a value in it, in no fit

    def __repr__(self) -> str:
        return notebook_repr.short(notebook_repr.fits(self))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Prediction(Brief):
    """Predicted values with 95% intervals, arrays of one length; NaN intervals without draws."""

    y: np.ndarray
    low: np.ndarray  # of the mean (the law itself)
    high: np.ndarray
    low_new: np.ndarray  # of one new run: the mean's interval plus run-to-run noise
    high_new: np.ndarray
    decades_outside: (
        np.ndarray
    )  # how far beyond the fitted range of x (or n, d), in decades; 0 inside

    def _brief(self) -> str:
        return notebook_repr.prediction(self)
