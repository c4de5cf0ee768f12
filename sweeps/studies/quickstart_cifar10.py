"""The quick start on 60,000 small photographs: CIFAR-10 at 32 px, on a CPU or on one GPU.

Data: the parquet files of the Hugging Face layout, as `--data parquet:FOLDER`. `--scale tiny` is
for 2 CPU cores (about ten minutes: 8,000 of the images, models of quick-start size), `--scale
gpu` for one GPU (at most eight minutes: all images, generators up to 15M parameters). Everything
else is the quick start's: PatchGAN, an untrained VGG for LPIPS, a classifier trained on the images
themselves for Inception.

Command: tokenlaw quickstart quickstart-cifar10 --scale gpu --data parquet:FOLDER.
"""

from typing import Any

from ..grid import Axis, Grid, part

NAME = "quickstart-cifar10"
NO_DROPOUT = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0}
SCALES = ("tiny", "gpu")


def study(scale: str = "tiny") -> Grid:
    """Make the grid at a `scale`: tiny or gpu."""
    if scale not in SCALES:
        raise ValueError(f"scale: {scale!r}; allowed: {', '.join(SCALES)}")
    large = scale == "gpu"
    numerics = {"precision": "bf16" if large else "fp32"}
    warmup = 100 if large else 20
    adam = {"lr_peak": 4e-4 if large else 2e-3, "warmup_iterations": warmup, "beta2": 0.95}
    return Grid(
        data={
            "dataset": part("parquet"),
            "num_classes": 10,
            "num_train": 50_000,
            "num_val": 10_000,
            "resolution": 32,
        },
        extractor={"width": 64, "iterations": 2_000 if large else 400, "batch_size": 128},
        tokenizer={
            "tokenizer": part(
                "vqgan",
                ch=64 if large else 16,
                ch_mult=[1, 2, 2] if large else [1, 1, 2, 2],
                num_res_blocks_encoder=2 if large else 1,
                num_res_blocks_decoder=3 if large else 2,
                z_channels=128 if large else 32,
            ),
            "quantizer": part("vq", codebook_size=1024 if large else 256, dim=8),
            "perceptual": part("random_vgg", weight=0.1),
            "adversarial": part(
                "patchgan",
                ndf=64 if large else 16,
                n_layers=2,
                start_iteration=750 if large else 100,
                ramp_iterations=250 if large else 50,
                weight=0.1,
            ),
            "augment": "crop_flip",
            "iterations": 1_500 if large else 200,
            "batch_size": 128 if large else 16,
            "optim": {"name": "adam", "beta1": 0.9, **adam},
            "numerics": numerics,
        },
        codes={
            "crops": "ten_crop" if large else "center",
            "num_train": None if large else 8_000,
            "batch_size": 512 if large else 64,
            "numerics": numerics,
        },
        generator={
            "model": {"width": 64, "layers": 2, "heads": 2, "hidden_multiple": 32, **NO_DROPOUT},
            "iterations": 100,
            "batch_size": 256 if large else 64,
            "optim": {
                "lr_peak": 2e-3 if large else 3e-3,
                "schedule": "cosine",
                "warmup_iterations": warmup,
                "weight_decay": 0.05,
                "clip": 1.0,
            },
            "numerics": numerics,
        },
        evaluations={
            "reconstruction": {
                "subject": "tokenizer",
                "metrics": [part("fcd"), part("psnr"), part("ssim"), part("codebook_usage")],
                "batch_size": 512 if large else 64,
                "numerics": numerics,
            },
            "samples": {
                "subject": "generator",
                "metrics": [part("fcd")],
                "num_samples": 5_000 if large else 500,
                "sample_seeds": [0, 1],
                "sampling": {"cfg_scale": 1.5},
                "batch_size": 1_000 if large else 100,
                "numerics": numerics,
            },
        },
        arms={"vq": {}, "crt": {"tokenizer.regularizer": regularizer(large)}},
        axes=(sizes(large), durations(large)),
    )


def regularizer(large: bool) -> dict[str, Any]:
    """Configure the causal model, of the middle generator's width.

    With the few images of the tiny scale the paper's weight of 4 would map all of them to one code,
    as in the quick start.
    """
    width = 256 if large else 64
    return part(
        "crt",
        width=width,
        heads=width // 32,
        hidden_multiple=32,
        weight=4.0 if large else 0.1,
        ramp_iterations=200 if large else 100,
    )


def sizes(large: bool) -> Axis:
    """Make the axis of three generators, with heads of 32."""
    shapes = {"S": (128, 4), "M": (256, 6), "L": (384, 8)}
    if not large:
        shapes = {"S": (32, 2), "M": (64, 3), "L": (96, 4)}
    levels: dict[str, dict[str, int]] = {}
    for name, (width, layers) in shapes.items():
        levels[name] = {
            "generator.model.width": width,
            "generator.model.layers": layers,
            "generator.model.heads": width // 32,
        }
    return Axis("size", levels)


def durations(large: bool) -> Axis:
    """Make the axis of three durations, each three times the one before."""
    values = (150, 450, 1_350) if large else (60, 180, 540)
    return Axis("iterations", values, path="generator.iterations")
