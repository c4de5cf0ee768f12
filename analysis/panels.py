"""The tidy table behind a picture, and the panels that several figures share.

A figure is drawn from one table of everything it shows, and that table is the CSV beside the
picture. Its columns: `panel`; `layer` (the kind of mark: run, frontier, fit ...); `group` (which
line); `run_id`; `series` (runs joined by a thin line); `x`, `y`; `y_low`, `y_high` (an error bar or
a band); `text` (for hovering and for point labels).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style
from .frontier import compare
from .result import Comparison

COLUMNS = ("panel", "layer", "group", "run_id", "series", "x", "y", "y_low", "y_high", "text")

# Frechet distances with different networks share no axis, whatever their numbers look like.
DISTANCES = ("gfid", "gfcd", "gfid_clip")


def tidy(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table behind a picture, in the columns above (and any others the rows have)."""
    frame = pd.DataFrame(list(rows))
    extra = [column for column in frame.columns if column not in COLUMNS]
    return frame.reindex(columns=[*COLUMNS, *extra])


# ----------------------------------------------------------------------------- what a table allows


def need(df: pd.DataFrame, columns: Sequence[str], figure: str) -> pd.DataFrame:
    """The finished rows of `df` that have a number in every column of `columns`.

    Raises ValueError in one line: the columns that are missing or the column that is empty.
    """
    missing = [column for column in columns if column not in df.columns]
    if missing:
        raise ValueError(f"{figure}: the table has no column {', '.join(missing)}")
    if not len(df):
        raise ValueError(f"{figure}: the table has no rows")
    kept = df[df["status"].eq("done")] if "status" in df.columns else df
    if not len(kept):
        raise ValueError(f"{figure}: no row has status done")
    for column in columns:
        kept = kept[kept[column].notna()]
        if not len(kept):
            raise ValueError(f"{figure}: column {column} is empty for the finished rows")
    return kept


def distance_column(df: pd.DataFrame, figure: str, wanted: str | None = None) -> str:
    """The one distance of generated images to plot: gfid where there is one, else gfcd.

    Raises ValueError when there is none, or when two networks made the values of one column.
    """
    if wanted is not None:
        chosen = wanted
    else:
        found = [c for c in DISTANCES if c in df.columns and df[c].notna().any()]
        if not found:
            raise ValueError(
                f"{figure}: the table has no distance of generated images ({', '.join(DISTANCES)})"
            )
        chosen = found[0]
    made_by = f"{chosen}_extractor"
    if made_by in df.columns and chosen in df.columns:
        networks = sorted(df.loc[df[chosen].notna(), made_by].dropna().unique())
        if len(networks) > 1:
            raise ValueError(
                f"{figure}: {chosen} was made with several networks ({', '.join(networks)}); "
                "choose one"
            )
    return chosen


def loss_column(df: pd.DataFrame, figure: str, wanted: str | None = None, arm: str = "arm") -> str:
    """`val_loss` where losses per token may be compared, else `val_bits_per_image`.

    A loss per token depends on the codebook size and on the number of tokens per image, so arms
    that differ in either are compared per image. Raises ValueError when the user insists on the
    former.
    """
    mixed = [
        column
        for column in ("codebook_size", "tokens_per_image")
        if column in df.columns and df[column].dropna().nunique() > 1
    ]
    if wanted is None:
        return "val_bits_per_image" if mixed else "val_loss"
    if wanted == "val_loss" and mixed and (arm not in df.columns or df[arm].nunique() > 1):
        raise ValueError(
            f"{figure}: val_loss of arms that differ in {mixed[0]} shares no axis; "
            "use val_bits_per_image"
        )
    return wanted


def axis_name(df: pd.DataFrame, column: str) -> str:
    """Label of a column; a distance by a network of our own carries the network's name."""
    text = style.name_of(column)
    name = f"{column}_extractor"
    if name in df.columns and df[name].dropna().nunique() == 1:
        return f"{text} ({df[name].dropna().iloc[0]})"
    return text


def axes(
    df: pd.DataFrame, columns: dict[str, tuple[str, str]], scales: tuple[str, str] = ("log", "log")
) -> dict[str, tuple[str, str, str, str]]:
    """Panel -> (label of x, label of y, scale of x, scale of y): what a tidy table says of
    itself.
    """
    return {
        panel: (axis_name(df, x), axis_name(df, y), *scales) for panel, (x, y) in columns.items()
    }


def point_text(row: pd.Series) -> str:
    """How a run is called beside its point: size and iterations where known, else the start of its
    id.
    """
    words = []
    if isinstance(row.get("size"), str):
        words.append(row["size"])
    elif _known(row.get("params")):
        words.append(style.count(float(row["params"])))
    if _known(row.get("iterations")):
        words.append(style.count(float(row["iterations"])))
    return " ".join(words) or str(row.get("run_id", ""))[:6]


