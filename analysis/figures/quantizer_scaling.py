"""Quantizers over codebook size, code dimension and tokenizer depth: distance above, usage below.

Each column of panels moves one of the three and holds the others at their usual value.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style

NEEDS = ("arm", "run_id", "codebook_size", "codebook_usage")
OPTIONAL = ("codebook_dim", "tokenizer_blocks", "quantizer", "rfid", "rfcd", "lpips")
TITLE = "Quantizers over codebook size, dimension and depth"
PAPERS = ("IBQ codebook size, dimension and depth",)
AXES = {
    "codebook_size": "codebook size",
    "codebook_dim": "code dimension",
    "tokenizer_blocks": "residual blocks per level",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # rfid or rfcd; None: the first that the table has
    group: str | None = None  # column whose values are the lines; None: quantizer, else the arm


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate the panels `AXIS/METRIC`; a tokenizer counts once, whatever its generators."""
    kept = panels.need(df, NEEDS, "quantizer_scaling")
    metric = config.distance or next(
        (c for c in ("rfid", "rfcd") if c in kept.columns and kept[c].notna().any()), None
    )
    if metric is None:
        raise ValueError("quantizer_scaling: the table has no rfid or rfcd")
    group = config.group or ("quantizer" if "quantizer" in kept.columns else "arm")
    axes = [a for a in AXES if a in kept.columns and _swept(kept, a, group)]
    if not axes:
        raise ValueError(
            f"quantizer_scaling: none of {', '.join(AXES)} has values a factor of 1.9 apart within "
            f"one {group}"
        )
    lower = [c for c in ("codebook_usage", "lpips") if c in kept.columns and kept[c].notna().any()]
    rows: list[dict[str, object]] = []
    held = []
    for axis in axes:
        others = [a for a in axes if a != axis]
        usual = {other: kept[other].mode().iloc[0] for other in others}
        swept = kept
        for other, value in usual.items():
            swept = swept[swept[other] == value]
        if usual:
            words = ", ".join(f"{AXES[o]} {style.count(float(v))}" for o, v in usual.items())
            held.append(f"{AXES[axis]} at {words}")
        for line in style.arm_order(swept[group]):
            mine = swept[swept[group].astype(str) == line]
            for name in (metric, lower[0]):
                rows += panels.averages(mine, axis, name, panel=f"{axis}/{name}", group=line)
    table = panels.tidy(rows)
    panels_found = list(dict.fromkeys(table["panel"]))
    labels = {}
    for panel in panels_found:
        axis, name = panel.split("/")
        labels[panel] = (AXES[axis], panels.axis_name(kept, name), "log", "linear")
    note = f"Each column moves one setting: {'; '.join(held)}." if held else ""
    table.attrs.update(axes=labels, note=note)
    return table


def _swept(kept: pd.DataFrame, axis: str, group: str) -> bool:
    """Tell if some quantizer was made at values of `axis` that can be told apart."""
    ends = kept.groupby(group)[axis].agg(["min", "max"])
    return bool((ends["max"].astype(float) >= 1.9 * ends["min"].astype(float)).any())


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw a column per setting, distance above usage."""
    table = data(df, config) if table is None else table
    labels = table.attrs["axes"]
    axes = list(dict.fromkeys(panel.split("/")[0] for panel in labels))
    metrics = list(dict.fromkeys(panel.split("/")[1] for panel in labels))
    looks = style.arm_looks(table["group"])
    with style.paper():
        width = style.DOUBLE if len(axes) > 1 else style.SINGLE
        fig, found = style.figure(width, 3.1, panels=2 * len(axes), rows=2, sharey="row")
        for row, metric in enumerate(metrics):
            for column, axis in enumerate(axes):
                ax = found[row * len(axes) + column]
                panel = f"{axis}/{metric}"
                panels.draw_sweep(ax, table, looks, panel=panel)
                values = [float(v) for v in table.loc[table["panel"] == panel, "x"].unique()]
                style.value_axis(ax, "x", values)
                if metric == "codebook_usage":
                    ax.set_ylim(0, 1.05)
                if row:
                    ax.set_xlabel(labels[panel][0])
                if not column:
                    ax.set_ylabel(style.short(labels[panel][1]))
                style.panel_letter(ax, row * len(axes) + column)
        style.legend(fig, looks)
        if table.attrs["note"]:
            style.note(fig, table.attrs["note"])
    return fig
