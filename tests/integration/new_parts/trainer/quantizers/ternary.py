"""Every coordinate becomes -1, 0 or 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..accounting.config import STRICT, PositiveInt
from ..accounting.flops import Cost
from . import Quantized

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """3 to the power of dim codes."""

    __pydantic_config__ = STRICT

    dim: PositiveInt = 3

    @property
    def num_codes(self) -> int:
        return 3**self.dim

    def codebook_sizes(self, tokens: int) -> None:
        return None

    def cost(self, tokens: int) -> Cost:
        return Cost()


class Quantizer(nn.Module):
    """Straight-through rounding; no loss."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("place", 3 ** torch.arange(config.dim), persistent=False)

    def lookup(self, code_BN: Tensor) -> Tensor:
        return (code_BN[..., None] // self.place % 3 - 1).float()

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        bounded = 1.4 * z_BND.float().tanh()
        rounded = bounded.round()
        code_BN = ((rounded + 1).long() * self.place).sum(-1)
        return Quantized(
            bounded + (rounded - bounded).detach(), code_BN, {}, {"spread": rounded.std().detach()}
        )
