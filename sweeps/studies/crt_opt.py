"""The paper's best system: 2.18 gFID with 256 tokens and 775M parameters. (CRT, Table 1)

Paper: arXiv 2412.16326. 131,072 codes, the decoder doubled, 800k iterations of the tokenizer (rFID
1.21); generators 111M (gFID 4.23), 343M (2.45), 775M (2.18, IS 268). The sizes name backbones: with
this codebook their counts are 287M, 578M and 1,068M. How the decoder was doubled is not said: here
by width, x 1.41 (181 channels). Generators have the recipe's 375k iterations; `--option
iterations=1500000` for 300 epochs.

Command: tokenlaw launch crt_opt --on slurm --data imagefolder:IMAGENET. Expected cost: 4.5e20 train
FLOPs.
"""

from ..grid import Grid
from . import _crt, _imagenet


def study(iterations: int = 375_000, adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator={**_crt.GENERATOR, "iterations": iterations},
        evaluations=_crt.evaluations(adm_sha256),
        arms={
            "crt_opt": {
                **_crt.CRT,
                "tokenizer.quantizer.codebook_size": 131_072,
                "tokenizer.tokenizer.ch_decoder": 181,
                "tokenizer.iterations": 800_000,
            }
        },
        axes=(_crt.sizes("111M", "343M", "775M"),),
    )
