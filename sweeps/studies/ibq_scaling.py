"""Do index backpropagation codebooks scale in size, width and depth? (IBQ)

Paper: IBQ (arXiv 2412.02692), recipes as in the configs of its code (SEED-Voken). Tokenizers: 1,024
to 262,144 codes of 256 dimensions (rFID 2.24, 1.87, 1.37, 1.00), 330 epochs, x 0.1 at epochs 250
and 300 (8,192 codes: 280 epochs, x 0.1 at 250), Adam (.5, .9), random crops over the full short
side without mirror images, a moving average of weights (.999); hinge for the discriminator,
non-saturating for the tokenizer, LeCAM. Plain VQ beside them has beta on the codebook, as in that
code, and, inferred from the order of the paper's ablation, the shallow network (2 residual blocks a
level): its 3.98 rFID and 5.3% usage at 16,384 codes stand before the rows with a deeper one.
Generators with adaptive norms 342M, 649M, 1.1B, 2.1B on the 16,384 codes, 300, 350, 400 and 450
epochs, each with its own warm-up, end of the linear decay, scale of the initial gates, and, for the
2.1B, a weight decay that rises from .05 to .08. All matrices are decayed, embeddings too.

Command: tokenlaw launch ibq_scaling --on slurm --data imagefolder:IMAGENET. Expected cost: 9.2e21
train FLOPs. fp16 became bf16; codes are made beforehand (five crops, no mirror images) and not at
every step; the tokenizer steps before the discriminator.
"""

from typing import Any

from ..grid import Axis, Grid, part, where
from . import _imagenet

TOKENIZER_BATCH, GENERATOR_BATCH = 256, 768
# codes -> epochs, epochs after which the rate falls to a tenth
CODEBOOKS = {
    1_024: (330, (250, 300)),
    8_192: (280, (250,)),
    16_384: (330, (250, 300)),
    262_144: (330, (250, 300)),
}
# name -> layers, epochs, warm-up epochs, end of the decay as a share of the peak, initial scale of
# the gates, weight decay at the end (None: as at the start)
GENERATORS = {
    "342M": (16, 300, 6, 0.1, 1e-3, None),
    "649M": (20, 350, 7, 0.1, 1e-3, None),
    "1.1B": (24, 400, 8, 0.01, 1e-4, None),
    "2.1B": (30, 450, 9, 0.01, 1e-5, 0.08),
}


def training(size: int) -> tuple[int, list[float]]:
    """Return iterations, and the shares of them after which the rate falls, of a codebook size."""
    epochs, drops = CODEBOOKS[size]
    return _imagenet.epochs(epochs, TOKENIZER_BATCH), [drop / epochs for drop in drops]


def codebooks() -> Axis:
    """Make the axis of codebook sizes, each with the length of its training."""
    levels: dict[int, dict[str, Any]] = {}
    for size in CODEBOOKS:
        iterations, milestones = training(size)
        levels[size] = {
            "tokenizer.quantizer.codebook_size": size,
            "tokenizer.iterations": iterations,
            "tokenizer.optim.milestones": milestones,
        }
    return Axis("codebook_size", levels)


def generator_sizes() -> Axis:
    """Width is 64 and one head for each layer."""
    levels: dict[str, dict[str, Any]] = {}
    for name, (depth, epochs, warmup, end, gain, decay_end) in GENERATORS.items():
        levels[name] = {
            "generator.model.width": 64 * depth,
            "generator.model.layers": depth,
            "generator.model.heads": depth,
            "generator.model.adaln_gain_init": gain,
            "generator.iterations": _imagenet.epochs(epochs, GENERATOR_BATCH),
            "generator.optim.warmup_iterations": _imagenet.epochs(warmup, GENERATOR_BATCH),
            "generator.optim.lr_end_share": end,
            "generator.optim.weight_decay_end": decay_end,
        }
    return Axis("size", levels)


def study(adm_sha256: str | None = None) -> Grid:
    iterations, milestones = training(16_384)
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
            "augment": "crop",
            "crop_scale_min": 1.0,
            "ema_decay": 0.999,
            "iterations": iterations,
            "batch_size": TOKENIZER_BATCH,
            "optim": {
                "name": "adam",
                "lr_peak": 1e-4,
                "schedule": "multistep",
                "milestones": milestones,
                "milestone_factor": 0.1,
                "beta1": 0.5,
                "beta2": 0.9,
            },
            "numerics": _imagenet.BF16,
        },
        codes={"crops": "five_crop", "numerics": _imagenet.BF16},
        generator={
            "model": {
                "width": 1024,
                "layers": 16,
                "heads": 16,
                "qk_norm": False,
                "adaln": True,
                "adaln_scale_init": 0.5,
            },
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
                "decay_embeddings": True,
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
                "tokenizer.quantizer": part(
                    "vq", dim=256, l2_normalize=False, beta_side="codebook"
                ),
                "tokenizer.tokenizer.num_res_blocks_encoder": 2,
                "tokenizer.tokenizer.num_res_blocks_decoder": 3,
            },
        },
        axes=(
            codebooks(),
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
