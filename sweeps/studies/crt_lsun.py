"""Does it hold beyond ImageNet? LSUN cats, horses and bedrooms. (CRT, Table 3)

Paper: arXiv 2412.16326. LSUN has no labels: one class for all, no guidance. gFID and CLIP-FID
against 50,000 training images. The paper does not say which generator: 343M here. Object categories
have no validation part, so 10,000 of their images are held out.

Command: tokenlaw launch crt_lsun --on slurm --data lsun:LSUN. Expected cost: 7.0e20 train FLOPs.
"""

from ..grid import Axis, Grid, part
from . import _crt, _imagenet

# category -> training images, validation images as LSUN has them, held out
CATEGORIES = {
    "cat": (1_657_266, 0, 10_000),
    "horse": (2_000_340, 0, 10_000),
    "bedroom": (3_033_042, 300, 0),
}


def categories() -> Axis:
    levels = {}
    for name, (images, num_val, held_out) in CATEGORIES.items():
        dataset = part("lsun", category=name, num_val_held_out=held_out)
        levels[name] = {
            "data.dataset": dataset,
            "data.num_train": images - held_out,
            "data.num_val": num_val + held_out,
        }
    return Axis("category", levels)


def study() -> Grid:
    return Grid(
        data={"dataset": part("lsun"), "num_classes": 1, "resolution": 256},
        tokenizer=_crt.TOKENIZER,
        codes=_crt.CODES,
        generator={**_crt.GENERATOR, "label_mode": "none"},
        evaluations={
            "reconstruction": _imagenet.RECONSTRUCTION,
            "samples": {
                "subject": "generator",
                "metrics": [
                    part("fid", reference="train_subset"),
                    part("clip_fid", reference="train_subset"),
                ],
                "num_samples": 50_000,
                "batch_size": 256,
                "numerics": _imagenet.BF16,
            },
        },
        arms=_crt.ARMS,
        axes=(categories(), _crt.sizes("343M")),
    )
