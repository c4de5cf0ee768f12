"""Systems side by side: the published rows of CRT Table 1 and the user's own, as a table with
dots.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style
from ..published import read

NEEDS = ("arm", "run_id", "gfid", "params", "tokens_per_image")
OPTIONAL = (
    *("inception_score", "precision", "recall", "rfid", "gfid_std", "gfid_num_samples", "size"),
    *("flops_train", "flops_paper", "params_non_embedding", "gfid_reference"),
)
TITLE = "Systems: published and ours"
PAPERS = ("CRT Table 1",)
SHOWN = {
    "gfid": ("gFID", "{:.2f}"),
    "inception_score": ("IS", "{:.1f}"),
    "precision": ("prec.", "{:.2f}"),
    "recall": ("rec.", "{:.2f}"),
    "rfid": ("rFID", "{:.2f}"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    families: tuple[str, ...] = ()  # published systems shown; empty: all


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate one row per system, `published` first.

    `user` follows: the longest-trained run of each size.
    """
    kept = panels.need(df, NEEDS, "system_table")
    rows: list[dict[str, object]] = []
    published = read("system")
    if config.families:
        known = sorted(published["system"].unique())
        wrong = [name for name in config.families if name not in known]
        if wrong:
            raise ValueError(f"system_table: no published system {wrong[0]!r}; known: {known}")
        published = published[published["system"].isin(config.families)]
    for _, line in published.iterrows():
        rows.append(
            {
                "panel": "",
                "layer": "published",
                "group": str(line["system"]),
                "x": float(line["params_m"]) * 1e6,
                "text": "" if pd.isna(line["generator"]) else str(line["generator"]),
                "y": float(line["gfid"]),
                "tokens_per_image": line["tokens_per_image"],
                **{name: line[name] for name in SHOWN},
                "guidance": line["guidance"],
                "source": line["source"],
                "doubt": line["doubt"],
            }
        )
    for arm in style.arm_order(kept["arm"]):
        for size, runs in panels.sizes_of(kept[kept["arm"] == arm]):
            runs = panels.longest(runs, ["arm"])
            first = runs.iloc[0]
            means = {
                name: float(runs[name].astype(float).mean()) if name in runs.columns else None
                for name in SHOWN
            }
            rows.append(
                {
                    "panel": "",
                    "layer": "user",
                    "group": arm,
                    "run_id": str(first["run_id"]),
                    "x": float(first["params"]),
                    "text": size or style.count(float(first["params"])),
                    "y": means["gfid"],
                    "tokens_per_image": first["tokens_per_image"],
                    **means,
                    "source": f"{len(runs)} run{'s' if len(runs) > 1 else ''} of this study",
                }
            )
    table = panels.tidy(rows)
    table.attrs.update(
        note="Published numbers with their sources and doubts: the CSV beside this picture. Rows "
        "differ in guidance and in how it was chosen; RQ-Transformer is without guidance.",
    )
    return table


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw a table with a strip of dots for gFID on a log axis."""
    table = data(df, config) if table is None else table
    heads = ["system", "generator", "params", "tokens", *[head for head, _ in SHOWN.values()]]
    lines, bold = [], []
    for index, (_, row) in enumerate(table.iterrows()):
        cells = [
            str(row["group"]),
            str(row["text"]),
            "" if pd.isna(row["x"]) else style.count(float(row["x"])),
            "" if pd.isna(row["tokens_per_image"]) else f"{row['tokens_per_image']:.0f}",
        ]
        cells += ["" if pd.isna(row[c]) else form.format(row[c]) for c, (_, form) in SHOWN.items()]
        lines.append(cells)
        if row["layer"] == "user":
            bold.append(index)
    with style.paper():
        height = 0.128 * (len(lines) + 2)
        fig, (left, right) = style.figure(
            style.DOUBLE, height, panels=2, width_ratios=(3.6, 1), sharey=True
        )
        style.text_table(left, heads, lines, bold=bold, same_rows=True, left=2)
        for index, (_, row) in enumerate(table.iterrows()):
            user = row["layer"] == "user"
            right.plot(
                float(row["y"]),
                index + 1,
                "o" if user else "D",
                color=style.PALETTE[1] if user else style.MUTED,
                ms=3.6 if user else 2.8,
                mew=0,
            )
        style.log_axis(right, "x", pad=0.08)
        right.tick_params(axis="y", length=0, labelleft=False)
        right.grid(axis="y", visible=False)
        groups = table["layer"] + table["group"]
        for index in range(1, len(table)):
            if groups.iloc[index] != groups.iloc[index - 1]:
                new = table["layer"].iloc[index] != table["layer"].iloc[index - 1]
                for ax in (left, right):
                    ax.axhline(
                        index + 0.5,
                        color=style.INK if new else style.FAINT,
                        lw=0.6 if new else 0.4,
                        gid="reference",
                        zorder=0,
                    )
        right.spines["left"].set_visible(False)
        right.set_xlabel("gFID")
        style.note(fig, table.attrs["note"])
    return fig
