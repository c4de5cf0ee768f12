"""Vector quantization with a learned codebook: nearest neighbour, commitment loss.

The default is the 8-d l2-normalised codebook of LlamaGen and CRT; `l2_normalize=False, dim=256` is
the plain codebook of taming. Shapes: B images, N tokens, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting.config import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt
from ..accounting.flops import Cost
from . import Quantized
from ._entropy import entropy_penalty
from ._lookup import exact_fp32
from ._nearest_codebook import (
    BetaSide,
    batch_stats,
    initial_codebook,
    on_sphere,
    quantize,
    weights_of,
)

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are LlamaGen's, which CRT uses."""

    __pydantic_config__ = STRICT

    codebook_size: PositiveInt = 16384  # codes K
    dim: PositiveInt = 8  # width of a code; taming: 256
    l2_normalize: bool = True  # latents and codes on the unit sphere; taming: False
    beta: NonNegativeFloat = 0.25  # weight of one of the two terms
    # The term that beta is on: latents to codes, or codes to latents (taming's and IBQ's code).
    beta_side: BetaSide = field(default="commitment", metadata={"id_default": "commitment"})
    rotation_trick: bool = False  # rotate gradients to the code instead of copying them (GigaTok)
    entropy_weight: NonNegativeFloat = 0.0  # weight of the entropy penalty (GigaTok XL: 0.005)
    entropy_tau: PositiveFloat = 0.01  # temperature of the entropy penalty's softmax

    @property
    def num_codes(self) -> int:
        return self.codebook_size

    def codebook_sizes(self, tokens: int) -> None:
        """Return None: every position takes from the whole codebook."""
        return None

    def cost(self, tokens: int) -> Cost:
        """Count the codebook, and the products of latents and codes of search and penalty."""
        weights = self.codebook_size * self.dim
        return Cost(weights, weights * tokens * (2 if self.entropy_weight > 0 else 1))


class Quantizer(nn.Module):
    """Losses `codebook` (moves codes to latents) and `commitment` (latents to codes), means over
    all entries, on normalised vectors when `l2_normalize`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.codebook_KD = nn.Parameter(
            initial_codebook(config.codebook_size, config.dim, config.l2_normalize)
        )

    def codes(self) -> Tensor:
        """Return the codebook in the form in which it is compared.

        The stored one drifts off the sphere; only its direction counts.
        """
        return on_sphere(self.codebook_KD, self.config.l2_normalize)

    def lookup(self, code_BN: Tensor) -> Tensor:
        """Return z_q_BND of codes."""
        return F.embedding(code_BN, self.codes())

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        config = self.config
        with exact_fp32(z_BND.device):
            unit_BND, codebook_KD = on_sphere(z_BND, config.l2_normalize), self.codes()
            z_q_BND, code_BN, codebook_loss, commitment_loss = quantize(
                unit_BND, codebook_KD, config.rotation_trick
            )
            on_codebook, on_latents = weights_of(config.beta, config.beta_side)
            losses = {
                "codebook": (on_codebook, codebook_loss),
                "commitment": (on_latents, commitment_loss),
            }
            if config.entropy_weight > 0:
                penalty = entropy_penalty(
                    unit_BND.flatten(0, 1), codebook_KD, config.entropy_tau, "distance"
                )
                losses["entropy"] = (config.entropy_weight, penalty)
        return Quantized(z_q_BND, code_BN, losses, batch_stats(z_BND, code_BN, config.num_codes))
