"""The tidy table behind a picture, and the panels that several figures share.

A figure is drawn from one table of everything it shows, and that table is the CSV beside the
picture. Its columns: `panel`; `layer` (the kind of mark: run, frontier, fit ...); `group` (which
line); `run_id`; `series` (runs joined by a thin line); `x`, `y`; `y_low`, `y_high` (an error bar or
a band); `text` (for hovering and for point labels).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..direction import resolve, told
from ..frontiers.compare import compare, pareto
from ..quantities import Unclear, numbers
from ..request import FrontierRequest
from ..result import Comparison
from ..study_columns import named
from . import style

COLUMNS = ("panel", "layer", "group", "run_id", "series", "x", "y", "y_low", "y_high", "text")

# Frechet distances with different networks share no axis, whatever their numbers look like.
DISTANCES = ("gfid", "gfcd", "gfid_clip")
# Their labels say a unit or a rule of counting that holds for the study table alone.
UNITS_OF_OURS = ("flops_train", "flops_total", "val_loss")
# Layers of fitted laws and their line styles, in the order of drawing.
LINES = {"fit straight": "-", "fit floor": ":"}


def tidy(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table behind a picture, in the columns above (and any others the rows have)."""
    frame = pd.DataFrame(list(rows))
    extra = [column for column in frame.columns if column not in COLUMNS]
    return frame.reindex(columns=[*COLUMNS, *extra])


# ----------------------------------------------------------------------------- what a table allows


# Columns of texts; every other column that a figure needs holds numbers.
TEXTS = ("arm", "run_id", "line", "schedule", "codes_id")
FLAGS = {"flops_train": "--x", "val_loss": "--y", "params": "--n", "tokens_train": "--d"}


def refuse_missing(df: pd.DataFrame, columns: Sequence[str], figure: str) -> None:
    """Raise ValueError in one line unless the table has rows, and all the columns by some name."""
    missing = [column for column in columns if named(df, column) not in df.columns]
    if missing:
        words = [f"{name} ({FLAGS[name]} names it)" if name in FLAGS else name for name in missing]
        raise ValueError(f"{figure}: the table has no column {', '.join(words)}")
    if not len(df):
        raise ValueError(f"{figure}: the table has no rows")


def need(
    df: pd.DataFrame, columns: Sequence[str], figure: str, texts: Sequence[str] = TEXTS
) -> pd.DataFrame:
    """Return the finished rows of `df` that have a number in every column of `columns`.

    Columns in `texts` hold texts. Raises ValueError in one line: the columns that are missing, the
    column that is empty, or the value that is no number.
    """
    refuse_missing(df, columns, figure)
    kept = df[df["status"].eq("done")] if "status" in df.columns else df
    if not len(kept):
        words = ", ".join(sorted(set(df["status"].astype(str))))
        raise ValueError(f"{figure}: no row has status done; there are: {words}")
    for name in columns:
        column = named(df, name)
        kept = kept[kept[column].notna()]
        if not len(kept):
            raise ValueError(f"{figure}: column {column} is empty for the finished rows")
        if kept[column].dtype.kind not in "fiub" and name not in texts:
            try:
                kept = kept.assign(**{column: numbers(kept[column])})
            except Unclear as error:
                raise ValueError(
                    f"{figure}: column {column} holds {str(error.value)!r} "
                    f"({kept['run_id'].iloc[error.place]}), which {error.reason}"
                ) from error
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
    own = named(df, "val_loss")
    if wanted is None:
        return "val_bits_per_image" if mixed and own == "val_loss" else own
    if wanted == "val_loss" and mixed and (arm not in df.columns or df[arm].nunique() > 1):
        raise ValueError(
            f"{figure}: val_loss of arms that differ in {mixed[0]} shares no axis; "
            "use val_bits_per_image"
        )
    return wanted


def axis_name(df: pd.DataFrame, column: str) -> str:
    """Return the label of a column; a distance by a network of our own has the network's name.

    The units and rules of the study table are said of no other table.
    """
    text = style.name_of(column)
    if not df.attrs.get("ours", True) and column in UNITS_OF_OURS:
        text = "train FLOPs" if column == "flops_train" else style.short(text)
    name = f"{column}_extractor"
    if name in df.columns and df[name].dropna().nunique() == 1:
        return f"{text} ({df[name].dropna().iloc[0]})"
    return text


