"""The text of a study file whose runs take seconds: a tokenizer, its codes, generators, PSNR."""

STUDY = """
from tokenlaw import Axis, Grid, part
ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}
def study(seeds: list = (0, 1), iterations: list = (4,)):
    return Grid(
        data={"dataset": part("digits"), "resolution": 16},
        tokenizer={
            "tokenizer": part(
                "vqgan", ch=8, ch_mult=[1, 1, 1], num_res_blocks_encoder=1,
                num_res_blocks_decoder=1, z_channels=8,
            ),
            "quantizer": part("vq", codebook_size=32, dim=4),
            "iterations": 4, "batch_size": 8, "optim": {"name": "adam", **ADAM},
        },
        codes={"crops": "center", "num_train": 64},
        generator={
            "model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
            "batch_size": 8, "optim": {**ADAM, "schedule": "cosine"},
        },
        evaluations={"reconstruction": {
            "subject": "tokenizer", "metrics": [part("psnr")], "num_samples": 16}},
        axes=(
            Axis("seed", tuple(seeds), path="generator.seed"),
            Axis("iterations", tuple(iterations), path="generator.iterations"),
        ),
    )
"""
