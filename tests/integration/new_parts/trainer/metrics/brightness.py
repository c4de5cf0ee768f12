"""Mean brightness of the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..accounting.config import STRICT
from . import Batch, Context, Value

VERSION = 1
STAGES = ("tokenizer", "generator")
BETTER = "higher"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """No options."""

    __pydantic_config__ = STRICT


class Metric:
    """Sum of pixels over their number."""

    def __init__(self, config: Config, context: Context) -> None:
        self._stage = context.stage
        self._sum, self._count = torch.zeros((), dtype=torch.float64), torch.zeros(()).long()

    def update(self, batch: Batch) -> None:
        self._sum += batch.image_BCHW.double().sum().cpu()
        self._count += batch.image_BCHW.numel()

    def state(self) -> dict[str, Tensor]:
        return {"sum": self._sum.clone(), "count": self._count.clone()}

    def merge(self, state: dict[str, Tensor]) -> None:
        self._sum += state["sum"]
        self._count += state["count"]

    def compute(self) -> list[Value]:
        mean = (self._sum / self._count).item() / 255
        name = "rbrightness" if self._stage == "tokenizer" else "gbrightness"
        return [Value(metric=name, value=mean, unit="1")]
