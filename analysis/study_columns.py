"""Bring a table with columns of any names to the study table, for the figures and the report.

The columns asked for by `--x --y --n --d --group`, and those found by their usual names, are those
that `fit` and `frontier` take. The table notes in `attrs["columns"]` how it calls each of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from .direction import resolve
from .quantities import Unclear, numbers
from .request import Request
from .row_filter import keep
from .table import POOLED, NoRows, column_for, counted, states, status_column
from .table_values import numeric_column, row_names

# Role -> its column of the study table.
STUDY: Final = {"x": "flops_train", "y": "val_loss", "n": "params", "d": "tokens_train"}
# Columns that no table but ours has together.
OURS: Final = frozenset({"study", "run_id", "attempts"})
DERIVED: Final = "6 N D"  # FLOPs that follow from parameters and tokens


def study_table(frame: pd.DataFrame, asked: Request | None = None) -> pd.DataFrame:
    """Return the table with the columns that figures need, beside its own.

    Those are `run_id` (else each row's line or number), `arm` (else `all`), `status` in our words,
    `params` and `tokens_train`. A table that went through before stays as it is. Raises ValueError
    for a column that is not there, or whose values are no numbers.
    """
    if asked is None and "columns" in frame.attrs:
        return frame
    asked = asked or Request()
    ours = frame.columns.is_unique and set(frame.columns) >= OURS
    attrs = dict(frame.attrs)
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(f"table: column {str(twice)!r} appears twice")
    frame = counted(frame)
    if asked.where is not None:
        frame = frame[keep(frame, asked.where)]
        if not len(frame):
            raise NoRows(f"table: no row is left after the filters (where: {asked.where})")
    columns: dict[str, str] = {}
    for role, name in STUDY.items():
        column = column_for(frame, role, getattr(asked, role))
        if column is None:
            continue
        columns[name] = column
        if frame[column].dtype.kind not in "fiu" and getattr(asked, role) is not None:
            frame = frame.assign(**{column: numeric_column(frame, column, role)})
        elif frame[column].dtype.kind not in "fiu":
            frame = with_numbers(frame, (column,))
        if role in ("n", "d") and column != name:
            frame = frame.assign(**{name: frame[column]})
    if "flops_train" not in columns and {"params", "tokens_train"} <= set(columns) and not ours:
        product = 6.0 * frame["params"].astype(float) * frame["tokens_train"].astype(float)
        frame = frame.assign(**{DERIVED: product})
        columns["flops_train"] = DERIVED
    frame = _with_arms(frame, asked.group)
    ended = status_column(frame)
    if ended is not None:
        frame = frame.assign(status=states(frame[ended]))
    named = "run_id" in frame.columns
    if not named:
        frame = frame.assign(run_id=row_names(frame))
    frame = frame.copy(deep=False)
    frame.attrs = attrs | {"columns": columns, "ours": ours, "runs": named, "where": asked.where}
    if asked.direction is not None and "val_loss" in columns:
        metric = columns["val_loss"]
        better = resolve(metric, None, asked.direction).better
        frame.attrs["better"] = attrs.get("better", {}) | {metric: better}
    return frame


def named(frame: pd.DataFrame, column: str) -> str:
    """Return the table's own name of a column of the study table."""
    return str(frame.attrs.get("columns", {}).get(column, column))


def with_numbers(frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return the table with the texts of `columns` as numbers where all of them are clear."""
    read: dict[str, np.ndarray] = {}
    for column in columns:
        if column in frame.columns and frame[column].dtype.kind not in "fiub":
            try:
                read[column] = numbers(frame[column], counts=True)
            except Unclear:
                continue  # it stays a text; the figure that needs its numbers says so
    return frame.assign(**read)


def _with_arms(frame: pd.DataFrame, group: str | None) -> pd.DataFrame:
    if group == POOLED:
        return frame.assign(arm="all")
    column = column_for(frame, "group", group)
    if column is None:
        return frame.assign(arm="all")
    return frame.assign(arm=frame[column].map(str, na_action="ignore"))
