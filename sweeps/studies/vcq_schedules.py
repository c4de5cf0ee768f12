"""Do codebooks that grow along the sequence make tokens easier to model? (VCQ)

Paper: VCQ (arXiv 2605.06207), its Base group. Constant 16,384 and 8,192 codes, and 2 to 16,384
codes by a linear, cosine and power-2.5 schedule; cosine to 11,264 is its Large group's. Tokenizer:
L1, LPIPS, PatchGAN 0.1, AdamW with 13k warm-up, 65k at the peak, linear decay, 1.3M iterations x
256. Generators 12x768, 24x1024, 32x1280, 1.0M iterations x 512, 10k warm-up, 50k at the peak.
Guidance has the scales of its Table 7: codebook-size-aware (its Eq. 4) where the codebook varies,
cosine-power with the table's exponent where it does not. The paper multiplies the two; that product
is not built.

The paper's tokenizer is a 1D transformer (TiTok's); here the sequence is the raster of the
convolutional f16 one, so the numbers are not the paper's. Learning rates are not stated: 1e-4.

Command: tokenlaw launch vcq_schedules --on slurm --data imagefolder:IMAGENET. Expected cost: 7.9e21
train FLOPs.
"""

from typing import Any

from sweeps.grid import Arm, Axis, Grid, part

from . import _imagenet

TOKENIZER_ITERATIONS, GENERATOR_ITERATIONS = 1_300_000, 1_000_000
# name -> layers, width, heads
SIZES = {"B": (12, 768, 12), "L": (24, 1024, 16), "XL": (32, 1280, 20)}
# arm -> schedule, K_max, K_min, guidance scale and exponent of the Base group (Table 7)
SCHEDULES: dict[str, tuple[str, int, int, float, float]] = {
    "constant-16384": ("constant", 16_384, 16_384, 20.0, 1.5),
    "constant-8192": ("constant", 8_192, 8_192, 20.0, 2.0),
    "vcq-linear": ("linear", 16_384, 2, 14.0, 1.75),
    "vcq-cosine": ("cosine", 16_384, 2, 10.0, 1.5),
    "vcq-power": ("power", 16_384, 2, 10.0, 1.75),
    "vcq-cosine-11264": ("cosine", 11_264, 2, 4.0, 1.25),
}


def schedule(name: str) -> Axis:
    """The one schedule of an arm, as an axis, so that tables have the column."""
    return Axis("schedule", (name,), path="tokenizer.quantizer.schedule")


def arm(name: str, size: int, size_min: int, scale: float, power: float) -> Arm:
    """An arm's codebooks and guidance."""
    return Arm(
        {
            "tokenizer.quantizer.codebook_size": size,
            "tokenizer.quantizer.codebook_size_min": size_min,
            "evaluations.samples.sampling.cfg_scale": scale,
            "evaluations.samples.sampling.cfg_schedule": (
                "cosine_power" if size == size_min else "codebook_size"
            ),
            "evaluations.samples.sampling.cfg_power": power,
        },
        axes=(schedule(name),),
    )


def sizes() -> Axis:
    levels: dict[str, dict[str, Any]] = {}
    for name, (layers, width, heads) in SIZES.items():
        levels[name] = {
            "generator.model.layers": layers,
            "generator.model.width": width,
            "generator.model.heads": heads,
        }
    return Axis("size", levels)


def study(adm_sha256: str | None = None) -> Grid:
    return Grid(
        data=_imagenet.DATA,
        tokenizer={
            "tokenizer": part("vqgan"),
            "quantizer": part("vcq", beta=1.0),
            "reconstruction": "l1",
            "perceptual": part("lpips", weight=1.0),
            "adversarial": part("patchgan", objective="hinge", weight=0.1),
            "augment": "crop_flip",
            "iterations": TOKENIZER_ITERATIONS,
            "batch_size": 256,
            "optim": {
                "name": "adamw",
                "lr_peak": 1e-4,
                "warmup_iterations": 13_000,
                "schedule": "linear",
                "hold_share": 65_000 / (TOKENIZER_ITERATIONS - 13_000),
                "weight_decay": 1e-4,
                "clip": 1.0,
            },
            "numerics": _imagenet.BF16,
        },
        codes={"crops": "ten_crop", "numerics": _imagenet.BF16},
        generator={
            "model": {"width": 768, "layers": 12, "heads": 12, "qk_norm": False},
            "iterations": GENERATOR_ITERATIONS,
            "batch_size": 512,
            "optim": {
                "name": "adamw",
                "lr_peak": 1e-4,
                "warmup_iterations": 10_000,
                "schedule": "linear",
                "hold_share": 50_000 / (GENERATOR_ITERATIONS - 10_000),
                "weight_decay": 0.05,
                "clip": 1.0,
            },
            "numerics": _imagenet.BF16,
        },
        evaluations={
            "reconstruction": _imagenet.RECONSTRUCTION,
            "samples": {
                **_imagenet.samples(adm_sha256),
                "cfg_selection": "fixed",
                "cfg_grid": [],
            },
            # Its "without guidance" is not plain sampling: the temperature is 0.85.
            "no_guidance": {
                **_imagenet.samples(adm_sha256),
                "cfg_selection": "fixed",
                "cfg_grid": [],
                "sampling": {"cfg_scale": 1.0, "temperature": 0.85},
            },
        },
        primary=("reconstruction", "samples"),
        arms={name: arm(*values) for name, values in SCHEDULES.items()},
        axes=(schedule("constant"), sizes()),
    )
