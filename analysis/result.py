"""The frozen results of the analysis: what every fit, frontier, crossover and gain carries, and
their JSON form.

Numbers that do not exist are None (JSON null), never NaN or infinity: the end of an interval that
is unbounded, the parameters of a fit whose `status` is not "ok", a gain beyond what the reference
arm can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import notebook_repr
from .as_json import dumps, encode
from .fitting.fitted import Bootstrap, Fit, Interval
from .notebook_repr import Brief
from .notices import Item, LeftOut, Notice
from .replicates import Components


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
    configurations: int | None = None  # rows after averaging what differs in seeds alone
    # By form: standard deviation of the envelope's points about it, in log units, and its AICc.
    # None: too few points. `leading` is the form with the lower AICc.
    scatter: dict[str, float | None] = field(default_factory=dict)
    aicc: dict[str, float | None] = field(default_factory=dict)
    leading: str = "straight"
    components: Components | None = None  # spread by level of replication

    def _brief(self) -> str:
        return notebook_repr.frontier(self)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Crossover(Brief):
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
    window: float = 2.0  # decades beyond the data that were searched
    # Envelope -> x of the crossing by this form; "interpolated" needs no form.
    by_envelope: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Middle:
    """The compute gain in the middle of the compute that both arms cover, and what it shows."""

    x: float
    gain: float | None  # None: the reference cannot reach it
    ci95: Interval
    interval: bool  # False: there are no draws, and an open end says nothing


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
    middle: Middle | None = None
    # At the middle: "significant" if the interval leaves out 1, "not significant", or why neither.
    verdict: str = ""
    # Envelope -> gain at the middle by this form; "interpolated" needs no form.
    by_envelope: dict[str, float | None] = field(default_factory=dict)


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
    leading: str = "straight"  # the form that comes first: the lower AICc over all arms
    replicates: str = ""  # what was averaged before the selection, and by which columns
    rates: str = ""  # why losses are no basis for gains and crossovers; "" where they are one

    def _brief(self) -> str:
        return notebook_repr.comparison(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as what `json` accepts, draws and residuals included."""
        content: dict[str, Any] = encode(self)
        return content

    def to_json(self) -> str:
        """Return the JSON text of `to_dict`, keys sorted."""
        return dumps(self.to_dict())
