"""A study of generators of several lengths, for what is planned and launched but not trained."""

from tokenlaw.sweeps.grid import Axis, Grid, part

DATA = {
    "dataset": part("digits", split_seed=0),
    "digest": "0" * 64,
    "num_classes": 10,
    "num_train": 1437,
    "num_val": 360,
    "resolution": 32,
}
WSD = {"schedule": "wsd", "decay_share": 0.25}


def durations(*iterations: int, **generator: object) -> Grid:
    """Generators over one tokenizer, whose trunk is cut where each of them leaves it."""
    return Grid(
        name="lengths",
        data=DATA,
        tokenizer={
            "tokenizer": part("vqgan", ch=16, ch_mult=[1, 2, 2], z_channels=16),
            "quantizer": part("vq", codebook_size=64, dim=8),
            "iterations": 10,
            "batch_size": 8,
        },
        generator={
            "model": {"width": 32, "layers": 1, "heads": 1, "hidden_multiple": 32},
            "iterations": 10,
            "batch_size": 8,
            "optim": WSD,
            **generator,
        },
        axes=(Axis("iterations", iterations, path="generator.iterations"),),
    )
