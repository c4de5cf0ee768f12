"""Does it hold beyond ImageNet? LSUN cats, horses and bedrooms. (CRT, Table 3)

Paper: arXiv 2412.16326. Three generators on each tokenizer, which Table 3 calls 111M, 340M and
740M: the backbones 111M, 343M and 775M of Table 4. LSUN has no labels: one class for all, no
guidance. gFID, CLIP-FID, precision and recall against 50,000 training images. Distances of equally
many images can be compared, so 10,000 training images of each category are held out for validation,
also of bedrooms, whose own validation part has 300.

Command: tokenlaw launch crt_lsun --on slurm --data lsun:LSUN. Expected cost: 1.5e21 train FLOPs.
"""

from ..grid import Axis, Grid, part
from . import _crt, _imagenet

# category -> images of its training part (objects: of its only one)
CATEGORIES = {"cat": 1_657_266, "horse": 2_000_340, "bedroom": 3_033_042}
NUM_VAL = 10_000


def categories() -> Axis:
    levels = {
        name: {
            "data.dataset": part("lsun", category=name, num_val_held_out=NUM_VAL),
            "data.num_train": images - NUM_VAL,
            "data.num_val": NUM_VAL,
        }
        for name, images in CATEGORIES.items()
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
        axes=(categories(), _crt.sizes("111M", "343M", "775M")),
    )
