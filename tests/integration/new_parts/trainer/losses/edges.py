"""Perceptual loss: differences between neighbouring pixels should agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..accounting.config import STRICT, NonNegativeFloat
from ..accounting.flops import Cost

VERSION = 1
ROLE = "perceptual"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Its weight."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 0.1

    def cost(self, resolution: int) -> Cost:
        return Cost()

    def weights(self) -> dict[str, str]:
        return {}


class Loss(nn.Module):
    """Mean square of the difference of differences."""

    def __init__(self, config: Config, weights: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config = config

    def forward(self, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
        return (x_BCHW - y_BCHW).diff(dim=-1).square().mean()
