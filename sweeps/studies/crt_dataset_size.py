"""Does the gain of a regularised tokenizer hold with fewer images? (CRT, Fig. 11)

Paper: arXiv 2412.16326. Generators train on the first n images of a seeded order, over the
tokenizers and codes of crt_main. The figure's caption says 250k iterations, the text 375k: the
default is the text's, `--option iterations=250000` the caption's. The steps of n are ours.

Command: tokenlaw launch crt_dataset_size --on slurm --data imagefolder:IMAGENET. Expected cost:
7.7e20 train FLOPs.
"""

from ..grid import Axis, Grid
from . import _crt, _imagenet

FRACTIONS = (16, 8, 4, 2, 1)


def study(iterations: int = 375_000, adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator={**_crt.GENERATOR, "iterations": iterations},
        evaluations=_crt.evaluations(adm_sha256),
        arms=_crt.ARMS,
        axes=(
            Axis(
                "num_train",
                tuple(_imagenet.NUM_TRAIN // fraction for fraction in FRACTIONS),
                path="generator.num_train",
            ),
            _crt.sizes("111M", "343M"),
        ),
    )
