"""Information left after each position: what N images leave to tell apart, by codebook schedule.

Measured: log2 N - H(x_<=t). Capacity: log2 N - C_t with C_t the sum of log2 K_i, which is what the
VCQ paper plots; it is a lower limit of the former, not a bound on what is left to learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...trainer.accounting.codebook_schedules import capacity_bits, t_star
from ..drawing import panels, style
from ..drawing.index import Vectors
from .conditional_entropy import sizes_of_codes

NEEDS = ("arm", "run_id", "codes_id", "codebook_size", "tokens_per_image")
OPTIONAL = ("schedule", "k_min", "power")
USES_VECTORS = True
TITLE = "Information left after each position"
PAPERS = ("VCQ Fig. 2b",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    positions: int | None = None  # positions shown; None: two beyond where every curve is zero
    group: str = "arm"  # column whose values are the lines


def data(
    df: pd.DataFrame, config: Config = Config(), vectors: Vectors | None = None
) -> pd.DataFrame:
    """Tabulate the layers `measured` and `capacity` of every arm."""
    kept = panels.need(df, (*NEEDS, config.group), "remaining_bits", (*panels.TEXTS, config.group))
    if vectors is None:
        raise ValueError("remaining_bits: needs the vectors of the runs")
    rows: list[dict[str, object]] = []
    stars = []
    shown = 2
    for arm in style.arm_order(kept[config.group]):
        first = kept[kept[config.group].astype(str) == arm].iloc[0]
        codes = str(first["codes_id"])
        found = vectors(codes, "entropy.npz")
        images = int(found["num_sequences"])
        total = math.log2(images)
        sizes = sizes_of_codes(first)
        left = total - np.cumsum(np.asarray(found["conditional_entropy_bits"], dtype=float))
        capacity = np.maximum(0.0, total - np.asarray(capacity_bits(sizes)))
        for layer, values in (("measured", np.maximum(left, 0.0)), ("capacity", capacity)):
            rows += [
                {
                    "panel": "",
                    "layer": layer,
                    "group": arm,
                    "run_id": codes,
                    "x": t,
                    "y": float(value),
                }
                for t, value in enumerate([total, *values[: len(sizes)]])
            ]
            live = np.flatnonzero(values > 0.01 * total)
            shown = max(shown, int(live.max()) + 3 if len(live) else 2)
        star = t_star(sizes, images)
        stars.append(f"{arm} {star if star is not None else 'never'}")
    last = config.positions or shown
    table = panels.tidy([row for row in rows if float(str(row["x"])) <= last])
    table.attrs.update(
        axes={"": ("position t", "bits left", "linear", "linear")},
        note="Measured: log2 N - H(x_<=t) in the training set. Capacity: log2 N - C_t, C_t the sum "
        f"of log2 K_i, cut at zero; it reaches zero at t*: {', '.join(stars)}.",
        length=last,
    )
    return table


def draw(
    df: pd.DataFrame,
    config: Config = Config(),
    vectors: Vectors | None = None,
    table: pd.DataFrame | None = None,
) -> Figure:
    """Draw the panel."""
    table = data(df, config, vectors) if table is None else table
    looks = style.arm_looks(table["group"])
    with style.paper():
        fig, (ax,) = style.figure(style.SINGLE)
        for (arm, layer), line in table.groupby(["group", "layer"]):
            look = looks[str(arm)]
            solid = layer == "measured"
            ax.plot(
                line["x"],
                line["y"],
                ls="-" if solid else (0, (2, 1.5)),
                lw=1.2 if solid else 0.8,
                color=look.color,
                marker=look.marker if solid else "",
                ms=3.2,
                mec="white",
                mew=0.3,
            )
        style.position_axis(ax, table.attrs["length"], first=0)
        ax.set_ylim(bottom=0)
        x_label, y_label, *_ = table.attrs["axes"][""]
        ax.set(xlabel=x_label, ylabel=y_label)
        keys = [
            (style.line_key("-", 1.2), "measured"),
            (style.line_key((0, (2, 1.5)), 0.8), "capacity (as in the paper)"),
        ]
        style.legend(fig, looks, extra=keys)
        style.note(fig, table.attrs["note"])
    return fig
