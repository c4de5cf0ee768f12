"""Look-up-free quantization: the signs of the latent are the code (MAGVIT-v2, Open-MAGVIT2).

Shapes: B images, N tokens, T = B*N, D bits, G bits of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..accounting.config import STRICT, NonNegativeFloat, PositiveFloat
from ..accounting.flops import Cost
from . import Quantized
from ._entropy import entropy_penalty
from ._lookup import exact_fp32, straight_through
from ._nearest_codebook import batch_stats

BETTER = {"train_token_entropy": None}
VERSION = 1

Bits = Annotated[int, Field(ge=1, le=24)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are Open-MAGVIT2's, at 2^14 codes; it takes the usage entropy over all codes."""

    __pydantic_config__ = STRICT

    bits: Bits = 14  # codes are 2^bits; Open-MAGVIT2: 18
    beta: NonNegativeFloat = 0.25  # weight of the commitment; less than this is advised against
    entropy_weight: NonNegativeFloat = 0.1  # weight of the entropy penalty
    entropy_tau: PositiveFloat = 0.01  # temperature of the soft assignment
    # Usage entropy is over all codes together while they have so few bits; else over groups of at
    # most so many, which do not see that groups depend on one another.
    group_bits: Bits = 18

    @property
    def dim(self) -> int:
        return self.bits

    @property
    def num_codes(self) -> int:
        return int(2**self.bits)

    def codebook_sizes(self, tokens: int) -> None:
        """Return None: every position takes from the whole codebook."""
        return None

    def groups(self) -> list[int]:
        """Return the bits of each group, as even as can be."""
        count = -(-self.bits // self.group_bits)
        return [self.bits // count + (index < self.bits % count) for index in range(count)]

    def cost(self, tokens: int) -> Cost:
        """Count the penalty's products of latents and each group's codes; nothing is learned."""
        if self.entropy_weight == 0:
            return Cost()
        return Cost(0, tokens * sum(2**bits * bits for bits in self.groups()))


def sign_codes(bits: int, device: torch.device | None = None) -> Tensor:
    """Return all vectors of signs, [2^bits, bits]; row i has the bits of i, the highest first."""
    return _signs(torch.arange(2**bits, device=device), bits)


def _signs(code: Tensor, bits: int) -> Tensor:
    shift_D = torch.arange(bits - 1, -1, -1, device=code.device)
    return ((code[..., None] >> shift_D) & 1).float() * 2 - 1


def token_entropy(z_TD: Tensor, tau: float) -> Tensor:
    """Compute H(p_n) of each token in nats.

    p_n = softmax over all 2^D codes c of 2 z.c / tau. It factorises: the sum over bits of the
    entropy of a coin with log odds 4 z_d / tau.
    """
    odds_TD = 4 * z_TD.float() / tau
    p_TD = torch.sigmoid(odds_TD)
    return -(p_TD * F.logsigmoid(odds_TD) + (1 - p_TD) * F.logsigmoid(-odds_TD)).sum(-1)


class Quantizer(nn.Module):
    """Losses `commitment` (mean squared distance to the signs) and `entropy`.

    The entropy of a token factorises over bits, so it is exact for any grouping. That of the mean
    does not: it is taken within groups and added up, an upper bound on the joint one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def lookup(self, code_BN: Tensor) -> Tensor:
        """Return z_q_BND of codes: their bits as -1 and 1."""
        return _signs(code_BN, self.config.bits)

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        config = self.config
        with exact_fp32(z_BND.device):
            z32_BND = z_BND.float()
            positive_BND = z32_BND.detach() > 0
            shift_D = torch.arange(config.bits - 1, -1, -1, device=z_BND.device)
            code_BN = (positive_BND.long() << shift_D).sum(-1)
            signs_BND = positive_BND.float() * 2 - 1
            losses = {"commitment": (config.beta, F.mse_loss(z32_BND, signs_BND))}
            if config.entropy_weight > 0:
                losses["entropy"] = (config.entropy_weight, self._entropy(z32_BND.flatten(0, 1)))
            z_q_BND = straight_through(z32_BND, signs_BND)
        stats = batch_stats(z_BND, code_BN, config.num_codes)
        with torch.no_grad():
            stats["token_entropy"] = token_entropy(z32_BND.flatten(0, 1), config.entropy_tau).mean()
        return Quantized(z_q_BND, code_BN, losses, stats)

    def _entropy(self, z_TD: Tensor) -> Tensor:
        penalties = [
            entropy_penalty(
                z_TG, 2 * sign_codes(z_TG.shape[1], z_TG.device), self.config.entropy_tau, "dot"
            )
            for z_TG in z_TD.split(self.config.groups(), dim=1)
        ]
        return torch.stack(penalties).sum()
