"""The whole flow in minutes: does causal regularisation help, on 1,797 handwritten digits?

Command: tokenlaw quickstart. Expected cost: a few minutes on 2 CPU cores, 2 tokenizers and 18
generators. Every mechanism of the papers' recipe is on (PatchGAN, perceptual loss, crops, CFG),
only the sizes shrink. At 32 px SSIM stands in for MS-SSIM, an untrained VGG for LPIPS, and a
classifier trained on the digits for Inception. The regulariser's weight is 0.3, not the paper's 4:
in the first 2,000 images a weight of 4 maps every image to one code, the most predictable of all.
"""

from ..grid import Axis, Grid, part

ADAM = {"lr_peak": 1e-3, "warmup_iterations": 20, "beta1": 0.9, "beta2": 0.95}
NO_DROPOUT = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0}


def study() -> Grid:
    return Grid(
        data={"dataset": part("digits"), "resolution": 32},
        extractor={"width": 64, "iterations": 150},
        tokenizer={
            "tokenizer": part(
                "vqgan",
                ch=16,
                ch_mult=[1, 1, 2, 2],
                num_res_blocks_encoder=1,
                num_res_blocks_decoder=2,
                z_channels=32,
            ),
            "quantizer": part("vq", codebook_size=128, dim=8),
            "perceptual": part("random_vgg", weight=0.1),
            "adversarial": part(
                "patchgan", ndf=16, n_layers=2, start_iteration=80, ramp_iterations=30, weight=0.1
            ),
            "augment": "crop",  # a mirrored digit is no digit
            "iterations": 120,
            "batch_size": 16,
            "optim": {"name": "adam", **ADAM, "lr_peak": 2e-3},
        },
        codes={"crops": "five_crop"},
        generator={
            "model": {"width": 64, "layers": 2, "heads": 2, "hidden_multiple": 32, **NO_DROPOUT},
            "iterations": 100,
            "batch_size": 64,
            "optim": {
                **ADAM,
                "lr_peak": 3e-3,
                "schedule": "cosine",
                "weight_decay": 0.05,
                "clip": 1.0,
            },
        },
        evaluations={
            "reconstruction": {
                "subject": "tokenizer",
                "metrics": [part("fcd"), part("psnr"), part("ssim"), part("codebook_usage")],
            },
            "samples": {
                "subject": "generator",
                "metrics": [part("fcd")],
                "num_samples": 500,
                "sample_seeds": [0, 1],
                "sampling": {"cfg_scale": 1.5},
                "batch_size": 250,
            },
        },
        arms={
            "vq": {},
            "crt": {
                "tokenizer.regularizer": part(
                    "crt", width=64, heads=2, hidden_multiple=32, weight=0.3, ramp_iterations=80
                )
            },
        },
        axes=(
            Axis(
                "size",
                {
                    "S": {"generator.model.width": 32, "generator.model.layers": 2},
                    "M": {"generator.model.width": 64, "generator.model.layers": 3},
                    "L": {"generator.model.width": 96, "generator.model.layers": 4},
                },
            ),
            Axis("iterations", (50, 150, 450), path="generator.iterations"),
        ),
    )
