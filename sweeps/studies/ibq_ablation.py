"""Index backpropagation by code dimension, depth, loss and quantizer. (IBQ, ablations, Tables 6, 9)

Paper: IBQ (arXiv 2412.02692), at 16,384 codes, by the recipe of `ibq_scaling`. Arms: `ibq` with
codes of 32, 64, 128 and 256 dimensions, and with 1, 2 and 4 residual blocks a level (the decoder
has one more), one moved at a time; `ibq-single`, without double quantisation, and plain `vq` in the
net of 2 blocks; `lfq` of 14 bits (rFID 1.58, gFID 3.40; IBQ: 1.37, 2.88); `soft-vq`.

Own choices: the depth of `lfq` and `soft-vq`, 4 blocks, which the tables do not say; a 342M
generator on every tokenizer, where the paper has one for LFQ and IBQ only. The paper's Soft VQ
broke down in training, in another setting (IBQ reads 4.03 there): no number to be met.

Command: tokenlaw launch ibq_ablation --on slurm --data imagefolder:IMAGENET. Expected cost: 8.9e21
train FLOPs; the runs of `ibq` with 256 dimensions and 4 blocks are those of ibq_scaling.
"""

import dataclasses

from ..grid import Arm, Axis, Grid, part, where
from . import ibq_scaling

DIMS, BLOCKS = (32, 64, 128, 256), (1, 2, 4)


def dims(*values: int, path: str = "tokenizer.quantizer.dim") -> Axis:
    """Make the axis of code dimensions; bits are those of look-up-free codes."""
    return Axis("codebook_dim", values, path=path)


def blocks(*values: int) -> Axis:
    """Make the axis of residual blocks a level of the encoder; the decoder has one more."""
    return Axis(
        "tokenizer_blocks",
        {
            number: {
                "tokenizer.tokenizer.num_res_blocks_encoder": number,
                "tokenizer.tokenizer.num_res_blocks_decoder": number + 1,
            }
            for number in values
        },
    )


def smallest(grid: Grid) -> Axis:
    """Return the axis of generator sizes with its first level only."""
    (sizes,) = (axis for axis in grid.flat_axes() if axis.name == "size")
    point = sizes.points[0]
    return Axis("size", {point.value: dict(point.assignments)})


def study(adm_sha256: str | None = None) -> Grid:
    base = ibq_scaling.study(adm_sha256)
    bits = dims(14, path="tokenizer.quantizer.bits")
    return dataclasses.replace(
        base,
        arms={
            "ibq": {},
            "ibq-single": Arm(
                {"tokenizer.quantizer.double_quantisation": False}, axes=(dims(256), blocks(2))
            ),
            "vq": Arm(base.arm("vq").sets, axes=(dims(256), blocks(2))),
            "lfq": Arm({"tokenizer.quantizer": part("lfq", bits=14)}, axes=(bits, blocks(4))),
            "soft-vq": Arm({"tokenizer.quantizer": part("soft_vq")}, axes=(dims(256), blocks(4))),
        },
        axes=(dims(*DIMS), blocks(*BLOCKS), smallest(base)),
        where=(
            where(
                lambda cell: (
                    cell["arm"] != "ibq"
                    or cell["codebook_dim"] == DIMS[-1]
                    or cell["tokenizer_blocks"] == BLOCKS[-1]
                ),
                "one setting moves at a time",
            ),
        ),
    )