def axes(
    df: pd.DataFrame, columns: dict[str, tuple[str, str]], scales: tuple[str, str] = ("log", "log")
) -> dict[str, tuple[str, str, str, str]]:
    """Return panel -> (label of x, label of y, scale of x, scale of y) of a tidy table."""
    return {
        panel: (axis_name(df, x), axis_name(df, y), *scales) for panel, (x, y) in columns.items()
    }


def point_text(row: Mapping[str, Any]) -> str:
    """Return the name of a run's point: size and iterations, else the start of its id."""
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


def lines_by(
    df: pd.DataFrame, column: str, figure: str, arm: str = "arm", factor: float = 1.25
) -> pd.DataFrame:
    """`df` with a column `line`: the value of `column`, and the arm where a value has several arms.

    Raises ValueError unless there are values at least `factor` apart, since the figure compares
    them.
    """
    needs_factor(df, column, figure, factor)
    shared = df.groupby(column)[arm].nunique().max() > 1
    texts = [
        f"{style.count(float(value))}{f', {name}' if shared else ''}" if pd.notna(value) else None
        for value, name in zip(df[column], df[arm], strict=True)
    ]
    return df.assign(line=texts)


def needs_factor(df: pd.DataFrame, column: str, figure: str, factor: float) -> None:
    """Raises ValueError unless `column` has values at least `factor` apart."""
    values = sorted({float(v) for v in df[column].dropna()})
    if not values or values[-1] < factor * values[0]:
        found = ", ".join(style.count(v) for v in values) or "none"
        raise ValueError(
            f"{figure}: needs values of {column} a factor of {factor:g} apart; "
            f"the table has {found}"
        )


def line_looks(table: pd.DataFrame) -> dict[Any, style.Look]:
    """Looks of the lines of `lines_by`, light to dark by value."""
    order = sorted(table["group"].dropna().unique(), key=style.natural)
    return {
        text: look
        for text, look in zip(order, style.ordered_looks(range(len(order))).values(), strict=True)
    }


