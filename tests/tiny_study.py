"""A study that trains in seconds: two arms, two sizes, on the digits at 16 px."""

from __future__ import annotations

from tokenlaw.sweeps.grid import Axis, Grid, part

ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}


def study() -> Grid:
    return Grid(
        data={"dataset": part("digits"), "resolution": 16},
        extractor={"width": 8, "iterations": 6, "batch_size": 16},
        tokenizer={
            "tokenizer": part(
                "vqgan",
                ch=8,
                ch_mult=[1, 1, 1],
                num_res_blocks_encoder=1,
                num_res_blocks_decoder=1,
                z_channels=8,
            ),
            "quantizer": part("vq", codebook_size=32, dim=4, entropy_weight=0.5),
            "adversarial": part(
                "patchgan", ndf=4, n_layers=1, start_iteration=2, ramp_iterations=2, weight=0.1
            ),
            "augment": "crop",
            "iterations": 8,
            "batch_size": 8,
            "optim": {"name": "adam", **ADAM},
        },
        codes={"crops": "center", "num_train": 100},
        generator={
            "model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
            "iterations": 8,
            "batch_size": 16,
            "optim": {**ADAM, "schedule": "cosine"},
        },
        evaluations={
            "reconstruction": {
                "subject": "tokenizer",
                "metrics": [part("fcd"), part("psnr"), part("codebook_usage")],
                "num_samples": 100,
            },
            "samples": {
                "subject": "generator",
                "metrics": [part("fcd")],
                "num_samples": 40,
                "sample_seeds": [0, 1],
                "sampling": {"cfg_scale": 1.5},
            },
        },
        arms={
            "vq": {},
            "crt": {
                "tokenizer.regularizer": part(
                    "crt", width=16, heads=1, hidden_multiple=16, layers=1, ramp_iterations=4
                )
            },
        },
        axes=(
            Axis("size", {"S": {"generator.model.width": 16}, "M": {"generator.model.width": 32}}),
        ),
    )
