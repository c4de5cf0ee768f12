"""Tell losses of several tokenizers' codes from metrics that compare them.

A generator's loss says how many bits its tokenizer's codes take. A tokenizer that keeps less of the
image has a lower loss, so between tokenizers the loss is a rate, not a quality.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .replicates import words
from .table import PER_TOKEN, TOKEN_COLUMNS, Data

LOSSES: Final = frozenset("loss nll nats bits bpb bpp bpd perplexity ppl xent".split())
# A loss of pixels or features is a quality of the image.
OF_IMAGES: Final = frozenset("rec recon reconstruction pixel perceptual lpips mse l1 l2".split())


def is_rate(column: str) -> bool:
    """Tell if a column is a loss of codes."""
    parts = set(words(column))
    return column in PER_TOKEN or bool(LOSSES & parts) and not OF_IMAGES & parts


def why_rates(data: Data, tokenizer_n: np.ndarray | None) -> str:
    """Return why y cannot compare the arms; "" if it can or the table names no tokenizers."""
    y = data.roles["y"]
    if "group" not in data.columns or not is_rate(y):
        return ""
    group, differ = data.columns["group"], ""
    names = np.unique(group)
    if tokenizer_n is not None:
        units = [frozenset(tokenizer_n[group == name].tolist()) for name in names]
        if len(set(units)) > 1:
            differ = "tokenizers"
    for column in TOKEN_COLUMNS:
        if column in data.frame.columns:
            values = data.frame[column].to_numpy()
            held = [frozenset(values[group == name].tolist()) for name in names]
            if len(set(held)) > 1:
                differ = column
    if not differ:
        return ""
    return (
        f"the arms differ in {differ}: {y} is the rate of each tokenizer's codes, not a quality, "
        "so no gain and no crossover is given; compare a metric of images"
    )
