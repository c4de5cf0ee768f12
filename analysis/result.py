"""The frozen results of the analysis: what every fit, frontier, crossover and gain carries, and
their JSON form.

Numbers that do not exist are None (JSON null), never NaN or infinity: the end of an interval that
is unbounded, the parameters of a fit whose `status` is not "ok", a gain beyond what the reference
arm can reach.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import brief
from .brief import Brief

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One warning: a code that docs/analysis.md explains, and what was seen here."""

    code: str  # W-...
    message: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LeftOut(Brief):
    """One entry of the filter log: how many rows one rule removed, and which."""

    reason: str  # the rule, in words
    count: int  # rows removed by it
    rows: tuple[str, ...] = ()  # run ids (or row numbers) removed, the first 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One line of the reporting checklist."""

    name: str
    text: str


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

    law: str  # file name in analysis/fits
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
    residuals: np.ndarray = field(
        default_factory=lambda: np.empty(0)
    )  # log y - log fitted, one per row
    checks: tuple[Check, ...] = ()
    warnings: tuple[Notice, ...] = ()
    checklist: tuple[Item, ...] = ()

    def curve(self, columns: Mapping[str, Any]) -> np.ndarray:
        """The fitted y at `columns` (role -> values), [n]; ValueError without numbers."""
        from .predict import curve

        return curve(self, columns)

    def curve_draws(self, columns: Mapping[str, Any]) -> np.ndarray:
        """The y of every draw at `columns` (role -> values), [draws, n]."""
        from .predict import curve_draws

        return curve_draws(self, columns)

    def predict(self, columns: Mapping[str, Any]) -> Prediction:
        """y at `columns` (role -> values), with the intervals of the law and of a new run."""
        from .predict import predict

        return predict(self, columns)

    def _brief(self) -> str:
        return brief.fit(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` gives an equal object back."""
        return encode(self)

    def to_json(self) -> str:
        """The JSON text of `to_dict`, keys sorted."""
        return dumps(self.to_dict())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Fit:
        """The fit that `to_dict` wrote."""
        return _fit_from(data)

    @staticmethod
    def from_json(text: str) -> Fit:
        """The fit that `to_json` wrote."""
        return _fit_from(json.loads(text))


class Fits(dict[str, Fit]):
    """The fits of the groups of a table, by name."""

    def __init__(self, group: str, num_without: int = 0) -> None:
        super().__init__()
        self.group = group  # the column that tells the groups
        self.num_without = num_without  # rows without a value in it, in no fit

    def __repr__(self) -> str:
        return brief.short(brief.fits(self))


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
        return brief.prediction(self)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Envelope(Brief):
    """One estimator's lower (or upper) envelope of the runs of an arm, x ascending."""

    name: str  # pareto, binned, hull, isoflop, model
    status: str  # "ok" or why there is none
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    run_ids: tuple[
        str, ...
    ] = ()  # the run of each point; empty for points that are no run (isoflop, model)
    slope: float | None = None  # b of the straight power law y = a x^-b through its points


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Frontier(Brief):
    """One arm: its runs, envelopes, and the laws of one envelope, selected again in every draw."""

    arm: str
    envelope: str  # the envelope that `fits` were made on
    direction: str  # "lower" or "higher" is better
    points: Envelope  # that envelope
    envelopes: dict[str, Envelope]  # every estimator, by name
    fits: dict[str, Fit]  # form -> power law on the points: "straight" (no floor) and "floor"
    n: int  # runs of the arm
    run_ids: tuple[str, ...]  # all of them
    runs_per_budget: float | None  # median number of runs that compete in one budget
    winners_curse: (
        float | None
    )  # expected selection bias of the frontier, as a fraction of y (log units)
    noise: float | None  # run-to-run standard deviation used for it, log units
    grid: tuple[float, ...] = ()  # x where the curves below are given
    curve: dict[str, tuple[float | None, ...]] = field(
        default_factory=dict
    )  # form -> y on the grid
    low: dict[str, tuple[float | None, ...]] = field(
        default_factory=dict
    )  # form -> 95% band on the grid
    high: dict[str, tuple[float | None, ...]] = field(default_factory=dict)

    def _brief(self) -> str:
        return brief.frontier(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossover:
    """Where the frontiers of two arms cross under one form."""

    arms: tuple[str, str]
    form: str  # "straight" or "floor"
    status: str  # "ok", "no crossing", or why it cannot be said
    x: float | None  # None: the point fits do not cross within the searched range
    y: float | None
    ci95: (
        Interval  # of x; None: the end is open (draws cross beyond the searched range) or no draws
    )
    p_no_crossing: float | None  # share of draws without a crossing in the searched range
    searched: tuple[float, float]  # the range of x that was searched
    outside_data: bool | None  # the crossing lies outside the x range that both arms cover
    decades_outside: float | None
    better_below: str | None  # the arm that is better below the crossing (or everywhere)
    better_above: str | None
    crossings: int = 0  # sign changes of the point fits in the searched range


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Gain(Brief):
    """Compute gain of an arm over a reference, gain(C) = C_ref(L(C)) / C, with 95% bands."""

    arm: str
    reference: str
    form: str
    status: str
    x: tuple[float, ...] = ()
    gain: tuple[
        float | None, ...
    ] = ()  # None: the reference cannot reach this value at any compute
    low: tuple[float | None, ...] = ()  # pointwise band
    high: tuple[float | None, ...] = ()  # None: unbounded
    p_unreachable: tuple[float, ...] = ()  # share of draws in which the reference cannot reach it
    outside_data: tuple[bool, ...] = ()  # C_ref or C lies outside that arm's runs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Comparison(Brief):
    """Frontiers of all arms of a table, their crossovers and gains."""

    x: str  # column
    y: str
    group: str | None
    direction: str
    direction_reason: str  # who says so
    flops_rule: str | None
    reference: str | None  # the arm gains are measured against
    frontiers: dict[str, Frontier]
    crossovers: tuple[Crossover, ...]
    gains: tuple[Gain, ...]
    bootstrap: Bootstrap | None
    n: int
    n_left_out: int
    left_out: tuple[LeftOut, ...]
    data_hash: str
    warnings: tuple[Notice, ...]
    checklist: tuple[Item, ...]

    def _brief(self) -> str:
        return brief.comparison(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` gives an equal object back."""
        return encode(self)

    def to_json(self) -> str:
        """The JSON text of `to_dict`, keys sorted."""
        return dumps(self.to_dict())

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_dict` wrote."""
        return _comparison_from(data)

    @staticmethod
    def from_json(text: str) -> Comparison:
        """The comparison that `to_json` wrote."""
        return _comparison_from(json.loads(text))


def number(value: float | np.floating) -> float | None:
    """`value` as a Python float, or None when it is NaN or infinite."""
    value = float(value)
    return value if math.isfinite(value) else None


def dumps(data: Any, indent: int | None = None) -> str:
    """Strict JSON (no NaN), keys sorted, ASCII."""
    return json.dumps(data, sort_keys=True, allow_nan=False, indent=indent)


def encode(value: Any) -> Any:
    """Dataclasses, arrays and numpy numbers as what `json` accepts; non-finite floats as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: encode(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return encode(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): encode(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one) for one in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return number(value)
    return value


def _tuples(value: Any) -> Any:
    """Lists turned back into tuples, at every depth."""
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return value


def _many(cls: Any, values: Any) -> tuple[Any, ...]:
    return tuple(cls(**_tuples(one)) for one in values)


def _array(values: Any, width: int | None = None) -> np.ndarray:
    """A read-only float array; None becomes NaN; `width` columns when given."""
    array = np.array(values, dtype=float)
    if width is not None:
        array = array.reshape(len(values), width)
    array.flags.writeable = False
    return array


def _fit_from(data: Mapping[str, Any]) -> Fit:
    made = dict(data)
    made["draws"] = _array(data["draws"], len(data["names"]))
    # JSON objects have no order of their own.
    made["params"] = {name: data["params"][name] for name in data["names"]}
    made["residuals"] = _array(data["residuals"])
    made["left_out"] = _many(LeftOut, data["left_out"])
    made["checks"] = _many(Check, data["checks"])
    made["warnings"] = _many(Notice, data["warnings"])
    made["checklist"] = _many(Item, data["checklist"])
    made["bootstrap"] = Bootstrap(**data["bootstrap"]) if data["bootstrap"] else None
    for key in ("ci95", "ranges", "run_ids", "names", "at_bound"):
        made[key] = _tuples(data[key])
    return Fit(**made)


def _frontier_from(data: Mapping[str, Any]) -> Frontier:
    made = {key: _tuples(value) for key, value in data.items()}
    made["points"] = Envelope(**_tuples(data["points"]))
    made["envelopes"] = {key: Envelope(**_tuples(one)) for key, one in data["envelopes"].items()}
    made["fits"] = {key: _fit_from(one) for key, one in data["fits"].items()}
    return Frontier(**made)


def _comparison_from(data: Mapping[str, Any]) -> Comparison:
    made = dict(data)
    made["frontiers"] = {key: _frontier_from(one) for key, one in data["frontiers"].items()}
    made["crossovers"] = _many(Crossover, data["crossovers"])
    made["gains"] = _many(Gain, data["gains"])
    made["bootstrap"] = Bootstrap(**data["bootstrap"]) if data["bootstrap"] else None
    made["left_out"] = _many(LeftOut, data["left_out"])
    made["warnings"] = _many(Notice, data["warnings"])
    made["checklist"] = _many(Item, data["checklist"])
    return Comparison(**made)
