"""Do index backpropagation codebooks scale in size, width and depth? (IBQ)

Paper: IBQ (arXiv 2412.02692), recipes as in its code. Tokenizers: 1,024 to 262,144 codes of 256
dimensions (rFID 2.24, 1.87, 1.37, 1.00), plain VQ beside them (usage 5.3% at 16,384), 330 epochs,
Adam (.5, .9), x 0.1 at epochs 250 and 300; hinge for the discriminator, non-saturating for the
tokenizer, LeCAM. Generators with adaptive norms 342M, 649M, 1.1B, 2.1B on
the 16,384 codes, 300, 350, 400 and 450 epochs, each with its own warm-up, end of the linear decay
and scale of the initial modulation.

Command: tokenlaw launch ibq_scaling --on slurm --data imagefolder:IMAGENET. Expected cost: 1.1e22
train FLOPs. fp16 became bf16; codes are made beforehand (ten crops) and not at every step.
"""

from typing import Any

from ..grid import Axis, Grid, part, where
from . import _imagenet

TOKENIZER_EPOCHS, TOKENIZER_BATCH = 330, 256
GENERATOR_BATCH = 768
CODEBOOK_SIZES = (1_024, 8_192, 16_384, 262_144)
# name -> layers, epochs, warm-up epochs, end of the decay as a share of the peak, initial scale
GENERATORS = {
    "342M": (16, 300, 6, 0.1, 1e-3),
    "649M": (20, 350, 7, 0.1, 1e-3),
    "1.1B": (24, 400, 8, 0.01, 1e-4),
    "2.1B": (30, 450, 9, 0.01, 1e-5),
}


def generator_sizes() -> Axis:
    """Width is 64 and one head for each layer."""
    levels: dict[str, dict[str, Any]] = {}
    for name, (depth, epochs, warmup, end, gain) in GENERATORS.items():
        levels[name] = {
            "generator.model.width": 64 * depth,
            "generator.model.layers": depth,
            "generator.model.heads": depth,
            "generator.model.adaln_gain_init": gain,
            "generator.iterations": _imagenet.epochs(epochs, GENERATOR_BATCH),
            "generator.optim.warmup_iterations": _imagenet.epochs(warmup, GENERATOR_BATCH),
            "generator.optim.lr_end_share": end,
        }
    return Axis("size", levels)


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer={
            "tokenizer": part("vqgan", num_res_blocks_encoder=4, num_res_blocks_decoder=5),
            "quantizer": part("ibq", dim=256, entropy_weight=0.05, beta=0.25),
            "reconstruction": "l1",
            "perceptual": part("lpips", weight=1.0),
            "adversarial": part(
                "patchgan",
                objective="hinge",
                generator_objective="non_saturating",
                weight=0.1,
                start_iteration=0,
                ramp_iterations=0,
                gate_discriminator=False,
                lecam_weight=0.05,
            ),
            "augment": "crop_flip",
            "ema_decay": 0.9999,
            "iterations": _imagenet.epochs(TOKENIZER_EPOCHS, TOKENIZER_BATCH),
            "batch_size": TOKENIZER_BATCH,
            "optim": {
                "name": "adam",
                "lr_peak": 1e-4,
                "schedule": "multistep",
                "milestones": [250 / TOKENIZER_EPOCHS, 300 / TOKENIZER_EPOCHS],
                "milestone_factor": 0.1,
                "beta1": 0.5,
                "beta2": 0.9,
            },
            "numerics": _imagenet.BF16,
        },
        codes={"crops": "ten_crop", "numerics": _imagenet.BF16},
        generator={
            "model": {"width": 1024, "layers": 16, "heads": 16, "adaln": True, "qk_norm": False},
            "iterations": _imagenet.epochs(300, GENERATOR_BATCH),
            "batch_size": GENERATOR_BATCH,
            "optim": {
                "name": "adamw",
                "lr_peak": 3e-4,
                "lr_warmup_start": 0.005 * 3e-4,
                "schedule": "linear",
                "hold_share": 0.05,
                "beta1": 0.9,
                "beta2": 0.95,
                "weight_decay": 0.05,
                "clip": 1.0,
            },
            "numerics": _imagenet.BF16,
        },
        evaluations={
            "reconstruction": _imagenet.RECONSTRUCTION,
            "samples": _imagenet.samples(adm_sha256),
        },
        arms={
            "ibq": {},
            "vq": {
                "tokenizer.quantizer": part("vq", dim=256, l2_normalize=False),
            },
        },
        axes=(
            Axis("codebook_size", CODEBOOK_SIZES, path="tokenizer.quantizer.codebook_size"),
            generator_sizes(),
        ),
        where=(
            where(
                lambda cell: cell["codebook_size"] == 16_384 or cell["size"] == "342M",
                "other codebooks have the smallest generator only",
            ),
            where(
                lambda cell: cell["arm"] == "ibq" or cell["size"] == "342M",
                "plain VQ has the smallest generator only",
            ),
        ),
    )
