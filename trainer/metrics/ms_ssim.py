"""Multi-scale structural similarity of reconstructions (5 scales), by pytorch-msssim."""

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
SMALLEST = (WINDOW - 1) * 2**4 + 1  # pixels: the window must fit after four halvings


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to choose: weights .0448 .2856 .3001 .2363 .1333, window of 11 taps, sigma 1.5."""

    __pydantic_config__ = STRICT


class Metric:
    """Mean over channels of one image, then over images."""

    def __init__(self, config: Config, context: Context) -> None:
        if context.resolution < SMALLEST:
            raise ValueError(
                f"metrics.ms_ssim: {context.resolution} px is too small for its five scales; "
                f"allowed: at least {SMALLEST} px (ssim works from 11 px)"
            )
        self._mean = ImageMean()

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        from pytorch_msssim import ms_ssim

        image_BCHW, reference_BCHW = pair(batch, "ms_ssim")
        self._mean.add(
            ms_ssim(
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
        return [Value(metric="ms_ssim", value=self._mean.mean(), unit="1", provenance=provenance)]
