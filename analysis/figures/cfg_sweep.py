"""Classifier-free guidance: distance against its scale, and what it trades, precision for
recall.

The scales are an axis of the study, or those among which each evaluation chose one (cfg_grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..direction import best_row, resolve
from ..drawing import panels, style
from ..drawing.index import Vectors

NEEDS = ("arm", "run_id")
OPTIONAL = (
    *("cfg_scale", "evaluation_id", "status"),
    *("precision", "recall", "inception_score", "params", "params_non_embedding", "size"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Guidance scale: distance, precision and recall"
PAPERS = ("CRT sampling sweep",)
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has


def data(
    df: pd.DataFrame, config: Config = Config(), vectors: Vectors | None = None
) -> pd.DataFrame:
    """Panel `distance`, and `trade` (recall against precision) where the table has both."""
    kept = panels.need(df, NEEDS, "cfg_sweep")
    reference = ""
    if "cfg_scale" not in kept.columns:
        metric = panels.distance_column(kept, "cfg_sweep", config.distance)
        kept, reference = _tried(kept, metric, vectors)
    if kept["cfg_scale"].nunique() < 2:
        raise ValueError("cfg_sweep: needs two or more values of cfg_scale; the table has one")
    metric = panels.distance_column(kept, "cfg_sweep", config.distance)
    kept = panels.need(kept, ("cfg_scale", metric), "cfg_sweep")
    rows: list[dict[str, object]] = []
    name = panels.axis_name(kept, metric) + reference
    labels = {"distance": ("guidance scale", name, "linear", "linear")}
    both = {"precision", "recall"} <= set(kept.columns)
    both = both and bool((kept["precision"].notna() & kept["recall"].notna()).any())
    if both:
        labels["trade"] = ("precision", "recall", "linear", "linear")
    for arm in style.arm_order(kept["arm"].dropna()):
        for size, runs in panels.sizes_of(kept[kept["arm"] == arm]):
            rows += panels.averages(
                runs, "cfg_scale", metric, panel="distance", group=arm, series=size
            )
            if not both:
                continue
            means = runs.groupby("cfg_scale")[["precision", "recall"]].mean().dropna()
            for scale, values in means.iterrows():
                rows.append(
                    {
                        "panel": "trade",
                        "layer": "average",
                        "group": arm,
                        "series": size,
                        "x": float(values["precision"]),
                        "y": float(values["recall"]),
                        "text": f"{float(scale):g}",
                        "scale": float(scale),
                    }
                )
    table = panels.tidy(rows)
    better = resolve(metric, kept).better
    end = "lowest" if better == "lower" else "highest"
    note = f"{labels['distance'][1]}. Ringed: the scale with the {end} value of its line."
    if both:
        note += " Numbers along the trade: guidance scales."
    if table["y_low"].notna().any():
        note += " Error bars: standard deviation over seeds."
    table.attrs.update(axes=labels, note=note, better=better)
    return table


def _tried(df: pd.DataFrame, metric: str, vectors: Vectors | None) -> tuple[pd.DataFrame, str]:
    """Tabulate the scales that the evaluations tried.

    The second value names the other end of their distances, if it is not the reference.
    """
    rows: list[dict[str, Any]] = []
    modes = set()
    for row in df.to_dict(orient="records"):
        evaluation = row.get("evaluation_id")
        if vectors is None or not isinstance(evaluation, str):
            continue
        try:
            found = vectors(evaluation, "cfg_selection.json")
        except ValueError:
            continue  # it was told its scale and tried no other
        modes.add(found["cfg_selection"])
        # What the row says of precision, recall and spread is of the scale that was chosen.
        own = {key: None for key in ("precision", "recall", f"{metric}_std") if key in row}
        for tried in found["tried"]:
            more = {
                value["metric"]: value["value"]
                for value in tried["values"]
                if value["metric"] in ("precision", "recall")
            }
            rows.append(
                row | own | more | {"cfg_scale": tried["cfg_scale"], metric: tried["distance"]}
            )
    if not rows:
        raise ValueError(
            "cfg_sweep: the table has no column cfg_scale, and no evaluation tried several scales"
        )
    if len(modes) > 1:
        raise ValueError(
            f"cfg_sweep: the scales were chosen in several ways ({', '.join(sorted(modes))})"
        )
    return pd.DataFrame(rows), " to training images" if "train_subset" in modes else ""


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Distance on the left, the trade on the right; colour is the arm, line style the size."""
    table = data(df, config) if table is None else table
    labels = table.attrs["axes"]
    looks = style.arm_looks(table["group"])
    sizes = list(dict.fromkeys(table["series"]))
    dashes = {size: DASHES[index % len(DASHES)] for index, size in enumerate(sizes)}
    with style.paper():
        width = style.DOUBLE * 0.72 if len(labels) > 1 else style.SINGLE
        fig, found = style.figure(width, 2.2, panels=len(labels))
        panels.draw_sweep(found[0], table, looks, panel="distance", dashes=dashes)
        for (arm, _), line in table[table["panel"] == "distance"].groupby(["group", "series"]):
            best = line.loc[best_row(line["y"].astype(float), table.attrs["better"])]
            found[0].plot(
                best["x"], best["y"], "o", ms=7, mfc="none", mec=looks[str(arm)].color, mew=0.9
            )
        style.value_axis(
            found[0],
            "x",
            sorted({float(v) for v in table.loc[table["panel"] == "distance", "x"]}),
            log=False,
        )
        style.log_axis(found[0], "y")
        found[0].set(xlabel=labels["distance"][0], ylabel=style.short(labels["distance"][1]))
        if "trade" in labels:
            trade = table[table["panel"] == "trade"].sort_values("scale", kind="stable")
            for (arm, size), line in trade.groupby(["group", "series"]):
                look = looks[str(arm)]
                found[1].plot(
                    line["x"],
                    line["y"],
                    color=look.color,
                    marker=look.marker,
                    ms=3.4,
                    mec="white",
                    mew=0.4,
                    lw=1.0,
                    ls=dashes[str(size)],
                )
            found[1].set(xlabel="precision", ylabel="recall")
            found[1].margins(0.12)
        if len(found) > 1:
            for index, ax in enumerate(found):
                style.panel_letter(ax, index)
        keys = [(style.line_key(dashes[size]), f"size {size}") for size in sizes if size]
        style.legend(fig, looks, extra=keys if len(sizes) > 1 else ())
        style.note(fig, table.attrs["note"])
        if "trade" in labels:
            trade = table[table["panel"] == "trade"]
            style.label_points(
                found[1],
                trade["x"].tolist(),
                trade["y"].tolist(),
                trade["text"].tolist(),
                [looks[str(arm)].color for arm in trade["group"]],
                size=5.0,
            )
    return fig
