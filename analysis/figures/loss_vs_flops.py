"""Validation loss against train FLOPs: runs, Pareto frontiers, fits with their bands, one colour
per arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels
from ..request import FrontierRequest
from ..vocabulary import heading

NEEDS = ("arm", "run_id", "flops_train", "val_loss")
OPTIONAL = (
    "val_bits_per_image",
    "codebook_size",
    "tokens_per_image",
    "params",
    "size",
    "iterations",
    "train_seed",
)
TITLE = "Validation loss against train FLOPs"
PAPERS = ("CRT Fig. 3, left",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    x: str = "flops_train"  # FLOPs column: flops_train, flops_total or flops_paper
    y: str | None = (
        None  # val_loss or val_bits_per_image; None: per token where that may be compared
    )
    group: str = "arm"  # column whose values are the lines
    forms: tuple[str, ...] = (
        "straight",
        "floor",
    )  # laws drawn: without and with an irreducible loss
    envelope: str = "pareto"  # what is fitted: pareto, binned, hull, isoflop or model
    bootstrap: int = 1000  # draws of the band; 0: no band
    seed: int = 0  # of the bootstrap
    label_points: bool = False  # a name beside every run


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate runs, frontier points and fitted curves."""
    panels.need(df, NEEDS, "loss_vs_flops")
    y = panels.loss_column(df, "loss_vs_flops", config.y, config.group)
    if y in panels.DISTANCES and config.y is None:
        raise ValueError(f"loss_vs_flops: {y} is no loss; distance_vs_flops draws it")
    kept = panels.need(df, (config.group, config.x, y), "loss_vs_flops", (config.group,))
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
    table.attrs.update(
        axes=panels.axes(kept, {"": (config.x, y)}),
        note=panels.provenance_note(comparison, kept, y),
    )
    if not kept.attrs.get("ours", True):
        x_label, y_label, *_ = table.attrs["axes"][""]
        table.attrs["title"] = heading(f"{y_label} against {x_label}")
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw one panel, log-log."""
    table = data(df, config) if table is None else table
    return panels.scaling_figure(table, label_points=config.label_points)
