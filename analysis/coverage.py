"""Coverage of the printed intervals, by simulation from a law and a study's own design.

Take the fitted parameters of a study and its columns, draw new runs with its noise, fit them as the
study was fitted, and count. An interval of 95% that covers 60% is worse than none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..trainer import parts
from .fitting.fit import fit_data, law_named
from .request import FitRequest
from .table import prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Result of the simulation at one point."""

    share: float  # of the trials whose 95% interval of the law holds the truth
    trials: int  # with an interval
    without: int  # trials that ended without one
    width: float  # median width of the interval, in logs
    bias: float  # mean of log(predicted / true)


def coverage(
    law: str | FitRequest,
    params: Mapping[str, float],
    columns: Mapping[str, Any],
    at: Mapping[str, float],
    *,
    noise: float,
    trials: int = 200,
) -> Coverage:
    """Simulate the coverage of the law's interval at the point `at` (role -> value).

    `columns` (role -> values) is the design, `params` the truth, `noise` the standard deviation of
    log y from run to run. A law's name stands for 200 draws by residual and least squares.
    """
    if isinstance(law, FitRequest):
        request = dataclasses.replace(law, with_checks=False)
    else:
        request = FitRequest(law=law, bootstrap=200, by="residual", loss="l2", with_checks=False)
    made = law_named(request.law, request.options)
    arrays = {name: np.array([value]) for name, value in params.items()}
    design = {role: np.asarray(values) for role, values in columns.items()}
    truth = made.curve(arrays, design)[0]
    point = {role: np.array([value]) for role, value in at.items()}
    target = float(np.log(made.curve(arrays, point)[0, 0]))
    rng = np.random.default_rng(request.seed)
    held, without, widths, errors = 0, 0, [], []
    for trial in range(trials):
        frame = pd.DataFrame({**design, "y": truth * np.exp(rng.normal(0.0, noise, len(truth)))})
        data = prepare(
            frame, {role: role for role in frame}, parts.load("laws", request.law).REQUIRES
        )
        fitted = fit_data(data, made, dataclasses.replace(request, seed=trial))
        if not len(fitted.draws):
            without += 1
            continue
        found = fitted.predict(point)
        held += bool(np.log(found.low[0]) <= target <= np.log(found.high[0]))
        widths.append(float(np.log(found.high[0] / found.low[0])))
        errors.append(float(np.log(found.y[0])) - target)
    num = trials - without
    if not num:
        raise ValueError(f"coverage: no trial of {request.law} with this design gave an interval")
    return Coverage(
        share=held / num,
        trials=num,
        without=without,
        width=float(np.median(widths)),
        bias=float(np.mean(errors)),
    )
