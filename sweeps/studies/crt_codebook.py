"""The best codebook size at each budget (CRT, Figs. 6, 7, 13).

Paper: arXiv 2412.16326. The plain tokenizer with 1,024, 16,384 and 131,072 codes (rFID gap between
the ends 1.3; 131,072 codes: 1.72), seven generators x nine durations on each. The paper sees 1k and
131k cross near 1e17 on its axis. The 16k runs are those of crt_main. Equal backbones are not equal
parameter counts here: the embeddings grow with the codebook.

Command: tokenlaw launch crt_codebook --on slurm --data imagefolder:IMAGENET. Expected cost:
1.4e22 train FLOPs, a third of them shared with crt_main.
"""

from ..grid import Axis, Grid
from . import _crt, _imagenet

CODEBOOK_SIZES = (1_024, 16_384, 131_072)


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator=_crt.GENERATOR,
        evaluations=_crt.evaluations(adm_sha256),
        arms={"vq": _crt.VQ},
        axes=(
            Axis("codebook_size", CODEBOOK_SIZES, path="tokenizer.quantizer.codebook_size"),
            _crt.sizes(),
            _crt.durations(),
        ),
    )
