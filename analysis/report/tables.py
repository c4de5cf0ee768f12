"""Tables of the report that answer to tables of the papers, with the published numbers beside."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..drawing import panels, style
from ..notebook_repr import Brief
from ..published import read
from .page import Html, number

QUALITIES = ("inception_score", "precision", "recall")  # what the papers print beside a gFID


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
    """Distance and quality of generated images by arm and generator size (CRT Table 2).

    A row is the arm's longest-trained finished run of that size, averaged over training seeds.
    """
    distance = _distance(df)
    if distance is None or "size" not in df.columns or df["size"].dropna().nunique() < 2:
        return None
    done = _finished(df, distance)
    if any(c in done.columns and done[c].nunique() > 1 for c in ("category", "dataset")):
        return None
    order = ["params"] if "params" in done.columns else ["size"]
    sizes = list(done.sort_values(order)["size"].drop_duplicates())
    columns = [distance.replace("g", "r", 1), distance, *_qualities(done, distance, QUALITIES)]
    rows = []
    for arm, size in itertools.product(style.arm_order(done["arm"]), sizes):
        mine = done[(done["arm"] == arm) & (done["size"] == size)]
        if len(mine):
            rows.append((arm, str(size), *[_longest(mine, column) for column in columns]))
    ours = len(rows)
    if distance == "gfid":
        rows += _published("crt_table2", columns)
    return Table(
        title="Generation by tokenizer and generator size (CRT Table 2)",
        heads=("arm", "size", *map(style.name_of, columns)),
        rows=tuple(rows),
        note=f"{panels.axis_name(done, distance)} of the longest-trained run of each size.",
        marked=tuple(range(ours, len(rows))),
    )


def by_dataset(df: pd.DataFrame) -> Table | None:
    """Distances and quality by data set and arm (CRT Table 3: LSUN, FID and CLIP-FID).

    The paper's rows of a category follow ours of the same name, where both are FID.
    """
    distance = _distance(df)
    # The LSUN categories are one data set each in the paper, an axis in a study.
    of = next((c for c in ("category", "dataset") if c in df.columns and df[c].nunique() > 1), None)
    if distance is None or of is None:
        return None
    done = _finished(df, distance)
    columns = [c for c in panels.DISTANCES if c in done.columns and done[c].notna().any()]
    columns = [distance.replace("g", "r", 1), *columns, *_qualities(done, distance, QUALITIES[1:])]
    keys = ["arm"] + (["size"] if "size" in done.columns else [])
    arms = style.arm_order(done["arm"])
    rows: list[tuple[Any, ...]] = []
    marked: list[int] = []
    for name, of_set in done.groupby(of, sort=True):
        groups = sorted(
            of_set.groupby(keys, sort=True, dropna=False),
            key=lambda group: (group[0][1:], arms.index(group[0][0])),
        )
        for key, mine in groups:
            rows.append((str(name), *map(str, key), *[_longest(mine, c) for c in columns]))
        if distance == "gfid":
            published = _published("crt_table3", columns, category=str(name))
            marked += range(len(rows), len(rows) + len(published))
            rows += [(str(name), *row[: len(keys)], *row[2:]) for row in published]
    return Table(
        title="Other data sets (CRT Table 3)",
        heads=("data set", *keys, *[style.name_of(column) for column in columns]),
        rows=tuple(rows),
        note="The longest-trained run of each kind; different networks share no scale.",
        marked=tuple(marked),
    )


def _qualities(done: pd.DataFrame, distance: str, names: Sequence[str]) -> list[str]:
    """List the columns of quality that runs have, or that stand in the papers beside a gFID."""
    return [c for c in names if distance == "gfid" or (c in done.columns and done[c].notna().any())]


def _published(table: str, columns: Sequence[str], **chosen: str) -> list[tuple[Any, ...]]:
    """Return the rows of a published table: arm, size, and its values of `columns`, or None."""
    rows = []
    for line in read(table).to_dict("records"):
        if all(line[name] == value for name, value in chosen.items()):
            values = [float(line[c]) if c in line else None for c in columns]
            rows.append((f"{line['tokenizer']} (CRT paper)", line["size"], *values))
    return rows


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
    runs = runs[runs[column].notna()] if column in runs.columns else runs[:0]
    if not len(runs):
        return None
    if "flops_train" in runs.columns and runs["flops_train"].notna().any():
        runs = runs[runs["flops_train"] >= 0.999 * runs["flops_train"].max()]
    value = float(runs[column].mean())
    spread = f"{column}_std"
    if spread in runs.columns and runs[spread].notna().any():
        return Html(f"{number(value, 3)} &plusmn; {number(float(runs[spread].mean()), 2)}")
    return number(value, 3)
