"""Peak signal-to-noise ratio of reconstructions, in dB: one value per image, then the mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..accounting.config import STRICT
from . import Batch, Context, Value
from ._paired import ImageMean, pair

VERSION = 1
STAGES = ("tokenizer",)
BETTER = "higher"

# An image that equals its original has an infinite PSNR, and one such image would make the mean
# infinite. It counts as this much, which two 8-bit images that differ cannot reach up to 226 px.
PSNR_MAX = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Nothing to choose."""

    __pydantic_config__ = STRICT


class Metric:
    """PSNR = 10 log10(255^2 / MSE) on 8-bit images; the MSE is over the pixels of one image.

    Pooling the MSE over images instead would give several dB less.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._mean = ImageMean()
        self._identical = torch.zeros((), dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        image_BCHW, reference_BCHW = pair(batch, "psnr")
        difference = image_BCHW.double() - reference_BCHW.double()
        mse_B = difference.square().mean(dim=(1, 2, 3))
        psnr_B = 10 * torch.log10(255.0**2 / mse_B)
        self._mean.add(psnr_B.clamp(max=PSNR_MAX))
        self._identical += (mse_B == 0).sum().cpu()

    def state(self) -> dict[str, Tensor]:
        return {**self._mean.state(), "identical": self._identical.clone()}

    def merge(self, state: dict[str, Tensor]) -> None:
        self._mean.merge(state)
        self._identical += state["identical"]

    def compute(self) -> list[Value]:
        provenance = {
            "reference": "same images",
            "num_samples": self._mean.count,
            "identical_images": int(self._identical),
            "cap_db": PSNR_MAX,
        }
        value = self._mean.mean()
        return [Value(metric="psnr", value=value, unit="dB", provenance=provenance)]
