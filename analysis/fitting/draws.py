"""Refit a law to resampled rows: the draws behind its intervals."""

from __future__ import annotations

import numpy as np

from ..notices import Notice, notice
from ..request import FitRequest
from ..table import Data
from . import bootstrap as resample
from . import checks
from .fitted import Bootstrap
from .law import CurveLaw, Law

# Tables with more rows are resampled by one Newton step a draw; it is as good there, and fast.
ONE_STEP_ROWS = 3000
# Weights held at a time while resampling.
BATCH_CELLS = 4_000_000
MAX_FAILED = 0.1  # share of resamples that cannot be fitted before it is a warning


def draw_parameters(
    fitted: checks.Fitted,
    groups: resample.Clusters,
    request: FitRequest,
    notices: list[Notice],
) -> tuple[Bootstrap | None, dict[str, np.ndarray], str]:
    """Return the draws of every parameter, how they were made, and why there are none."""
    num, by, seed = request.bootstrap, groups.by, request.seed
    if num == 0:
        return None, {}, ""
    data, point = fitted.data, fitted.point
    rng = np.random.default_rng(seed)
    stretch = 1.0
    if by == "residual":
        if data.num_rows <= point.num_params:
            text = f"{data.num_rows} rows and {point.num_params} parameters: no interval"
            notices.append(notice("W-NO-DOF", text))
            return None, {}, text
        _, stretch = resample.noise_factor(data.num_rows, point.num_params)
        parts_of = _residual_draws(fitted, num, rng)
    else:
        if groups.num < 2:
            text = f"one cluster by {by}: no interval"
            notices.append(notice("W-FEW-CLUSTERS", text))
            return None, {}, text
        parts_of = _cluster_draws(fitted, groups, num, rng)
        if groups.num < resample.ROUGH:
            notices.append(
                notice("W-FEW-CLUSTERS", f"{groups.num} clusters by {by}; residual is an option")
            )
        notices += _shared(data, by)
    good = np.ones(len(next(iter(parts_of.values()))), dtype=bool)
    for values in parts_of.values():
        good &= np.isfinite(values)
    draws = {key: values[good] for key, values in parts_of.items()}
    failed = num - int(good.sum())
    if failed > MAX_FAILED * num:
        notices.append(notice("W-DRAWS", f"{failed} of {num} resamples could not be fitted"))
    if good.sum() < 20:
        text = f"{int(good.sum())} of {num} resamples could be fitted: no interval"
        return None, {}, text
    made = Bootstrap(
        by=by,
        draws=int(good.sum()),
        failed=failed,
        clusters=groups.num,
        seed=seed,
        stretch=stretch,
    )
    return made, draws, ""


def _residual_draws(
    fitted: checks.Fitted, num: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Refits to the fitted curve plus inflated residuals, name -> [draws]."""
    data, point = fitted.data, fitted.point
    assert point.fitted_log_Bn is not None
    size = max(1, BATCH_CELLS // data.num_rows)
    found = []
    for at in range(0, num, size):
        shape = (min(size, num - at), data.num_rows)
        noise = resample.residual_noise(fitted.residuals, point.num_params, shape, rng)
        again = fitted.law.solve(
            data,
            point.fitted_log_Bn[0] + noise,
            np.ones(data.num_rows),
            loss=fitted.loss,
            delta=fitted.delta,
            start=point,
        )
        found.append(again.params)
    return {key: np.concatenate([one[key] for one in found]) for key in point.params}


def _cluster_draws(
    fitted: checks.Fitted, groups: resample.Clusters, num: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Refits to resampled clusters, name -> [draws]; NaN where a resample determines nothing."""
    data, point, law = fitted.data, fitted.point, fitted.law
    strata = _strata(law, data, groups)
    size = max(1, BATCH_CELLS // data.num_rows)
    found = []
    for at in range(0, num, size):
        weights = resample.weights(groups.ids_n, min(size, num - at), rng, strata)
        can = law.enough(data, weights)
        answer = {key: np.full(len(weights), np.nan) for key in point.params}
        if can.any():
            if isinstance(law, CurveLaw) and data.num_rows > ONE_STEP_ROWS:
                again = law.one_step(
                    data,
                    fitted.log_y,
                    weights[can],
                    point,
                    loss=fitted.loss,
                    delta=fitted.delta,
                )
            else:
                again = law.solve(
                    data,
                    fitted.log_y,
                    weights[can],
                    loss=fitted.loss,
                    delta=fitted.delta,
                    start=point,
                ).params
            for key, values in again.items():
                answer[key][can] = values
        found.append(answer)
    return {key: np.concatenate([one[key] for one in found]) for key in point.params}


def _strata(law: Law, data: Data, groups: resample.Clusters) -> np.ndarray | None:
    """The stratum of each row where the law needs its groups kept and every cluster lies in one."""
    if law.resampled_within is None:
        return None
    strata = law.strata(data)
    pairs = np.unique(np.stack([groups.ids_n, strata]), axis=1).shape[1]
    return strata if pairs == groups.num else None


def _shared(data: Data, by: str) -> list[Notice]:
    """A warning when runs resampled one by one share a trunk."""
    if by not in ("run", "point") or "trunk_id" not in data.frame.columns:
        return []
    trunk = data.frame["trunk_id"].dropna()
    if trunk.nunique() < len(trunk):
        text = f"{len(trunk)} runs branch from {trunk.nunique()} trunks; try --by trunk_id"
        return [notice("W-CLUSTER", text)]
    return []


def spread(
    law: Law, draws: dict[str, np.ndarray], at_bound: tuple[str, ...]
) -> tuple[dict[str, tuple[float | None, float | None]], dict[str, float]]:
    """Intervals and standard errors of the parameters and of what is derived from them.

    A parameter on the edge of its search box has none; nor has what is derived from such a fit.
    """
    if not draws:
        return {}, {}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        everything = {**draws, **({} if at_bound else law.derive(draws))}
    finite = {key: values[np.isfinite(values)] for key, values in everything.items()}
    finite = {key: values for key, values in finite.items() if len(values) >= 2}
    ci95 = resample.intervals(finite, at_bound)
    return ci95, resample.errors({key: finite[key] for key in ci95})
