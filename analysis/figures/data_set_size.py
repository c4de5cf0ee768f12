"""Size of the training set: where does a generator run out of images?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style

NEEDS = ("arm", "run_id", "num_train")
OPTIONAL = (
    *("val_loss", "val_bits_per_image", "codebook_size", "tokens_per_image", "params", "size"),
    *("params_non_embedding", "flops_train", "iterations"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Size of the training set"
PAPERS = ("CRT Fig. 11",)
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.", (0, (7, 2, 1, 2, 1, 2)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate the panels `loss` and `distance` against the number of training images."""
    kept = panels.need(df, NEEDS, "data_set_size")
    panels.needs_factor(kept, "num_train", "data_set_size", 1.25)
    metrics = {}
    loss = panels.loss_column(kept, "data_set_size")
    if loss in kept.columns and kept[loss].notna().any():
        metrics["loss"] = loss
    if config.distance or any(
        d in kept.columns and kept[d].notna().any() for d in panels.DISTANCES
    ):
        metrics["distance"] = panels.distance_column(kept, "data_set_size", config.distance)
    if not metrics:
        raise ValueError("data_set_size: the table has neither a loss nor a distance")
    rows = []
    for panel, metric in metrics.items():
        for arm in style.arm_order(kept["arm"].dropna()):
            for size, runs in panels.sizes_of(kept[kept["arm"] == arm]):
                runs = panels.longest(runs, ["num_train"])
                rows += panels.averages(
                    runs, "num_train", metric, panel=panel, group=arm, series=size
                )
    table = panels.tidy(rows)
    labels = {
        panel: ("training images", panels.axis_name(kept, metric), "log", "log")
        for panel, metric in metrics.items()
    }
    words = "; ".join(label[1] for label in labels.values())
    note = f"{words}. Each point is the longest-trained run of its size."
    if table["y_low"].notna().any():
        note += " Error bars: standard deviation over seeds."
    table.attrs.update(axes=labels, note=note)
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw a panel per metric: colour is the arm, the line style the generator size."""
    table = data(df, config) if table is None else table
    labels = table.attrs["axes"]
    looks = style.arm_looks(table["group"])
    sizes = list(dict.fromkeys(table["series"]))
    dashes = {size: DASHES[index % len(DASHES)] for index, size in enumerate(sizes)}
    with style.paper():
        width = style.DOUBLE * 0.72 if len(labels) > 1 else style.SINGLE
        fig, found = style.figure(width, 2.2, panels=len(labels))
        for index, (panel, (x_label, y_label, *_)) in enumerate(labels.items()):
            ax = found[index]
            panels.draw_sweep(ax, table, looks, panel=panel, dashes=dashes)
            style.log_axis(ax, "y")
            style.value_axis(ax, "x", [float(v) for v in table["x"].unique()])
            ax.set(xlabel=x_label, ylabel=style.short(y_label))
            style.panel_letter(ax, index)
        keys = [(style.line_key(dashes[size]), f"size {size}") for size in sizes if size]
        style.legend(fig, looks, extra=keys)
        style.note(fig, table.attrs["note"])
    return fig
