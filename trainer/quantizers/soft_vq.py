"""Soft vector quantization: the decoder takes the mean of all codes, weighted by a softmax.

    logits = z E^T,  p = softmax(logits),  z_q = p E,  code = argmax

IBQ (arXiv 2412.02692, Table 9) compares itself with it. What is inferred, because the text at hand
gives results only: logits and their temperature (1) are IBQ's, the loss is |z_q - z|^2, the entropy
penalty is IBQ's. In evaluation the decoder takes the code itself (the table's "hard inference"):
what a generator draws are codes. The table's "soft inference" is left out.

Memory is O(T*D + K*D): no T x K tensor lives longer than one tile. Shapes: B images, N tokens,
T = B*N, D width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from ._nearest_codebook import batch_stats

BETTER = {"train_soft": "lower"}
VERSION = 1
SOFT_WHILE_TRAINING = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are those of `ibq`, beside which it stands."""

    __pydantic_config__ = STRICT

    codebook_size: PositiveInt = 16384  # codes K
    dim: PositiveInt = 256  # width of a code
    temperature: PositiveFloat = 1.0  # of the assignment's softmax
    soft_weight: NonNegativeFloat = 1.0  # weight of |z_q - z|^2, which moves latents and codes
    entropy_weight: NonNegativeFloat = 0.05  # weight of the entropy penalty
    entropy_tau: PositiveFloat = 0.01  # temperature of the penalty's softmax

    @property
    def num_codes(self) -> int:
        return self.codebook_size

    def codebook_sizes(self, tokens: int) -> None:
        """Return None: every position takes from the whole codebook."""
        return None

    def cost(self, tokens: int) -> Cost:
        """Count the codebook, the logits, the weighted mean, and the penalty's logits."""
        weights = self.codebook_size * self.dim
        return Cost(weights, weights * tokens * (3 if self.entropy_weight > 0 else 2))


class _SoftAssignment(torch.autograd.Function):
    """z_q and codes; with g = dL/dz_q the gradients are, tile by tile in a fixed order,

    dlogits = p * (g E^T - g.z_q),  dz = dlogits E / tau,  dE = p^T g + dlogits^T z / tau.
    """

    @staticmethod
    def forward(
        ctx: Any, z_TD: Tensor, codebook_KD: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        means, codes, normalisers = [], [], []
        with exact_fp32(z_TD.device):
            for rows in token_chunks(len(z_TD), len(codebook_KD)):
                logits = z_TD[rows] @ codebook_KD.T / temperature
                codes.append(logits.argmax(1))
                normalisers.append(logits.logsumexp(1))
                means.append((logits - normalisers[-1][:, None]).exp() @ codebook_KD)
        z_q_TD, code_T = torch.cat(means), torch.cat(codes)
        ctx.save_for_backward(z_TD, codebook_KD, z_q_TD, torch.cat(normalisers))
        ctx.temperature = temperature
        ctx.mark_non_differentiable(code_T)
        return z_q_TD, code_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        z_TD, codebook_KD, z_q_TD, normaliser_T = ctx.saved_tensors
        g_TD = grads[0]
        mean_T1 = (g_TD * z_q_TD).sum(1, keepdim=True)
        dz_TD, de_KD = torch.empty_like(z_TD), torch.zeros_like(codebook_KD)
        with exact_fp32(z_TD.device):
            for rows in token_chunks(len(z_TD), len(codebook_KD)):
                logits = z_TD[rows] @ codebook_KD.T / ctx.temperature
                p = (logits - normaliser_T[rows, None]).exp()
                dlogits = p * (g_TD[rows] @ codebook_KD.T - mean_T1[rows]) / ctx.temperature
                dz_TD[rows] = dlogits @ codebook_KD
                de_KD += p.T @ g_TD[rows] + dlogits.T @ z_TD[rows]
        return dz_TD, de_KD, None


def soft_assignment(z_TD: Tensor, codebook_KD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (z_q_TD, code_T) of fp32 latents: the weighted mean of codes, and the likeliest."""
    result: tuple[Tensor, Tensor] = _SoftAssignment.apply(z_TD, codebook_KD, temperature)
    return result


class Quantizer(nn.Module):
    """Loss `soft`, the mean of |z_q - z|^2 over all entries. Neither side is normalised."""

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
            z_q_TD, code_T = soft_assignment(z_TD, self.codebook_KD, config.temperature)
            losses = {"soft": (config.soft_weight, F.mse_loss(z_q_TD, z_TD))}
            if config.entropy_weight > 0 and self.training:
                penalty = entropy_penalty(z_TD, self.codebook_KD, config.entropy_tau, "dot")
                losses["entropy"] = (config.entropy_weight, penalty)
            if not self.training:
                z_q_TD = self.lookup(code_T)
        code_BN = code_T.view(z_BND.shape[:2])
        stats = batch_stats(z_BND, code_BN, config.num_codes)
        return Quantized(z_q_TD.view(z_BND.shape), code_BN, losses, stats)
