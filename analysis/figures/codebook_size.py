"""Codebook size: loss and distance against train FLOPs, and which size is best at which budget.

A larger codebook reconstructs better and is harder to model, so the best size grows with compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style
from ..request import FrontierRequest

NEEDS = ("arm", "run_id", "flops_train", "val_bits_per_image", "codebook_size")
OPTIONAL = (
    *("params", "size", "iterations", "train_seed", "rfid", "rfcd"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Codebook size"
PAPERS = ("CRT Figs. 6, 7, 13",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    x: str = "flops_train"  # FLOPs column: flops_train, flops_total or flops_paper
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has
    budgets: int = 4  # compute budgets of the last panel
    bootstrap: int = 1000  # draws of the bands; 0: no bands
    seed: int = 0  # of the bootstrap


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate the panels `loss`, `distance`, and `best`: fitted frontiers at a few budgets."""
    panels.need(df, NEEDS, "codebook_size")
    request = FrontierRequest(x=config.x, bootstrap=config.bootstrap, seed=config.seed)
    table = panels.compression_rows(
        df, "codebook_size", request, distance=config.distance, factor=1.9
    )
    metric = "distance" if "distance" in table.attrs["axes"] else "loss"
    best = _best_rows(df, table, metric, config)
    attrs = table.attrs
    if len(best):
        table = panels.tidy([*table.to_dict("records"), *best])
        table.attrs.update(attrs)
        y_label = attrs["axes"][metric][1]
        table.attrs["axes"] = attrs["axes"] | {"best": ("codebook size", y_label, "log", "log")}
    return table


def _best_rows(
    df: pd.DataFrame, table: pd.DataFrame, metric: str, config: Config
) -> list[dict[str, object]]:
    """Read off the fitted frontier of every codebook size at budgets that all of them cover."""
    fits = table[(table["panel"] == metric) & (table["layer"] == "fit straight")]
    runs = table[(table["panel"] == metric) & (table["layer"] == "run")]
    ranges = runs.groupby("group")["x"].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    if not low < high or fits["group"].nunique() < 2:
        return []
    lines = panels.lines_by(df, "codebook_size", "codebook_size")
    size_of = lines.dropna(subset=["line"]).groupby("line")["codebook_size"].first()
    rows: list[dict[str, object]] = []
    for budget in np.geomspace(low, high, config.budgets):
        for line, fit in fits.groupby("group"):
            rows.append(
                {
                    "panel": "best",
                    "layer": "average",
                    "group": f"{budget:.1e}",
                    "series": str(line).partition(", ")[2],
                    "x": float(size_of[line]),
                    "y": _read_off(fit, "y", budget),
                    "y_low": _read_off(fit, "y_low", budget),
                    "y_high": _read_off(fit, "y_high", budget),
                    "text": f"{style.count(float(size_of[line]))} at {budget:.2g} FLOPs",
                }
            )
    return rows


def _read_off(fit: pd.DataFrame, column: str, budget: float) -> float:
    """Return the curve's value at `budget`, interpolated between its grid points in log-log."""
    ordered = fit.sort_values("x")
    values = ordered[column].astype(float)
    known = values.notna() & (values > 0)
    if not known.any():
        return float("nan")
    grid = np.log(ordered["x"].astype(float)[known])
    return float(np.exp(np.interp(np.log(budget), grid, np.log(values[known]))))


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw panels side by side: one colour per codebook size, then one shade per budget."""
    table = data(df, config) if table is None else table
    with style.paper():
        axes = table.attrs["axes"]
        fig, found = style.figure(style.DOUBLE, 2.1, panels=len(axes))
        scaling = table[table["panel"] != "best"]
        scaling.attrs.update(table.attrs)
        looks = panels.line_looks(scaling)
        panels.draw_compression(found, scaling, looks)
        if "best" in axes:
            _draw_best(found[-1], table[table["panel"] == "best"])
            found[-1].set(xlabel=axes["best"][0], ylabel=style.short(axes["best"][1]))
            style.panel_letter(found[-1], len(axes) - 1, "frontier at fixed compute")
        style.legend(fig, looks, title="codebook size", extra=panels.scaling_keys(scaling))
        style.note(fig, table.attrs["note"])
    return fig


def _draw_best(ax: style.Axes, best: pd.DataFrame) -> None:
    budgets = sorted(best["group"].unique(), key=float)
    shades = np.linspace(0.72, 0.05, len(budgets))
    looks = {
        budget: style.Look(color=str(float(shade)), marker="o")
        for budget, shade in zip(budgets, shades, strict=True)
    }
    arms = sorted(best["series"].unique())
    dashes = dict(zip(arms, ("-", (0, (4, 2)), ":", "-."), strict=False))
    panels.draw_sweep(ax, best, looks, panel="best", dashes=dashes)
    style.log_axis(ax, "y")
    style.value_axis(ax, "x", [float(v) for v in best["x"].unique()])
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.28)
    for budget in budgets:
        mine = best[(best["group"] == budget) & (best["series"] == arms[0])].sort_values("x")
        last = mine.iloc[-1]
        ax.annotate(
            style.number(float(budget)),
            (last["x"], last["y"]),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=5.6,
            color=looks[budget].color,
        )
