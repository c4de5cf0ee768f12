"""The draws of a comparison: for every arm and form the parameters of its law, in every draw.

By "residual" the true values of the runs are drawn (contenders.py) and the envelope is selected
from them. By clusters the runs are resampled, the envelope is selected again, and the draws are
reflected about the fit: a resample is as far below the fit as the fit is below the truth. In both
the arm's level then moves by the spread between its tokenizers.

Legend: B draws, n rows, k points of an envelope.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from ..fitting import bootstrap as resample
from ..fitting import optimum
from ..fitting.bootstrap import errors
from ..fitting.draws import BATCH_CELLS
from ..fitting.fitted import Bootstrap, Fit
from ..laws import power_law
from ..notices import Notice, notice
from ..replicates import Replicates
from ..table import Data
from . import contenders, envelopes
from .arms import FORMS, SELECTING, Arm, Setup, law, points_data
from .contenders import Scatter
from .crossover import LEAST_DRAWS
from .envelopes import Points

Draws = dict[str, dict[str, np.ndarray]]  # form -> parameter -> [B]


def resampled(
    setup: Setup, arms: list[Arm], replicates: Replicates, notices: list[Notice]
) -> tuple[list[Arm], Bootstrap | None]:
    """Return the arms with the draws of every form; the envelope is selected again in each."""
    groups, num, seed = setup.groups, setup.request.bootstrap, setup.request.seed
    by = groups.by
    if by == "residual":
        draws = _by_residual(setup, arms, notices)
    else:
        draws = _by_cluster(setup, arms, notices)
        if groups.num < resample.ROUGH * len(arms):
            notices.append(
                notice("W-FEW-CLUSTERS", f"{groups.num} clusters by {by} in {len(arms)} arms")
            )
    levels = tokenizer_levels(arms, replicates, num, seed)
    filled = []
    least, failed = num, 0
    for arm in arms:
        fits = dict(arm.fits)
        mine = {
            form: _moved(params, levels.get(arm.name)) for form, params in draws[arm.name].items()
        }
        for form, params in mine.items():
            names = fits[form].names
            matrix = np.stack([params[key] for key in names], axis=1)
            good = np.isfinite(matrix).all(axis=1)
            failed = max(failed, num - int(good.sum()))
            if good.sum() < LEAST_DRAWS:
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
            made = Bootstrap(
                by=by, draws=len(kept), failed=num - len(kept), clusters=groups.num, seed=seed
            )
            fits[form] = dataclasses.replace(
                fits[form],
                draws=kept,
                ci95=ci95,
                se=errors({key: columns[key] for key in ci95}),
                bootstrap=made,
            )
        filled.append(dataclasses.replace(arm, fits=fits, draws=mine))
    if not any(mine for mine in draws.values()):
        return filled, None
    return filled, Bootstrap(by=by, draws=least, failed=failed, clusters=groups.num, seed=seed)


def tokenizer_levels(
    arms: list[Arm], replicates: Replicates, num: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw how far the level of each arm may lie off because its tokenizers are few, [B] of log y.

    Student's t with the degrees of freedom of its tokenizers, and of the arms that scatter alike.
    A tokenizer that two arms share moves both, and so cancels between them.
    """
    if replicates.tokenizer_n is None:
        return {}
    rng = np.random.default_rng([seed, 10**6])
    units = rng.standard_normal((num, int(replicates.tokenizer_n.max()) + 1))
    chance = rng.uniform(size=num)
    found = {}
    scatters = {
        arm.name: Scatter(square=arm.averaged.tokenizer_square, free=arm.averaged.tokenizer_free)
        for arm in arms
    }
    for arm in arms:
        own = scatters[arm.name]
        if not own.free:
            continue
        other = contenders.pooled(own, [scatters[one.name] for one in arms if one is not arm])
        free = own.free + other.free
        chi_square = stats.chi2.ppf(chance, free)
        sd = np.sqrt((own.square + other.square) / chi_square)
        rows = np.concatenate(arm.averaged.members)
        mine = np.unique(replicates.tokenizer_n[rows])
        found[arm.name] = sd * units[:, mine].mean(axis=1)
    return found


