"""The arms of a comparison on their way: their runs, envelope and laws, and what all of them share.

Legend: B draws, n rows (configurations), k points of an envelope.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from ..fitting import bootstrap as resample
from ..fitting.fit import fit_data
from ..fitting.fitted import Fit
from ..fitting.law import Solved
from ..laws import power_law
from ..notebook_repr import Brief
from ..replicates import Averaged
from ..request import FitRequest, FrontierRequest
from ..table import Data
from . import contenders, envelopes
from .contenders import Layout, Scatter
from .envelopes import Points

FORMS: Final = {"straight": "none", "floor": "free"}  # form -> floor option of power_law
SELECTING: Final = ("pareto", "binned", "hull")  # envelopes that pick runs, and with them luck
# Draws behind the correction of the selected points, and their seed: no setting moves a point fit.
CORRECTION_DRAWS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Arm(Brief):
    """One arm: its configurations, its envelope and the fitted forms."""

    name: str
    data: Data  # a row is the mean of a configuration's runs
    averaged: Averaged
    points: Points  # the selected configurations as measured
    layouts: dict[str, Layout]  # form -> how the contenders scatter; of SELECTING envelopes
    noises: dict[str, Scatter]  # form -> scatters of noise alone that the arm may use
    lifts: dict[str, np.ndarray]  # form -> what luck took off log y of each row
    measured: dict[str, Fit]  # form -> least squares law through the points as measured
    fits: dict[str, Fit]  # the same with the luck of the selected taken off
    draws: dict[str, dict[str, np.ndarray]]  # form -> parameter -> [B], NaN where a draw failed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Setup(Brief):
    """The request, the configurations of all arms, and what is resampled."""

    request: FrontierRequest
    data: Data  # configurations of all arms
    arm_n: np.ndarray  # the number of each row's arm
    groups: resample.Clusters
    start: float  # where bins of compute begin

    def envelope(
        self,
        name: str,
        data: Data,
        log_y_Bn: np.ndarray | None = None,
        weights_Bn: np.ndarray | None = None,
        point: Solved | None = None,
    ) -> Points:
        """Return the envelope `name` of rows as they are, or with given values or weights."""
        log_y = np.log(data.columns["y"])[None] if log_y_Bn is None else log_y_Bn
        return envelopes.draw(
            name,
            data,
            log_y,
            np.ones(log_y.shape) if weights_Bn is None else weights_Bn,
            direction=data.direction,
            start=self.start,
            tolerance=self.request.tolerance,
            bins=self.request.bins,
            point=point,
        )


def law(form: str) -> power_law.Law:
    """Return the power law of a form."""
    return power_law.Law(power_law.Config(floor=FORMS[form]))


def points_data(data: Data, log_x: np.ndarray, log_y: np.ndarray, rows: np.ndarray | None) -> Data:
    """Return the points of an envelope as the table of a power law."""
    ids = tuple(f"point {at}" for at in range(len(log_x)))
    if rows is not None:
        ids = tuple(data.run_ids[at] for at in rows)
    return dataclasses.replace(
        data,
        columns={"x": np.exp(log_x), "y": np.exp(log_y)},
        roles={"x": data.roles["x"], "y": data.roles["y"]},
        frame=pd.DataFrame({"run_id": ids}),
        run_ids=ids,
        has_run_ids=True,
        left_out=(),
        notices=(),
    )


def raw_arm(setup: Setup, name: str, data: Data, averaged: Averaged) -> Arm:
    """Return an arm with its envelope, the laws through it as measured, and its layouts."""
    points = setup.envelope(setup.request.envelope, data)
    measured = {form: _measured(setup, name, data, points, form) for form in FORMS}
    layouts = {}
    if setup.request.envelope in SELECTING:
        for form, one in measured.items():
            if one.status == "ok":
                layouts[form] = _layout(setup, data, averaged, form, one)
    return Arm(
        name=name,
        data=data,
        averaged=averaged,
        points=points,
        layouts=layouts,
        noises={},
        lifts={},
        measured=measured,
        fits={},
        draws={},
    )


def corrected(setup: Setup, arms: list[Arm]) -> list[Arm]:
    """Return the arms with laws through points from which the luck of the selected is taken."""
    filled = []
    for arm in arms:
        noises, lifts, fits = {}, {}, {}
        for form, one in arm.measured.items():
            if form not in arm.layouts:
                computed = one.status == "ok"
                fits[form] = _fit(setup, arm.name, arm.data, arm.points, form) if computed else one
                continue
            layout = arm.layouts[form]
            noises[form] = _noise(setup, arm, arms, form)
            lifts[form] = lifted(arm, layout, noises[form])
            points = through(setup, arm, layout)
            fits[form] = _fit(setup, arm.name, arm.data, points, form, lifts[form])
        filled.append(dataclasses.replace(arm, noises=noises, lifts=lifts, fits=fits))
    return filled


def through(setup: Setup, arm: Arm, layout: Layout) -> Points:
    """Return the points that the law goes through: the best of each cell of contenders.

    A Pareto set of noisy runs leaves out those that had bad luck after a lucky one; its law would
    be too low. The bins of `binned` are kept as they are.
    """
    measured = arm.points.row_k
    assert measured is not None
    if setup.request.envelope == "binned":
        return arm.points
    rows = layout.best_G[np.argsort(arm.data.columns["x"][layout.best_G], kind="stable")]
    if np.array_equal(rows, measured[arm.points.use_Bk[0]]):
        return arm.points
    log_x, log_y = (np.log(arm.data.columns[role][rows]) for role in ("x", "y"))
    use = np.ones((1, len(rows)), dtype=bool)
    return Points(status="ok", log_x_k=log_x, log_y_Bk=log_y[None], use_Bk=use, row_k=rows)


def lifted(arm: Arm, layout: Layout, noise: Scatter) -> np.ndarray:
    """Return what luck took off log y of each row, [n]; 0 where no run competes with another.

    It is the mean over draws of a cell's best true value, less the best measured one.
    """
    lift = np.zeros(arm.data.num_rows)
    if len(layout.row_n) == len(layout.mean_G) or not layout.about_law.free + noise.free:
        return lift
    rng = np.random.default_rng([0, 0])
    sizes = contenders.sizes(layout, noise, CORRECTION_DRAWS, rng)
    rest = contenders.true_values(layout, sizes, rng) - layout.trend_n
    order = np.argsort(layout.cell_n, kind="stable")
    first = np.flatnonzero(np.diff(layout.cell_n[order], prepend=-1))
    best = np.minimum.reduceat(rest[:, order], first, axis=1).mean(axis=0)
    several = np.bincount(layout.cell_n) > 1
    level = best[layout.cell_n] - layout.rest_n
    sign = 1.0 if arm.data.direction == "lower" else -1.0
    lift[layout.row_n] = sign * np.where(several[layout.cell_n], level, 0.0)
    return lift


def _measured(setup: Setup, name: str, data: Data, points: Points, form: str) -> Fit:
    """Return the least squares fit of one form through the points as they are."""
    if points.status != "ok":
        return Fit(law="power_law", status="no_envelope", reason=points.status, group=name)
    use = points.use_Bk[0]
    log_x, log_y = points.log_x_k[use], points.log_y_Bk[0, use]
    shape = law(form)
    if shape.refuse(points_data(data, log_x, log_y, None)) is not None:
        return _fit(setup, name, data, points, form)
    whole = np.ones((1, len(log_x)), dtype=bool)
    params: dict[str, np.ndarray] = law("straight").least_squares(
        log_x[None], log_y[None], whole, {}
    )
    if form == "floor":
        # Half of what the best point has left is taken as floor to start from.
        floor = 0.5 * float(np.exp(log_y.min()))
        rest = np.log(np.exp(log_y) - floor)
        first = law("straight").least_squares(log_x[None], rest[None], whole, {})
        start = {"E": floor, **{key: float(value[0]) for key, value in first.items()}}
        params = shape.least_squares(log_x[None], log_y[None], whole, start)
    fitted = np.log(shape.curve(params, {"x": np.exp(log_x)})[0])
    return Fit(
        law="power_law",
        status="ok",
        options={"floor": FORMS[form]},
        group=name,
        params={key: float(value[0]) for key, value in params.items()},
        residuals=log_y - fitted,
        n=len(log_x),
    )


def _fit(
    setup: Setup,
    name: str,
    data: Data,
    points: Points,
    form: str,
    lift: np.ndarray | None = None,
) -> Fit:
    """Fit one form through the points; `lift` is added to the log y of each row."""
    if points.status != "ok":
        return Fit(law="power_law", status="no_envelope", reason=points.status, group=name)
    through_points = FitRequest(
        law="power_law",
        bootstrap=0,
        by="point",
        loss=setup.request.loss,
        delta=setup.request.delta,
        with_checks=False,
    )
    use = points.use_Bk[0]
    rows = None if points.row_k is None else points.row_k[use]
    log_y = points.log_y_Bk[0, use]
    if lift is not None and rows is not None:
        log_y = log_y + lift[rows]
    chosen = points_data(data, points.log_x_k[use], log_y, rows)
    found = fit_data(chosen, law(form), through_points, run_checks=("minimum", "range"))
    return dataclasses.replace(found, group=name)


def _layout(setup: Setup, data: Data, averaged: Averaged, form: str, fit: Fit) -> Layout:
    """Return how the rows of an arm scatter about a form."""
    sign = 1.0 if data.direction == "lower" else -1.0
    log_x, log_y = np.log(data.columns["x"]), np.log(data.columns["y"])
    shape = law(form)

    def trend_of(u: np.ndarray, value: np.ndarray) -> contenders.Trend:
        params = {key: np.array([one]) for key, one in fit.params.items()}
        if len(np.unique(np.round(u, 9))) >= len(params):
            use = np.ones((1, len(u)), dtype=bool)
            params = shape.least_squares(u[None], sign * value[None], use, fit.params)
        return lambda at: sign * np.log(shape.curve(params, {"x": np.exp(at)})[0])

    noise = _first_noise(setup, fit)
    cell = envelopes.cells(data.columns["x"], _cell_width(setup, data, fit, noise))
    return contenders.layout(
        contenders.Rows(log_x, sign * log_y, averaged.seeds_C, cell),
        data.columns.get("n", data.columns.get("d", averaged.setting_C)),
        lambda at: sign * np.log(fit.curve({"x": np.exp(at)})),
        trend_of,
        len(fit.params),
        noise=noise,
        falling=setup.request.envelope != "binned",
    )


def _first_noise(setup: Setup, fit: Fit) -> float:
    """Return the given noise, else how the measured points scatter about their law."""
    if setup.request.noise is not None:
        return setup.request.noise
    free = fit.n - len(fit.params)
    return float(np.sqrt((fit.residuals**2).sum() / free)) if free > 0 else 0.0


def _cell_width(setup: Setup, data: Data, fit: Fit, noise: float) -> float:
    """Return how far apart in log compute runs compete: the law improves by less than the noise."""
    narrow = np.log1p(setup.request.tolerance)
    log_x = np.log(data.columns["x"])
    span = float(np.ptp(log_x))
    drop = abs(float(np.log(fit.curve({"x": np.exp([log_x.min(), log_x.max()])})) @ [1.0, -1.0]))
    per_log_x = drop / span if span > 0 else 0.0
    widest = contenders.WIDEST_CELL * np.log(10.0)
    wide = contenders.CELL_NOISES * noise / per_log_x if per_log_x > 0 else widest
    return float(max(narrow, min(wide, widest)))


def _noise(setup: Setup, arm: Arm, arms: list[Arm], form: str) -> Scatter:
    """Return the scatters beside the arm's own that tell the noise of one of its rows.

    They are a given noise alone, or those of replicates and of the other arms where an F test does
    not tell them apart.
    """
    runs = float(arm.averaged.seeds_C.mean())
    if setup.request.noise is not None:
        known = 10**6
        return Scatter(square=known * setup.request.noise**2 / runs, free=known)
    own = arm.layouts[form].about_law
    others = []
    for other in arms:
        scale = 1.0 / runs
        square, free = other.averaged.noise_square, other.averaged.noise_free
        others.append(Scatter(square=square * scale, free=free))
        if other is not arm and form in other.layouts:
            about = other.layouts[form].about_law
            factor = float(other.averaged.seeds_C.mean()) / runs
            others.append(Scatter(square=about.square * factor, free=about.free))
    return contenders.pooled(own, others)