def _known(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


# ----------------------------------------------------------------------------- runs, frontier, fit


def scaling_rows(
    df: pd.DataFrame,
    x: str,
    y: str,
    *,
    group: str = "arm",
    panel: str = "",
    forms: Sequence[str] = ("straight",),
    bootstrap: int = 1000,
    seed: int = 0,
    reference: str | None = None,
) -> tuple[list[dict[str, Any]], Comparison]:
    """Rows of a metric against FLOPs: runs with error bars, frontiers, fits with their bands; and
    the comparison.
    """
    comparison = compared(
        df, x=x, y=y, group=group, reference=reference, bootstrap=bootstrap, seed=seed
    )
    runs = df[df["status"].eq("done")] if "status" in df.columns else df
    rows = run_rows(runs, x, y, group=group, panel=panel)
    for arm in style.arm_order(comparison.frontiers):
        one = comparison.frontiers[arm]
        ids = one.points.run_ids or ("",) * len(one.points.x)
        for px, py, identity in zip(one.points.x, one.points.y, ids, strict=True):
            rows.append(
                {
                    "panel": panel,
                    "layer": "frontier",
                    "group": arm,
                    "run_id": identity,
                    "x": px,
                    "y": py,
                }
            )
        for form in forms:
            if one.fits[form].status != "ok":
                continue
            for index, gx in enumerate(one.grid):
                rows.append(
                    {
                        "panel": panel,
                        "layer": f"fit {form}",
                        "group": arm,
                        "x": gx,
                        "y": one.curve[form][index],
                        "y_low": one.low[form][index] if form in one.low else None,
                        "y_high": one.high[form][index] if form in one.high else None,
                    }
                )
    return rows, comparison


_COMPARISONS: dict[str, Comparison] = {}


def compared(df: pd.DataFrame, **request: Any) -> Comparison:
    """`frontier.compare`, remembered: several figures and the report ask for the same one."""
    rows = pd.util.hash_pandas_object(df.astype(str), index=False).to_numpy()
    table = hashlib.sha256(rows.tobytes()).hexdigest()
    key = f"{table} {list(df.columns)} {sorted(request.items())}"
    if key not in _COMPARISONS:
        if len(_COMPARISONS) >= 32:
            _COMPARISONS.pop(next(iter(_COMPARISONS)))
        _COMPARISONS[key] = compare(df, **request)
    return _COMPARISONS[key]


def run_rows(
    runs: pd.DataFrame,
    x: str,
    y: str,
    *,
    group: str | None = "arm",
    panel: str = "",
    joined_by: str = "params",
) -> list[dict[str, Any]]:
    """One row per run with a number in `x` and `y`; the spread over sample seeds is the error
    bar.
    """
    rows = []
    spread = f"{y}_std"
    usable = runs[runs[x].notna() & runs[y].notna()]
    for _, run in usable.iterrows():
        half = float(run[spread]) if spread in usable.columns and pd.notna(run[spread]) else None
        series = [str(run[c]) for c in (joined_by, "train_seed") if c in usable.columns]
        rows.append(
            {
                "panel": panel,
                "layer": "run",
                "group": str(run[group]) if group else "",
                "run_id": str(run.get("run_id", "")),
                "series": "/".join(series),
                "x": float(run[x]),
                "y": float(run[y]),
                "y_low": float(run[y]) - half if half is not None else None,
                "y_high": float(run[y]) + half if half is not None else None,
                "text": point_text(run),
            }
        )
    return sorted(rows, key=lambda row: (row["group"], row["series"], row["x"], row["run_id"]))


def draw_scaling(
    ax: Axes,
    table: pd.DataFrame,
    looks: dict[Any, style.Look],
    *,
    panel: str = "",
    join: bool = True,
) -> None:
    """Draws the rows of `scaling_rows` on one axis; log axes are set."""
    part = table[table["panel"] == panel]
    for key, look in looks.items():
        mine = part[part["group"] == str(key)]
        for layer in sorted(set(mine["layer"])):
            if layer.startswith("fit "):
                _draw_fit(
                    ax,
                    mine[mine["layer"] == layer].sort_values("x"),
                    look,
                    layer.removeprefix("fit "),
                )
        draw_runs(ax, mine[mine["layer"] == "run"], look, join=join)
        front = mine[mine["layer"] == "frontier"].sort_values("x")
        ax.plot(
            front["x"],
            front["y"],
            look.marker,
            color=look.color,
            ms=3.8,
            mec="white",
            mew=0.4,
            ls="",
            zorder=5,
        )
    style.log_axis(ax, "x")
    style.log_axis(ax, "y")


def draw_labels(
    ax: Axes, table: pd.DataFrame, looks: dict[Any, style.Look], panel: str = ""
) -> None:
    """The name of every run of a panel beside its point; to be called last."""
    runs = table[(table["panel"] == panel) & (table["layer"] == "run")]
    colors = {str(key): look.color for key, look in looks.items()}
    style.label_points(
        ax,
        runs["x"].tolist(),
        runs["y"].tolist(),
        runs["text"].tolist(),
        [colors[g] for g in runs["group"]],
    )


def draw_runs(ax: Axes, runs: pd.DataFrame, look: style.Look, *, join: bool = False) -> None:
    """Runs as points with their error bars; `join` links the runs of one model by a thin line."""
    if not len(runs):
        return
    many = len(runs) > 2000
    if join and not many:
        for _, one in runs.groupby("series", sort=True):
            ordered = one.sort_values("x")
            ax.plot(ordered["x"], ordered["y"], color=look.color, lw=0.4, alpha=0.4, zorder=2)
    bars = runs[runs["y_low"].notna() & runs["y_high"].notna()]
    if len(bars):
        low = (bars["y"] - bars["y_low"]).astype(float).clip(lower=0)
        high = (bars["y_high"] - bars["y"]).astype(float).clip(lower=0)
        ax.errorbar(
            bars["x"],
            bars["y"],
            yerr=[low, high],
            fmt="none",
            ecolor=look.color,
            elinewidth=0.6,
            capsize=1.2,
            capthick=0.5,
            alpha=0.7,
            zorder=3,
        )
    ax.plot(
        runs["x"],
        runs["y"],
        look.marker,
        color=look.color,
        ms=1.2 if many else 2.6,
        mew=0,
        ls="",
        alpha=0.4,
        zorder=4,
        rasterized=many,
    )


def _draw_fit(ax: Axes, fit: pd.DataFrame, look: style.Look, form: str) -> None:
    first = form == "straight"
    ax.plot(
        fit["x"],
        fit["y"].astype(float),
        color=look.color,
        lw=1.1,
        ls="-" if first else ":",
        zorder=3,
    )
    band = fit[fit["y_low"].notna() & fit["y_high"].notna()]
    if len(band) and first:
        low = band["y_low"].astype(float).clip(lower=1e-12)
        ax.fill_between(
            band["x"],
            low,
            band["y_high"].astype(float),
            color=look.color,
            alpha=0.15,
            lw=0,
            zorder=1,
        )


def scaling_keys(table: pd.DataFrame) -> list[tuple[Any, str]]:
    """Legend entries for the kinds of mark that are in the table."""
    layers = set(table["layer"])
    keys: list[tuple[Any, str]] = []
    if "frontier" in layers:
        keys.append((style.point_key("o"), "on the frontier"))
        keys.append((style.point_key("o", faint=True), "other run"))
    if "fit straight" in layers:
        keys.append((style.line_key("-", 1.1), "power law"))
        if table.loc[table["layer"] == "fit straight", "y_low"].notna().any():
            keys.append((style.band_key(), "95% band"))
    if "fit floor" in layers:
        keys.append((style.line_key(":", 1.1), "with floor"))
    return keys


def scaling_figure(table: pd.DataFrame, *, label_points: bool = False) -> Figure:
    """The one-panel picture of `scaling_rows`; axis labels and the note are the table's `attrs`.

    A name beside every run needs room, so that picture is two columns wide.
    """
    with style.paper():
        fig, (ax,) = style.figure(style.DOUBLE if label_points else style.SINGLE)
        looks = style.arm_looks(table["group"])
        draw_scaling(ax, table, looks)
        x_label, y_label, *_ = table.attrs["axes"][""]
        ax.set(xlabel=x_label, ylabel=y_label)
        style.legend(fig, looks, extra=scaling_keys(table))
        style.note(fig, table.attrs["note"])
        if label_points:
            draw_labels(ax, table, looks)
    return fig


def provenance_note(comparison: Comparison, bars: bool) -> str:
    """What the picture stands on: number of runs, what was left out, how the bands were made."""
    words = [f"{comparison.n} runs"]
    if comparison.n_left_out:
        reasons = "; ".join(f"{one.count} {one.reason}" for one in comparison.left_out)
        words.append(f"{comparison.n_left_out} left out ({reasons})")
    if bars:
        words.append("error bars: standard deviation over sample seeds")
    made = comparison.bootstrap
    if made is not None:
        words.append(
            f"bands: 95%, {made.draws} bootstrap draws by {made.by} ({made.clusters} clusters), "
            "frontier selected anew in each draw"
        )
    return "; ".join(words) + "."
