"""Reconstruction against generation: a tokenizer that reconstructs better need not generate better.

Each point is a tokenizer under a generator of one size; the published GigaTok points stand beside
when both are FIDs.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style
from ..published import read

NEEDS = ("arm", "run_id")
OPTIONAL = (
    *("rfid", "rfcd", "params", "params_non_embedding", "size", "flops_train", "tokenizer_id"),
    *("tokenizer_params",),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Reconstruction against generation"
PAPERS = ("GigaTok reconstruction-generation plot",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # gfid or gfcd; None: the first that the table has
    label_points: bool = True  # the arm beside its point


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate one row per tokenizer and generator size: the longest-trained run."""
    panels.need(df, NEEDS, "reconstruction_vs_generation")
    y = panels.distance_column(df, "reconstruction_vs_generation", config.distance)
    x = {"gfid": "rfid", "gfcd": "rfcd"}.get(y)
    if x is None:
        raise ValueError(f"reconstruction_vs_generation: {y} has no reconstruction counterpart")
    kept = panels.need(df, ("arm", x, y), "reconstruction_vs_generation")
    if kept["arm"].nunique() < 2:
        raise ValueError("reconstruction_vs_generation: needs two or more arms; the table has one")
    key = "tokenizer_id" if "tokenizer_id" in kept.columns else "arm"
    rows: list[dict[str, object]] = []
    for size, runs in panels.sizes_of(kept):
        for _, same in panels.longest(runs, ["arm", key]).groupby(["arm", key]):
            (row,) = panels.averages(
                same.assign(**{x: same[x].astype(float).mean()}), x, y, group=size or "all"
            )
            arm = str(same["arm"].iloc[0])
            rows.append(row | {"text": arm, "arm": arm})
    table = panels.tidy(rows)
    labels = (panels.axis_name(kept, x), panels.axis_name(kept, y))
    note = "Each point: the longest-trained run of an arm at one generator size."
    if table["y_low"].notna().any():
        note += " Error bars: standard deviation over seeds."
    if y == "gfid":
        published = [
            {
                "panel": "",
                "layer": "published",
                "group": "GigaTok, GPT-B (published)",
                "x": float(row["rfid"]),
                "y": float(row["gfid"]),
                "text": str(row["tokenizer"]),
                "arm": str(row["tokenizer"]),
            }
            for _, row in read("gigatok").iterrows()
        ]
        table = panels.tidy([*table.to_dict("records"), *published])
        note += " GigaTok chose its guidance on the evaluation metric itself."
    table.attrs.update(axes={"": (*labels, "log", "log")}, note=note)
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw one panel, log-log; colour is the generator size."""
    table = data(df, config) if table is None else table
    ours = table[table["layer"] != "published"]
    sizes = list(dict.fromkeys(ours["group"]))
    looks = dict(zip(sizes, style.ordered_looks(range(len(sizes))).values(), strict=True))
    theirs = table[table["layer"] == "published"]
    with style.paper():
        fig, (ax,) = style.figure(style.SINGLE)
        for size, look in looks.items():
            panels.draw_runs(ax, ours[ours["group"] == size], look, solid=True)
        grey = style.Look(color=style.MUTED, marker="X")
        if len(theirs):
            panels.draw_runs(ax, theirs, grey, solid=True)
        style.log_axis(ax, "x", pad=0.12)
        style.log_axis(ax, "y", pad=0.08)
        x_label, y_label, *_ = table.attrs["axes"][""]
        ax.set(xlabel=x_label, ylabel=y_label)
        named = {theirs["group"].iloc[0]: grey} if len(theirs) else {}
        style.legend(fig, looks | named, title="generator", line=False)
        style.note(fig, table.attrs["note"])
        if config.label_points:
            # With several generator sizes an arm's points share one abscissa: one name is enough.
            top = pd.concat([ours.sort_values("y").groupby("arm").tail(1), theirs])
            colors = {str(k): v.color for k, v in (looks | named).items()}
            style.label_points(
                ax,
                top["x"].tolist(),
                top["y"].tolist(),
                top["text"].tolist(),
                [colors[str(g)] for g in top["group"]],
                size=5.2,
            )
    return fig
