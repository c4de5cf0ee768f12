"""Tokens per image: loss and distance against train FLOPs, and distance against inference FLOPs.

More tokens reconstruct better and cost more, to train and again for every image that is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import panels, style
from ..request import FrontierRequest

NEEDS = ("arm", "run_id", "flops_train", "val_bits_per_image", "tokens_per_image")
OPTIONAL = (
    *("flops_sample", "params", "size", "iterations", "train_seed", "rfid", "rfcd"),
    *(f"{name}{end}" for name in panels.DISTANCES for end in ("", "_std", "_extractor")),
)
TITLE = "Tokens per image"
PAPERS = ("CRT Figs. 4, 5, 14",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    x: str = "flops_train"  # FLOPs column: flops_train, flops_total or flops_paper
    distance: str | None = None  # gfid, gfcd or gfid_clip; None: the first that the table has
    bootstrap: int = 1000  # draws of the bands; 0: no bands
    seed: int = 0  # of the bootstrap


def data(df: pd.DataFrame, config: Config = Config()) -> pd.DataFrame:
    """Tabulate the panels `loss`, `distance` and, where known, `inference`."""
    panels.need(df, NEEDS, "tokens_per_image")
    request = FrontierRequest(x=config.x, bootstrap=config.bootstrap, seed=config.seed)
    return panels.compression_rows(
        df, "tokens_per_image", request, distance=config.distance, inference=True
    )


def draw(df: pd.DataFrame, config: Config = Config(), table: pd.DataFrame | None = None) -> Figure:
    """Draw panels side by side, one colour per number of tokens."""
    table = data(df, config) if table is None else table
    with style.paper():
        axes = table.attrs["axes"]
        fig, found = style.figure(style.DOUBLE, 2.1, panels=len(axes))
        looks = panels.line_looks(table)
        panels.draw_compression(found, table, looks)
        style.legend(fig, looks, title="tokens per image", extra=panels.scaling_keys(table))
        style.note(fig, table.attrs["note"])
    return fig
