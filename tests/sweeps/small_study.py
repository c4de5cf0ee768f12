"""A small study whose every value is written out here, so that its ids are fixed."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenlaw.sweeps.grid import Axis, Grid, part

DATA = {
    "dataset": part("digits", split_seed=0),
    "digest": "0" * 64,
    "num_classes": 10,
    "num_train": 1437,
    "num_val": 360,
    "resolution": 32,
}
SIZES = Axis(
    "size",
    {
        "S": {"generator.model.width": 32, "generator.model.heads": 1},
        "M": {"generator.model.width": 64, "generator.model.heads": 2},
    },
)
ITERATIONS = Axis("iterations", (10, 20, 40), path="generator.iterations")


def grid(**changes: Any) -> Grid:
    """Two arms, two sizes, three durations; 1 extractor, 2 tokenizers, 2 codes, 12 generators."""
    made = Grid(
        name="small",
        data=DATA,
        extractor={"width": 16, "iterations": 5},
        tokenizer={
            "tokenizer": part("vqgan", ch=16, ch_mult=[1, 2, 2], z_channels=16),
            "quantizer": part("vq", codebook_size=64, dim=8),
            "iterations": 10,
            "batch_size": 8,
        },
        codes={"crops": "center"},
        generator={
            "model": {"width": 32, "layers": 1, "heads": 1, "hidden_multiple": 32},
            "iterations": 10,
            "batch_size": 8,
        },
        evaluations={
            "reconstruction": {"subject": "tokenizer", "metrics": [part("psnr")]},
            "samples": {
                "subject": "generator",
                "metrics": [part("fcd")],
                "num_samples": 20,
                "sample_seeds": [0, 1],
            },
        },
        arms={
            "vq": {},
            "crt": {"tokenizer.regularizer": part("crt", width=32, heads=1, hidden_multiple=32)},
        },
        axes=(SIZES, ITERATIONS),
    )
    return dataclasses.replace(made, **changes)
