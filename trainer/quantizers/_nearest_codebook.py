"""Base of quantizers by nearest neighbour: search, losses, and the gradient to the latents.

Shapes: B images, N tokens, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ._lookup import code_stats, mean_norm, nearest, nearest_prefix, straight_through
from ._rotation import rotate

BETTER = {"train_codebook": "lower", "train_commitment": "lower", "train_z_norm": None}
BetaSide = Literal["codebook", "commitment"]


def initial_codebook(num_codes: int, dim: int, l2_normalize: bool) -> Tensor:
    """Draw a codebook from U(-1/K, 1/K), on the unit sphere if so asked."""
    codebook_KD = torch.empty(num_codes, dim).uniform_(-1.0 / num_codes, 1.0 / num_codes)
    return F.normalize(codebook_KD, dim=-1) if l2_normalize else codebook_KD


def on_sphere(vector: Tensor, l2_normalize: bool) -> Tensor:
    """Convert to fp32, of unit length if so asked: the form of codes and latents in comparisons."""
    return F.normalize(vector.float(), dim=-1) if l2_normalize else vector.float()


def weights_of(beta: float, side: BetaSide) -> tuple[float, float]:
    """Return the weights of the codebook and of the commitment term: beta on one side, 1 else."""
    return (beta, 1.0) if side == "codebook" else (1.0, beta)


def quantize(
    z_BND: Tensor, codebook_KD: Tensor, rotation_trick: bool, sizes: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantize latents: z_q_BND with a gradient to z, code_BN, and two losses.

    The losses draw codes to latents and latents to codes. Latents and codebook come in the form in
    which they are compared. `sizes`: position t takes only from the first K_t codes.
    """
    if sizes is None:
        code_BN = nearest(z_BND.flatten(0, 1), codebook_KD).view(z_BND.shape[:2])
    else:
        code_BN = nearest_prefix(z_BND, codebook_KD, sizes)
    e_BND = F.embedding(code_BN, codebook_KD)
    codebook_loss = F.mse_loss(e_BND, z_BND.detach())
    commitment_loss = F.mse_loss(z_BND, e_BND.detach())
    passed = rotate if rotation_trick else straight_through
    return passed(z_BND, e_BND), code_BN, codebook_loss, commitment_loss


def batch_stats(z_BND: Tensor, code_BN: Tensor, num_codes: int) -> dict[str, Tensor]:
    """Usage and perplexity of this batch's codes, mean length of the latents as they came."""
    return {"z_norm": mean_norm(z_BND), **code_stats(code_BN, num_codes)}
