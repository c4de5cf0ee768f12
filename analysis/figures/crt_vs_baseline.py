"""Two arms against each other: their frontiers, and the compute gain of one over the other as a
curve with a band.

gain(C) = C_ref(L(C)) / C: how many times the compute of the reference buys what the arm reaches
with C.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..drawing import panels, style
from ..request import FrontierRequest
from ..result import Gain

NEEDS = ("arm", "run_id", "flops_train", "val_loss")
OPTIONAL = (
    "val_bits_per_image",
    "codebook_size",
    "tokens_per_image",
    "params",
    "size",
    "iterations",
    "train_seed",
) + (tuple(f"{name}{suffix}" for name in panels.DISTANCES for suffix in ("", "_std", "_extractor")))
TITLE = "One arm against its baseline: frontiers and compute gain"
PAPERS = ("CRT Fig. 8",)


GAIN_SHOWN = 100.0  # the axis of the gain ends here and at its inverse


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    arm: str | None = (
        None  # the arm whose gain is shown; None: crt if there is one, else the first other arm
    )
    reference: str | None = (
        None  # what it is compared with; None: vq or baseline, else the first arm
    )
    x: str = "flops_train"  # FLOPs column: flops_train, flops_total or flops_paper
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has
    envelope: str = "pareto"  # what is fitted: pareto, binned, hull, isoflop or model
    bootstrap: int = 1000  # draws of the bands; 0: no bands
    seed: int = 0  # of the bootstrap


def pair(df: pd.DataFrame, config: Config) -> tuple[str, str]:
    """Return (arm, reference) of the comparison. Raise ValueError when the table has not both."""
    arms = style.arm_order(df["arm"].dropna())
    reference = config.reference or arms[0]
    others = [arm for arm in arms if arm != reference]
    arm = config.arm or ("crt" if "crt" in others else others[0] if others else "")
    if not others:
        raise ValueError(
            f"crt_vs_baseline: needs two arms (--group names their column); the table has {arms[0]}"
        )
    for wanted in (arm, reference):
        if wanted not in arms or arm == reference:
            raise ValueError(
                f"crt_vs_baseline: needs two arms; asked for {arm!r} and {reference!r}, "
                f"found {', '.join(arms)}"
            )
    return arm, reference


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate runs, frontiers, fits and gains, one panel for each metric and one for the gains."""
    finished = panels.need(df, NEEDS, "crt_vs_baseline")
    arm, reference = pair(finished, config)
    both = df[df["arm"].isin([arm, reference])]
    metrics = [panels.loss_column(both, "crt_vs_baseline")]
    if config.distance or any(
        name in both.columns and both[name].notna().any() for name in panels.DISTANCES
    ):
        metrics.append(panels.distance_column(both, "crt_vs_baseline", config.distance))
    metrics = list(dict.fromkeys(metrics))
    rows: list[dict[str, object]] = []
    notes = []
    for metric in metrics:
        request = FrontierRequest(
            x=config.x,
            y=metric,
            group="arm",
            envelope=config.envelope,
            reference=reference,
            bootstrap=config.bootstrap,
            seed=config.seed,
        )
        made, comparison = panels.scaling_rows(both, request, panel=metric)
        rows.extend(made)
        for gain in comparison.gains:
            if gain.arm == arm:
                rows.extend(_gain_rows(gain, metric))
        notes.append(panels.provenance_note(comparison, both, metric))
    table = panels.tidy(rows)
    table.attrs.update(
        axes=panels.axes(both, {metric: (config.x, metric) for metric in metrics}),
        arm=arm,
        reference=reference,
        note=f"{notes[-1]} Gain: compute {reference} needs for what {arm} reaches, over the "
        f"compute of {arm}; drawn faint where the runs of either arm do not reach.",
    )
    return table


