"""Finite scalar quantisation against the plain codebook, in both stages. (CRT, comparison to FSQ)

Papers: CRT (arXiv 2412.16326), FSQ (arXiv 2309.15505). Codebooks of about 2^10, 2^12, 2^14 and 2^16
codes: FSQ takes its paper's levels, whose products are not powers of two, so real sizes stand in
the table. Both arms follow the one recipe; CRT reports that the plain codebook wins everywhere.

Command: tokenlaw launch crt_fsq --on slurm --data imagefolder:IMAGENET. Expected cost: 1.5e21 train
FLOPs.
"""

from ..grid import Arm, Axis, Grid, part
from . import _crt, _imagenet

# log2 of the nominal codebook size -> FSQ's recommended levels (1000, 4375, 15360, 64000 codes)
LEVELS = {
    10: [8, 5, 5, 5],
    12: [7, 5, 5, 5, 5],
    14: [8, 8, 8, 6, 5],
    16: [8, 8, 8, 5, 5, 5],
}


def study(adm_sha256: str | None = None) -> Grid:
    plain = {bits: {"tokenizer.quantizer.codebook_size": 2**bits} for bits in LEVELS}
    fsq = {
        bits: {"tokenizer.quantizer": part("fsq", levels=levels)} for bits, levels in LEVELS.items()
    }
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator=_crt.GENERATOR,
        evaluations=_crt.evaluations(adm_sha256),
        arms={"vq": _crt.VQ, "fsq": Arm({}, axes=(Axis("codebook_bits", fsq),))},
        axes=(
            Axis("codebook_bits", plain),
            _crt.sizes("111M", "343M"),
            _crt.durations(45_000, 90_000, 187_500, 375_000),
        ),
    )
