"""Entropy of the codes: by position, pooled, and the loss of a generator at every position.

Plug-in entropies are corrected for the finite sample (Miller and Madow): without it, large
codebooks look emptier than they are whenever images are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..code_entropy import miller_madow
from ..drawing import panels, style
from ..drawing.index import Vectors

NEEDS = ("arm", "run_id", "codes_id", "codebook_size")
OPTIONAL = ("params", "params_non_embedding", "size", "flops_train", "tokens_per_image")
USES_VECTORS = True
TITLE = "Entropy of the codes, and loss by position"
PAPERS = ("CRT Fig. 10",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    size: str | None = None  # generator size of the loss panel; None: the largest all arms have
    group: str = "arm"  # column whose values are the lines


def data(
    df: pd.DataFrame, config: Config = Config(), vectors: Vectors | None = None
) -> pd.DataFrame:
    """Tabulate `entropy` and `loss` by position, `sizes` and `skew` by codebook size."""
    kept = panels.need(
        df, (*NEEDS, config.group), "entropy_positions", (*panels.TEXTS, config.group)
    )
    if vectors is None:
        raise ValueError("entropy_positions: needs the vectors of the runs")
    rows: list[dict[str, object]] = []
    biggest = 0.0
    samples = set()
    for arm in style.arm_order(kept[config.group]):
        mine = kept[kept[config.group].astype(str) == arm]
        found = vectors(str(mine["codes_id"].iloc[0]), "entropy.npz")
        images = int(found["num_sequences"])
        samples.add(images)
        bias = np.array([miller_madow(float(n), images) for n in np.asarray(found["num_seen"])])
        full = math.log2(float(mine["codebook_size"].iloc[0]))
        corrected = np.minimum(np.asarray(found["entropy_bits"]) + bias, full)
        biggest = max(biggest, float(bias.max()))
        rows += _by_position("entropy", arm, corrected, str(mine["codes_id"].iloc[0]))
        codes = float(mine["codebook_size"].iloc[0])
        pooled = float(found["entropy_pooled_bits"])
        mean = float(corrected.mean())
        # One minus the share of the pooled perplexity that a single position uses, on average.
        skew = 1 - float(np.mean(2.0**corrected)) / 2.0**pooled
        for panel, series, y in (
            ("sizes", "all positions", pooled),
            ("sizes", "mean of positions", mean),
            ("skew", "", skew),
        ):
            rows.append(
                {
                    "panel": panel,
                    "layer": "average",
                    "group": arm,
                    "series": series,
                    "x": codes,
                    "y": y,
                    "text": f"{arm}, {series}" if series else arm,
                }
            )
    size, chosen = _one_size(kept, config)
    for arm in style.arm_order(chosen[config.group]):
        mine = chosen[chosen[config.group].astype(str) == arm]
        arrays = [vectors(str(i), "val_loss_per_position.npy") for i in mine["run_id"]]
        loss = np.mean(arrays, axis=0) / math.log(2)
        rows += _by_position("loss", arm, loss, str(mine["run_id"].iloc[0]))
    table = panels.tidy(rows)
    counts = ", ".join(f"{n:,}" for n in sorted(samples))
    table.attrs.update(
        axes={
            "entropy": ("position", "entropy (bits)", "linear", "linear"),
            "sizes": ("codebook size", "entropy (bits)", "log", "linear"),
            "skew": ("codebook size", "skew", "log", "linear"),
            "loss": ("position", "validation loss (bits/token)", "linear", "linear"),
        },
        note=f"Entropies over {counts} code sequences with the Miller-Madow correction (at most "
        f"{biggest:.2g} bits). Skew: 1 - mean over positions of 2^H_t / 2^H_all. "
        f"Loss of the {size + ' ' if size else ''}generator at its longest training.",
        length=int(table.loc[table["panel"] == "entropy", "x"].max()),
    )
    return table


def _by_position(
    panel: str, arm: str, values: np.ndarray, identity: str
) -> list[dict[str, object]]:
    return [
        {"panel": panel, "layer": "line", "group": arm, "run_id": identity, "x": t, "y": float(v)}
        for t, v in enumerate(values, 1)
    ]


def _one_size(kept: pd.DataFrame, config: Config) -> tuple[str, pd.DataFrame]:
    """Choose the generator size of the loss panel, and each arm's longest-trained run of it."""
    arms = kept[config.group].nunique()
    options = [
        (name, runs) for name, runs in panels.sizes_of(kept) if runs[config.group].nunique() == arms
    ]
    if config.size is not None:
        options = [(name, runs) for name, runs in options if name == config.size]
        if not options:
            raise ValueError(f"entropy_positions: size {config.size!r} is not in every arm")
    if not options:
        return "", panels.longest(kept, [config.group])
    name, runs = options[-1]
    return name, panels.longest(runs, [config.group])


