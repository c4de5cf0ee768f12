"""Frontiers of all arms of a table: envelopes, the laws through them, crossovers and compute gains.

Rows that differ in seeds alone are averaged before any is selected. The luck of the selected runs
is taken off the laws, and every draw selects again (draws.py, contenders.py).

Legend: B draws, n rows, k points of an envelope, G grid points.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from .. import replicates
from ..as_json import number
from ..collapse import collapsed
from ..direction import directed
from ..fitting import bootstrap as resample
from ..notices import Notice, notice
from ..rates import why_rates
from ..replicates import Averaged, Replicates
from ..request import FrontierRequest
from ..result import Comparison, Crossover, Envelope, Frontier, Gain
from ..table import Data, column_for, prepare, refuse_mixed_losses
from ..vocabulary import arm_order
from . import notes, spread, winners_curse
from .arms import FORMS, SELECTING, Arm, Setup, corrected, raw_arm
from .contenders import Scatter
from .crossover import Line, crossover, gain
from .draws import resampled
from .envelopes import ENVELOPES, Points, pareto

__all__ = ["ENVELOPES", "compare", "pareto"]

GRID_POINTS: Final = 60
NO_REPEATS: Final = 0.01  # p below which rows without a seed are no repeats
BEYOND_DECADES: Final = 0.5  # how far the drawn curves go beyond the data


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
    data, names, arm_n = _rows(frame, request)
    if request.reference is not None and request.reference not in names:
        raise ValueError(
            f"--reference: no arm {request.reference!r}; the arms are {', '.join(names)}"
        )
    notices = [*data.notices]
    repeats, averaged, setup = _averaged(data, names, arm_n, request)
    arms = [
        raw_arm(setup, name, setup.data.take(setup.arm_n == at), averaged[at])
        for at, name in enumerate(names)
    ]
    arms = corrected(setup, arms)
    made = None
    if request.bootstrap:
        arms, made = resampled(setup, arms, repeats, notices)
    few = {} if request.group is None else collapsed(data.frame, data.columns["group"])
    ordered = arm_order(names)
    base = request.reference or next((one for one in ordered if one not in few), ordered[0])
    frontiers = {
        arm.name: _frontier(setup, arm, noise)
        for arm, noise in zip(arms, _noises(arms, request.noise), strict=True)
    }
    leading = spread.leading_form(frontiers)
    rates = why_rates(data, repeats.tokenizer_n)
    crossovers: tuple[Crossover, ...] = ()
    gains: tuple[Gain, ...] = ()
    if not rates and len(arms) > 1:
        choices = spread.of(setup, arms)
        crossovers = _crossovers(setup, arms, choices)
        gains = _gains(setup, arms, base, choices)
    notices += [notice("W-COLLAPSE", text) for text in few.values()]
    if rates:
        notices.append(notice("W-RATES", rates))
    notices += notes.of_frontiers(frontiers) + notes.of_pairs(crossovers, gains)
    notices += notes.of_tokenizers(arms)
    for arm in arms:
        for form, one in arm.fits.items():
            notices += [
                Notice(code=warning.code, message=f"{arm.name}, {form}: {warning.message}")
                for warning in one.warnings
            ]
    told = repeats.told()
    return Comparison(
        x=data.roles["x"],
        y=data.roles["y"],
        group=data.roles.get("group"),
        direction=data.direction,
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
        checklist=notes.items(setup, data, made, arms, told),
        leading=leading,
        replicates=told,
        rates=rates,
    )


def _rows(frame: pd.DataFrame, request: FrontierRequest) -> tuple[Data, list[str], np.ndarray]:
    """Return the rows, the names of the arms and the number of each row's arm."""
    needs = ("x", "y") if request.group is None else ("x", "y", "group")
    data = prepare(
        frame, request.columns, needs, where=request.where, end_points=request.end_points
    )
    refuse_mixed_losses(data, "the arms" if request.group is not None else "the rows")
    data = directed(_with_sizes(data, request.columns), request.direction)
    if "group" not in data.columns:
        return data, ["all"], np.zeros(data.num_rows, dtype=int)
    names, arm_n = np.unique(data.columns["group"], return_inverse=True)
    return data, [str(one) for one in names], arm_n.ravel()


def _averaged(
    data: Data, names: list[str], arm_n: np.ndarray, request: FrontierRequest
) -> tuple[Replicates, list[Averaged], Setup]:
    """Average what differs in seeds alone; return it, and what the arms share."""
    asked = (request.by,) if request.by in data.frame.columns else ()
    repeats = replicates.find(data, asked)
    log_y = np.log(data.columns["y"])
    errors = _sample_errors(data)
    averaged = [
        replicates.average(log_y, repeats, np.flatnonzero(arm_n == at), errors)
        for at in range(len(names))
    ]
    if repeats.num_repeated and not repeats.seeds and not _scatter_alike(data, averaged):
        doubt = (
            f"{repeats.num_repeated} rows of equal compute have equal settings, but differ by more "
            "than the scatter about a law: taken as configurations that the table does not name"
        )
        apart = np.arange(data.num_rows)
        repeats = dataclasses.replace(repeats, config_n=apart, doubt=doubt)
        averaged = [
            replicates.average(log_y, repeats, np.flatnonzero(arm_n == at), errors)
            for at in range(len(names))
        ]
    rows = np.concatenate([one.row_C for one in averaged])
    members = [some for one in averaged for some in one.members]
    means = data.take(rows)
    columns = {**means.columns, "y": np.exp(np.concatenate([one.log_y_C for one in averaged]))}
    ids = tuple(
        ",".join(dict.fromkeys(data.run_ids[at] for at in some)) if len(some) > 1 else own
        for some, own in zip(members, means.run_ids, strict=True)
    )
    means = dataclasses.replace(means, columns=columns, run_ids=ids)
    computed = request.envelope not in SELECTING  # points that are no runs
    by = request.by
    if by == "auto":
        several_rows = resample.clusters(means, "run").num < means.num_rows
        by = "run" if computed or several_rows else "residual"
    if by == "residual" and computed and request.noise is None:
        raise ValueError(f"--by: residual with --envelope {request.envelope} needs --noise")
    setup = Setup(
        request=request,
        data=means,
        arm_n=arm_n[rows],
        groups=resample.clusters(means, by),
        start=float(data.columns["x"].min()),
    )
    return repeats, averaged, setup


