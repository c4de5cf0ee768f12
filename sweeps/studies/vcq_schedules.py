"""Do codebooks that grow along the sequence make tokens easier to model? (VCQ)

Paper: VCQ (arXiv 2605.06207), its Base group. Constant 16,384 and 8,192 codes, and 2 to 16,384
codes by a linear, cosine and power-2.5 schedule; cosine to 11,264 is its Large group's. Tokenizer:
L1, LPIPS, PatchGAN 0.1 on images changed by DiffAugment (the discriminator's own loss has weight
1), AdamW with 13k warm-up, 65k at the peak, linear decay, 1.3M iterations x 256. Generators 12x768,
24x1024, 32x1280, 1.0M iterations x 512, 10k warm-up, 50k at the peak. Guidance has the scales and
exponents of its Table 7: a cosine-power schedule times the codebook's factor (its Eq. 4), which is
1 where the codebook is constant. Without guidance its temperature is below 1, .85 to .95.

The paper's tokenizer is a 1D transformer (TiTok's); here the sequence is the raster of the
convolutional f16 one, so the numbers are not the paper's.

The paper states learning rates, betas, and the weight decays of both stages, but these numerals are
not legible in the copy that we read. Own choices in their place: peak 1e-4, final rate 0, betas
(.9, .95), weight decay 1e-4 (tokenizer) and .05 (generator, where it is on all but biases and
norms). Own choices where the paper is silent: hinge, from iteration 20k on, clipping the tokenizer
and its discriminator at 1 (it states 1 for generators), no QK-norm. "Peak at 50k (65k) steps" is
read as so many iterations at the peak after the warm-up; the other reading, up to that iteration,
is `--set generator.optim.hold_share=0.0404` (40k) and `--set tokenizer.optim.hold_share=0.0404`
(52k). Whoever has the paper: put its values in with `--set`; docs/vcq.md lists them.

Command: tokenlaw launch vcq_schedules --on slurm --data imagefolder:IMAGENET. Expected cost: 7.9e21
train FLOPs.
"""

from typing import Any

from ..grid import Arm, Axis, Grid, part
from . import _imagenet

TOKENIZER_ITERATIONS, GENERATOR_ITERATIONS = 1_300_000, 1_000_000
# name -> layers, width, heads
SIZES = {"B": (12, 768, 12), "L": (24, 1024, 16), "XL": (32, 1280, 20)}
# arm -> schedule, K_max, K_min
SCHEDULES: dict[str, tuple[str, int, int]] = {
    "constant-16384": ("constant", 16_384, 16_384),
    "constant-8192": ("constant", 8_192, 8_192),
    "vcq-linear": ("linear", 16_384, 2),
    "vcq-cosine": ("cosine", 16_384, 2),
    "vcq-power": ("power", 16_384, 2),
    "vcq-cosine-11264": ("cosine", 11_264, 2),
}
# arm -> guidance scale and exponent of each generator, and the temperature without guidance
# (Table 7). Four arms have a row for B alone, which is taken for L and XL too.
GUIDANCE: dict[str, dict[str, tuple[float, float, float]]] = {
    "constant-16384": dict.fromkeys(SIZES, (20.0, 1.5, 0.85)),
    "constant-8192": dict.fromkeys(SIZES, (20.0, 2.0, 0.85)),
    "vcq-linear": dict.fromkeys(SIZES, (14.0, 1.75, 0.85)),
    "vcq-cosine": {"B": (10.0, 1.5, 0.85), "L": (4.0, 0.75, 0.85), "XL": (5.0, 0.75, 0.85)},
    "vcq-power": dict.fromkeys(SIZES, (10.0, 1.75, 0.85)),
    "vcq-cosine-11264": {"B": (4.0, 1.25, 0.9), "L": (4.0, 1.25, 0.9), "XL": (3.0, 1.0, 0.95)},
}


def schedule(name: str) -> Axis:
    """Make an axis of the arm's only schedule, so that tables have the column."""
    return Axis("schedule", (name,), path="tokenizer.quantizer.schedule")


def arm(name: str) -> Arm:
    """Configure an arm's codebooks and guidance."""
    kind, size, size_min = SCHEDULES[name]
    codebook = {
        "tokenizer.quantizer.codebook_size": size,
        "tokenizer.quantizer.codebook_size_min": size_min,
    }
    return Arm(codebook, axes=(schedule(kind), sizes(name)))


def sizes(arm_name: str) -> Axis:
    """Make the axis of generators, each with the guidance that the arm has for it."""
    levels: dict[str, dict[str, Any]] = {}
    for name, (layers, width, heads) in SIZES.items():
        scale, power, temperature = GUIDANCE[arm_name][name]
        levels[name] = {
            "generator.model.layers": layers,
            "generator.model.width": width,
            "generator.model.heads": heads,
            "evaluations.samples.sampling.cfg_scale": scale,
            "evaluations.samples.sampling.cfg_power": power,
            "evaluations.no_guidance.sampling.temperature": temperature,
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
            "adversarial": part(
                "patchgan",
                objective="hinge",
                weight=0.1,
                gate_discriminator=False,
                diffaug=["color", "translation", "cutout"],
            ),
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
                "decay_embeddings": True,
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
                "sampling": {"cfg_schedule": "cosine_power", "cfg_codebook": "log"},
            },
            "no_guidance": {
                **_imagenet.samples(adm_sha256),
                "cfg_selection": "fixed",
                "cfg_grid": [],
                "sampling": {"cfg_scale": 1.0},
            },
        },
        primary=("reconstruction", "samples"),
        arms={name: arm(name) for name in SCHEDULES},
        axes=(schedule("constant"), sizes("constant-16384")),
    )
