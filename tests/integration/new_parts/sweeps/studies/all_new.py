"""New parts alone. Command: tokenlaw launch all_new --on serial. Expected cost: seconds."""

from ..grid import Axis, Grid, part


def study() -> Grid:
    return Grid(
        data={"dataset": part("stripes"), "resolution": 16},
        tokenizer={
            "tokenizer": part("patches", patch=4),
            "quantizer": part("ternary", dim=3),
            "regularizer": part("small"),
            "perceptual": part("edges"),
            "augment": "none",
            "iterations": 20,
            "batch_size": 8,
            "optim": {"lr_peak": 1e-2},
        },
        codes={"crops": "center"},
        generator={
            "model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
            "iterations": 8,
            "batch_size": 8,
            "optim": {"lr_peak": 1e-2},
        },
        evaluations={
            "reconstruction": {"subject": "tokenizer", "metrics": [part("brightness")]},
            "samples": {
                "subject": "generator",
                "metrics": [part("brightness")],
                "num_samples": 8,
            },
        },
        axes=(Axis("iterations", (4, 8, 16), path="generator.iterations"),),
    )
