"""Tables of the report that answer to tables of the papers, with the published numbers beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..drawing import panels, style
from ..notebook_repr import Brief
from ..published import read
from .page import Html, number


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Table(Brief):
    """A table ready for the page."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
    marked: tuple[int, ...] = ()  # shaded rows: published numbers


def all_tables(df: pd.DataFrame) -> list[Table]:
    """Those of the tables that the data allow."""
    found = [by_size(df), by_dataset(df)]
    return [one for one in found if one is not None]


def by_size(df: pd.DataFrame) -> Table | None:
    """Distance of generated images by arm and generator size (CRT Table 2).

    A cell is the arm's longest-trained finished run of that size, averaged over training seeds.
    """
    distance = _distance(df)
    if distance is None or "size" not in df.columns or df["size"].dropna().nunique() < 2:
        return None
    done = _finished(df, distance)
    if any(c in done.columns and done[c].nunique() > 1 for c in ("category", "dataset")):
        return None
    order = ["params"] if "params" in done.columns else ["size"]
    sizes = list(done.sort_values(order)["size"].drop_duplicates())
    reconstruction = distance.replace("g", "r", 1)
    rows = []
    for arm in style.arm_order(done["arm"]):
        mine = done[done["arm"] == arm]
        row: list[Any] = [arm, _mean(mine, reconstruction)]
        row += [_longest(mine[mine["size"] == size], distance) for size in sizes]
        rows.append(tuple(row))
    note = f"{panels.axis_name(done, distance)} of the longest-trained run of each size."
    marked: tuple[int, ...] = ()
    if distance == "gfid":
        published = read("crt_table2")
        names = [c.removeprefix("gfid_") for c in published.columns if c.startswith("gfid_")]
        sizes += [f"{name} (published)" for name in names]
        rows = [(*row, *[None] * len(names)) for row in rows]
        first = len(rows)
        for _, line in published.iterrows():
            blank = [None] * (len(sizes) - len(names))
            values = [float(line[f"gfid_{name}"]) for name in names]
            rows.append((f"{line['tokenizer']} (CRT paper)", float(line["rfid"]), *blank, *values))
        marked = tuple(range(first, len(rows)))
    return Table(
        title="Generation by tokenizer and generator size (CRT Table 2)",
        heads=("arm", style.name_of(reconstruction), *map(str, sizes)),
        rows=tuple(rows),
        note=note,
        marked=marked,
    )


def by_dataset(df: pd.DataFrame) -> Table | None:
    """Distances by data set and arm (CRT Table 3: LSUN, FID and CLIP-FID)."""
    distance = _distance(df)
    # The LSUN categories are one data set each in the paper, an axis in a study.
    of = next((c for c in ("category", "dataset") if c in df.columns and df[c].nunique() > 1), None)
    if distance is None or of is None:
        return None
    done = _finished(df, distance)
    columns = [c for c in panels.DISTANCES if c in done.columns and done[c].notna().any()]
    keys = [of, "arm"] + (["size"] if "size" in done.columns else [])
    rows = []
    for key, mine in done.groupby(keys, sort=True, dropna=False):
        rows.append((*map(str, key), *[_longest(mine, column) for column in columns]))
    arms = style.arm_order(done["arm"])
    rows.sort(key=lambda row: (row[0], row[2:3], arms.index(row[1])))
    return Table(
        title="Other data sets (CRT Table 3)",
        heads=("data set", *keys[1:], *[style.name_of(column) for column in columns]),
        rows=tuple(rows),
        note="The longest-trained run of each kind; different networks share no scale.",
    )


def _finished(df: pd.DataFrame, column: str) -> pd.DataFrame:
    done = df[df["status"].eq("done")] if "status" in df.columns else df
    return done[done[column].notna()]


def _distance(df: pd.DataFrame) -> str | None:
    for name in panels.DISTANCES:
        if name in df.columns and len(_finished(df, name)):
            return name
    return None


def _longest(runs: pd.DataFrame, column: str) -> Any:
    """The mean over training seeds of the longest-trained runs, with the spread over sample
    seeds.
    """
    runs = runs[runs[column].notna()]
    if not len(runs):
        return None
    if "flops_train" in runs.columns and runs["flops_train"].notna().any():
        runs = runs[runs["flops_train"] >= 0.999 * runs["flops_train"].max()]
    value = float(runs[column].mean())
    spread = f"{column}_std"
    if spread in runs.columns and runs[spread].notna().any():
        return Html(f"{number(value, 3)} &plusmn; {number(float(runs[spread].mean()), 2)}")
    return number(value, 3)


def _mean(runs: pd.DataFrame, column: str) -> float | None:
    values: Sequence[float] = runs[column].dropna() if column in runs.columns else []
    return float(sum(values) / len(values)) if len(values) else None
