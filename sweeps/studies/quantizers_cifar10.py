"""Every quantizer in the same tokenizer: what it does to reconstructions, usage and the generator.

CIFAR-10 at 32 px, 8 x 8 tokens, about 4,096 codes, one GPU: about a minute for each tokenizer.
Plain VQ with 256 dimensions is there to show the collapse that index backpropagation avoids. All
losses are on; a middle generator trains on the codes of each. Results: docs/quantizers.md.

Command: tokenlaw launch quantizers-cifar10 --data parquet:FOLDER --workers 4
"""

import dataclasses

from ..grid import Axis, Grid, part
from . import quickstart_cifar10

NAME = "quantizers-cifar10"
CODES = 4096


def study(iterations: int = 2_000, generator_iterations: int = 1_500) -> Grid:
    """Make the grid: `iterations` of each tokenizer, `generator_iterations` of each generator."""
    base = quickstart_cifar10.study(scale="gpu")
    crt = quickstart_cifar10.regularizer(large=True)
    quantizer = "tokenizer.quantizer"
    return dataclasses.replace(
        base,
        tokenizer={**base.tokenizer, "iterations": iterations},
        generator={**(base.generator or {}), "iterations": generator_iterations},
        arms={
            "vq-8d": {quantizer: part("vq", codebook_size=CODES)},
            "vq-256d": {quantizer: part("vq", codebook_size=CODES, dim=256, l2_normalize=False)},
            "crt": {
                quantizer: part("vq", codebook_size=CODES),
                "tokenizer.regularizer": crt,
            },
            "fsq": {quantizer: part("fsq", levels=[7, 5, 5, 5, 5])},
            "lfq": {quantizer: part("lfq", bits=12)},
            "ibq-256d": {quantizer: part("ibq", codebook_size=CODES, dim=256)},
            "vcq-cosine": {quantizer: part("vcq", codebook_size=CODES)},
        },
        axes=(
            Axis(
                "size",
                {
                    "M": {
                        "generator.model.width": 256,
                        "generator.model.layers": 6,
                        "generator.model.heads": 8,
                    }
                },
            ),
        ),
    )
