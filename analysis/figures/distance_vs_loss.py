"""Distance of generated images against validation loss: does a better loss mean better images?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from ..drawing import panels, style

NEEDS = ("arm", "run_id", "val_loss")
OPTIONAL = (
    *("val_bits_per_image", "codebook_size", "tokens_per_image", "params", "params_non_embedding"),
    *("size", "iterations", "train_seed"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Distance of generated images against validation loss"
PAPERS = ("CRT Figs. 12-14",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    loss: str | None = None  # val_loss or val_bits_per_image; None: per token where comparable
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has
    group: str = "arm"  # column whose values are the colours
    label_points: bool = False  # a name beside every run


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate one row per finished run, and the rank correlation of each arm."""
    panels.need(df, NEEDS, "distance_vs_loss")
    y = panels.distance_column(df, "distance_vs_loss", config.distance)
    x = panels.loss_column(df, "distance_vs_loss", config.loss, config.group)
    if x == y:
        raise ValueError(f"distance_vs_loss: needs a loss beside {y} (--y names it)")
    kept = panels.need(df, (config.group, x, y), "distance_vs_loss", (config.group,))
    table = panels.tidy(panels.run_rows(kept, x, y, group=config.group))
    words = []
    for arm in style.arm_order(kept[config.group].dropna()):
        mine = kept[kept[config.group].astype(str) == arm]
        if len(mine) >= 4:
            rank = float(spearmanr(mine[x].astype(float), mine[y].astype(float)).statistic)
            words.append(f"{arm} {rank:.2f} (n = {len(mine)})")
    note = "Lines join the runs of one generator size. " if "params" in kept.columns else ""
    if bars := panels.bar_words(kept, y):
        note += f"Error bars: {bars}. "
    if words:
        note += f"Spearman rank correlation: {', '.join(words)}."
    table.attrs.update(axes=panels.axes(kept, {"": (x, y)}), note=note)
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw one panel, log-log."""
    table = data(df, config) if table is None else table
    with style.paper():
        fig, (ax,) = style.figure(style.DOUBLE if config.label_points else style.SINGLE)
        looks = style.arm_looks(table["group"])
        for arm, look in looks.items():
            panels.draw_runs(ax, table[table["group"] == arm], look, join=True, solid=True)
        style.log_axis(ax, "x")
        style.log_axis(ax, "y")
        x_label, y_label, *_ = table.attrs["axes"][""]
        ax.set(xlabel=x_label, ylabel=y_label)
        style.legend(fig, looks, line=False)
        style.note(fig, table.attrs["note"])
        if config.label_points:
            panels.draw_labels(ax, table, looks)
    return fig
