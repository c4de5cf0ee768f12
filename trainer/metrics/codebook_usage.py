"""Usage of a codebook over a whole set of images: share of entries, perplexity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..accounting.config import STRICT
from . import Batch, Context, Value

VERSION = 1
STAGES = ("tokenizer",)
BETTER = {
    "codebook_usage": "higher",
    "codebook_perplexity": "higher",
    "codebook_entropy": "higher",
    "bits_per_pixel": "lower",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to choose."""

    __pydantic_config__ = STRICT


class Metric:
    """Counts over every code of the set, pooled over positions.

    usage: entries met at least once / K; perplexity: 2^H, H = -sum p log2 p. Both are limited by
    the number of codes seen, which stands in the provenance. bits_per_pixel is nominal: the log2 of
    the number of codes that each position may hold, over the pixels.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._context = context
        self._counts_K = torch.zeros(context.num_codes, dtype=torch.int64)
        self._images = torch.zeros((), dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        if batch.code_BN is None:
            raise ValueError("metrics.codebook_usage: the batch holds no codes")
        code_BN = batch.code_BN.cpu()
        self._counts_K += torch.bincount(code_BN.flatten(), minlength=len(self._counts_K))
        self._images += len(code_BN)

    def state(self) -> dict[str, Tensor]:
        return {"counts": self._counts_K.clone(), "images": self._images.clone()}

    def merge(self, state: dict[str, Tensor]) -> None:
        self._counts_K += state["counts"]
        self._images += state["images"]

    def compute(self) -> list[Value]:
        codes = int(self._counts_K.sum())
        provenance = {
            "reference": "val images",
            "num_samples": int(self._images),
            "codes_counted": codes,
        }
        usage = perplexity = entropy = None
        if codes:
            share_K = self._counts_K[self._counts_K > 0].double() / codes
            entropy = max(0.0, -float((share_K * share_K.log2()).sum()))
            usage = len(share_K) / len(self._counts_K)
            perplexity = 2**entropy
        context = self._context
        sizes = context.codebook_sizes or (context.num_codes,) * context.tokens_per_image
        bits = sum(math.log2(size) for size in sizes) / context.resolution**2
        numbers = (
            ("codebook_usage", usage, "share"),
            ("codebook_perplexity", perplexity, "codes"),
            ("codebook_entropy", entropy, "bits/token"),
            ("bits_per_pixel", bits, "bits/pixel"),
        )
        return [
            Value(metric=name, value=value, unit=unit, provenance=provenance)
            for name, value, unit in numbers
        ]
