"""Fits one law to a table: point fit, draws, the other objectives beside it, the checks, one frozen result."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .result import Fit


def fit(
    frame: pd.DataFrame,
    law: str,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    where: str | None = None,
    bootstrap: int = 1000,
    by: str = "auto",
    loss: str = "huber",
    delta: float = 1e-3,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    checks: bool = True,
) -> Fit:
    """The law `law` (a file of analysis/fits) fitted to `frame`; one row of it is one run's end point.

    `x`, `y`, `n`, `d` are column names (FLOPs, metric, parameters, tokens); left out, the known names of the study
    table are looked for. `options` are the fields of the law's Config. Degenerate data end in a `status` other than
    "ok" and no numbers; a wrong request (unknown column, negative FLOPs, duplicate keys) is a ValueError.
    """
    raise NotImplementedError


def fit_groups(frame: pd.DataFrame, law: str, *, group: str, **keywords: Any) -> dict[str, Fit]:
    """One `fit` for each value of the column `group`, in sorted order."""
    raise NotImplementedError
