"""Latents should be small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..accounting.config import STRICT, NonNegativeFloat, OptimConfig
from ..accounting.flops import Cost
from . import Regularized

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Its weight."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 0.01
    latent: Literal["projected", "unprojected"] = "projected"

    def cost(self, tokens: int, dim: int) -> Cost:
        return Cost()

    def optim_for(self, tokenizer: OptimConfig) -> OptimConfig:
        return tokenizer


class Regularizer(nn.Module):
    """Adds the mean square."""

    def __init__(self, config: Config, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config = config

    def forward(self, z_BND: Tensor, step: int) -> Regularized:
        square = z_BND.float().square().mean()
        return Regularized(z_BND, {"small": (self.config.weight, square)}, {})
