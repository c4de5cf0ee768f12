"""A point for each generator."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ..drawing import style

NEEDS = ("run_id", "flops_train", "gbrightness")
TITLE = "Brightness of samples against compute"


def draw(df: pd.DataFrame) -> Figure:
    with style.paper():
        fig = Figure(figsize=(3, 2))
        axes = fig.add_subplot()
        axes.plot(df["flops_train"], df["gbrightness"], "o")
        axes.set(xlabel="train FLOPs", ylabel="brightness")
    return fig
