"""Codebook schedules: K_t along the sequence and the table of what follows from it.

Computed from the settings, in the columns of the paper's table; a row of the paper with the same
settings stands beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...trainer.accounting.codebook_schedules import describe
from ..drawing import panels, style
from ..published import read
from .conditional_entropy import sizes_of_codes

NEEDS = ("arm", "run_id", "schedule", "codebook_size", "tokens_per_image")
OPTIONAL = ("k_min", "power", "num_train", "resolution")
TITLE = "Codebook schedules"
PAPERS = ("VCQ schedule table",)
IMAGENET = 1281167  # training images, for t* where the table does not say how many there are


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    resolution: int = 256  # pixels per side, for bits per pixel, where the table has no column
    num_images: int | None = None  # for t*; None: column num_train, else ImageNet-1k


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Layer `K_t` for the curves; layer `summary` with one row per schedule for the table."""
    kept = panels.need(df, NEEDS, "vcq_schedules")
    rows: list[dict[str, Any]] = []
    for arm in style.arm_order(kept["arm"]):
        first = kept[kept["arm"].astype(str) == arm].iloc[0]
        sizes = sizes_of_codes(first)
        rows += [
            {"panel": "", "layer": "K_t", "group": arm, "x": t, "y": float(size)}
            for t, size in enumerate(sizes, 1)
        ]
        images = config.num_images or _number(first, "num_train", IMAGENET)
        resolution = _number(first, "resolution", config.resolution)
        said = describe(
            str(first["schedule"]),
            min(sizes),
            max(sizes),
            len(sizes),
            images,
            resolution,
            float(first["power"]) if pd.notna(first.get("power")) else 2.5,
        )
        rows.append(
            {
                "panel": "table",
                "layer": "summary",
                "group": arm,
                "series": str(first["schedule"]),
                "k_max": max(sizes),
                "length": len(sizes),
                "k_mean": said["k_mean"],
                "bits_total": said["bits_total"],
                "bpp": said["bpp"],
                "t_star": said["t_star"],
                "images": images,
            }
        )
    table = panels.tidy(rows)
    published = read("vcq_schedules")
    summary = table[table["layer"] == "summary"]
    notes = []
    for _, ours in summary.iterrows():
        same = published[
            (published["schedule"] == ours["series"])
            & (published["k_max"] == ours["k_max"])
            & (published["length"] == ours["length"])
        ]
        for _, theirs in same.iterrows():
            notes.append(
                f"{ours['group']}: the paper prints K mean {theirs['k_mean']:.0f}, "
                f"{theirs['bpp']} BPP, t* {theirs['t_star']}"
            )
    note = "t*: first position with C_t >= log2 N, C_t the sum of log2 K_i."
    note += f" {'; '.join(notes)}." if notes else ""
    table.attrs.update(axes={"": ("position t", "codebook size K_t", "linear", "log")}, note=note)
    return table


def _number(row: pd.Series, column: str, default: int) -> int:
    value = row.get(column)
    return default if value is None or pd.isna(value) else int(value)


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw the curves on the left, the table on the right."""
    table = data(df, config) if table is None else table
    summary = table[table["layer"] == "summary"]
    looks = style.arm_looks(summary["group"])
    with style.paper():
        fig, (ax, side) = style.figure(style.DOUBLE, 2.2, panels=2, width_ratios=(1, 1.35))
        for arm, look in looks.items():
            line = table[(table["layer"] == "K_t") & (table["group"] == arm)]
            marks = np.linspace(0, len(line) - 1, 6).astype(int).tolist()
            ax.plot(
                line["x"], line["y"], color=look.color, marker=look.marker, markevery=marks, ms=3.2
            )
        style.log_axis(ax, "y")
        style.position_axis(ax, int(table["x"].max()))
        ax.set(xlabel="position t", ylabel="codebook size K at t")
        images = sorted({int(n) for n in summary["images"]})
        star = "t*" if len(images) != 1 else f"t* (N = {images[0]:,})"
        heads = ["schedule", "K max", "K mean", "bits/image", "BPP", star]
        rows = [
            [
                str(row["group"]),
                f"{row['k_max']:,.0f}",
                f"{row['k_mean']:,.1f}",
                f"{row['bits_total']:,.1f}",
                f"{row['bpp']:.4f}",
                "never" if pd.isna(row["t_star"]) else f"{row['t_star']:.0f}",
            ]
            for _, row in summary.iterrows()
        ]
        style.text_table(side, heads, rows)
        style.legend(fig, looks)
        style.note(fig, table.attrs["note"])
    return fig