def sizes_of(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(name, runs) of every generator size, smallest first; one entry when sizes are unknown."""
    if "params_non_embedding" in df.columns and df["params_non_embedding"].notna().all():
        column = "params_non_embedding"
    elif "params" in df.columns and df["params"].notna().all():
        column = "params"
    else:
        return [("", df)]
    found = []
    for value, runs in df.groupby(column, sort=True):
        named = runs["size"].dropna().unique() if "size" in runs.columns else []
        name = str(named[0]) if len(named) == 1 else style.count(float(value))
        found.append((name, runs))
    return found


def longest(df: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Of the runs with equal `keys`, those trained with the most FLOPs (all seeds of them)."""
    if "flops_train" not in df.columns or not df["flops_train"].notna().any():
        return df
    most = df.groupby(list(keys), dropna=False)["flops_train"].transform("max")
    return df[df["flops_train"].astype(float) >= 0.999 * most.astype(float)]


# ----------------------------------------------------------------------------- runs, frontier, fit


def scaling_rows(
    df: pd.DataFrame,
    request: FrontierRequest,
    *,
    panel: str = "",
    forms: Sequence[str] = ("straight",),
) -> tuple[list[dict[str, Any]], Comparison]:
    """Return rows of a metric against FLOPs (runs, frontiers, fits) and the comparison.

    The request names its columns `x`, `y` and `group`.
    """
    comparison = compared(df, request)
    assert request.x and request.y
    runs = df[df["status"].eq("done")] if "status" in df.columns else df
    rows = run_rows(runs, request.x, request.y, group=request.group, panel=panel)
    texts = {row["run_id"]: row["text"] for row in rows}
    for arm in style.arm_order(comparison.frontiers):
        one = comparison.frontiers[arm]
        ids = one.points.run_ids or ("",) * len(one.points.x)
        for px, py, identity in zip(one.points.x, one.points.y, ids, strict=True):
            runs_of = identity.split(",")  # a configuration's runs, averaged
            rows.append(
                {
                    "panel": panel,
                    "layer": "frontier",
                    "group": arm,
                    "run_id": identity if len(runs_of) == 1 else None,
                    "x": px,
                    "y": py,
                    "text": texts.get(runs_of[0]),
                    "runs": identity,
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


# Warnings that a picture carries in its note.
SAID = ("W-COLLAPSE", "W-ONE-TOKENIZER", "W-RATES")
_COMPARISONS: dict[str, Comparison] = {}


def compared(df: pd.DataFrame, request: FrontierRequest) -> Comparison:
    """`frontier.compare`, remembered: several figures and the report ask for the same one."""
    rows = pd.util.hash_pandas_object(df.astype(str), index=False).to_numpy()
    table = hashlib.sha256(rows.tobytes()).hexdigest()
    key = f"{table} {list(df.columns)} {df.attrs.get('better')} {request}"
    if key not in _COMPARISONS:
        if len(_COMPARISONS) >= 32:
            _COMPARISONS.pop(next(iter(_COMPARISONS)))
        _COMPARISONS[key] = compare(df, request)
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
    """Return one row per run with `x` and `y`; its spread over sample seeds is the error bar."""
    usable = runs.dropna(subset=[x, y, *([group] if group else [])])
    spread = spread_of(usable, y)
    joined = [c for c in (joined_by, "train_seed") if c in usable.columns]
    named = [c for c in ("size", "params", "iterations", "run_id") if c in usable.columns]
    rows = []
    for px, py, half in zip(usable[x].astype(float), usable[y].astype(float), spread, strict=True):
        known = not math.isnan(half)
        rows.append(
            {
                "panel": panel,
                "layer": "run",
                "x": px,
                "y": py,
                "y_low": py - half if known else None,
                "y_high": py + half if known else None,
            }
        )
    groups = usable[group].astype(str) if group else [""] * len(usable)
    ids = usable["run_id"].astype(str) if "run_id" in usable.columns else [""] * len(usable)
    series = usable[joined].astype(str).agg("/".join, axis=1) if joined else [""] * len(usable)
    texts = [
        point_text(dict(zip(named, values, strict=True)))
        for values in usable[named].itertuples(index=False, name=None)
    ]
    for row, name, identity, line, text in zip(rows, groups, ids, series, texts, strict=True):
        row.update(group=name, run_id=identity, series=line, text=text)
    return sorted(rows, key=lambda row: (row["group"], row["series"], row["x"], row["run_id"]))


def spread_of(runs: pd.DataFrame, y: str) -> pd.Series:
    """Return the half length of each run's error bar, NaN where a metric has no spread.

    It is the column `y_std`; a single sample seed (`y_seeds`) has no spread.
    """
    if f"{y}_std" not in runs.columns:
        return pd.Series(np.nan, index=runs.index)
    spread = pd.to_numeric(runs[f"{y}_std"], errors="coerce").astype(float)
    if f"{y}_seeds" in runs.columns:
        seeds = pd.to_numeric(runs[f"{y}_seeds"], errors="coerce").astype(float)
        spread = spread.where(seeds.gt(1) | seeds.isna())
    return spread


def bar_words(runs: pd.DataFrame, y: str) -> str:
    """Return what the error bars of `run_rows` are, in the table's own words; empty for none."""
    if not spread_of(runs, y).notna().any():
        return ""
    return "standard deviation over sample seeds" if f"{y}_seeds" in runs.columns else f"{y}_std"


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
        runs = mine.loc[mine["layer"] == "run", "x"]
        for layer in _fits(mine):
            curve = mine[mine["layer"] == layer].sort_values("x")
            _draw_fit(ax, curve, look, LINES[layer], runs.min(), runs.max())
            if layer == _fits(mine)[0]:
                _draw_band(ax, curve, look)
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


def draw_runs(
    ax: Axes, runs: pd.DataFrame, look: style.Look, *, join: bool = False, solid: bool = False
) -> None:
    """Runs as points with their error bars; `join` links the runs of one model by a thin line.

    Points are faint where a frontier is drawn over them, `solid` where they are the message.
    """
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
        ms=1.2 if many else 3.4 if solid else 2.6,
        mew=0,
        ls="",
        alpha=0.95 if solid else 0.4,
        zorder=4,
        rasterized=many,
    )


def _fits(table: pd.DataFrame) -> list[str]:
    """Return the layers of fitted laws in a table; the band of the first is drawn."""
    return [layer for layer in LINES if layer in set(table["layer"])]


def _draw_fit(
    ax: Axes, fit: pd.DataFrame, look: style.Look, line: str, low_x: float, high_x: float
) -> None:
    """Draw a fitted curve: bold where the arm has runs, thin where it extrapolates."""
    y = fit["y"].astype(float)
    inside = (fit["x"] >= low_x * 0.999) & (fit["x"] <= high_x * 1.001)
    # A floor beyond the arm's runs may run off the axis.
    gid = "curve" if line == "-" else "reference"
    ax.plot(fit["x"], y, color=look.color, lw=0.6, ls=line, alpha=0.7, zorder=3, gid=gid)
    ax.plot(fit["x"].where(inside), y.where(inside), color=look.color, lw=1.2, ls=line, zorder=3)


def _draw_band(ax: Axes, fit: pd.DataFrame, look: style.Look) -> None:
    """Draw the band of a fitted curve, where it has one."""
    band = fit[fit["y_low"].notna() & fit["y_high"].notna()]
    low, high = band["y_low"].astype(float).clip(lower=1e-12), band["y_high"].astype(float)
    area = ax.fill_between(band["x"], low, high, color=look.color, alpha=0.15, lw=0, zorder=1)
    area.set_gid("band")


def scaling_keys(table: pd.DataFrame) -> list[tuple[Any, str]]:
    """Return the legend entries of the kinds of mark that are in the table."""
    keys: list[tuple[Any, str]] = []
    if "frontier" in set(table["layer"]):
        keys.append((style.point_key("o"), "on the frontier"))
        keys.append((style.point_key("o", faint=True), "other run"))
    for layer in _fits(table):
        power = "power law" if layer == "fit straight" else "power law with floor"
        keys.append((style.line_key(LINES[layer], 1.1), "with floor" if keys[2:] else power))
        if layer == _fits(table)[0] and table.loc[table["layer"] == layer, "y_low"].notna().any():
            keys.append((style.band_key(), "95% band"))
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


def compression_rows(
    df: pd.DataFrame,
    column: str,
    request: FrontierRequest,
    *,
    distance: str | None,
    inference: bool = False,
    factor: float = 1.25,
) -> pd.DataFrame:
    """Return the scaling of the lines that differ in how much the tokenizer compresses (`column`).

    Panels `loss` (bits per image, the only comparable loss here) and, where the table has one,
    `distance`; with `inference` also the distance against the FLOPs of drawing one image. The
    figure bears the name of the column; the request names its column `x`.
    """
    x = str(request.x)
    lines = lines_by(df, column, column, factor=factor)
    kept = need(lines, ("line", x), column)
    metrics = {"loss": "val_bits_per_image"}
    if distance or any(d in df.columns and df[d].notna().any() for d in DISTANCES):
        metrics["distance"] = distance_column(df, column, distance)
    rows: list[dict[str, Any]] = []
    comparisons = []
    for panel, metric in metrics.items():
        asked = dataclasses.replace(request, y=metric, group="line")
        made, comparison = scaling_rows(lines, asked, panel=panel)
        rows += made
        comparisons.append(comparison)
    labels = axes(kept, {panel: (x, metric) for panel, metric in metrics.items()})
    sampled = "flops_sample" in kept.columns and kept["flops_sample"].notna().any()
    if inference and sampled and "distance" in metrics:
        metric = metrics["distance"]
        made = run_rows(kept, "flops_sample", metric, group="line", panel="inference")
        rows += made + _best_rows(made, resolve(metric, kept).better)
        labels["inference"] = axes(kept, {"": ("flops_sample", metric)})[""]
    table = tidy(rows)
    words = "; ".join(sorted({label for x_y in labels.values() for label in x_y[:2]}))
    note = f"Axes: {words}. {provenance_note(comparisons[-1], kept, list(metrics.values())[-1])}"
    floor = {"gfid": "rfid", "gfcd": "rfcd"}.get(metrics.get("distance", ""), "")
    if floor in kept.columns and kept[floor].notna().any():
        means = kept.groupby("line")[floor].mean().dropna()
        texts = [f"{line}: {means[line]:.3g}" for line in sorted(means.index, key=style.natural)]
        note += f" {style.name_of(floor)} of the tokenizers: {', '.join(texts)}."
    table.attrs.update(axes=labels, note=note, ordered=True)
    return table


def _best_rows(runs: list[dict[str, Any]], better: str) -> list[dict[str, Any]]:
    """Of every line the runs that no cheaper run of it beats, as its frontier."""
    best = []
    for line in sorted({row["group"] for row in runs}):
        mine = [row for row in runs if row["group"] == line]
        x, y = (np.array([row[name] for row in mine]) for name in ("x", "y"))
        chosen = pareto(x, y, direction=better)
        best += [mine[i] | {"layer": "frontier", "y_low": None, "y_high": None} for i in chosen]
    return best


def draw_compression(
    found: Sequence[Axes], table: pd.DataFrame, looks: dict[Any, style.Look]
) -> None:
    """The panels of `compression_rows`, lettered."""
    for index, (panel, (x_label, y_label, *_)) in enumerate(table.attrs["axes"].items()):
        if panel == "best":
            continue
        draw_scaling(found[index], table, looks, panel=panel, join=panel != "inference")
        if panel == "inference":
            for key, look in looks.items():
                best = table[(table["panel"] == panel) & (table["layer"] == "frontier")]
                best = best[best["group"] == str(key)].sort_values("x")
                found[index].plot(best["x"], best["y"], color=look.color, lw=1.1, zorder=3)
        found[index].set(xlabel=style.short(x_label), ylabel=style.short(y_label))
        style.panel_letter(found[index], index, "" if panel != "inference" else "cost of an image")


def draw_sweep(
    ax: Axes,
    table: pd.DataFrame,
    looks: dict[Any, style.Look],
    *,
    panel: str = "",
    dashes: dict[str, Any] | None = None,
) -> None:
    """Lines through the points of a sweep, one per group and series, with their error bars.

    `dashes` maps a series to a line style, so that series share the colour of their group.
    """
    part = table[table["panel"] == panel]
    for key, look in looks.items():
        mine = part[part["group"] == str(key)]
        for series, line in mine.groupby("series", sort=True, dropna=False):
            ordered = line.sort_values("x")
            style_of = (dashes or {}).get(str(series), "-")
            ax.plot(
                ordered["x"],
                ordered["y"].astype(float),
                color=look.color,
                marker=look.marker,
                ms=3.4,
                mew=0.4,
                mec="white",
                lw=1.0,
                ls=style_of,
                zorder=4,
            )
            bars = ordered[ordered["y_low"].notna() & ordered["y_high"].notna()]
            if len(bars):
                low = (bars["y"] - bars["y_low"]).astype(float)
                high = (bars["y_high"] - bars["y"]).astype(float)
                ax.errorbar(
                    bars["x"],
                    bars["y"],
                    yerr=[low.clip(lower=0), high.clip(lower=0)],
                    fmt="none",
                    ecolor=look.color,
                    elinewidth=0.6,
                    capsize=1.4,
                    capthick=0.5,
                    alpha=0.8,
                    zorder=3,
                )


def averages(
    runs: pd.DataFrame,
    x: str,
    y: str,
    *,
    panel: str = "",
    group: str = "",
    series: str = "",
) -> list[dict[str, Any]]:
    """One point per value of `x`: the mean of `y`, and its spread.

    Over training seeds the spread is their standard deviation; of a single run it is the spread
    over sample seeds; over both it is the larger one.
    """
    rows = []
    usable = runs[runs[x].notna() & runs[y].notna()]
    for value, same in usable.groupby(x, sort=True):
        numbers = same[y].astype(float)
        spreads = [float(numbers.std(ddof=1))] if len(numbers) > 1 else []
        if (own := spread_of(same, y)).notna().any():
            spreads.append(float(own.mean()))
        half = max(spreads) if spreads else None
        mean = float(numbers.mean())
        ids = ",".join(sorted(same["run_id"].astype(str)))
        rows.append(
            {
                "panel": panel,
                "layer": "average",
                "group": group,
                "run_id": ids if len(same) == 1 else None,
                "series": series,
                "x": float(value),
                "y": mean,
                "y_low": mean - half if half is not None else None,
                "y_high": mean + half if half is not None else None,
                "text": f"{series} {group} ({len(same)} runs)".strip(),
                "runs": ids,
            }
        )
    return rows


def provenance_note(comparison: Comparison, df: pd.DataFrame, y: str) -> str:
    """Return what a picture of `y` stands on: its runs, what was left out, its bars and bands."""
    words = [f"{comparison.n:,} {'runs' if df.attrs.get('runs', True) else 'rows'}"]
    if comparison.n_left_out:
        reasons = "; ".join(f"{one.count} ({one.reason})" for one in comparison.left_out)
        words.append(f"left out: {reasons}")
    if bars := bar_words(df, y):
        words.append(f"error bars: {bars}")
    made = comparison.bootstrap
    if made is not None:
        how = "draws of true values" if made.by == "residual" else f"bootstrap draws by {made.by}"
        words.append(
            f"bands: 95%, {made.draws} {how} ({made.clusters} units), frontier selected anew in "
            "each draw"
        )
    words += [f"{one.code}: {one.message}" for one in comparison.warnings if one.code in SAID]
    fitted = any(
        fit.status == "ok" for one in comparison.frontiers.values() for fit in one.fits.values()
    )
    end = " Curves are thin where an arm has no runs." if fitted else " No curve could be fitted."
    return "; ".join([*words, *told(comparison)]) + "." + end