def _moved(params: dict[str, np.ndarray], level: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the laws with y times exp(level)."""
    if level is None:
        return params
    return {key: one if key == "b" else one * np.exp(level) for key, one in params.items()}


def _by_cluster(setup: Setup, arms: list[Arm], notices: list[Notice]) -> dict[str, Draws]:
    """Return the draws of each arm by resampled runs or clusters."""
    arm_n, groups, num = setup.arm_n, setup.groups, setup.request.bootstrap
    envelope = setup.request.envelope
    answer: dict[str, Draws] = {}
    # A cluster that lies in several arms (a seed, a trunk) is drawn for all of them at once.
    pairs = np.unique(np.stack([groups.ids_n, arm_n]), axis=1).shape[1]
    shared = pairs > groups.num
    single = groups.num == len(arm_n)
    for at, arm in enumerate(arms):
        rng = np.random.default_rng([setup.request.seed, 0 if shared else at + 1])
        mine = arm_n == at
        rows = np.arange(arm.data.num_rows)
        ids = np.unique(groups.ids_n[mine], return_inverse=True)[1].ravel()
        answer[arm.name] = {}
        if ids.max() == 0:
            if any(fit.status == "ok" for fit in arm.fits.values()):
                text = f"{arm.name}: one cluster by {groups.by}: no interval"
                notices.append(notice("W-FEW-CLUSTERS", text))
            continue
        if single:
            rows = envelopes.candidates(
                envelope, arm.data, arm.data.direction, setup.start, setup.request.bins
            )
        part = arm.data.take(rows)
        size = max(1, BATCH_CELLS // (len(arm_n) if shared else len(rows)))
        found: list[Draws] = []
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
        joined = _joined(found)
        if envelope in SELECTING:
            joined = {form: _reflected(arm, form, one) for form, one in joined.items()}
        answer[arm.name] = joined
    return answer


def _reflected(arm: Arm, form: str, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the basic bootstrap's draws: the fit, less what a resample added to it.

    Amplitudes on the log scale; a floor is 0 at least.
    """
    fit = arm.fits[form].params
    raw = arm.measured[form].params
    answer = {}
    for key, one in params.items():
        if key == "a":
            answer[key] = fit[key] * (raw[key] / one)
        else:
            answer[key] = fit[key] + (raw[key] - one)
        if key == "E":
            answer[key] = np.where(np.isfinite(one), np.maximum(answer[key], 0.0), np.nan)
    return answer


def _by_residual(setup: Setup, arms: list[Arm], notices: list[Notice]) -> dict[str, Draws]:
    """Return the draws of each arm by its residuals, or by a given noise."""
    if setup.request.envelope not in SELECTING:
        return _by_noise(setup, arms)
    num = setup.request.bootstrap
    answer: dict[str, Draws] = {arm.name: {} for arm in arms}
    for at, arm in enumerate(arms):
        sign = 1.0 if arm.data.direction == "lower" else -1.0
        for form, layout in arm.layouts.items():
            noise = arm.noises[form]
            if not layout.about_law.free + noise.free:
                points, params = len(layout.mean_G), len(arm.fits[form].params)
                text = f"{arm.name}, {form}: {points} points and {params} parameters: no interval"
                notices.append(notice("W-NO-DOF", text))
                continue
            rng = np.random.default_rng([setup.request.seed, at + 1])
            sizes = contenders.sizes(layout, noise, num, rng)
            part = arm.data.take(layout.row_n)
            size = max(1, BATCH_CELLS // len(layout.row_n))
            found = []
            for first in range(0, num, size):
                some = sizes.take(slice(first, first + size))
                value = contenders.true_values(layout, some, rng)
                log_y = sign * value
                rows = _best(setup, part, layout.cell_n, log_y)
                found.append(_through(setup, arm, part, form, rows, log_y))
            answer[arm.name].update(_joined(found))
    return answer


def _best(setup: Setup, part: Data, cell_n: np.ndarray, log_y_Bn: np.ndarray) -> np.ndarray:
    """Return the row with the best true value of each cell (of each bin) in each draw, [B, G]."""
    if setup.request.envelope == "binned":
        cell_n = optimum.bin_numbers(part.columns["x"], setup.request.bins, setup.start)
    value = log_y_Bn if part.direction == "lower" else -log_y_Bn
    return optimum.winners(cell_n, value, np.ones((1, 1)), monotone=False).row_BG


def _through(
    setup: Setup, arm: Arm, part: Data, form: str, row_BG: np.ndarray, log_y_Bn: np.ndarray
) -> Draws:
    """Fit a form through the chosen rows of each draw."""
    fit, shape, log_x_n = arm.fits[form], law(form), np.log(part.columns["x"])
    if setup.request.loss == "l2":
        if row_BG.shape[1] < len(fit.params):
            return {form: {key: np.full(len(row_BG), np.nan) for key in fit.params}}
        use = np.ones(row_BG.shape, dtype=bool)
        values = np.take_along_axis(log_y_Bn, row_BG, axis=1)
        again = shape.least_squares(log_x_n[row_BG], values, use, fit.params)
        return {form: {key: np.where(np.isfinite(v), v, np.nan) for key, v in again.items()}}
    use = np.zeros(log_y_Bn.shape, dtype=bool)
    np.put_along_axis(use, row_BG, True, axis=1)
    places = np.argsort(log_x_n, kind="stable")
    points = Points(
        status="ok",
        log_x_k=log_x_n[places],
        log_y_Bk=log_y_Bn[:, places],
        use_Bk=use[:, places],
        row_k=places,
    )
    return _laws(setup, arm, part, points, (form,))


def _by_noise(setup: Setup, arms: list[Arm]) -> dict[str, Draws]:
    """Return the draws of envelopes that are computed from all runs, by a given noise."""
    noise, num = setup.request.noise, setup.request.bootstrap
    assert noise is not None
    answer: dict[str, Draws] = {}
    for at, arm in enumerate(arms):
        rng = np.random.default_rng([setup.request.seed, at + 1])
        size = max(1, BATCH_CELLS // arm.data.num_rows)
        sd_n = noise / np.sqrt(arm.averaged.seeds_C)
        found = []
        for first in range(0, num, size):
            shape = (min(size, num - first), arm.data.num_rows)
            log_y = np.log(arm.data.columns["y"]) + sd_n * rng.standard_normal(shape)
            ones = np.ones(shape)
            found.append(_refit(setup, arm, arm.data, log_y_Bn=log_y, weights_Bn=ones))
        answer[arm.name] = _joined(found)
    return answer


def _refit(
    setup: Setup,
    arm: Arm,
    part: Data,
    *,
    log_y_Bn: np.ndarray,
    weights_Bn: np.ndarray,
) -> Draws:
    """Return form -> parameter -> [B] of a batch of resamples: envelope again, then the law."""
    envelope = setup.request.envelope
    points = setup.envelope(
        envelope,
        part,
        log_y_Bn,
        weights_Bn,
        point=envelopes.model_point(arm.data) if envelope == "model" else None,
    )
    return _laws(setup, arm, part, points, tuple(FORMS))


def _laws(setup: Setup, arm: Arm, part: Data, points: Points, forms: tuple[str, ...]) -> Draws:
    """Fit the forms through each draw's points."""
    request, num = setup.request, len(points.use_Bk)
    answer: Draws = {}
    for form in forms:
        if arm.fits[form].status != "ok" or points.status != "ok":
            continue
        shape = law(form)
        log_y = points.log_y_Bk
        same = len(log_y) == 1 or bool((log_y == log_y[:1]).all())
        chosen = points_data(part, points.log_x_k, log_y[0], None)
        can = shape.enough(chosen, points.use_Bk.astype(float))
        if request.loss == "l2" and can.any():
            answer[form] = _own_points(shape, arm.fits[form], points, can)
            continue
        typical = log_y[0] if same else log_y.mean(axis=0)
        start = shape.warm(arm.fits[form].params, chosen, typical)
        params = {key: np.full(num, np.nan) for key in arm.fits[form].params}
        if can.any():
            again = shape.solve(
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
    shape: power_law.Law, fit: Fit, points: Points, can: np.ndarray
) -> dict[str, np.ndarray]:
    """Fit by least squares each draw's own points, put side by side without the unused places."""
    use = points.use_Bk[can]
    # Used places first, in their order.
    order = np.argsort(~use, axis=1, kind="stable")[:, : int(use.sum(axis=1).max())]
    log_y = np.broadcast_to(points.log_y_Bk, points.use_Bk.shape)[can]
    again = shape.least_squares(
        points.log_x_k[order],
        np.take_along_axis(log_y, order, axis=1),
        np.take_along_axis(use, order, axis=1),
        fit.params,
    )
    params = {key: np.full(len(can), np.nan) for key in fit.params}
    for key, values in again.items():
        params[key][can] = np.where(np.isfinite(values), values, np.nan)
    return params


def _joined(found: list[Draws]) -> Draws:
    """Put batches of draws together."""
    return {
        form: {key: np.concatenate([one[form][key] for one in found]) for key in params}
        for form, params in found[0].items()
    }
