"""Structural similarity of reconstructions (11-tap Gaussian window), by pytorch-msssim."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import torch
from torch import Tensor

from ..accounting.config import STRICT
from . import Batch, Context, Value
from ._paired import ImageMean, pair

VERSION = 1
STAGES = ("tokenizer",)
BETTER = "higher"

WINDOW = 11  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to choose."""

    __pydantic_config__ = STRICT


class Metric:
    """Mean over channels and window positions of one image, then over images; no padding."""

    def __init__(self, config: Config, context: Context) -> None:
        if context.resolution < WINDOW:
            raise ValueError(
                f"metrics.ssim: {context.resolution} px is smaller than its window; "
                f"allowed: at least {WINDOW} px"
            )
        self._mean = ImageMean()

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        from pytorch_msssim import ssim

        image_BCHW, reference_BCHW = pair(batch, "ssim")
        # Double precision: variances of near-constant 8-bit areas cancel to nothing in single.
        self._mean.add(
            ssim(
                image_BCHW.double(),
                reference_BCHW.double(),
                data_range=255,
                size_average=False,
                win_size=WINDOW,
            )
        )

    def state(self) -> dict[str, Tensor]:
        return self._mean.state()

    def merge(self, state: dict[str, Tensor]) -> None:
        self._mean.merge(state)

    def compute(self) -> list[Value]:
        provenance = {
            "reference": "same images",
            "num_samples": self._mean.count,
            "library": f"pytorch-msssim {importlib.metadata.version('pytorch-msssim')}",
        }
        return [Value(metric="ssim", value=self._mean.mean(), unit="1", provenance=provenance)]
