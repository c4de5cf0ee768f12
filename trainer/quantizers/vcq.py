"""Variable codebook size: one shared codebook, of which position t may use the first K_t codes.

VCQ, Eq. 3; the schedules and their figures are in trainer/accounting/codebook_schedules.py.
All else is `vq`. Shapes: B images, N tokens, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting.codebook_schedules import Schedule, codebook_sizes
from ..accounting.config import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt
from ..accounting.flops import Cost
from . import Quantized
from ._lookup import count_codes, exact_fp32
from ._nearest_codebook import batch_stats, initial_codebook, on_sphere, quantize

VERSION = 1
BETTER = {
    "train_usage_quarter_1": "higher",
    "train_usage_quarter_2": "higher",
    "train_usage_quarter_3": "higher",
    "train_usage_quarter_4": "higher",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are the paper's Base model; its latent width and normalisation are unstated."""

    __pydantic_config__ = STRICT

    schedule: Schedule = "cosine"  # of K_t along the sequence
    codebook_size: PositiveInt = 16384  # K_max, of the last position and of the codebook
    codebook_size_min: PositiveInt = 2  # K_min, of the first position
    power: PositiveFloat = 2.5  # exponent of the power schedule
    dim: PositiveInt = 8  # width of a code; unstated, that of `vq`
    l2_normalize: bool = True  # unstated, as in `vq`
    beta: NonNegativeFloat = 1.0  # weight of the commitment term
    rotation_trick: bool = False  # rotate gradients to the code instead of copying them

    def __post_init__(self) -> None:
        self.codebook_sizes(1)  # refuses K_min above K_max

    @property
    def num_codes(self) -> int:
        return self.codebook_size

    def codebook_sizes(self, tokens: int) -> tuple[int, ...]:
        """Return K_t of each position of a sequence: codes from K_t on are illegal there."""
        return codebook_sizes(
            self.schedule, self.codebook_size_min, self.codebook_size, tokens, self.power
        )

    def cost(self, tokens: int) -> Cost:
        """Count the codebook, and the products of latents and codes that the search needs."""
        return Cost(self.codebook_size * self.dim, sum(self.codebook_sizes(tokens)) * self.dim)


class Quantizer(nn.Module):
    """Losses as `vq`'s. The stats `usage_quarter_1` .. `_4` are the usage among each quarter of the
    rows: the last rows are within reach of the last positions only and may die.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.codebook_KD = nn.Parameter(
            initial_codebook(config.codebook_size, config.dim, config.l2_normalize)
        )

    def codes(self) -> Tensor:
        """Return the codebook in the form in which it is compared."""
        return on_sphere(self.codebook_KD, self.config.l2_normalize)

    def lookup(self, code_BN: Tensor) -> Tensor:
        """Return z_q_BND of codes."""
        return F.embedding(code_BN, self.codes())

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        config = self.config
        with exact_fp32(z_BND.device):
            z_q_BND, code_BN, codebook_loss, commitment_loss = quantize(
                on_sphere(z_BND, config.l2_normalize),
                self.codes(),
                config.rotation_trick,
                config.codebook_sizes(z_BND.shape[1]),
            )
        losses = {"codebook": (1.0, codebook_loss), "commitment": (config.beta, commitment_loss)}
        stats = batch_stats(z_BND, code_BN, config.num_codes)
        return Quantized(z_q_BND, code_BN, losses, stats | self._usage_by_quarter(code_BN))

    @torch.no_grad()
    def _usage_by_quarter(self, code_BN: Tensor) -> dict[str, Tensor]:
        used_K = (count_codes(code_BN, self.config.num_codes) > 0).float()
        quarters = used_K.tensor_split(4)
        return {
            f"usage_quarter_{number}": rows.mean()
            for number, rows in enumerate(quarters, 1)
            if rows.numel() > 0
        }
