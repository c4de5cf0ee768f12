"""For tests of metrics and evaluations: a trained extractor, contexts, and what endpoints say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import torch

from tokenlaw.results_db.record import RunDir
from tokenlaw.trainer.metrics import Batch, Context


def extractor(home: Path, resolution: int = 16, iterations: int = 60) -> RunDir:
    """One that knows the digits well enough to rank corruptions."""
    tree = tiny.extractor(data=tiny.data(resolution), width=32, iterations=iterations)
    return tiny.done(home, "extractor", tree | {"batch_size": 64})


def endpoint(run_dir: RunDir) -> dict[str, Any]:
    return json.loads(run_dir.endpoint_path.read_text())


def values(run_dir: RunDir, metric: str) -> list[dict[str, Any]]:
    return [value for value in endpoint(run_dir)["values"] if value["metric"] == metric]


def context(stage: str = "tokenizer", extractor: RunDir | None = None, **changes: Any) -> Context:
    """A context without reference images; 16 codes, 4 tokens, 32 px."""
    given: dict[str, Any] = {
        "stage": stage,
        "device": torch.device("cpu"),
        "num_codes": 16,
        "tokens_per_image": 4,
        "resolution": 32,
        "reference": lambda split, wanted: iter(()),
        "reference_id": "none",
        "extractor": extractor.path if extractor else None,
        "extractor_id": extractor.id if extractor else None,
    }
    return Context(**(given | changes))


def batch(
    images: torch.Tensor,
    references: torch.Tensor | None = None,
    codes: torch.Tensor | None = None,
) -> Batch:
    return Batch(image_BCHW=images, reference_BCHW=references, code_BN=codes, label_B=None)


def numbers(module: Any, where: Context, *batches: Batch, **options: Any) -> dict[str, Any]:
    """Metric name -> value of a part, after the batches."""
    metric = module.Metric(module.Config(**options), where)
    for one in batches:
        metric.update(one)
    return {value.metric: value.value for value in metric.compute()}
