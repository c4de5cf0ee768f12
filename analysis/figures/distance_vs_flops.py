"""Frechet distance of generated images against train FLOPs, with the spread over sample seeds as
error bars.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels
from ..request import FrontierRequest

NEEDS = ("arm", "run_id", "flops_train")
OPTIONAL = tuple(
    f"{name}{suffix}"
    for name in panels.DISTANCES
    for suffix in ("", "_std", "_extractor", "_num_samples", "_floor")
) + ("params", "size", "iterations", "train_seed")
TITLE = "Distance of generated images against train FLOPs"
PAPERS = ("CRT Fig. 3, right",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    x: str = "flops_train"  # FLOPs column: flops_train, flops_total or flops_paper
    y: str | None = None  # gfid, gfcd or gfid_clip; None: the first of them that the table has
    group: str = "arm"  # column whose values are the lines
    forms: tuple[str, ...] = ("straight", "floor")  # laws drawn: without and with a floor
    envelope: str = "pareto"  # what is fitted: pareto, binned, hull, isoflop or model
    bootstrap: int = 1000  # draws of the band; 0: no band
    seed: int = 0  # of the bootstrap
    label_points: bool = False  # a name beside every run


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate runs with error bars, frontier points, fitted curves and the clean floor."""
    panels.need(df, NEEDS, "distance_vs_flops")
    y = panels.distance_column(df, "distance_vs_flops", config.y)
    kept = panels.need(df, (config.group, config.x, y), "distance_vs_flops", (config.group,))
    request = FrontierRequest(
        x=config.x,
        y=y,
        group=config.group,
        envelope=config.envelope,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    rows, comparison = panels.scaling_rows(df, request, forms=config.forms)
    table = panels.tidy(rows)
    samples = f"{y}_num_samples"
    note = panels.provenance_note(comparison, kept, y)
    if samples in kept.columns and kept[samples].notna().any():
        counts = sorted(kept[samples].dropna().unique())
        note += (
            f" {counts[0]:,.0f} samples each."
            if len(counts) == 1
            else " Sample counts differ between runs."
        )
    floor = f"{y}_floor"
    if floor in kept.columns and kept[floor].notna().any():
        values = sorted(kept[floor].dropna().unique())
        shown = f"{values[0]:.3g}" if len(values) == 1 else f"{values[0]:.3g} to {values[-1]:.3g}"
        note += f" Two disjoint sets of real images are {shown} apart by this measure."
    table.attrs.update(axes=panels.axes(kept, {"": (config.x, y)}), note=note)
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw one panel, log-log."""
    table = data(df, config) if table is None else table
    return panels.scaling_figure(table, label_points=config.label_points)