def draw(
    df: pd.DataFrame,
    config: Config = Config(),
    vectors: Vectors | None = None,
    table: pd.DataFrame | None = None,
) -> Figure:
    """Draw the four panels."""
    table = data(df, config, vectors) if table is None else table
    axes = table.attrs["axes"]
    looks = style.arm_looks(table["group"])
    with style.paper():
        fig, found = style.figure(style.DOUBLE * 0.82, 3.5, panels=4, rows=2)
        for index, panel in enumerate(("entropy", "sizes", "skew", "loss")):
            ax = found[index]
            part = table[table["panel"] == panel]
            if panel in ("entropy", "loss"):
                for arm, look in looks.items():
                    line = part[part["group"] == arm]
                    ax.plot(line["x"], line["y"], color=look.color, lw=0.9)
                style.position_axis(ax, table.attrs["length"])
            else:
                _draw_sizes(ax, part, looks, reference=panel == "sizes")
            x_label, y_label, *_ = axes[panel]
            if panel in ("sizes", "skew") and part["x"].nunique() == 1:
                x_label = f"arm (codebooks of {style.count(float(part['x'].iloc[0]))})"
            ax.set(xlabel=x_label, ylabel=y_label)
            style.panel_letter(ax, index)
        extra = [
            (style.point_key("o"), "all positions together"),
            (style.point_key("o", hollow=True), "mean of positions"),
            (style.line_key((0, (4, 2)), 0.8), "log2 of the codebook size"),
        ]
        style.legend(fig, looks, extra=extra)
        style.note(fig, table.attrs["note"])
    return fig


def _draw_sizes(
    ax: style.Axes, part: pd.DataFrame, looks: dict[str, style.Look], reference: bool
) -> None:
    """Draw entropies over codebook size; over the arms when all codebooks are of one size."""
    sizes = sorted({float(x) for x in part["x"]})
    order = list(looks)
    one = len(sizes) == 1
    # Arms with equal codebooks stand side by side instead of on top of each other.
    shift = {arm: 2 ** (0.09 * (i - (len(order) - 1) / 2)) for i, arm in enumerate(order)}
    for place, (arm, look) in enumerate(looks.items()):
        for series, points in part[part["group"] == arm].groupby("series", dropna=False):
            x = points["x"].astype(float) * shift[arm] if not one else [float(place)] * len(points)
            ax.plot(
                x,
                points["y"],
                look.marker,
                color=look.color,
                mfc="white" if series == "mean of positions" else look.color,
                ms=4.2,
                mew=0.9,
            )
    if one:
        style.name_axis(ax, order)
        grid = np.array(ax.get_xlim())
        level = np.full(2, np.log2(sizes[0]))
    else:
        style.value_axis(ax, "x", sizes)
        grid = np.geomspace(*ax.get_xlim(), num=20)
        level = np.log2(grid)
    if reference:
        ax.plot(grid, level, color=style.MUTED, lw=0.8, ls=(0, (4, 2)), zorder=1)
        ax.set_ylim(0, 1.08 * float(level.max()))
    else:
        ax.set_ylim(0, 1)
