"""Requests: the columns and rows of a table, how they are fitted and how they are resampled.

The command line, the figures and the public functions build one. It is checked when it is made and
then passed down whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from .fitting.solve import LOSSES
from .frontiers.envelopes import BINS_PER_DECADE, ENVELOPES
from .notebook_repr import Brief

ROLES: Final = ("x", "y", "n", "d", "u", "v", "p", "budget", "group")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Columns and rows that every analysis of a table takes."""

    x: str | None = None  # column of FLOPs; None, here and below: the names of the study table
    y: str | None = None  # column of the metric
    n: str | None = None  # column of parameters
    d: str | None = None  # column of training tokens
    u: str | None = None  # column of unique training tokens
    v: str | None = None  # column of vocabulary size
    p: str | None = None  # column of parallel streams
    budget: str | None = None  # column of the budgets of compute, for isoflop
    group: str | None = None  # column of the arms
    where: str | None = None  # rows to keep, in the language of row_filter.py
    direction: str | None = None  # "lower" or "higher" is better; None: as direction.py finds it
    end_points: bool = True  # False keeps checkpoints
    bootstrap: int = 1000  # draws; 0: no intervals
    by: str = "auto"  # resampled: run, point, residual, a column; auto: residual for few runs
    loss: str = "huber"  # on log residuals
    delta: float = 1e-3  # where Huber's loss becomes linear
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"--loss: {self.loss!r} is not allowed; {', '.join(LOSSES)}")
        if not self.delta > 0:
            raise ValueError(f"--delta: {self.delta!r} is not allowed; a number > 0 (log units)")
        if self.bootstrap < 0:
            raise ValueError(f"--bootstrap: {self.bootstrap} is not allowed; 0 or more draws")

    @property
    def columns(self) -> dict[str, str | None]:
        """Return role -> the column asked for."""
        return {role: getattr(self, role) for role in ROLES}

    def on(self, columns: Mapping[str, str | None]) -> Self:
        """Return this request with those of the columns (and `where`) that are not None."""
        given: dict[str, Any] = {key: name for key, name in columns.items() if name is not None}
        return dataclasses.replace(self, **given)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FitRequest(Brief, Request):
    """One law through the rows, or through those of each group."""

    law: str = "power_law"  # a file of analysis/laws
    options: dict[str, Any] = field(default_factory=dict)  # fields of the law's Config
    with_checks: bool = True  # False: no checks, no other objectives beside

    @classmethod
    def of(cls, law: str | FitRequest) -> FitRequest:
        """Return the request for a law by its name; a request as it is."""
        return law if isinstance(law, FitRequest) else cls(law=law)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierRequest(Request):
    """The frontiers of all arms, their crossovers and gains; without `group` all rows are one."""

    loss: str = "l2"
    envelope: str = "pareto"
    reference: str | None = None  # the arm that gains are against; None: first of `arm_order`
    # Known standard deviation of log y from run to run (0.013 for FID between seeds): the residual
    # bootstrap then draws from it.
    noise: float | None = None
    # Runs whose compute differs by less than this share compete at equal compute.
    tolerance: float = 0.05
    bins: float = BINS_PER_DECADE  # of the binned envelope, in a decade of compute
    window: float = 2.0  # decades beyond the data of both arms in which a crossing is looked for

    def __post_init__(self) -> None:
        known = ", ".join(ENVELOPES)
        for name, least, unit in (
            ("tolerance", 0.0, "a share of compute from 0 to 1"),
            ("bins", 0.1, "a number of bins per decade, 0.1 to 1000"),
            ("window", 0.0, "decades, 0 to 20"),
        ):
            most = {"tolerance": 1.0, "bins": 1000.0, "window": 20.0}[name]
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"--{name}: {getattr(self, name)!r} is not allowed; {unit}")
        if self.envelope not in ENVELOPES:
            raise ValueError(f"--envelope: {self.envelope!r} is not known; known: {known}")
        Request.__post_init__(self)
        if self.noise is not None and not 0 < self.noise < math.inf:
            raise ValueError(
                f"--noise: {self.noise!r} is not allowed; a standard deviation of log y > 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportRequest:
    """Settings of a report page."""

    title: str | None = None  # None: the study's name
    only: Sequence[str] | None = None  # these figures and no others
    zoom: bool | None = None  # None: figures can be zoomed where plotly is installed
    bootstrap: int = 1000
    seed: int = 0
