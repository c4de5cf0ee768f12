"""Depth and strength of the causal model (CRT, Fig. 9).

Paper: arXiv 2412.16326. Layers 0, 2, 4, 6, 8 of the causal model, 5% fewer iterations of the
tokenizer for every two of them (0 layers: no regulariser), and lambda with two layers; distances
are averaged over four generators of 250k iterations. The values of lambda around the paper's 4 are
ours.

Command: tokenlaw launch crt_ablation --on slurm --data imagefolder:IMAGENET. Expected cost: 1.2e21
train FLOPs.
"""

from ..grid import Axis, Grid, where
from . import _crt, _imagenet

LAYERS = (2, 4, 6, 8)
WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0)


def layers() -> Axis:
    """Make the axis of depths; a causal model's cost is taken from the tokenizer's iterations."""
    plain = {
        "tokenizer.regularizer": None,
        "tokenizer.iterations": _crt.TOKENIZER_ITERATIONS,
    }
    deep = {
        number: {
            "tokenizer.regularizer.layers": number,
            "tokenizer.iterations": _crt.TOKENIZER_ITERATIONS * (100 - 5 * number // 2) // 100,
        }
        for number in LAYERS
    }
    return Axis("crt_layers", {0: plain, **deep})


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator={**_crt.GENERATOR, "iterations": 250_000},
        evaluations=_crt.evaluations(adm_sha256),
        arms={"crt": _crt.CRT},
        axes=(
            Axis("crt_weight", WEIGHTS, path="tokenizer.regularizer.weight"),
            layers(),
            _crt.sizes("81M", "111M", "212M", "343M"),
        ),
        where=(
            where(
                lambda cell: cell["crt_layers"] == 2 or cell["crt_weight"] == 4.0,
                "one of depth and weight is swept at a time",
            ),
        ),
    )
