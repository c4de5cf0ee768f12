"""Fits one law to a table: point fit, draws, other objectives, checks; one frozen result."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ...trainer import parts
from ..direction import directed
from ..notices import Item, Notice, notice
from ..request import FitRequest
from ..row_filter import keep
from ..table import POOLED, Data, NoRows, column_for, prepare, refuse_mixed_losses
from . import bootstrap as resample
from . import checklist, checks, forward
from .draws import draw_parameters, spread
from .fitted import Check, Fit, Fits
from .law import Law, Solved


def fit(
    frame: pd.DataFrame,
    law: str | FitRequest = "power_law",
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    group: str | None = None,
    where: str | None = None,
) -> Fit | Fits:
    """Fit `law` (a file of analysis/laws) to `frame`; a row is the end point of one run.

    A table of several arms gives `Fits`, one per arm; so does `group`, a column, per value of it.
    The group "none" pools the arms. Laws that need the arm fit all arms at once. `x`, `y`, `n`,
    `d` are column names (FLOPs, metric, parameters, tokens); left out, the names of the study table
    are looked for. A `FitRequest` in place of the law's name says everything else. Degenerate data
    end in a `status` other than "ok" and no numbers; a wrong request is a ValueError.
    """
    request = FitRequest.of(law).on(
        {"x": x, "y": y, "n": n, "d": d, "group": group, "where": where}
    )
    column = group_column(frame, request)
    if column is not None:
        return fit_groups(frame, dataclasses.replace(request, group=column))
    made = law_named(request.law, request.options)
    needs = parts.load("laws", request.law).REQUIRES
    asked = {**request.columns, "group": request.group if "group" in needs else None}
    data = prepare(
        frame,
        asked,
        needs,
        where=request.where,
        end_points=request.end_points,
        negative_y=made.raw,
    )
    refuse_mixed_losses(data, "the rows", "y" if made.x_is_compute else "x")
    data = directed(data, request.direction, x_is_compute=made.x_is_compute, falls=made.falls)
    return fit_data(data, made, request, tuple(checks.CHECKS) if request.with_checks else ())


def group_column(frame: pd.DataFrame, request: FitRequest) -> str | None:
    """Return the column that has one fit per value; None where one fit takes all rows.

    Left out, it is the arm of a table whose rows (those of `where`) have several arms.
    """
    if request.group == POOLED or "group" in parts.load("laws", request.law).REQUIRES:
        return None
    column = column_for(frame, "group", request.group)
    if request.group is None and column is not None:
        rows = frame if request.where is None else frame[keep(frame, request.where)]
        if rows[column].dropna().astype(str).nunique() < 2:
            return None
    return column


def fit_groups(frame: pd.DataFrame, request: FitRequest) -> Fits:
    """Fit one law to each value of the column `request.group`, in sorted order.

    A group that cannot be fitted says why in its `status` and `reason` and hides no other; where
    every group is refused for the request, its ValueError is raised.
    """
    column = str(column_for(frame, "group", request.group))
    if request.where is not None:
        frame = frame[keep(frame, request.where)]
    with_group = frame[frame[column].notna()]
    fits = Fits(column, num_without=len(frame) - len(with_group))
    request = dataclasses.replace(request, group=POOLED, where=None)
    refused: list[ValueError] = []
    empty = 0
    number, names = pd.factorize(with_group[column].astype(str), sort=True)
    for at, name in enumerate(str(one) for one in names):
        try:
            one = fit(with_group[number == at], request)
            assert isinstance(one, Fit)
        except NoRows as error:
            empty += 1
            one = Fit(law=request.law, status="no_rows", reason=str(error))
        except ValueError as error:
            refused.append(error)
            one = Fit(law=request.law, status="refused", reason=str(error))
        fits[name] = dataclasses.replace(one, group=name)
    if not fits:
        raise NoRows("table: no row is left after the filters")
    if refused and len(refused) + empty == len(fits):
        raise refused[0]
    return fits


def law_named(name: str, options: dict[str, Any] | None = None) -> Law:
    """The law `name` with the options of its Config; ValueError on an unknown name or option."""
    module = parts.load("laws", name)
    known = [one.name for one in dataclasses.fields(module.Config)]
    for option in options or {}:
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"{name}: no option {option!r}; it has: {allowed}")
    law: Law = module.Law(module.Config(**(options or {})))
    return law


def fit_data(data: Data, law: Law, request: FitRequest, run_checks: tuple[str, ...] = ()) -> Fit:
    """Fit a law to rows that are ready, and run the named checks."""
    used_loss = request.loss if request.loss in law.losses else law.losses[0]
    by = resample.choose(data, request.by)
    groups = resample.clusters(data, by)  # a wrong column is refused before any work
    about = _about(data, law, request, used_loss)

    def refused(status: str, reason: str) -> Fit:
        items = (*checklist.data_items(data), checklist.code_item(about["data_hash"]))
        return Fit(status=status, reason=reason, warnings=data.notices, checklist=items, **about)

    refusal = law.refuse(data)
    if refusal is not None:
        return refused(refusal.status, refusal.reason)
    log_y = law.link(data.columns["y"])
    point = law.solve(data, log_y, np.ones(data.num_rows), loss=used_loss, delta=request.delta)
    lost = [key for key, value in point.params.items() if not np.isfinite(value[0])]
    if lost:
        text = f"{', '.join(lost)} is too large for a number: the data do not hold this law"
        return refused("not_finite", text)
    fitted = checks.Fitted(
        law=law, data=data, log_y=log_y, point=point, loss=used_loss, delta=request.delta
    )
    notices = [*data.notices, *point.notices]
    if used_loss != request.loss:
        about["reason"] = (
            f"{request.law} is fitted by {used_loss} only; --loss {request.loss} was not used"
        )
    made, draws, why = draw_parameters(fitted, groups, request, notices)
    arrays = {key: np.array([value[0]]) for key, value in point.params.items()}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        more = law.derive(arrays)
    derived = {key: float(value[0]) for key, value in more.items() if np.isfinite(value[0])}
    ci95, se = spread(law, draws, point.at_bound)
    for key in law.beyond_zero:
        low, high = ci95.get(key, (None, None))
        if low is not None and high is not None and low <= 0 <= high:
            notices.append(
                notice("W-BREAK", f"the interval of {key}, {low:.3g} to {high:.3g}, has 0")
            )
    found, warned = checks.run(fitted, run_checks)
    notices += warned
    others = _beside(fitted) if request.with_checks else {}
    notices += _loss_form(others, ci95)
    names = tuple(point.params)
    matrix = np.stack([draws[key] for key in names], axis=1) if draws else np.empty((0, len(names)))
    matrix.flags.writeable = False
    residuals = fitted.residuals
    residuals.flags.writeable = False
    starts = "closed form" if point.agree is None else f"{point.agree:.0%} of the starts agree"
    return Fit(
        status="ok",
        params={key: float(value[0]) for key, value in point.params.items()},
        at_bound=point.at_bound,
        names=names,
        derived=derived,
        ci95=ci95,
        se=se,
        draws=matrix,
        bootstrap=made,
        objective=float(point.objective_B[0]),
        beside=others,
        residuals=residuals,
        axis_ranges={
            name: (float(values.min()), float(values.max()))
            for name, values in forward.axes(law, data.columns).items()
        },
        scatter=forward.scatter(law, data, log_y, point),
        forward=forward.misses(law, data, log_y, point, loss=used_loss, delta=request.delta)
        if draws
        else (),
        checks=tuple(found),
        warnings=tuple(notices),
        checklist=(
            *checklist.fit_items(
                law=request.law,
                options=about["options"],
                loss=used_loss,
                delta=request.delta,
                num_starts=starts,
            ),
            *checklist.data_items(data),
            Item(name="selection", text=_selection(request.law)),
            checklist.uncertainty_item(made, why),
            checklist.validation_item(found),
            checklist.code_item(about["data_hash"]),
        ),
        **about,
    )


def _about(data: Data, law: Law, request: FitRequest, used_loss: str) -> dict[str, Any]:
    """Return the fields of a `Fit` that say what was fitted to which rows."""
    return {
        "law": request.law,
        "options": dataclasses.asdict(law.config),
        "roles": dict(data.roles),
        "flops_rule": data.flops_rule,
        "direction": data.direction,
        "direction_reason": data.direction_reason,
        "loss": used_loss,
        "delta": request.delta,
        "n": data.num_rows,
        "n_left_out": data.num_left_out,
        "left_out": data.left_out,
        "data_hash": data.digest(),
        "run_ids": data.run_ids,
        "ranges": {
            role: (float(values.min()), float(values.max()))
            for role, values in data.columns.items()
            if role != "group"
        },
    }


def hold_out(
    frame: pd.DataFrame,
    law: str | FitRequest,
    held: str,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    where: str | None = None,
) -> Check:
    """Fit the law without the rows where the expression `held` is true; return its error on them.

    `values` has n_fit, n_held, rmsle and bias (predicted over measured, in logs).
    """
    request = FitRequest.of(law).on({"x": x, "y": y, "n": n, "d": d, "where": where})
    made = law_named(request.law, request.options)
    asked = {**request.columns, "group": None}
    needs = parts.load("laws", request.law).REQUIRES
    data = prepare(frame, asked, needs, where=request.where, negative_y=made.raw)
    log_y = made.link(data.columns["y"])
    used = request.loss if request.loss in made.losses else made.losses[0]
    delta = request.delta
    point = made.solve(data, log_y, np.ones(data.num_rows), loss=used, delta=delta)
    fitted = checks.Fitted(law=made, data=data, log_y=log_y, point=point, loss=used, delta=delta)
    return checks.hold_out(fitted, keep(data.frame, held))[0]


def _beside(fitted: checks.Fitted) -> dict[str, dict[str, float]]:
    """The parameters under the law's other objectives, started from the fit."""
    found = {}
    for loss in fitted.law.losses:
        if loss == fitted.loss:
            continue
        other: Solved = fitted.law.solve(
            fitted.data,
            fitted.log_y,
            np.ones(fitted.data.num_rows),
            loss=loss,
            delta=fitted.delta,
            start=fitted.point,
        )
        found[loss] = {key: float(value[0]) for key, value in other.params.items()}
    return found


def _loss_form(
    beside: dict[str, dict[str, float]], ci95: dict[str, tuple[float | None, float | None]]
) -> list[Notice]:
    """A warning for the parameters that another objective puts outside the interval."""
    outside = []
    for loss, params in beside.items():
        for key, value in params.items():
            low, high = ci95.get(key, (None, None))
            if low is not None and high is not None and not low <= value <= high:
                outside.append(f"{key} = {value:.4g} by {loss}")
    if not outside:
        return []
    return [notice("W-LOSS-FORM", f"outside the interval: {', '.join(outside)}")]


def _selection(name: str) -> str:
    if name == "isoflop":
        return "the interior minimum of each budget's polynomial"
    if name == "chinchilla_approach1":
        return "the lowest loss of each bin of compute"
    return "every row that the filter leaves"
