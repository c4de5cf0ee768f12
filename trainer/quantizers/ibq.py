"""Index backpropagation: gradients reach every code through the softmax over all of them (IBQ).

    logits = z E^T,  p = softmax(logits),  i = argmax,  h = onehot(i) + p - sg(p),  z_q = h E

Memory is O(T*D + K*D): no T x K tensor lives longer than one tile. Shapes: B images, N tokens,
T = B*N, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..accounting.config import STRICT, NonNegativeFloat, PositiveFloat, PositiveInt
from ..accounting.flops import Cost
from . import Quantized
from ._entropy import entropy_penalty
from ._lookup import exact_fp32, token_chunks
from ._nearest_codebook import BetaSide, batch_stats, weights_of

BETTER = {"train_soft": "lower"}
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are SEED-Voken's."""

    __pydantic_config__ = STRICT

    codebook_size: PositiveInt = 16384  # codes K; the largest model: 262144
    dim: PositiveInt = 256  # width of a code
    beta: NonNegativeFloat = 0.25  # weight of one side of the hard quantisation loss
    beta_side: BetaSide = "codebook"  # published code, or the paper
    entropy_weight: NonNegativeFloat = 0.05  # weight of the entropy penalty
    entropy_tau: PositiveFloat = 0.01  # temperature of the penalty's softmax
    # With the plain code's two terms beside the soft one; the paper's ablation without them has
    # `soft` alone (inferred: the text at hand names the rows and not their losses).
    double_quantisation: bool = field(default=True, metadata={"id_default": True})

    @property
    def num_codes(self) -> int:
        return self.codebook_size

    def codebook_sizes(self, tokens: int) -> None:
        """Return None: every position takes from the whole codebook."""
        return None

    def cost(self, tokens: int) -> Cost:
        """Count the codebook, its product with the assignment, the logits, and the penalty's."""
        weights = self.codebook_size * self.dim
        return Cost(weights, weights * tokens * (3 if self.entropy_weight > 0 else 2))


class _IndexBackpropagation(torch.autograd.Function):
    """z_q and codes; with g = dL/dz_q the gradients are, tile by tile in a fixed order,

    A = g E^T,  dlogits = p * (A - sum_k p A),
    dz = dlogits E,  dE = onehot^T g + dlogits^T z.
    """

    @staticmethod
    def forward(ctx: Any, z_TD: Tensor, codebook_KD: Tensor) -> tuple[Tensor, Tensor]:
        codes, normalisers = [], []
        with exact_fp32(z_TD.device):
            for rows in token_chunks(len(z_TD), len(codebook_KD)):
                logits = z_TD[rows] @ codebook_KD.T
                codes.append(logits.argmax(1))
                normalisers.append(logits.logsumexp(1))
        code_T = torch.cat(codes)
        ctx.save_for_backward(z_TD, codebook_KD, code_T, torch.cat(normalisers))
        ctx.mark_non_differentiable(code_T)
        return F.embedding(code_T, codebook_KD), code_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        z_TD, codebook_KD, code_T, normaliser_T = ctx.saved_tensors
        g_TD = grads[0]
        dz_TD = torch.empty_like(z_TD)
        with exact_fp32(z_TD.device):
            # The gradient of a look-up, which sorts rather than races on a GPU.
            de_KD = torch.ops.aten.embedding_dense_backward(
                g_TD, code_T, len(codebook_KD), -1, False
            )
            for rows in token_chunks(len(z_TD), len(codebook_KD)):
                p = (z_TD[rows] @ codebook_KD.T - normaliser_T[rows, None]).exp()
                dlogits = p * (g_TD[rows] @ codebook_KD.T)
                dlogits -= p * dlogits.sum(1, keepdim=True)
                dz_TD[rows] = dlogits @ codebook_KD
                de_KD += dlogits.T @ z_TD[rows]
        return dz_TD, de_KD


def index_backpropagation(z_TD: Tensor, codebook_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Return (z_q_TD, code_T) of fp32 latents.

    z_q has IBQ's gradient to latents and codebook.
    """
    chosen: tuple[Tensor, Tensor] = _IndexBackpropagation.apply(z_TD, codebook_KD)
    return chosen


class Quantizer(nn.Module):
    """Losses of "double quantisation", means over all entries: `soft` |z_q - z|^2 through the
    softmax, `commitment` |sg z_q' - z|^2 and `codebook` |z_q' - sg z|^2 with the plain code z_q'.
    Without it `soft` alone.

    Neither latents nor codes are normalised.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.codebook_KD = nn.Parameter(torch.randn(config.codebook_size, config.dim))

    def lookup(self, code_BN: Tensor) -> Tensor:
        """Return z_q_BND of codes."""
        return F.embedding(code_BN, self.codebook_KD)

    def forward(self, z_BND: Tensor, step: int) -> Quantized:
        config = self.config
        with exact_fp32(z_BND.device):
            z_TD = z_BND.float().flatten(0, 1)
            z_q_TD, code_T = index_backpropagation(z_TD, self.codebook_KD)
            losses = {"soft": (1.0, F.mse_loss(z_q_TD, z_TD))}
            if config.double_quantisation:
                e_TD = self.lookup(code_T)
                on_codebook, on_latents = weights_of(config.beta, config.beta_side)
                losses["commitment"] = (on_latents, F.mse_loss(z_TD, e_TD.detach()))
                losses["codebook"] = (on_codebook, F.mse_loss(e_TD, z_TD.detach()))
            if config.entropy_weight > 0 and self.training:
                penalty = entropy_penalty(z_TD, self.codebook_KD, config.entropy_tau, "dot")
                losses["entropy"] = (config.entropy_weight, penalty)
        code_BN = code_T.view(z_BND.shape[:2])
        stats = batch_stats(z_BND, code_BN, config.num_codes)
        return Quantized(z_q_TD.view(z_BND.shape), code_BN, losses, stats)
