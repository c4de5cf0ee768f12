"""What `tokenlaw fit` and `tokenlaw frontier` do: a table and the flags in, a JSON-able dictionary and its text out."""

from __future__ import annotations

from typing import Any

import pandas as pd


def fit(
    frame: pd.DataFrame,
    *,
    law: str = "power_law",
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    where: str | None = None,
    group: str | None = None,
    bootstrap: int = 1000,
    by: str = "auto",
    loss: str = "huber",
    delta: float = 1e-3,
    seed: int = 0,
    floor: str | float | None = None,
    predict: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """The dictionary `tokenlaw fit --json` prints; ValueError (one line) on bad input."""
    raise NotImplementedError


def frontier(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    group: str | None = "arm",
    where: str | None = None,
    direction: str | None = None,
    envelope: str = "pareto",
    reference: str | None = None,
    bootstrap: int = 1000,
    by: str = "auto",
    loss: str = "l2",
    delta: float = 1e-3,
    seed: int = 0,
) -> dict[str, Any]:
    """The dictionary `tokenlaw frontier --json` prints; ValueError (one line) on bad input."""
    raise NotImplementedError


def render_text(answer: dict[str, Any]) -> str:
    """The same answer (of `fit` or `frontier`) as lines for a terminal, ending in the reporting checklist."""
    raise NotImplementedError
