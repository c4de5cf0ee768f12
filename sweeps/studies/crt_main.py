"""Does a causally regularised tokenizer scale better than the plain one? (CRT, Figs. 3, 8, 12)

Paper: arXiv 2412.16326, sections 3 and 4. Two tokenizers, seven generators x nine durations on
each: 126 generators, 1.2e15 to 2.7e18 on the paper's axis of 6 x parameters x images.

Command: tokenlaw launch crt_main --on slurm --data imagefolder:IMAGENET. Expected cost: 8.4e21
train FLOPs in all; `tokenlaw plan crt_main --hardware "NVIDIA H100"` gives GPU-hours.
"""

from ..grid import Grid
from . import _crt, _imagenet


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator=_crt.GENERATOR,
        evaluations=_crt.evaluations(adm_sha256),
        arms=_crt.ARMS,
        axes=(_crt.sizes(), _crt.durations()),
    )
