"""Vector quantization with a learned codebook: nearest neighbour, commitment loss.

The default is the 8-d l2-normalised codebook of LlamaGen and CRT; `l2_normalize=False, dim=256` is
the plain codebook of taming. Shapes: B images, N tokens, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt
from ..flops import Cost
from . import Quantized
from ._entropy import entropy_penalty
from ._lookup import code_stats, exact_fp32, mean_norm, nearest, straight_through
from ._rotation import rotate

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are LlamaGen's, which CRT uses."""

    __pydantic_config__ = STRICT

    codebook_size: PositiveInt = 16384  # codes K
    dim: PositiveInt = 8  # width of a code; taming: 256
    l2_normalize: bool = True  # latents and codes on the unit sphere; taming: False
    beta: NonNegativeFloat = 0.25  # weight of the commitment term, which moves the latents
    rotation_trick: bool = False  # rotate gradients to the code instead of copying them (GigaTok)
    entropy_weight: NonNegativeFloat = 0.0  # weight of the entropy penalty (GigaTok XL: 0.005)
    entropy_tau: PositiveFloat = 0.01  # temperature of the entropy penalty's softmax

    @property
    def num_codes(self) -> int:
        return self.codebook_size

    def cost(self, tokens: int) -> Cost:
        """The codebook, and the product of latents and codes that the search takes."""
        weights = self.codebook_size * self.dim
        return Cost(weights, weights * tokens)


class Quantizer(nn.Module):
    """Losses `codebook` (moves codes to latents) and `commitment` (latents to codes), means over
    all entries, on normalised vectors when `l2_normalize`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        limit = 1.0 / config.codebook_size
        codebook_KD = torch.empty(config.codebook_size, config.dim).uniform_(-limit, limit)
        if config.l2_normalize:
            codebook_KD = F.normalize(codebook_KD, dim=-1)
        self.codebook_KD = nn.Parameter(codebook_KD)

    def codes(self) -> Tensor:
        """The codebook as it is used. The stored one drifts off the sphere; only its direction
        counts.
        """
        if self.config.l2_normalize:
            return F.normalize(self.codebook_KD.float(), dim=-1)
        return self.codebook_KD.float()

    def lookup(self, code_BN: Tensor) -> Tensor:
        """z_q_BND of codes."""
        return F.embedding(code_BN, self.codes())

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        with exact_fp32(z_BND.device):
            return self._quantize(z_BND.float())

    def _quantize(self, z_BND: Tensor) -> Quantized:
        config = self.config
        stats = {"z_norm": mean_norm(z_BND)}
        if config.l2_normalize:
            z_BND = F.normalize(z_BND, dim=-1)
        codebook_KD = self.codes()
        code_BN = nearest(z_BND.flatten(0, 1), codebook_KD).view(z_BND.shape[:2])
        e_BND = F.embedding(code_BN, codebook_KD)
        losses = {
            "codebook": (1.0, F.mse_loss(e_BND, z_BND.detach())),
            "commitment": (config.beta, F.mse_loss(z_BND, e_BND.detach())),
        }
        if config.entropy_weight > 0:
            penalty = entropy_penalty(
                z_BND.flatten(0, 1), codebook_KD, config.entropy_tau, "distance"
            )
            losses["entropy"] = (config.entropy_weight, penalty)
        passed = rotate if config.rotation_trick else straight_through
        stats |= code_stats(code_BN, config.num_codes)
        return Quantized(passed(z_BND, e_BND), code_BN, losses, stats)
