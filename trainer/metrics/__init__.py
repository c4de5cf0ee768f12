"""Metrics of evaluation runs, one file each.

A part exposes `VERSION`, `STAGES` (subset of ("tokenizer", "generator")), `BETTER` ("lower" or "higher"; a dict by metric
name when a part gives several), a frozen `Config` and a final `Metric`:

    Metric(config, context: Context)
    update(batch: Batch)                                  any number of times; order and batch size do not matter
    merge(state: dict[str, Tensor])  /  state() -> dict   sums of another process
    compute() -> list[Value]                              finite numbers, or None where the metric is undefined (and says why)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch of images in [0, 255]."""

    image_BCHW: Tensor  # uint8: reconstructions or samples
    reference_BCHW: Tensor | None  # uint8: the originals of reconstructions
    code_BN: Tensor | None  # int64
    label_B: Tensor | None  # int64


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a metric may need beside the batches."""

    stage: str  # "tokenizer" or "generator"
    device: torch.device
    num_codes: int
    tokens_per_image: int
    resolution: int
    reference: Callable[
        [str], Iterator[Tensor]
    ]  # split "train" or "val" -> uint8 batches, centre crop
    extractor: Path | None  # folder of the extractor run, for classifier distances
    extractor_id: str | None
    cache: dict[str, Any] = field(
        default_factory=dict
    )  # shared by all metrics and sample seeds of one run


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One number with its provenance."""

    metric: str
    value: float | None
    unit: str
    provenance: dict[str, Any] = field(default_factory=dict)
