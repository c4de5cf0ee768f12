"""Ablations of the causal regulariser: depth of its model and weight of its loss.

Generation is averaged over generator sizes, as in the paper; reconstruction stands below, since the
regulariser trades one for the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style

NEEDS = ("arm", "run_id", "crt_layers", "crt_weight")
OPTIONAL = (
    *("rfid", "rfcd", "params", "size", "flops_train"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Ablation of the causal regulariser"
PAPERS = ("CRT Fig. 9",)
NAMES = {"crt_layers": "layers of the causal model", "crt_weight": "weight of its loss"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate the panels `AXIS/generation` and `AXIS/reconstruction` for the axes that vary."""
    panels.need(df, ("arm", "run_id"), "ablation")
    y = panels.distance_column(df, "ablation", config.distance)
    kept = panels.need(df, ("arm", y), "ablation")
    floor = {"gfid": "rfid", "gfcd": "rfcd"}.get(y, "")
    rows = []
    labels = {}
    for axis in ("crt_layers", "crt_weight"):
        # Each axis is swept with the other held at its usual value.
        other = "crt_weight" if axis == "crt_layers" else "crt_layers"
        swept = _swept(kept, axis, other)
        if swept[axis].nunique() < 2:
            continue
        for size, runs in panels.sizes_of(swept):
            rows += panels.averages(
                runs, axis, y, panel=f"{axis}/generation", group="one size", series=size
            )
        rows += _over_sizes(swept, axis, y)
        labels[f"{axis}/generation"] = (NAMES[axis], panels.axis_name(kept, y), "linear", "linear")
        if floor in swept.columns and swept[floor].notna().any():
            rows += panels.averages(
                swept, axis, floor, panel=f"{axis}/reconstruction", group="reconstruction"
            )
            labels[f"{axis}/reconstruction"] = (
                NAMES[axis],
                panels.axis_name(kept, floor),
                "linear",
                "linear",
            )
    if not rows:
        raise ValueError("ablation: neither crt_layers nor crt_weight has two values or more")
    table = panels.tidy(rows)
    words = sorted({label[1] for label in labels.values()})
    note = f"{'; '.join(words)}. Faint: one generator size each; bold: their mean."
    table.attrs.update(axes=labels, note=note)
    return table


def _swept(kept: pd.DataFrame, axis: str, other: str) -> pd.DataFrame:
    """Select the runs that differ in `axis` alone: the other axis at its usual value, or off.

    Without a causal model its weight means nothing, so a run without either belongs to both sweeps.
    """
    known = kept[kept[axis].notna()]
    on = known[(known["crt_layers"] > 0) & (known["crt_weight"] > 0)]
    if not len(on) or not on[other].notna().any():
        return known
    usual = on[other].mode().iloc[0]
    off = (known["crt_layers"] == 0) | (known["crt_weight"] == 0)
    return known[(known[other] == usual) | (off if axis == "crt_layers" else False)]


def _over_sizes(swept: pd.DataFrame, axis: str, y: str) -> list[dict[str, object]]:
    """Average over generator sizes at each value that all sizes have."""
    by_size = [runs.groupby(axis)[y].mean() for _, runs in panels.sizes_of(swept)]
    together = pd.concat(by_size, axis=1).dropna()
    return [
        {
            "panel": f"{axis}/generation",
            "layer": "average",
            "group": "mean over sizes",
            "series": "",
            "x": float(value),
            "y": float(mean),
            "text": f"mean over {len(by_size)} sizes",
        }
        for value, mean in together.mean(axis=1).items()
    ]


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw one column per axis; generation above reconstruction."""
    table = data(df, config) if table is None else table
    labels = table.attrs["axes"]
    swept = list(dict.fromkeys(panel.split("/")[0] for panel in labels))
    kinds = list(dict.fromkeys(panel.split("/")[1] for panel in labels))
    looks = {
        "one size": style.Look(color="#B8C9D9", marker="o"),
        "mean over sizes": style.Look(color=style.PALETTE[0], marker="o"),
        "reconstruction": style.Look(color=style.PALETTE[1], marker="s"),
    }
    with style.paper():
        width = style.DOUBLE * 0.72 if len(swept) > 1 else style.SINGLE
        fig, found = style.figure(
            width, 1.45 * len(kinds) + 0.35, panels=len(swept) * len(kinds), rows=len(kinds)
        )
        for row, kind in enumerate(kinds):
            for column, axis in enumerate(swept):
                ax = found[row * len(swept) + column]
                panel = f"{axis}/{kind}"
                if panel not in labels:
                    ax.set_axis_off()
                    continue
                panels.draw_sweep(ax, table, looks, panel=panel)
                values = [float(v) for v in table.loc[table["panel"] == panel, "x"].unique()]
                style.value_axis(ax, "x", values, log=axis == "crt_weight" and min(values) > 0)
                if row == len(kinds) - 1:
                    ax.set_xlabel(labels[panel][0])
                if column == 0:
                    ax.set_ylabel(style.short(labels[panel][1]))
                style.panel_letter(ax, row * len(swept) + column)
        style.legend(fig, {k: v for k, v in looks.items() if k in set(table["group"])})
        style.note(fig, table.attrs["note"])
    return fig
