"""Frontiers: the Pareto set, the envelopes under one name space, and their laws with the selection redone per draw."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .result import Comparison

ENVELOPES = ("pareto", "binned", "hull", "isoflop", "model")


def pareto(x: np.ndarray, y: np.ndarray, *, direction: str = "lower") -> np.ndarray:
    """The row numbers of the Pareto set, x ascending: no other run has x <= and a better y.

    Ties: of runs with equal x and y the first row stays; of equal x only the best y; of equal y only the lowest x.
    A row with a NaN or infinite x or y is never in the set. `direction` says whether "lower" or "higher" y is better.
    """
    raise NotImplementedError


def compare(
    frame: pd.DataFrame,
    *,
    x: str | None = None,
    y: str | None = None,
    n: str | None = None,
    d: str | None = None,
    group: str | None = None,
    where: str | None = None,
    direction: str | None = None,
    envelope: str = "pareto",
    reference: str | None = None,
    bootstrap: int = 1000,
    by: str = "auto",
    loss: str = "l2",
    delta: float = 1e-3,
    seed: int = 0,
) -> Comparison:
    """Frontiers of every arm (column `group`), their crossovers and gains, straight and with a floor.

    `direction` None: "lower", but "higher" for psnr, ssim, inception_score and the like. `reference` None: the arm
    named vq or baseline if there is one, else the first in sorted order.
    """
    raise NotImplementedError
