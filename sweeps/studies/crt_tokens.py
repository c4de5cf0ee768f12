"""The best number of tokens for an image (CRT, Figs. 4, 5, 14).

Paper: arXiv 2412.16326. The plain tokenizer and the CRT one, trained at 256 px, encode at
R = 16 sqrt(n) px for n = 256, 400 and 576 tokens; images are decoded at R and brought down to 256
px (bicubic) to be measured. The z-loss, which the paper uses in some of the runs of 576 tokens, is
on in all of them.

Command: tokenlaw launch crt_tokens --on slurm --data imagefolder:IMAGENET. Expected cost: 4.1e22
train FLOPs; the runs of 256 tokens are those of crt_main.
"""

from typing import Any

from ..grid import Axis, Grid
from . import _crt, _imagenet


def tokens(resolution: int, z_loss: float) -> dict[str, Any]:
    """Configure one sequence length; the metrics stay at 256 px."""
    return {
        "codes.data.resolution": resolution,
        "evaluations.reconstruction.model_resolution": None if resolution == 256 else resolution,
        "generator.z_loss": z_loss,
    }


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator=_crt.GENERATOR,
        evaluations=_crt.evaluations(adm_sha256),
        arms=_crt.ARMS,
        axes=(
            Axis(
                "tokens_per_image",
                {256: tokens(256, 0.0), 400: tokens(320, 0.0), 576: tokens(384, 1e-4)},
            ),
            _crt.sizes(),
            _crt.durations(),
        ),
    )
