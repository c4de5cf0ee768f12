"""Read the cells of a table as numbers, and name its rows for people."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .notices import Notice, notice
from .quantities import Unclear, numbers


def with_numbers(
    frame: pd.DataFrame, roles: Mapping[str, str]
) -> tuple[pd.DataFrame, list[Notice]]:
    """Return the table with its texts such as "4B" as numbers, and a note of how they were read.

    A column with a value that is unclear stays: the filters may remove that row.
    """
    read: dict[str, np.ndarray] = {}
    told = []
    for role, name in roles.items():
        if role == "group" or frame[name].dtype.kind in "fiu" or not len(frame):
            continue
        try:
            read[name] = numeric_column(frame, name, role)
        except ValueError:
            continue
        plain = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        other = np.flatnonzero(np.isnan(plain) & ~np.isnan(read[name]))
        if len(other):
            text = str(frame[name].iloc[other[0]])
            told.append(
                notice("W-UNITS", f"column {name!r}: {text!r} is read as {read[name][other[0]]:g}")
            )
    return frame.assign(**read), told


def numeric_column(frame: pd.DataFrame, name: str, role: str) -> np.ndarray:
    """Return the column as floats; ValueError names column, row and value of what is unclear."""
    try:
        return numbers(
            frame[name],
            counts=role in ("n", "d"),
            commas_group=bool(frame.attrs.get("commas_group")),
        )
    except Unclear as error:
        raise ValueError(
            f"--{role}: column {name!r} holds {str(error.value)!r} in "
            f"{place(frame, error.place)}, which {error.reason}"
        ) from error


def row_names(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the run id of each row, its line in the file, or its number in the table from 1."""
    if "run_id" in frame.columns:
        return tuple(frame["run_id"].astype(str).tolist())
    return tuple(place(frame, at) for at in range(len(frame)))


def place(frame: pd.DataFrame, at: int) -> str:
    """Return the line of a row in its file, or its number from 1, and its run."""
    if "columns" in frame.attrs:  # sorted for figures: a row is known by its run alone
        return str(frame["run_id"].iloc[at])
    name = f"{frame.index.name} {frame.index[at]}"
    return f"{name} (run {frame['run_id'].iloc[at]})" if "run_id" in frame.columns else name