def _gain_rows(gain: Gain, metric: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index, (x, value) in enumerate(zip(gain.x, gain.gain, strict=True)):
        outside = bool(gain.outside_data[index])
        rows.append(
            {
                "panel": "gain",
                "layer": f"{gain.form}{' outside data' if outside else ''}",
                "group": metric,
                "x": x,
                "y": value,
                "y_low": gain.low[index] if gain.low else None,  # empty without draws
                "y_high": gain.high[index] if gain.high else None,
            }
        )
    return rows


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw panels side by side: a metric each, then the gain."""
    table = data(df, config) if table is None else table
    axes_of = table.attrs["axes"]
    metrics = {metric: label for metric, (_, label, *_) in axes_of.items()}
    x_label = next(iter(axes_of.values()))[0]
    with style.paper():
        fig, axes = style.figure(style.DOUBLE, 2.1, panels=len(metrics) + 1)
        looks = style.arm_looks([table.attrs["arm"], table.attrs["reference"]])
        for index, (metric, label) in enumerate(metrics.items()):
            panels.draw_scaling(axes[index], table, looks, panel=metric)
            axes[index].set(xlabel=style.short(x_label), ylabel=style.short(label))
            style.panel_letter(axes[index], index)
        ax = axes[-1]
        shades = dict(
            zip(
                metrics,
                (style.Look(color=style.INK, marker=""), style.Look(color="#CC79A7", marker="")),
                strict=False,
            )
        )
        _draw_gain(ax, table[table["panel"] == "gain"], shades)
        ax.set(
            xlabel=style.short(x_label),
            ylabel=f"compute gain of {table.attrs['arm']} (times)",
        )
        style.panel_letter(ax, len(metrics))
        keys = panels.scaling_keys(table)
        keys += [
            (style.line_key("-", 1.1, look.color), f"gain on {style.word_of(m)}")
            for m, look in shades.items()
            if m in set(table.loc[table["panel"] == "gain", "group"])
        ]
        keys += [(style.line_key(":", 1.1), "gain, with floor")]
        style.legend(fig, looks, extra=keys)
        full = "; ".join([x_label, *metrics.values()])
        style.note(fig, f"Axes: {full}. {table.attrs['note']}")
    return fig


def _draw_gain(ax: Axes, gains: pd.DataFrame, shades: dict[str, style.Look]) -> None:
    """Draw the gains on a log axis that shows the data's range.

    Extrapolation may leave the panel.
    """
    inside_values: list[float] = []
    for metric, look in shades.items():
        for form, line in (("straight", "-"), ("floor", ":")):
            mine = gains[(gains["group"] == metric) & gains["layer"].str.startswith(form)]
            mine = mine[mine["y"].notna()].astype({"y": float}).sort_values("x")
            if not len(mine):
                continue
            inside = ~mine["layer"].str.endswith("outside data")
            ax.plot(mine["x"], mine["y"], line, color=look.color, lw=0.7, alpha=0.45)
            y = mine["y"].where(inside)
            ax.plot(mine["x"].where(inside), y, line, color=look.color, lw=1.3)
            inside_values += y.dropna().tolist()
            band = mine[inside & mine["y_low"].notna() & mine["y_high"].notna()]
            if form == "straight" and len(band):
                low, high = band["y_low"].astype(float), band["y_high"].astype(float)
                ax.fill_between(
                    band["x"], low, high, color=look.color, alpha=0.13, lw=0, gid="band"
                )
    if not len(ax.lines):
        ax.set(xticks=[], yticks=[])
        ax.text(
            0.5, 0.5, "no gain can be given", transform=ax.transAxes, ha="center", color=style.MUTED
        )
        return
    style.log_axis(ax, "x")
    style.log_axis(ax, "y")
    low = min([0.8, *inside_values])
    high = max([1.25, *inside_values])
    ax.set_ylim(max(low / 1.15, 1 / GAIN_SHOWN), min(high * 1.15, GAIN_SHOWN))
    style.fix_log_ticks(ax, "y")
    ax.axhline(1.0, color=style.MUTED, lw=0.7, ls=(0, (4, 2)), gid="reference", zorder=1)
    low, high = ax.get_ylim()
    for place, (metric, look) in enumerate(shades.items()):
        y = gains.loc[(gains["group"] == metric) & gains["y"].notna(), "y"].astype(float)
        if len(y) and not y.between(low, high).any():
            words = (
                f"{style.word_of(metric)}: gain {'above' if y.min() > high else 'below'} the axis"
            )
            ax.text(
                0.97,
                0.95 - 0.09 * place,
                words,
                transform=ax.transAxes,
                ha="right",
                va="top",
                fontsize=5.8,
                color=look.color,
            )
