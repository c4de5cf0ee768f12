"""Frontiers of all arms of a table: envelopes, the laws through them, crossovers and compute gains.

The selection of runs is redone inside every resample: an interval that takes the selected runs for
granted leaves out the largest part of its own uncertainty.

Legend: B draws, n runs, k points of an envelope, G grid points.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from ..as_json import number
from ..direction import directed
from ..fitting import bootstrap as resample
from ..fitting import checklist
from ..fitting.bootstrap import errors
from ..fitting.draws import BATCH_CELLS
from ..fitting.fit import fit_data
from ..fitting.fitted import Bootstrap, Fit
from ..laws import power_law
from ..notebook_repr import Brief
from ..notices import Item, Notice, notice
from ..request import FitRequest, FrontierRequest
from ..result import Comparison, Crossover, Envelope, Frontier, Gain
from ..table import Data, column_for, prepare, refuse_mixed_losses
from ..vocabulary import arm_order
from . import envelopes, winners_curse
from .crossover import Line, crossover, gain
from .envelopes import ENVELOPES, Points, pareto

__all__ = ["ENVELOPES", "compare", "pareto"]

FORMS: Final = {"straight": "none", "floor": "free"}  # form -> floor option of power_law
GRID_POINTS: Final = 60
BEYOND_DECADES: Final = 0.5  # how far the drawn curves go beyond the data
MANY_RUNS: Final = 1.5  # ratio of runs per budget between arms that is a warning
FORM_FACTOR: Final = 1.5  # ratio of two forms' crossings or gains that is a warning


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Arm(Brief):
    """One arm on its way: its runs, its envelope and the fitted forms."""

    name: str
    data: Data
    points: Points
    fits: dict[str, Fit]
    draws: dict[str, dict[str, np.ndarray]]  # form -> parameter -> [B], NaN where a draw failed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Setup(Brief):
    """What all arms share: the request, the rows of all of them, what is resampled."""

    request: FrontierRequest
    data: Data
    arm_n: np.ndarray  # the number of each row's arm
    groups: resample.Clusters
    start: float  # where bins of compute begin

    def envelope(self, name: str, data: Data) -> Points:
        """Return the envelope `name` of rows as they are, each taken once."""
        log_y, ones = np.log(data.columns["y"])[None], np.ones((1, data.num_rows))
        return envelopes.draw(name, data, log_y, ones, direction=data.direction, start=self.start)


@np.errstate(over="ignore")  # a draw whose amplitude is beyond any number counts as failed
def compare(
    frame: pd.DataFrame,
    request: FrontierRequest | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    group: str | None = None,
    where: str | None = None,
) -> Comparison:
    """Compare the frontiers of the arms (column `group`): crossovers and gains, by both forms.

    `x`, `y`, `n`, `d` are column names (FLOPs, metric, parameters, tokens); left out, the names of
    the study table are looked for. `request` says everything else.
    """
    request = (request or FrontierRequest()).on(
        {"x": x, "y": y, "n": n, "d": d, "group": group, "where": where}
    )
    setup, names = _setup(frame, request)
    data, direction = setup.data, setup.data.direction
    if request.reference is not None and request.reference not in names:
        raise ValueError(
            f"--reference: no arm {request.reference!r}; the arms are {', '.join(names)}"
        )
    base = request.reference or arm_order(names)[0]
    notices = [*data.notices]
    arms = [_arm(setup, name, data.take(setup.arm_n == at)) for at, name in enumerate(names)]
    made = None
    if request.bootstrap:
        arms, made = _resampled(setup, arms, notices)
    frontiers = {
        arm.name: _frontier(setup, arm, noise)
        for arm, noise in zip(arms, _noises(arms, request.noise), strict=True)
    }
    crossovers = tuple(
        crossover(_line(one, form), _line(other, form), form=form, direction=direction)
        for one, other in itertools.combinations(arms, 2)
        for form in FORMS
    )
    of_base = next(arm for arm in arms if arm.name == base)
    gains = tuple(
        gain(_line(arm, form), _line(of_base, form), form=form, direction=direction)
        for arm in arms
        if arm.name != base
        for form in FORMS
    )
    notices += _curse_notices(frontiers) + _envelope_notices(frontiers)
    notices += _crossing_notices(crossovers)
    notices += _form_notices(crossovers, gains)
    for arm in arms:
        for form, one in arm.fits.items():
            notices += [
                Notice(code=warning.code, message=f"{arm.name}, {form}: {warning.message}")
                for warning in one.warnings
            ]
    return Comparison(
        x=data.roles["x"],
        y=data.roles["y"],
        group=data.roles.get("group"),
        direction=direction,
        direction_reason=data.direction_reason,
        flops_rule=data.flops_rule,
        reference=base if len(arms) > 1 else None,
        frontiers=frontiers,
        crossovers=crossovers,
        gains=gains,
        bootstrap=made,
        n=data.num_rows,
        n_left_out=data.num_left_out,
        left_out=data.left_out,
        data_hash=data.digest(),
        warnings=tuple(notices),
        checklist=_checklist(setup, made, arms),
    )


def _setup(frame: pd.DataFrame, request: FrontierRequest) -> tuple[Setup, list[str]]:
    """Return the rows with what is resampled, and the names of the arms."""
    needs = ("x", "y") if request.group is None else ("x", "y", "group")
    data = prepare(
        frame, request.columns, needs, where=request.where, end_points=request.end_points
    )
    refuse_mixed_losses(data, "the arms" if request.group is not None else "the rows")
    data = directed(_with_sizes(data, request.columns), request.direction)
    names, arm_n = _arms(data)
    computed = request.envelope in ("isoflop", "model")  # points that are no runs
    fewest = min(int((arm_n == at).sum()) for at in range(len(names)))
    usual = "residual" if fewest < resample.FEW and not computed else "run"
    by = usual if request.by == "auto" else request.by
    if by == "residual" and computed and request.noise is None:
        raise ValueError(f"--by: residual with --envelope {request.envelope} needs --noise")
    setup = Setup(
        request=request,
        data=data,
        arm_n=arm_n,
        groups=resample.clusters(data, by),
        start=float(data.columns["x"].min()),
    )
    return setup, names


def _with_sizes(data: Data, asked: Mapping[str, str | None]) -> Data:
    """Adds N and D where the table has them in every row, for the isoflop and model envelopes."""
    columns, roles = dict(data.columns), dict(data.roles)
    for role in ("n", "d"):
        name = column_for(data.frame, role, asked[role])
        if role in columns or name is None:
            continue
        values = pd.to_numeric(data.frame[name], errors="coerce").to_numpy(dtype=float)
        if np.isfinite(values).all() and (values > 0).all():
            columns[role], roles[role] = values, name
    if "n" in columns and "d" not in columns:
        columns["d"] = columns["x"] / (6.0 * columns["n"])
        roles["d"] = f"{roles['x']} / (6 {roles['n']})"
    return dataclasses.replace(data, columns=columns, roles=roles)


def _arms(data: Data) -> tuple[list[str], np.ndarray]:
    """The arms' names and the number of each row's arm."""
    if "group" not in data.columns:
        return ["all"], np.zeros(data.num_rows, dtype=int)
    names, arm_n = np.unique(data.columns["group"], return_inverse=True)
    return [str(one) for one in names], arm_n.ravel()


def _law(form: str) -> power_law.Law:
    return power_law.Law(power_law.Config(floor=FORMS[form]))


def _points_data(data: Data, log_x: np.ndarray, log_y: np.ndarray, rows: np.ndarray | None) -> Data:
    """The points of an envelope as the table of a power law."""
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


def _arm(setup: Setup, name: str, data: Data) -> Arm:
    """Return one arm with its envelope and the point fits of both forms."""
    points = setup.envelope(setup.request.envelope, data)
    through_points = FitRequest(
        law="power_law",
        bootstrap=0,
        by="point",
        loss=setup.request.loss,
        delta=setup.request.delta,
        with_checks=False,
    )
    fits: dict[str, Fit] = {}
    for form in FORMS:
        law = _law(form)
        if points.status != "ok":
            fits[form] = Fit(
                law="power_law", status="no_envelope", reason=points.status, group=name
            )
            continue
        use = points.use_Bk[0]
        rows = None if points.row_k is None else points.row_k[use]
        chosen = _points_data(data, points.log_x_k[use], points.log_y_Bk[0, use], rows)
        one = fit_data(chosen, law, through_points, run_checks=("minimum", "range"))
        fits[form] = dataclasses.replace(one, group=name)
    return Arm(name=name, data=data, points=points, fits=fits, draws={})


def _resampled(
    setup: Setup, arms: list[Arm], notices: list[Notice]
) -> tuple[list[Arm], Bootstrap | None]:
    """Return the arms with the draws of every form; the envelope is selected again in each."""
    groups, num, seed = setup.groups, setup.request.bootstrap, setup.request.seed
    by = groups.by
    stretch = 1.0
    if by == "residual":
        draws, stretch = _by_residual(setup, arms, notices)
    else:
        draws = _by_cluster(setup, arms)
        if groups.num < resample.ROUGH * len(arms):
            notices.append(
                notice("W-FEW-CLUSTERS", f"{groups.num} clusters by {by} in {len(arms)} arms")
            )
    filled = []
    least, failed = num, 0
    for arm in arms:
        fits = dict(arm.fits)
        mine = draws[arm.name]
        for form, params in mine.items():
            names = fits[form].names
            matrix = np.stack([params[key] for key in names], axis=1)
            good = np.isfinite(matrix).all(axis=1)
            failed = max(failed, num - int(good.sum()))
            if good.sum() < 20:
                text = f"{arm.name}, {form}: {int(good.sum())} of {num} resamples could be fitted"
                notices.append(notice("W-DRAWS", text))
                continue
            if good.mean() < 0.9:
                text = f"{arm.name}, {form}: {num - int(good.sum())} of {num} could not be fitted"
                notices.append(notice("W-DRAWS", text))
            least = min(least, int(good.sum()))
            kept = matrix[good]
            kept.flags.writeable = False
            columns = {key: kept[:, at] for at, key in enumerate(names)}
            ci95 = resample.intervals(columns, fits[form].at_bound)
            fits[form] = dataclasses.replace(
                fits[form],
                draws=kept,
                ci95=ci95,
                se=errors({key: columns[key] for key in ci95}),
                bootstrap=Bootstrap(
                    by=by,
                    draws=len(kept),
                    failed=num - len(kept),
                    clusters=groups.num,
                    seed=seed,
                    stretch=stretch,
                ),
            )
        filled.append(dataclasses.replace(arm, fits=fits, draws=mine))
    if not any(mine for mine in draws.values()):
        return filled, None
    made = Bootstrap(
        by=by, draws=least, failed=failed, clusters=groups.num, seed=seed, stretch=stretch
    )
    return filled, made


def _by_cluster(setup: Setup, arms: list[Arm]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return arm -> form -> parameter -> [B], by resampled runs or clusters."""
    arm_n, groups, num = setup.arm_n, setup.groups, setup.request.bootstrap
    answer: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    # A cluster that lies in several arms (a seed, a trunk) is drawn for all of them at once.
    pairs = np.unique(np.stack([groups.ids_n, arm_n]), axis=1).shape[1]
    shared = pairs > groups.num
    single = groups.num == len(arm_n)
    for at, arm in enumerate(arms):
        rng = np.random.default_rng([setup.request.seed, 0 if shared else at + 1])
        mine = arm_n == at
        rows = np.arange(arm.data.num_rows)
        ids = np.unique(groups.ids_n[mine], return_inverse=True)[1].ravel()
        if single:
            rows = envelopes.candidates(
                setup.request.envelope, arm.data, arm.data.direction, setup.start
            )
        part = arm.data.take(rows)
        size = max(1, BATCH_CELLS // (len(arm_n) if shared else len(rows)))
        found: list[dict[str, dict[str, np.ndarray]]] = []
        for first in range(0, num, size):
            many = min(size, num - first)
            if shared:
                weights = resample.weights(groups.ids_n, many, rng)[:, mine]
            elif single:
                weights = resample.weights_of_some(arm.data.num_rows, len(rows), many, rng)
            else:
                weights = resample.weights(ids, many, rng)
            log_y = np.log(part.columns["y"])[None]
            found.append(_refit(setup, arm, part, log_y_Bn=log_y, weights_Bn=weights))
        answer[arm.name] = _joined(found)
    return answer


def _by_residual(
    setup: Setup, arms: list[Arm], notices: list[Notice]
) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], float]:
    """Return arm -> form -> parameter -> [B], by noise on every run; and the Student stretch.

    The noise is drawn from the residuals of all arms under that form, pooled, because one arm of a
    few points has hardly a degree of freedom of its own.
    """
    noise, num = setup.request.noise, setup.request.bootstrap
    answer: dict[str, dict[str, dict[str, np.ndarray]]] = {arm.name: {} for arm in arms}
    widest = 1.0
    for form in FORMS:
        used = [arm for arm in arms if arm.fits[form].status == "ok"]
        if not used:
            continue
        pool = np.concatenate([arm.fits[form].residuals for arm in used])
        num_params = sum(len(arm.fits[form].params) for arm in used)
        if noise is None and len(pool) <= num_params:
            text = f"{form}: {len(pool)} points and {num_params} parameters: no interval"
            notices.append(notice("W-NO-DOF", text))
            continue
        if noise is None:
            widest = max(widest, resample.noise_factor(len(pool), num_params)[1])
        for at, arm in enumerate(used):
            rng = np.random.default_rng([setup.request.seed, at + 1])
            size = max(1, BATCH_CELLS // arm.data.num_rows)
            base = np.log(arm.data.columns["y"]).copy()
            if arm.points.row_k is not None:
                # The selected runs are drawn about the law, the others about themselves.
                chosen = arm.points.row_k[arm.points.use_Bk[0]]
                base[chosen] -= arm.fits[form].residuals
            found = []
            for first in range(0, num, size):
                shape = (min(size, num - first), arm.data.num_rows)
                if noise is not None:
                    moved = rng.normal(0.0, noise, shape)
                else:
                    moved = resample.residual_noise(pool, num_params, shape, rng)
                found.append(
                    _refit(
                        setup,
                        arm,
                        arm.data,
                        log_y_Bn=base + moved,
                        weights_Bn=np.ones(shape),
                        forms=(form,),
                    )
                )
            answer[arm.name].update(_joined(found))
    return answer, widest


def _refit(
    setup: Setup,
    arm: Arm,
    part: Data,
    *,
    log_y_Bn: np.ndarray,
    weights_Bn: np.ndarray,
    forms: tuple[str, ...] = tuple(FORMS),
) -> dict[str, dict[str, np.ndarray]]:
    """Return form -> parameter -> [B] of a batch of resamples: envelope again, then the law."""
    request = setup.request
    points = envelopes.draw(
        request.envelope,
        part,
        log_y_Bn,
        weights_Bn,
        direction=part.direction,
        start=setup.start,
        point=envelopes.model_point(arm.data) if request.envelope == "model" else None,
    )
    answer: dict[str, dict[str, np.ndarray]] = {}
    for form in forms:
        if arm.fits[form].status != "ok" or points.status != "ok":
            continue
        law = _law(form)
        log_y = points.log_y_Bk
        same = len(log_y) == 1 or bool((log_y == log_y[:1]).all())
        chosen = _points_data(part, points.log_x_k, log_y[0], None)
        can = law.enough(chosen, points.use_Bk.astype(float))
        if request.loss == "l2" and can.any():
            answer[form] = _own_points(law, arm.fits[form], points, can)
            continue
        typical = log_y[0] if same else log_y.mean(axis=0)
        start = law.warm(arm.fits[form].params, chosen, typical)
        params = {key: np.full(len(weights_Bn), np.nan) for key in arm.fits[form].params}
        if can.any():
            again = law.solve(
                chosen,
                log_y[0] if same else log_y[can],
                points.use_Bk[can].astype(float),
                loss=request.loss,
                delta=request.delta,
                start=start,
            )
            for key, values in again.params.items():
                params[key][can] = values
        answer[form] = params
    return answer


def _own_points(
    law: power_law.Law, fit: Fit, points: Points, can: np.ndarray
) -> dict[str, np.ndarray]:
    """Least squares through each draw's own points, put side by side without the unused places."""
    use = points.use_Bk[can]
    # Used places first, in their order.
    order = np.argsort(~use, axis=1, kind="stable")[:, : int(use.sum(axis=1).max())]
    log_y = np.broadcast_to(points.log_y_Bk, points.use_Bk.shape)[can]
    again = law.least_squares(
        points.log_x_k[order],
        np.take_along_axis(log_y, order, axis=1),
        np.take_along_axis(use, order, axis=1),
        fit.params,
    )
    params = {key: np.full(len(can), np.nan) for key in fit.params}
    for key, values in again.items():
        params[key][can] = np.where(np.isfinite(values), values, np.nan)
    return params


def _joined(found: list[dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """Batches of draws put together."""
    return {
        form: {key: np.concatenate([one[form][key] for one in found]) for key in params}
        for form, params in found[0].items()
    }


def _line(arm: Arm, form: str) -> Line:
    """One arm's law as crossover and gain see it."""
    x = arm.data.columns["x"]
    fit = arm.fits[form]
    return Line(
        arm=arm.name,
        status=fit.status,
        point={key: np.array([value]) for key, value in fit.params.items()},
        draws=arm.draws.get(form, {}),
        low=float(x.min()),
        high=float(x.max()),
    )


def _noises(arms: list[Arm], given: float | None) -> list[float | None]:
    """The run-to-run standard deviation of log y of each arm.

    Given, or from its repeated runs, or from those of the other arms, or from the scatter about its
    own law, which holds the misfit too.
    """
    if given is not None:
        return [given] * len(arms)
    found = [winners_curse.replicate_noise(arm.data) for arm in arms]
    known = [one for one in found if one is not None]
    if known:
        return [float(np.median(known)) if one is None else one for one in found]
    return [_scatter(arm) for arm in arms]


def _scatter(arm: Arm) -> float | None:
    """The standard deviation of the envelope's points about the arm's law."""
    for form in ("floor", "straight"):
        fit = arm.fits[form]
        free = fit.n - len(fit.params)
        if fit.status == "ok" and free >= 2:
            return float(np.sqrt((fit.residuals**2).sum() / free))
    return None


def _frontier(setup: Setup, arm: Arm, noise: float | None) -> Frontier:
    """Return the frozen result of one arm."""
    envelope, direction = setup.request.envelope, arm.data.direction
    shown = {}
    for name in ENVELOPES:
        points = arm.points if name == envelope else setup.envelope(name, arm.data)
        shown[name] = _envelope(name, points, arm.data)
    x = setup.data.columns["x"]
    grid = np.geomspace(x.min(), x.max() * 10**BEYOND_DECADES, GRID_POINTS)
    curve: dict[str, tuple[float | None, ...]] = {}
    low: dict[str, tuple[float | None, ...]] = {}
    high: dict[str, tuple[float | None, ...]] = {}
    for form, fit in arm.fits.items():
        if fit.status != "ok":
            continue
        curve[form] = tuple(number(one) for one in fit.curve({"x": grid}))
        if len(fit.draws):
            tail = (1 - resample.LEVEL) / 2
            ends = np.quantile(fit.curve_draws({"x": grid}), [tail, 1 - tail], axis=0)
            low[form] = tuple(number(one) for one in ends[0])
            high[form] = tuple(number(one) for one in ends[1])
    per_budget = winners_curse.runs_per_budget(arm.data, envelopes.BINS_PER_DECADE, setup.start)
    return Frontier(
        arm=arm.name,
        envelope=envelope,
        direction=direction,
        points=shown[envelope],
        envelopes=shown,
        fits=arm.fits,
        n=arm.data.num_rows,
        run_ids=arm.data.run_ids,
        runs_per_budget=per_budget,
        winners_curse=None if noise is None else winners_curse.expected_lead(per_budget) * noise,
        noise=noise,
        grid=tuple(float(one) for one in grid),
        curve=curve,
        low=low,
        high=high,
    )


def _envelope(name: str, points: Points, data: Data) -> Envelope:
    """The points of an envelope and the straight slope through them."""
    if points.status != "ok":
        return Envelope(name=name, status=points.status)
    use = points.use_Bk[0]
    log_x, log_y = points.log_x_k[use], points.log_y_Bk[0, use]
    rows = () if points.row_k is None else tuple(data.run_ids[at] for at in points.row_k[use])
    slope = None
    if len(log_x) >= 2 and np.ptp(log_x) > 1e-9:
        slope = -float(np.polyfit(log_x - log_x.mean(), log_y, 1)[0])
    return Envelope(
        name=name,
        status="ok",
        x=tuple(float(one) for one in np.exp(log_x)),
        y=tuple(float(one) for one in np.exp(log_y)),
        run_ids=rows,
        slope=slope,
    )


def _curse_notices(frontiers: Mapping[str, Frontier]) -> list[Notice]:
    """The size of the winner's curse where arms have different numbers of runs per budget."""
    count = {name: one.runs_per_budget or 1.0 for name, one in frontiers.items()}
    many, few = max(count, key=lambda one: count[one]), min(count, key=lambda one: count[one])
    if count[many] < MANY_RUNS * count[few]:
        return []
    text = f"{many} has {count[many]:g} runs per budget, {few} {count[few]:g}"
    noises = [one.noise for one in frontiers.values() if one.noise is not None]
    slopes = [abs(one.points.slope) for one in frontiers.values() if one.points.slope]
    if noises and slopes:
        noise, slope = float(np.median(noises)), float(np.median(slopes))
        lead = winners_curse.expected_lead(count[many]) - winners_curse.expected_lead(count[few])
        text += (
            f"; at a run-to-run noise of {noise:.2%} that alone lowers {many} by up to "
            f"{lead * noise:.2%}, a false compute gain of {np.exp(lead * noise / slope):.2f}x"
        )
    return [notice("W-WINNERS-CURSE", text)]


def _envelope_notices(frontiers: Mapping[str, Frontier]) -> list[Notice]:
    """Where another envelope's slope lies outside the interval of the chosen one's."""
    found = []
    for name, one in frontiers.items():
        low, high = one.fits["straight"].ci95.get("b", (None, None))
        if low is None or high is None:
            continue
        outside = [
            f"{key} {other.slope:.3f}"
            for key, other in one.envelopes.items()
            if other.slope is not None and not low <= other.slope <= high
        ]
        if outside:
            text = f"{name}: b {low:.3f} to {high:.3f} by {one.envelope}, but {', '.join(outside)}"
            found.append(notice("W-ENVELOPES", text))
    return found


def _crossing_notices(crossovers: tuple[Crossover, ...]) -> list[Notice]:
    found = []
    for one in crossovers:
        who = f"{one.arms[0]} and {one.arms[1]}, {one.form}"
        if one.outside_data:
            text = (
                f"{who}: the crossing at {one.x:.3g} is {one.decades_outside:.2f} decades outside"
            )
            found.append(notice("W-OUTSIDE", text))
        if one.crossings > 1:
            found.append(notice("W-MANY-CROSSINGS", f"{who}: {one.crossings} crossings"))
    return found


def _form_notices(crossovers: tuple[Crossover, ...], gains: tuple[Gain, ...]) -> list[Notice]:
    """Where the floor term decides about a crossing or a gain."""
    found = []
    for arms in dict.fromkeys(one.arms for one in crossovers):
        both = {one.form: one for one in crossovers if one.arms == arms}
        straight, floor = both["straight"], both["floor"]
        known = ("ok", "no crossing")
        if straight.status not in known or floor.status not in known:
            continue
        if straight.x is None and floor.x is None:
            if straight.better_below != floor.better_below:
                text = f"{arms[0]} and {arms[1]}: the better arm differs with and without a floor"
                found.append(notice("W-FORM", text))
        elif straight.x is None or floor.x is None:
            one, other = (straight, floor) if straight.x else (floor, straight)
            text = (
                f"{arms[0]} and {arms[1]} cross at {one.x:.3g} by {one.form}, not by {other.form}"
            )
            found.append(notice("W-FORM", text))
        elif abs(np.log(straight.x / floor.x)) > np.log(FORM_FACTOR):
            text = (
                f"{arms[0]} and {arms[1]} cross at {straight.x:.3g} by straight lines and at "
                f"{floor.x:.3g} with a floor"
            )
            found.append(notice("W-FORM", text))
    for arm in dict.fromkeys(one.arm for one in gains):
        pair = {one.form: one for one in gains if one.arm == arm}
        if any(one.status != "ok" for one in pair.values()):
            continue
        at = len(pair["straight"].x) // 2
        straight_gain, floor_gain = pair["straight"].gain[at], pair["floor"].gain[at]
        where = pair["straight"].x[at]
        differ = (straight_gain is None) != (floor_gain is None)
        if straight_gain and floor_gain:
            differ = abs(np.log(straight_gain / floor_gain)) > np.log(FORM_FACTOR)
        if differ:
            shown = [
                "unreachable" if one is None else f"{one:.3g}x"
                for one in (straight_gain, floor_gain)
            ]
            text = f"gain of {arm} at {where:.3g}: {shown[0]} straight, {shown[1]} with a floor"
            found.append(notice("W-FORM", text))
    return found


def _checklist(setup: Setup, made: Bootstrap | None, arms: list[Arm]) -> tuple[Item, ...]:
    request, data = setup.request, setup.data
    agree = [
        check.values["starts_agreeing"]
        for arm in arms
        for fit in arm.fits.values()
        for check in fit.checks
        if check.name == "minimum"
    ]
    lowest = min((one for one in agree if one is not None), default=1.0)
    return (
        *checklist.fit_items(
            law="power_law",
            options={"floor": "none and free, both reported"},
            loss=request.loss,
            delta=request.delta,
            num_starts=f"{'all' if lowest == 1 else f'at least {lowest:.0%}'} of the starts agree",
        ),
        *checklist.data_items(data),
        Item(
            name="selection",
            text=f"{request.envelope} envelope ({data.direction} is better), "
            "selected again in every resample",
        ),
        checklist.uncertainty_item(made),
        Item(name="validation", text="see `tokenlaw fit --group` for the held-out largest runs"),
        checklist.code_item(data.digest()),
    )