def _scatter_alike(data: Data, averaged: list[Averaged]) -> bool:
    """Tell if repeated rows scatter as their means do about a straight law, or less.

    Where no seed tells them apart, rows that differ by more (F test, p < .01) are configurations.
    """
    inside, about = Scatter(square=0.0, free=0), Scatter(square=0.0, free=0)
    for one in averaged:
        log_x = np.log(data.columns["x"][one.row_C])
        free = len(one.row_C) - 2
        if free < 1 or not one.noise_free or np.ptp(log_x) < 1e-9:
            continue
        root = np.sqrt(one.seeds_C)
        u = log_x - log_x.mean()
        fitted = np.polyval(np.polyfit(u, one.log_y_C, 1, w=root), u)
        square = float((one.seeds_C * (one.log_y_C - fitted) ** 2).sum())
        about = Scatter(square=about.square + square, free=about.free + free)
        inside = Scatter(square=inside.square + one.noise_square, free=inside.free + one.noise_free)
    if not about.free or not inside.free:
        return False
    if inside.square <= 0:
        return True
    ratio = inside.variance / max(about.variance, 1e-30)
    return bool(stats.f.sf(ratio, inside.free, about.free) >= NO_REPEATS)


def _sample_errors(data: Data) -> np.ndarray | None:
    """Return the standard deviation of log y over sample seeds, where the table has it."""
    name = f"{data.roles['y']}_std"
    if name not in data.frame.columns:
        return None
    return np.asarray(
        pd.to_numeric(data.frame[name], errors="coerce").to_numpy(float) / data.columns["y"]
    )


def _with_sizes(data: Data, asked: Mapping[str, str | None]) -> Data:
    """Add N and D where the table has them in every row, for the isoflop and model envelopes."""
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


def _crossovers(setup: Setup, arms: list[Arm], choices: spread.Spread) -> tuple[Crossover, ...]:
    direction, window = setup.data.direction, setup.request.window
    lines = {(arm.name, form): line_of(arm, form) for arm in arms for form in FORMS}
    found = []
    for one, other in itertools.combinations(arms, 2):
        for form in FORMS:
            first, second = lines[one.name, form], lines[other.name, form]
            cross = crossover(first, second, form=form, direction=direction, window=window)
            by = choices.crossings(one.name, other.name, form)
            found.append(dataclasses.replace(cross, by_envelope=by))
    return tuple(found)


def _gains(setup: Setup, arms: list[Arm], base: str, choices: spread.Spread) -> tuple[Gain, ...]:
    reference = next(arm for arm in arms if arm.name == base)
    found = []
    for arm in arms:
        if arm is reference:
            continue
        for form in FORMS:
            first, second = line_of(arm, form), line_of(reference, form)
            one = gain(first, second, form=form, direction=setup.data.direction)
            by = choices.gains(arm.name, reference.name, form)
            verdict = notes.verdict(one, arm, reference)
            found.append(dataclasses.replace(one, by_envelope=by, verdict=verdict))
    return tuple(found)


def line_of(arm: Arm, form: str) -> Line:
    """Return one arm's law as crossover and gain see it."""
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
    """Return the run-to-run standard deviation of log y of each arm.

    It is the given one, or that of its repeated runs, or that of the other arms, or the scatter
    about its own law, which holds the misfit too.
    """
    if given is not None:
        return [given] * len(arms)
    found = [_replicate_noise(arm.averaged) for arm in arms]
    known = [one for one in found if one is not None]
    if known:
        return [float(np.median(known)) if one is None else one for one in found]
    return [_scatter(arm) for arm in arms]


def _replicate_noise(averaged: Averaged) -> float | None:
    if averaged.noise_free < 3:
        return None
    return float(np.sqrt(averaged.noise_square / averaged.noise_free))


def _scatter(arm: Arm) -> float | None:
    """Return the standard deviation of the envelope's points about the arm's law."""
    for form in ("floor", "straight"):
        fit = arm.measured[form]
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
    per_budget = winners_curse.runs_per_budget(arm.data, setup.request.bins, setup.start)
    scatter, aicc = spread.goodness(arm)
    return Frontier(
        arm=arm.name,
        envelope=envelope,
        direction=direction,
        points=shown[envelope],
        envelopes=shown,
        fits=arm.fits,
        n=int(arm.averaged.seeds_C.sum()),
        run_ids=arm.data.run_ids,
        runs_per_budget=per_budget,
        winners_curse=None if noise is None else winners_curse.expected_lead(per_budget) * noise,
        noise=noise,
        grid=tuple(float(one) for one in grid),
        curve=curve,
        low=low,
        high=high,
        configurations=arm.data.num_rows,
        scatter=scatter,
        aicc=aicc,
        leading=spread.lower(aicc),
        components=arm.averaged.components,
    )


def _envelope(name: str, points: Points, data: Data) -> Envelope:
    """Return the points of an envelope and the straight slope through them."""
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
