"""Checks that run with every fit: held-out largest runs, lack of fit, single runs, range, minimum.

Each gives a `Check` with its numbers, and a warning where a careful reader would stop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

from ..notebook_repr import Brief
from ..notices import Notice, notice
from ..table import Data
from .bootstrap import clusters
from .fitted import Check
from .forward import compute, inflation, leverage
from .law import CurveLaw, Law, Solved, distinct
from .optimum import budgets

HELD_SHARE = 0.1  # of the rows, the ones with the most compute
HELD_WORSE = 3.0  # times the scatter of the fitted rows: the held-out error that is a warning
HELD_LEVEL = 0.99  # of Student's t: a mean miss beyond it is no noise, the form bends away
LACK_LEVEL = 0.01  # p value below which repeated runs contradict the law
INFLUENCE_SHARE = 0.5  # of the jackknife variance, made by one run
LEAST_DECADES = 1.0  # of compute, for any exponent
FLOOR_DECADES, FLOOR_BUDGETS = 2.0, 5  # for a free floor
MAX_DECREMENT = 1e-8  # what a further step may still promise
EXACT_REFITS = 400  # leave-one-out by refits up to this many rows, by one Newton step beyond


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Fitted(Brief):
    """A point fit and what it was made of."""

    law: Law
    data: Data
    log_y: np.ndarray
    point: Solved
    loss: str
    delta: float

    @property
    def residuals(self) -> np.ndarray:
        """log y - log fitted, [n]."""
        assert self.point.fitted_log_Bn is not None
        return np.asarray(self.log_y - self.point.fitted_log_Bn[0])


def scatter(residuals: np.ndarray) -> float:
    """A robust standard deviation of the residuals."""
    return float(1.4826 * np.median(np.abs(residuals)))


def hold_out(fitted: Fitted, held: np.ndarray | None = None) -> tuple[Check, tuple[Notice, ...]]:
    """The law fitted without the rows `held` (None: the largest runs) and its error on them."""
    data = fitted.data
    if not isinstance(fitted.law, CurveLaw):
        text = "not done: the law describes optima, not rows"
        return Check(name="hold_out", passed=None, text=text), ()
    if held is None:
        axis = compute(fitted.law, data.columns)
        held = axis >= np.quantile(axis, 1 - HELD_SHARE) * (1 - 1e-9)
    rest = data.take(~held)
    nothing: dict[str, float | None] = {"n_held": float(held.sum()), "n_fit": float((~held).sum())}
    refusal = fitted.law.refuse(rest) if held.any() and not held.all() else None
    if (
        not held.any()
        or held.all()
        or refusal is not None
        or rest.num_rows <= fitted.point.num_params
    ):
        why = refusal.reason if refusal is not None else "too few rows are left"
        return Check(name="hold_out", passed=None, text=f"not done: {why}", values=nothing), ()
    again = fitted.law.solve(
        data,
        fitted.log_y,
        (~held).astype(float),
        loss=fitted.loss,
        delta=fitted.delta,
        start=fitted.point,
    )
    assert again.fitted_log_Bn is not None
    everywhere = again.fitted_log_Bn[0] - fitted.log_y
    miss, residuals = everywhere[held], everywhere[~held]
    if not np.isfinite(miss).all():
        text = "fitted without the largest runs, it predicts no number for them"
        lost = notice("W-HOLD-OUT", text)
        return Check(name="hold_out", passed=False, text=text, values=nothing), (lost,)
    inside = float(np.sqrt((residuals**2).sum() / (rest.num_rows - again.num_params)))
    rmsle, bias = float(np.sqrt((miss**2).mean())), float(miss.mean())
    # The mean of n misses is far better known than one of them: scatter x sqrt(1/n + leverage).
    jac_nP = fitted.law.on(data, fitted.log_y).slopes(again.theta_BP)[1][0]
    spread = leverage(jac_nP[~held], jac_nP[held].mean(axis=0))
    spread *= inflation(fitted.loss, fitted.delta, residuals)
    free = rest.num_rows - again.num_params
    error = inside * float(np.sqrt(1.0 / held.sum() + spread))
    worst = float(stats.t.ppf(0.5 + HELD_LEVEL / 2, free)) * error
    passed = rmsle <= HELD_WORSE * inside * np.sqrt(1 + spread) and abs(bias) <= worst
    passed = bool(passed) or rmsle < 1e-9
    text = (
        f"fitted without the {int(held.sum())} largest runs, it predicts them with RMSLE "
        f"{rmsle:.4f} (bias {bias:+.4f}, standard error {error:.4f}); scatter of the fitted rows "
        f"{inside:.4f}"
    )
    values: dict[str, float | None] = {**nothing, "rmsle": rmsle, "bias": bias, "scatter": inside}
    values["bias_se"] = error
    found = () if passed else (notice("W-HOLD-OUT", text),)
    return Check(name="hold_out", passed=passed, text=text, values=values), found


def lack_of_fit(fitted: Fitted) -> tuple[Check, tuple[Notice, ...]]:
    """The F test of the law against the means of repeated runs, on log residuals."""
    columns = fitted.data.columns
    inputs = [columns[role] for role in ("x", "n", "d") if role in columns]
    ids = distinct(*inputs)
    if "group" in columns:
        arm = np.unique(columns["group"], return_inverse=True)[1].ravel()
        ids = np.unique(ids * (int(arm.max()) + 1) + arm, return_inverse=True)[1].ravel()
    num, cells = len(ids), int(ids.max()) + 1
    free_pure, free_lack = num - cells, cells - fitted.point.num_params
    if free_pure < 2 or free_lack < 1:
        why = "no repeated runs" if free_pure < 2 else "as many parameters as different runs"
        return Check(name="lack_of_fit", passed=None, text=f"not done: {why}"), ()
    r = fitted.residuals
    mean = np.bincount(ids, r) / np.bincount(ids)
    pure = float(((r - mean[ids]) ** 2).sum())
    lack = float((mean[ids] ** 2).sum())
    if pure <= 0:
        return Check(name="lack_of_fit", passed=None, text="not done: repeated runs are equal"), ()
    ratio = (lack / free_lack) / (pure / free_pure)
    p = float(stats.f.sf(ratio, free_lack, free_pure))
    passed = p >= LACK_LEVEL
    text = (
        f"repeated runs scatter by {np.sqrt(pure / free_pure):.4f} (log), their means miss the law "
        f"by {np.sqrt(lack / free_lack):.4f}: F = {ratio:.2f}, p = {p:.2g}"
    )
    found = () if passed else (notice("W-LACK-OF-FIT", text),)
    values: dict[str, float | None] = {
        "f": ratio,
        "p": p,
        "pure_error": float(np.sqrt(pure / free_pure)),
    }
    return Check(name="lack_of_fit", passed=passed, text=text, values=values), found


def influence(fitted: Fitted) -> tuple[Check, tuple[Notice, ...]]:
    """Which run carries most of a parameter's jackknife variance (each run left out once)."""
    data, law = fitted.data, fitted.law
    runs = clusters(data, "run")
    if runs.num < 8:
        return Check(name="influence", passed=None, text=f"not done: {runs.num} runs"), ()
    shift: dict[str, np.ndarray]
    if isinstance(law, CurveLaw) and data.num_rows > EXACT_REFITS:
        shift = _one_step_shifts(fitted, runs.ids_n, runs.num)
    else:
        kept = np.ones((runs.num, data.num_rows))
        kept[runs.ids_n, np.arange(data.num_rows)] = 0.0
        can = law.enough(data, kept)
        again = law.solve(
            data, fitted.log_y, kept[can], loss=fitted.loss, delta=fitted.delta, start=fitted.point
        )
        shift = {}
        for name, refitted in again.params.items():
            moved = np.full(runs.num, np.nan)
            moved[can] = refitted - fitted.point.params[name][0]
            shift[name] = moved
    # Amplitudes follow their exponents and are huge; only what is not one of them is judged.
    shift = {name: moved for name, moved in shift.items() if not law.is_amplitude(name)}
    worst, share, run = "", 0.0, -1
    for name, moved in shift.items():
        square = np.where(np.isfinite(moved), moved, 0.0) ** 2
        scale = abs(float(fitted.point.params[name][0])) + 1e-300
        if square.sum() <= (1e-9 * scale) ** 2:
            continue
        if square.max() / square.sum() > share:
            worst, share, run = name, float(square.max() / square.sum()), int(square.argmax())
    if not worst:
        return Check(name="influence", passed=True, text="no run moves any parameter"), ()
    label = data.run_ids[int(np.flatnonzero(runs.ids_n == run)[0])]
    moved_by = float(shift[worst][run])
    passed = share <= INFLUENCE_SHARE
    text = (
        f"without {label}, {worst} moves by {moved_by:+.3g}: {share:.0%} of its jackknife variance"
    )
    found = () if passed else (notice("W-INFLUENCE", text),)
    return Check(
        name="influence", passed=passed, text=text, values={"share": share, "shift": moved_by}
    ), found


