"""Entropy of each code given all before it, beside what noise would show and what a model reaches.

In any finite set the curve falls to zero once prefixes are unique, for images and for noise alike.
So it says something about the codes only where it leaves the curve of independent uniform codes;
what a generator must learn is the held-out cross-entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...trainer.accounting.codebook_schedules import codebook_sizes, null_conditional_bits
from ..drawing import panels, style
from ..drawing.index import Vectors

NEEDS = ("arm", "run_id", "codes_id", "codebook_size", "tokens_per_image")
OPTIONAL = ("schedule", "k_min", "power", "params", "params_non_embedding", "size", "flops_train")
USES_VECTORS = True
TITLE = "Conditional entropy of the codes in the training set"
PAPERS = ("VCQ Fig. 2a",)


# layer -> line style, width, opacity
LINES: dict[str, tuple[Any, float, float]] = {
    "images": ("-", 1.3, 1.0),
    "null": ((0, (4, 2)), 0.9, 1.0),
    "permuted": ((0, (5, 1.5, 1, 1.5)), 0.9, 1.0),
    "bound": (":", 1.0, 1.0),
    "held out": ("-", 2.6, 0.3),
}
NAMES = {
    "images": "training set",
    "null": "noise (null)",
    "permuted": "permuted (null)",
    "bound": "bound for N samples",
    "held out": "generator, held out",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    positions: int | None = None  # positions shown; None: two beyond where every curve is zero
    group: str = "arm"  # column whose values are the lines


def data(
    df: pd.DataFrame, config: Config = Config(), vectors: Vectors | None = None
) -> pd.DataFrame:
    """Tabulate the panels `entropy` and `unique`.

    `entropy` has the measured, null, held-out loss and bound curves, `unique` the share of
    prefixes.
    """
    kept = panels.need(
        df, (*NEEDS, config.group), "conditional_entropy", (*panels.TEXTS, config.group)
    )
    if vectors is None:
        raise ValueError("conditional_entropy: needs the vectors of the runs")
    rows: list[dict[str, object]] = []
    shown = 2
    counts = set()
    missing_permuted = False
    for arm in style.arm_order(kept[config.group]):
        mine = kept[kept[config.group].astype(str) == arm]
        first = mine.iloc[0]
        codes = str(first["codes_id"])
        found = vectors(codes, "entropy.npz")
        images = int(found["num_sequences"])
        counts.add(images)
        measured = np.asarray(found["conditional_entropy_bits"], dtype=float)
        sizes = sizes_of_codes(first)
        null = np.array(null_conditional_bits(sizes, images, len(sizes)))
        bound = _bound(measured, sizes, images)
        best = panels.longest(mine, [config.group])["run_id"].iloc[0]
        held_out = np.asarray(vectors(str(best), "val_loss_per_position.npy")) / math.log(2)
        layers = {"images": measured, "null": null, "bound": bound, "held out": held_out}
        if "conditional_entropy_permuted_bits" in found:
            layers["permuted"] = np.asarray(found["conditional_entropy_permuted_bits"])
        else:
            missing_permuted = True
        for layer, values in layers.items():
            rows += [
                _row("entropy", layer, arm, codes, t, v)
                for t, v in enumerate(values[: len(sizes)], 1)
            ]
        unique = np.asarray(found["unique_prefix_share"], dtype=float)
        rows += [_row("unique", "images", arm, codes, t, v) for t, v in enumerate(unique, 1)]
        live = np.flatnonzero((measured > 0.005) | (null > 0.005))
        shown = max(shown, int(live.max()) + 3 if len(live) else 2)
    last = config.positions or shown
    rows = [row for row in rows if float(str(row["x"])) <= last]
    table = panels.tidy(rows)
    words = ", ".join(f"{n:,}" for n in sorted(counts))
    note = (
        f"Plug-in estimates over {words} sequences (log2 N = "
        f"{', '.join(f'{math.log2(n):.2f}' for n in sorted(counts))} bits). Noise: independent "
        "uniform codes of the same sizes, exact. Bound: min(log2 K_t, log2 N - H(x_<t)). Held out: "
        "cross-entropy of the longest-trained generator on validation images."
    )
    if missing_permuted:
        note += " The permuted null was not recorded with these codes."
    table.attrs.update(
        axes={
            "entropy": ("position t", "conditional entropy (bits)", "linear", "linear"),
            "unique": ("position t", "images with a unique prefix", "linear", "linear"),
        },
        note=note,
        length=last,
    )
    return table


def sizes_of_codes(row: pd.Series) -> tuple[int, ...]:
    """Return K_t of a row's tokenizer: its schedule's if it has one, else one size everywhere."""
    top, length = int(row["codebook_size"]), int(row["tokens_per_image"])
    schedule = row.get("schedule")
    if not isinstance(schedule, str):
        return (top,) * length
    least = row.get("k_min")
    power = row.get("power")
    return codebook_sizes(
        schedule,
        2 if pd.isna(least) else int(least),
        top,
        length,
        2.5 if pd.isna(power) else float(power),
    )


def _bound(measured: np.ndarray, sizes: tuple[int, ...], images: int) -> np.ndarray:
    """Compute the most that N samples allow: min(log2 K_t, log2 N - H(x_<t))."""
    before = np.concatenate([[0.0], np.cumsum(measured)[:-1]])
    left = np.maximum(0.0, math.log2(images) - before)
    return np.asarray(np.minimum(np.log2(np.asarray(sizes[: len(left)], dtype=float)), left))


def _row(panel: str, layer: str, arm: str, codes: str, t: int, value: float) -> dict[str, object]:
    return {
        "panel": panel,
        "layer": layer,
        "group": arm,
        "run_id": codes,
        "x": t,
        "y": float(value),
    }


def draw(
    df: pd.DataFrame,
    config: Config = Config(),
    vectors: Vectors | None = None,
    table: pd.DataFrame | None = None,
) -> Figure:
    """Draw a panel of curves for every arm, then the share of unique prefixes of all."""
    table = data(df, config, vectors) if table is None else table
    looks = style.arm_looks(table["group"])
    arms = list(looks)
    x_label, y_label, *_ = table.attrs["axes"]["entropy"]
    with style.paper():
        columns = min(len(arms) + 1, 3)
        rows = math.ceil((len(arms) + 1) / columns)
        fig, found = style.figure(
            style.DOUBLE * (0.78 if columns == 2 else 1.0),
            1.9 * rows,
            panels=len(arms) + 1,
            rows=rows,
        )
        curves = table[table["panel"] == "entropy"]
        top = 1.06 * float(curves.loc[curves["x"] <= table.attrs["length"], "y"].max())
        for index, arm in enumerate(arms):
            ax = found[index]
            for layer, (dash, width, alpha) in LINES.items():
                line = curves[(curves["group"] == arm) & (curves["layer"] == layer)]
                if not len(line):
                    continue
                measured = layer == "images"
                ax.plot(
                    line["x"],
                    line["y"],
                    ls=dash,
                    lw=width,
                    alpha=alpha,
                    color=looks[arm].color if layer in ("images", "held out") else style.MUTED,
                    marker=looks[arm].marker if measured else "",
                    ms=3.0,
                    mec="white",
                    mew=0.3,
                    zorder=4 if measured else 3,
                )
            ax.set_ylim(0, top)
            ax.set(xlabel=x_label, ylabel=y_label if index % columns == 0 else "")
            style.position_axis(ax, table.attrs["length"])
            style.panel_letter(ax, index, arm)
        ax = found[-1]
        for arm, look in looks.items():
            line = table[(table["panel"] == "unique") & (table["group"] == arm)]
            ax.plot(
                line["x"],
                line["y"],
                color=look.color,
                marker=look.marker,
                ms=3.0,
                mec="white",
                mew=0.3,
            )
        style.position_axis(ax, table.attrs["length"])
        ax.set_ylim(0, 1.04)
        ax.set(xlabel=x_label, ylabel=table.attrs["axes"]["unique"][1])
        style.panel_letter(ax, len(arms), "all")
        present = set(curves["layer"])
        keys = [
            (style.line_key(dash, width, alpha=alpha), NAMES[layer])
            for layer, (dash, width, alpha) in LINES.items()
            if layer in present
        ]
        style.legend(fig, looks, extra=keys)
        style.note(fig, table.attrs["note"])
    return fig
