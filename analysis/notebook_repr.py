"""The short form of results: one screen in a notebook or a debugger, whatever a result holds."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import terminal_text as report_text

if TYPE_CHECKING:
    from .fitting.fitted import Fit, Fits, Prediction
    from .result import Comparison, Frontier

LIMIT = 1500  # characters
LINES = 12  # parameters, arms or points that are listed


class _Sizes(reprlib.Repr):
    """Values of fields: arrays and tables by their size, the first few entries of all others."""

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = self.maxset = self.maxfrozenset = 3
        self.maxdict, self.maxstring, self.maxother = 6, 80, 120

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, np.ndarray):
            return f"<{' x '.join(map(str, x.shape))} {x.dtype}>"
        if isinstance(x, pd.DataFrame | pd.Series | pd.Index):
            return f"<{' x '.join(map(str, x.shape))} table>"
        if isinstance(x, Mapping):
            return self.repr_dict(dict(x), level)
        if isinstance(x, float | np.floating):
            return f"{x:.6g}"
        # Several lines of another result would tear this one apart.
        return " ".join(super().repr1(x, level).split())


class Brief:
    """A result that is shown on one screen; its dataclass is declared with `repr=False`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return short(self._brief())

    def _brief(self) -> str:
        sizes = _Sizes()
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = [f"{one.name}={sizes.repr(getattr(self, one.name))}" for one in fields]
        return f"{type(self).__name__}({', '.join(shown)})"


def fit(one: Fit) -> str:
    """Return the law, its parameters with intervals, the rows and the warnings of a fit."""
    group = "" if one.group is None else f", {one.group}"
    head = f"Fit: {one.law}{group}: "
    if one.status != "ok":
        return f"{head}{one.status}: {one.reason}"
    lines = [f"{head}{one.n} rows ({one.n_left_out} left out), {one.loss} objective"]
    lines += _listed(report_text.numbers({**one.params, **one.derived}, one.ci95, one.at_bound))
    return "\n".join([*lines, *_ends(one.bootstrap, one.warnings)])


def fits(groups: Fits) -> str:
    """Return one line for each group of a table."""
    lines = [f"Fits by {groups.group}, {len(groups)} groups:"]
    return "\n".join([*lines, *_listed(f"  {name}: {_line(one)}" for name, one in groups.items())])


def frontier(one: Frontier) -> str:
    """Return the points and the laws of an arm."""
    lines = [f"Frontier: {one.arm}: {_points(one)}"]
    return "\n".join(
        [*lines, *_listed(f"  {form}: {_line(law)}" for form, law in one.fits.items())]
    )


def comparison(one: Comparison) -> str:
    """Return what is compared, the frontier of each arm and the warnings."""
    lines = [
        f"Comparison: {one.y} ({one.direction} is better) against {one.x}: {one.n} rows "
        f"({one.n_left_out} left out)"
    ]
    arms = one.frontiers.items()
    lines += _listed(f"  {arm}: {_points(front)}" for arm, front in arms)
    if one.reference is not None:
        num_crossed = sum(crossing.x is not None for crossing in one.crossovers)
        lines.append(
            f"  crossovers: {num_crossed} of {len(one.crossovers)} searched; "
            f"gains over {one.reference}: {len(one.gains)}"
        )
    return "\n".join([*lines, *_ends(one.bootstrap, one.warnings)])


def prediction(one: Prediction) -> str:
    """Return the predicted values with their intervals."""
    lines = [f"Prediction of {len(one.y)} points (95% of the law; 95% of a new run)"]
    columns = (one.y, one.low, one.high, one.low_new, one.high_new)
    rows = list(zip(*(values[: LINES + 1].tolist() for values in columns), strict=True))
    shown = [
        f"  {y:.4g}  {report_text.interval(ends[:2])}; {report_text.interval(ends[2:])}"
        for y, *ends in rows
    ]
    return "\n".join([*lines, *_listed(shown, len(one.y))])


def _line(one: Fit) -> str:
    """Return the parameters of a fit in one line."""
    if one.status != "ok":
        return f"{one.status}: {one.reason}"
    values = []
    for name, value in list(one.params.items())[:6]:
        ends = f" {report_text.interval(one.ci95[name])}" if name in one.ci95 else ""
        values.append(f"{name} {value:.4g}{ends}")
    more = ", ..." if len(one.params) > len(values) else ""
    return f"{one.law}, {one.n} rows: {', '.join(values)}{more}"


def _points(one: Frontier) -> str:
    status = "" if one.points.status == "ok" else f": {one.points.status}"
    return f"{len(one.points.x)} points of {one.n} runs on the {one.envelope} envelope{status}"


def _ends(bootstrap: Any, warnings: Sequence[Any]) -> list[str]:
    codes = dict.fromkeys(one.code for one in warnings)  # each once, in order
    made = f"  intervals: 95%, {bootstrap.draws} draws by {bootstrap.by}" if bootstrap else ""
    warned = f"  warnings: {', '.join(codes)}" if codes else ""
    return [line for line in (made, warned) if line]


def _listed(lines: Iterable[str], total: int | None = None) -> list[str]:
    """Return the first lines, each of bounded length, and the number of all if there are more."""
    lines = list(lines)
    total = len(lines) if total is None else total
    shown = [line if len(line) <= 110 else f"{line[:106]} ..." for line in lines[:LINES]]
    return shown if total <= LINES else [*shown, f"  ... {total} in all"]


def short(text: str) -> str:
    """Return a text of at most `LIMIT` characters."""
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 4]} ..."