def _one_step_shifts(fitted: Fitted, ids_n: np.ndarray, num: int) -> dict[str, np.ndarray]:
    """The shifts of leaving each run out, by one Newton step, a batch of runs at a time."""
    assert isinstance(fitted.law, CurveLaw)
    parts: list[dict[str, np.ndarray]] = []
    size = max(1, 2_000_000 // fitted.data.num_rows)
    for at in range(0, num, size):
        runs = np.arange(at, min(num, at + size))
        kept = np.where(ids_n[None, :] == runs[:, None], 0.0, 1.0)
        parts.append(
            fitted.law.one_step(
                fitted.data,
                fitted.log_y,
                kept,
                fitted.point,
                loss=fitted.loss,
                delta=fitted.delta,
            )
        )
    return {
        name: np.concatenate([one[name] for one in parts]) - fitted.point.params[name][0]
        for name in fitted.point.params
    }


def span(fitted: Fitted) -> tuple[Check, tuple[Notice, ...]]:
    """Whether the data span enough compute for the exponent, and for the floor if there is one."""
    if not fitted.law.x_is_compute:
        return Check(name="range", passed=None, text="not done: x is no compute"), ()
    axis = compute(fitted.law, fitted.data.columns)
    decades = float(np.ptp(np.log10(axis)))
    num_budgets = int(budgets(axis).max()) + 1
    params = fitted.point.params
    floor = "E" in params and fitted.point.theta_BP.shape[1] == len(params)
    least = FLOOR_DECADES if floor else LEAST_DECADES
    passed = decades >= least and (not floor or num_budgets >= FLOOR_BUDGETS)
    text = f"{num_budgets} budgets over {decades:.2f} decades"
    if not passed:
        ask = f"{FLOOR_BUDGETS} budgets over {least:g} decades" if floor else f"{least:g} decade"
        text += f"; {'a free floor' if floor else 'an exponent'} needs {ask}"
        text += "; give the floor as a number instead" if floor else ""
    found = () if passed else (notice("W-RANGE", text),)
    values: dict[str, float | None] = {"decades": decades, "budgets": float(num_budgets)}
    return Check(name="range", passed=passed, text=text, values=values), found


def minimum(fitted: Fitted) -> tuple[Check, tuple[Notice, ...]]:
    """Whether the objective is at a minimum: the step left, the starts, the edges of the box."""
    point = fitted.point
    left = float(point.decrement_B[0])
    agree = 1.0 if point.agree is None else point.agree
    found = []
    # L1 ends in linear programs, not at a zero gradient.
    if fitted.loss != "l1" and left > MAX_DECREMENT:
        found.append(notice("W-GRADIENT", f"a further step promises {left:.2g} of the objective"))
    if agree < 0.5:
        found.append(notice("W-STARTS", f"{agree:.0%} of the starts end in the best minimum"))
    if point.at_bound:
        found.append(
            notice("W-BOUND", f"{', '.join(point.at_bound)} ended on the edge of the search box")
        )
    text = f"a further step promises {left:.1g} of the objective; {agree:.0%} of the starts agree"
    return (
        Check(
            name="minimum",
            passed=not found,
            text=text,
            values={"decrement": left, "starts_agreeing": agree},
        ),
        tuple(found),
    )


def knee(fitted: Fitted) -> tuple[Notice, ...]:
    """A warning where the Huber knee is so low that the fit is L1 in effect."""
    size = scatter(fitted.residuals)
    if fitted.loss != "huber" or fitted.delta >= 0.1 * size:
        return ()
    text = (
        f"delta {fitted.delta:g} is {fitted.delta / size:.2g} of the residuals' scatter {size:.4f}"
    )
    return (notice("W-DELTA", text),)


CHECKS: Final = {
    "minimum": minimum,
    "range": span,
    "hold_out": hold_out,
    "lack_of_fit": lack_of_fit,
    "influence": influence,
}


def run(fitted: Fitted, names: Iterable[str] = tuple(CHECKS)) -> tuple[list[Check], list[Notice]]:
    """The named checks of a fit and the warnings they raise."""
    done, found = [], list(knee(fitted))
    for name in names:
        check, warnings = CHECKS[name](fitted)
        done.append(check)
        found += warnings
    return done, found
