"""Finite scalar quantization: round each coordinate of a bounded latent; no codebook to learn.

Shapes: B images, N tokens, D coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..accounting.config import STRICT
from ..accounting.flops import Cost
from . import Quantized
from ._lookup import exact_fp32, straight_through
from ._nearest_codebook import batch_stats

VERSION = 1

# Recommended levels (FSQ, Table 1) by the power of two that they come near; the true K is less.
RECOMMENDED = {
    8: (8, 6, 5),  # 240
    10: (8, 5, 5, 5),  # 1000
    12: (7, 5, 5, 5, 5),  # 4375
    14: (8, 8, 8, 6, 5),  # 15360
    16: (8, 8, 8, 5, 5, 5),  # 64000
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """`levels` says it all; `num_codes` is their product, not a power of two."""

    __pydantic_config__ = STRICT

    levels: tuple[Annotated[int, Field(ge=2)], ...] = RECOMMENDED[14]  # values of each coordinate
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-3  # how far the bound exceeds the outer levels

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("levels: () is not allowed; needs one entry per coordinate")

    @property
    def dim(self) -> int:
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        return math.prod(self.levels)

    def codebook_sizes(self, tokens: int) -> None:
        """Return None: every position takes from the whole codebook."""
        return None

    def cost(self, tokens: int) -> Cost:
        """Return no cost: nothing is learned and nothing multiplied."""
        return Cost()


class Quantizer(nn.Module):
    """No losses. fp32 always: in bf16 levels collide.

    bound(z) = tanh(z + s) h - o with h = (L-1)(1+eps)/2, o = 1/2 for even L else 0, s = atanh(o/h);
    coordinate = round(bound) / floor(L/2); code = sum_i level_i prod_{j<i} L_j.
    """

    level_D: Tensor
    half_D: Tensor
    basis_D: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        levels = config.levels
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("level_D", torch.tensor(levels), persistent=False)
        self.register_buffer("half_D", torch.tensor([n // 2 for n in levels]), persistent=False)
        self.register_buffer("basis_D", torch.tensor(basis), persistent=False)

    def bound(self, z_BND: Tensor) -> Tensor:
        """Squash latents to just beyond the outer levels."""
        h_D = (self.level_D - 1).float() * (1 + self.config.eps) / 2
        o_D = torch.where(self.level_D % 2 == 0, 0.5, 0.0)
        s_D = torch.atanh(o_D / h_D)
        return torch.tanh(z_BND + s_D) * h_D - o_D

    def lookup(self, code_BN: Tensor) -> Tensor:
        """Return z_q_BND of codes, each coordinate in [-1, 1]."""
        level_BND = code_BN[..., None] // self.basis_D % self.level_D
        return (level_BND - self.half_D).float() / self.half_D

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        with exact_fp32(z_BND.device):
            bound_BND = self.bound(z_BND.float())
            rounded_BND = bound_BND.detach().round()
            z_q_BND = straight_through(bound_BND, rounded_BND) / self.half_D
            level_BND = rounded_BND.long() + self.half_D
            code_BN = (level_BND * self.basis_D).sum(-1)
        return Quantized(z_q_BND, code_BN, {}, batch_stats(z_BND, code_BN, self.config.num_codes))
