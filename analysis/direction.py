"""The direction of a metric: whether a lower or a higher value is better, and who says so.

Asked in this order: the user (`--direction`); the table, to which results bring what their part
declared; the parts, by the metric's name; the words in the name, for tables from elsewhere. Else
"lower" is assumed, with a warning where the metric rises with compute.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from ..trainer.accounting.directions import DIRECTIONS, directions
from .metric_words import Reading, read_words
from .notices import notice
from .result import Comparison
from .table import Data

# What the wide table puts before a metric (results_db.columns.WIDE_PREFIXES; a test compares them).
SOURCE: Final = re.compile(r"(?:generator|tokenizer|codes)_(?:eval_)?")
# Endings of a column that is still the metric; a spread (_std) is not.
SAME_METRIC: Final = ("_mean", "_avg", "_median", "_best", "_last", "_final", "_ema", "_floor")
LONG_VALUE, LONG_METRIC, LONG_BETTER = "value", "metric", "better"  # columns of the long table
LEAST_ROWS: Final = 3  # of an arm, before its rise with compute means anything
ARMS_NAMED: Final = 3  # in a warning


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """The better direction of one column."""

    better: str  # "lower" or "higher"
    reason: str  # who says so, to stand in brackets
    assumed: bool = False  # nobody says so
    doubt: str = ""  # what speaks against it


def resolve(column: str, frame: pd.DataFrame | None = None, asked: str | None = None) -> Direction:
    """Return the direction of `column`; `frame` is its table, `asked` the user's word.

    Raises ValueError for a word other than lower and higher.
    """
    if asked is not None:
        return Direction(better=_checked("--direction", asked), reason="as asked")
    if frame is not None:
        told = frame.attrs.get("better", {}).get(column)
        if told is not None:
            return Direction(better=_checked(f"better of {column}", told), reason="by the table")
        if column == LONG_VALUE:
            found = _of_long_table(frame)
            if found is not None:
                return found
    words = read_words(column)
    for name in _names(column):
        if name not in directions():
            continue
        declared = directions()[name]
        if declared is None:
            doubt = f"{name} is declared as neither better lower nor higher; lower is taken"
            return Direction(better="lower", reason="assumed", assumed=True, doubt=doubt)
        doubt = ""
        if words is not None and words.better != declared:
            doubt = f"{column}: {declared} is better as the part declares it, not as its name reads"
        return Direction(better=declared, reason="declared by the part", doubt=doubt)
    if words is not None:
        return _by_words(column, words)
    return Direction(better="lower", reason="assumed", assumed=True)


def directed(
    data: Data, asked: str | None, *, x_is_compute: bool = True, falls: bool = False
) -> Data:
    """Return `data` with the direction of its metric, and a warning where that is a guess.

    `falls`: a law is meant that can only fall with compute.
    """
    column = data.roles["y"]
    found = resolve(column, data.frame, asked)
    texts = [found.doubt] if found.doubt else []
    rising = _rising(data) if found.assumed and x_is_compute else []
    if rising:
        shown = ", ".join(f"{rho:+.2f}{where}" for where, rho in rising[:ARMS_NAMED])
        more = f" and {len(rising) - ARMS_NAMED} more" if len(rising) > ARMS_NAMED else ""
        texts.append(
            f"lower is assumed to be better, but {column} rises with compute (rank correlation "
            f"{shown}{more}); --direction higher if more is better"
        )
    if falls and found.better == "higher":
        texts.append(f"{column} is better higher, but this law falls with compute; use power_law")
    return dataclasses.replace(
        data,
        direction=found.better,
        direction_reason=found.reason,
        notices=(*data.notices, *(notice("W-DIRECTION", text) for text in texts)),
    )


def signed(y: np.ndarray, direction: str) -> np.ndarray:
    """Return y so that less is better; ValueError on an unknown direction."""
    return y if _checked("direction", direction) == "lower" else -y


def best_row(values: pd.Series, direction: str) -> object:
    """Return the index label of the best of some finite values."""
    return values.idxmin() if _checked("direction", direction) == "lower" else values.idxmax()


def told(comparison: Comparison) -> list[str]:
    """Return what the note of a figure says of the direction: that higher is better, and doubts."""
    words = [f"of {comparison.y} more is better"] if comparison.direction == "higher" else []
    return words + [one.message for one in comparison.warnings if one.code == "W-DIRECTION"]


def _checked(field: str, text: object) -> str:
    if text not in DIRECTIONS:
        raise ValueError(f"{field}: {text!r} is not allowed; {' or '.join(DIRECTIONS)}")
    return str(text)


def _of_long_table(frame: pd.DataFrame) -> Direction | None:
    """Return the direction of the values of a long table, by its columns `better` and `metric`."""
    stated = frame[LONG_BETTER].dropna().unique().tolist() if LONG_BETTER in frame.columns else []
    metrics = frame[LONG_METRIC].dropna().unique().tolist() if LONG_METRIC in frame.columns else []
    found = {_checked("better", text): "by the table" for text in stated}
    if not found:
        each = [resolve(str(metric)) for metric in metrics]
        if len(each) == 1:
            return each[0]
        found = {one.better: one.reason for one in each}
    if len(found) > 1:
        listed = ", ".join(str(metric) for metric in metrics[:6])
        raise ValueError(
            f"--y: the rows hold metrics of both directions ({listed}); pick one with --where"
        )
    return next((Direction(better=key, reason=text) for key, text in found.items()), None)


def _names(column: str) -> list[str]:
    """Return the metrics that a column may be called after: as it is, without the wide table's
    prefixes, without an ending.
    """
    names = [column, column.lower()]
    for name in names:  # grows as it is read
        shorter = [SOURCE.sub("", name, count=1)] if SOURCE.match(name) else []
        shorter += [name.removesuffix(end) for end in SAME_METRIC if name.endswith(end)]
        names += [one for one in shorter if one and one not in names]
    return list(dict.fromkeys(names))


def _by_words(column: str, words: Reading) -> Direction:
    doubt = ""
    if words.against:
        both = f"{words.word!r} and {words.against!r}"
        doubt = f"{column}: {both} point in different directions; {words.better} is taken"
    return Direction(better=words.better, reason=f"by the word {words.word!r}", doubt=doubt)


def _rising(data: Data) -> list[tuple[str, float]]:
    """Return (` in ARM`, rank correlation of the metric with compute) of the arms where it rises.

    The strongest rise comes first.
    """
    columns = data.columns
    x = columns["x"] if "x" in columns else columns["n"] * columns["d"]
    group = columns.get("group")
    if group is None and "arm" in data.frame.columns:
        group = data.frame["arm"].astype(str).to_numpy(dtype=str)
    frame = pd.DataFrame({"x": x, "y": columns["y"], "group": "" if group is None else group})
    found = []
    for name, rows in frame.groupby("group", sort=True):
        varies = rows["x"].nunique() > 1 and rows["y"].nunique() > 1
        if len(rows) < LEAST_ROWS or not varies:
            continue
        rho = float(np.corrcoef(rows["x"].rank(), rows["y"].rank())[0, 1])
        if rho > 0:
            found.append((f" in {name}" if name else "", rho))
    return sorted(found, key=lambda one: -one[1])
