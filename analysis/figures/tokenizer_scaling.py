"""Size of the tokenizer: reconstruction, generation and loss against its parameters."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style

NEEDS = ("arm", "run_id", "tokenizer_params")
OPTIONAL = (
    *("rfid", "rfcd", "lpips", "val_loss", "codebook_size", "tokens_per_image"),
    *("params", "params_non_embedding", "size", "flops_train", "family", "semantic_weight"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Size of the tokenizer"
PAPERS = ("GigaTok scaling panels",)
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), "-.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has
    # Column whose values are the lines; None: family or semantic_weight where the table has them,
    # else the arm, unless every arm has one tokenizer: then they are one line.
    group: str | None = None


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate one panel for each metric the table has."""
    kept = panels.need(df, NEEDS, "tokenizer_scaling")
    panels.needs_factor(kept, "tokenizer_params", "tokenizer_scaling", 1.5)
    kept = kept.assign(line=_lines(kept, config.group))
    metrics = [c for c in ("rfid", "rfcd", "lpips") if _has(kept, c)]
    if config.distance or any(_has(kept, d) for d in panels.DISTANCES):
        metrics.append(panels.distance_column(kept, "tokenizer_scaling", config.distance))
    loss = panels.loss_column(kept, "tokenizer_scaling")
    metrics += [loss] if _has(kept, loss) else []
    if not metrics:
        raise ValueError("tokenizer_scaling: the table has no metric of tokenizer or generator")
    rows: list[dict[str, object]] = []
    for metric in metrics:
        of_generator = metric in (loss, *panels.DISTANCES)
        for line in style.arm_order(kept["line"]):
            mine = kept[kept["line"] == line]
            parts = panels.sizes_of(mine) if of_generator else [("", mine)]
            for size, runs in parts:
                runs = panels.longest(runs, ["tokenizer_params"]) if of_generator else runs
                rows += panels.averages(
                    runs, "tokenizer_params", metric, panel=metric, group=line, series=size
                )
    table = panels.tidy(rows)
    table.attrs.update(
        axes={
            metric: ("tokenizer parameters", panels.axis_name(kept, metric), "log", "log")
            for metric in metrics
        },
        note="; ".join(panels.axis_name(kept, metric) for metric in metrics) + ".",
    )
    return table


def _has(df: pd.DataFrame, column: str) -> bool:
    return column in df.columns and bool(df[column].notna().any())


def _lines(kept: pd.DataFrame, group: str | None) -> pd.Series:
    if group is not None:
        return kept[group].astype(str)
    if _has(kept, "family"):
        return kept["family"].astype(str)
    if _has(kept, "semantic_weight"):
        words = {True: "semantic regularisation", False: "without"}
        return (kept["semantic_weight"] > 0).map(words)
    if kept.groupby("arm")["tokenizer_params"].nunique().max() == 1:
        return pd.Series("tokenizers", index=kept.index)
    return kept["arm"].astype(str)


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw a row of panels; the line style is the generator size."""
    table = data(df, config) if table is None else table
    labels = table.attrs["axes"]
    looks = style.arm_looks(table["group"])
    sizes = [size for size in dict.fromkeys(table["series"]) if size]
    dashes = {size: DASHES[index % len(DASHES)] for index, size in enumerate(sizes)}
    with style.paper():
        count = len(labels)
        rows = 1 if count <= 3 else 2
        width = style.DOUBLE if count > 1 else style.SINGLE
        fig, found = style.figure(width, 1.95 * rows, panels=count, rows=rows)
        for index, (panel, (x_label, y_label, *_)) in enumerate(labels.items()):
            ax = found[index]
            panels.draw_sweep(ax, table, looks, panel=panel, dashes=dashes)
            style.log_axis(ax, "x", pad=0.08)
            style.log_axis(ax, "y", pad=0.08)
            ax.set(xlabel=x_label, ylabel=style.short(y_label))
            style.panel_letter(ax, index)
        keys = [(style.line_key(dashes[size]), f"generator {size}") for size in sizes]
        style.legend(fig, looks, extra=keys if len(sizes) > 1 else ())
        style.note(fig, table.attrs["note"])
    return fig
