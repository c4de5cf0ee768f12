"""One tokenizer and one or more generators whose every random number is a function of the step
alone, so that several processes give the curve of one."""

from tokenlaw.sweeps.grid import Axis, Grid, part

ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}


def study(generators: int = 1) -> Grid:
    return Grid(
        data={"dataset": part("digits"), "resolution": 16},
        tokenizer={
            "tokenizer": part(
                "vqgan",
                ch=8,
                ch_mult=[1, 1, 1],
                num_res_blocks_encoder=1,
                num_res_blocks_decoder=1,
                z_channels=8,
            ),
            "quantizer": part("vq", codebook_size=32, dim=4, entropy_weight=0.1),
            "augment": "crop",
            # Later on rounding grows: once a code falls the other way, gradients differ for good.
            "iterations": 6,
            "batch_size": 8,
            "optim": {"name": "adam", **ADAM},
        },
        codes={"crops": "center", "num_train": 64},
        generator={
            "model": {
                **{"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
                **{"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0},
                "class_dropout": 0.0,
            },
            "iterations": 30,
            "batch_size": 8,
            "optim": {**ADAM, "schedule": "cosine"},
        },
        axes=(Axis("seed", tuple(range(generators)), path="generator.seed"),),
    )
