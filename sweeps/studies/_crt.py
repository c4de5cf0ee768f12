"""The recipe of CRT (arXiv 2412.16326), which its studies share.

What the paper leaves open, and what is taken here: weight decay 0.05 and clipping at 1.0 of stage 2
(LlamaGen's, which decays embeddings too: here `decay_embeddings` is off), no dropout but the
class's (the only one it names), weight clipping for its Wasserstein loss (the paper it cites), crop
and flip of stage 1 (LlamaGen's), no moving average of weights. Each is a field: `--set
generator.model.residual_dropout=0.1`. docs/recipes has every field, with its source.
"""

from typing import Any

from ..grid import Axis, part
from ._imagenet import BF16, RECONSTRUCTION, samples

# Table 4: name -> width, layers, heads.
SIZES = {
    "52M": (640, 6, 10),
    "81M": (704, 9, 11),
    "111M": (768, 12, 12),
    "212M": (896, 18, 14),
    "343M": (1024, 24, 16),
    "517M": (1152, 30, 18),
    "775M": (1280, 36, 20),
}
ITERATIONS = (15_000, 22_500, 45_000, 90_000, 187_500, 375_000, 750_000, 1_500_000, 2_250_000)
TOKENIZER_ITERATIONS = 400_000
CRT_ITERATIONS = 380_000  # 5% fewer: what the causal model costs, by the paper's count

ADAM = {
    "name": "adam",
    "lr_peak": 1e-4,
    "lr_warmup_start": 1e-5,
    "warmup_iterations": 3_000,
    "beta1": 0.9,
    "beta2": 0.95,
}
TOKENIZER: dict[str, Any] = {
    "tokenizer": part("vqgan"),
    "quantizer": part("vq", codebook_size=16384, dim=8, beta=0.25),
    "reconstruction": "l2",
    "perceptual": part("lpips", weight=1.0),
    "adversarial": part(
        "patchgan",
        objective="wgan_clip",
        weight=0.5,
        start_iteration=20_000,
        ramp_iterations=2_000,
    ),
    "augment": "crop_flip",
    "crop_scale_min": 0.8,
    "iterations": TOKENIZER_ITERATIONS,
    "batch_size": 128,
    "optim": ADAM,
    "numerics": BF16,
}
CODES = {"crops": "ten_crop", "crop_ratio": 1.1, "numerics": BF16}
MODEL = {
    "qk_norm": True,
    "position": "rope_2d",
    "token_dropout": 0.0,
    "residual_dropout": 0.0,
    "ffn_dropout": 0.0,
    "class_dropout": 0.1,
}
GENERATOR: dict[str, Any] = {
    "model": {"width": 768, "layers": 12, "heads": 12, **MODEL},
    "iterations": 375_000,
    "batch_size": 256,
    "optim": {
        "name": "adamw",
        "lr_peak": 3e-3,
        "lr_warmup_start": 3e-4,
        "warmup_iterations": 5_000,
        "schedule": "cosine",
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.05,
        "clip": 1.0,
    },
    "numerics": BF16,
}
VQ: dict[str, Any] = {}
CRT: dict[str, Any] = {
    "tokenizer.regularizer": part("crt", weight=4.0, ramp_iterations=1_000, layers=2),
    "tokenizer.iterations": CRT_ITERATIONS,
}
ARMS = {"vq": VQ, "crt": CRT}


def evaluations(adm_sha256: str | None) -> dict[str, dict[str, Any]]:
    """Configure reconstructions and samples as every study of the paper measures them."""
    return {"reconstruction": RECONSTRUCTION, "samples": samples(adm_sha256)}


def sizes(*names: str) -> Axis:
    """Make the axis of generator sizes: those named, or all seven."""
    levels = {}
    for name in names or SIZES:
        width, layers, heads = SIZES[name]
        levels[name] = {
            "generator.model.width": width,
            "generator.model.layers": layers,
            "generator.model.heads": heads,
        }
    return Axis("size", levels)


def durations(*iterations: int) -> Axis:
    """Make the axis of training durations: those given, or all nine."""
    return Axis("iterations", iterations or ITERATIONS, path="generator.iterations")
