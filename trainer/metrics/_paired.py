"""Base of metrics of pairs (reconstruction, original): checked batches, a mean over images."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Batch


def pair(batch: Batch, metric: str) -> tuple[Tensor, Tensor]:
    """Return images and their originals, uint8 [B, 3, H, W] of one shape; else raise ValueError."""
    image_BCHW, reference_BCHW = batch.image_BCHW, batch.reference_BCHW
    if reference_BCHW is None:
        raise ValueError(
            f"{metric}: compares with originals; allowed in tokenizer evaluations only"
        )
    check_uint8(image_BCHW, metric)
    check_uint8(reference_BCHW, metric)
    if image_BCHW.shape != reference_BCHW.shape:
        raise ValueError(
            f"{metric}: images {tuple(image_BCHW.shape)} and originals "
            f"{tuple(reference_BCHW.shape)} differ in shape"
        )
    return image_BCHW, reference_BCHW


def check_uint8(image_BCHW: Tensor, metric: str) -> None:
    """Raise ValueError unless images are uint8 [B, 3, H, W].

    Networks take other ranges without complaint and give wrong numbers, so the type is fixed.
    """
    if image_BCHW.dtype != torch.uint8 or image_BCHW.ndim != 4 or image_BCHW.shape[1] != 3:
        raise ValueError(
            f"{metric}: images of type {image_BCHW.dtype} and shape {tuple(image_BCHW.shape)}; "
            "allowed: uint8 [B, 3, H, W]"
        )


class ImageMean:
    """Mean over images of one number for each, in float64: the same whatever the batches were."""

    def __init__(self) -> None:
        self._sum = torch.zeros((), dtype=torch.float64)
        self._count = torch.zeros((), dtype=torch.int64)

    def add(self, value_B: Tensor) -> None:
        self._sum += value_B.detach().double().sum().cpu()
        self._count += value_B.numel()

    def state(self) -> dict[str, Tensor]:
        return {"sum": self._sum.clone(), "count": self._count.clone()}

    def merge(self, state: dict[str, Tensor]) -> None:
        self._sum += state["sum"]
        self._count += state["count"]

    @property
    def count(self) -> int:
        return int(self._count)

    def mean(self) -> float | None:
        """Return the mean over images; None when there was no image."""
        return float(self._sum / self._count) if self.count else None
