"""Fits one law to a table: point fit, draws, other objectives, checks; one frozen result."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ...trainer import parts
from ..direction import directed
from ..notices import Item, Notice, notice
from ..table import POOLED, Data, NoRows, column_for, prepare, refuse_mixed_losses
from ..where import keep
from . import bootstrap as resample
from . import checklist, checks
from .draws import draw_parameters, spread
from .fitted import Check, Fit, Fits
from .law import Law, Solved
from .solve import LOSSES


def fit(
    frame: pd.DataFrame,
    law: str,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    group: str | None = None,
    where: str | None = None,
    direction: str | None = None,
    end_points: bool = True,
    bootstrap: int = 1000,
    by: str = "auto",
    loss: str = "huber",
    delta: float = 1e-3,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    with_checks: bool = True,
) -> Fit | Fits:
    """Fit the law `law` (a file of analysis/fits) to `frame`; a row is the end point of one run.

    A table of several arms gives `Fits`, one per arm; so does `group`, a column, per value of it.
    The group "none" pools the arms. Laws that need the arm fit all arms at once. `x`, `y`, `n`,
    `d` are column names (FLOPs, metric, parameters, tokens); left out, the names of the study table
    are looked for. `direction` None: as analysis/direction.py finds it. `end_points` False keeps
    checkpoints. `by` is "run", "point", "residual", a column, or "auto" (run, or residual when
    there are few). `options` are the fields of the law's Config. Degenerate data end in a `status`
    other than "ok" and no numbers; a wrong request is a ValueError.
    """
    column = group_column(frame, law, group, where)
    if column is not None:
        return fit_groups(
            frame,
            law,
            group=column,
            where=where,
            x=x,
            y=y,
            n=n,
            d=d,
            direction=direction,
            end_points=end_points,
            bootstrap=bootstrap,
            by=by,
            loss=loss,
            delta=delta,
            seed=seed,
            options=options,
            with_checks=with_checks,
        )
    made = law_named(law, options)
    needs = parts.load("fits", law).REQUIRES
    asked = {"x": x, "y": y, "n": n, "d": d, "group": group if "group" in needs else None}
    data = prepare(frame, asked, needs, where=where, end_points=end_points)
    refuse_mixed_losses(data, "the rows", "y" if made.x_is_compute else "x")
    data = directed(data, direction, x_is_compute=made.x_is_compute, falls=made.falls)
    return fit_data(
        data,
        law,
        made,
        bootstrap=bootstrap,
        by=by,
        loss=loss,
        delta=delta,
        seed=seed,
        run_checks=tuple(checks.CHECKS) if with_checks else (),
        beside=with_checks,
    )


def group_column(
    frame: pd.DataFrame, law: str, group: str | None, where: str | None = None
) -> str | None:
    """Return the column that has one fit per value; None where one fit takes all rows.

    Left out, it is the arm of a table whose rows (those of `where`) have several arms.
    """
    if group == POOLED or "group" in parts.load("fits", law).REQUIRES:
        return None
    column = column_for(frame, "group", group)
    if group is None and column is not None:
        rows = frame if where is None else frame[keep(frame, where)]
        if rows[column].dropna().astype(str).nunique() < 2:
            return None
    return column


def fit_groups(
    frame: pd.DataFrame, law: str, *, group: str, where: str | None = None, **keywords: Any
) -> Fits:
    """Fit one law to each value of the column `group`, in sorted order.

    A group that cannot be fitted says why in its `status` and `reason` and hides no other; where
    every group is refused for the request, its ValueError is raised.
    """
    column = str(column_for(frame, "group", group))
    if where is not None:
        frame = frame[keep(frame, where)]
    with_group = frame[frame[column].notna()]
    fits = Fits(column, num_without=len(frame) - len(with_group))
    refused: list[ValueError] = []
    empty = 0
    number, names = pd.factorize(with_group[column].astype(str), sort=True)
    for at, name in enumerate(str(one) for one in names):
        try:
            one = fit(with_group[number == at], law, group=POOLED, **keywords)
            assert isinstance(one, Fit)
        except NoRows as error:
            empty += 1
            one = Fit(law=law, status="no_rows", reason=str(error))
        except ValueError as error:
            refused.append(error)
            one = Fit(law=law, status="refused", reason=str(error))
        fits[name] = dataclasses.replace(one, group=name)
    if not fits:
        raise NoRows("table: no row is left after the filters")
    if refused and len(refused) + empty == len(fits):
        raise refused[0]
    return fits


def law_named(name: str, options: dict[str, Any] | None = None) -> Law:
    """The law `name` with the options of its Config; ValueError on an unknown name or option."""
    module = parts.load("fits", name)
    known = [one.name for one in dataclasses.fields(module.Config)]
    for option in options or {}:
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"{name}: no option {option!r}; it has: {allowed}")
    return module.Law(module.Config(**(options or {})))


def fit_data(
    data: Data,
    name: str,
    law: Law,
    *,
    bootstrap: int,
    by: str,
    loss: str,
    delta: float,
    seed: int,
    run_checks: tuple[str, ...] = (),
    beside: bool = False,
) -> Fit:
    """`fit` on rows that are ready, with the named checks."""
    if loss not in LOSSES:
        raise ValueError(f"--loss: {loss!r} is not allowed; {', '.join(LOSSES)}")
    if not delta > 0:
        raise ValueError(f"--delta: {delta!r} is not allowed; a number > 0 (log units)")
    if bootstrap < 0:
        raise ValueError(f"--bootstrap: {bootstrap} is not allowed; 0 or more draws")
    used_loss = loss if loss in law.losses else law.losses[0]
    by = resample.choose(data, by)
    groups = resample.clusters(data, by)  # a wrong column is refused before any work
    about: dict[str, Any] = {
        "law": name,
        "options": dataclasses.asdict(law.config),
        "roles": dict(data.roles),
        "flops_rule": data.flops_rule,
        "direction": data.direction,
        "direction_reason": data.direction_reason,
        "loss": used_loss,
        "delta": delta,
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

    def refused(status: str, reason: str) -> Fit:
        items = (*checklist.data_items(data), checklist.code_item(about["data_hash"]))
        return Fit(status=status, reason=reason, warnings=data.notices, checklist=items, **about)

    refusal = law.refuse(data)
    if refusal is not None:
        return refused(refusal.status, refusal.reason)
    log_y = np.log(data.columns["y"])
    point = law.solve(data, log_y, np.ones(data.num_rows), loss=used_loss, delta=delta)
    lost = [key for key, value in point.params.items() if not np.isfinite(value[0])]
    if lost:
        text = f"{', '.join(lost)} is too large for a number: the data do not hold this law"
        return refused("not_finite", text)
    fitted = checks.Fitted(
        law=law, data=data, log_y=log_y, point=point, loss=used_loss, delta=delta
    )
    notices = [*data.notices, *point.notices]
    if used_loss != loss:
        about["reason"] = f"{name} is fitted by {used_loss} only; --loss {loss} was not used"
    made, draws, why = draw_parameters(fitted, groups, bootstrap, by, seed, notices)
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
    others = _beside(fitted) if beside else {}
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
        checks=tuple(found),
        warnings=tuple(notices),
        checklist=(
            *checklist.fit_items(
                law=name,
                options=about["options"],
                loss=used_loss,
                delta=delta,
                num_starts=starts,
            ),
            *checklist.data_items(data),
            Item(name="selection", text=_selection(name)),
            checklist.uncertainty_item(made, why),
            checklist.validation_item(found),
            checklist.code_item(about["data_hash"]),
        ),
        **about,
    )


def hold_out(
    frame: pd.DataFrame,
    law: str,
    held: str,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    where: str | None = None,
    loss: str = "huber",
    delta: float = 1e-3,
    options: dict[str, Any] | None = None,
) -> Check:
    """The law fitted without the rows where the expression `held` is true, and its error on them.

    `values` has n_fit, n_held, rmsle and bias (predicted over measured, in logs).
    """
    made = law_named(law, options)
    asked = {"x": x, "y": y, "n": n, "d": d}
    data = prepare(frame, asked, parts.load("fits", law).REQUIRES, where=where)
    log_y = np.log(data.columns["y"])
    used = loss if loss in made.losses else made.losses[0]
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
