"""The entropy penalty on the soft assignment of tokens to codes, stable and in O(T*D + K*D) memory.

    p_n = softmax(a_n),  L = mean_n H(p_n) - H(p-bar),  p-bar = mean_n p_n        [nats]

with a = z E^T / tau ("dot", IBQ) or a = -|z - e|^2 / tau ("distance", LlamaGen). It is lowest,
-log K, when every token is certain of its code and all codes are used alike.

Shapes: T tokens, D width, K codes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..loop.allreduce import logsumexp_over_processes
from ..loop.distributed import world_size
from ._lookup import exact_fp32, token_chunks

BETTER = {"train_entropy": "lower"}
Affinity = Literal["dot", "distance"]


def entropy_penalty(z_TD: Tensor, codebook_KD: Tensor, tau: float, affinity: Affinity) -> Tensor:
    """Compute the penalty in nats, with gradients to latents and codebook.

    p-bar is over the tokens of all processes, which should hold equally many. Coded elsewhere as
    log(p + 1e-5), which reads 11.19 instead of 12.48 nats for 262,144 equally likely codes; here
    log p-bar is a log-sum-exp, without an epsilon.
    """
    penalty: Tensor = _EntropyPenalty.apply(z_TD.float(), codebook_KD.float(), tau, affinity)
    return penalty


def _logits(z_TD: Tensor, codebook_KD: Tensor, tau: float, affinity: Affinity) -> Tensor:
    # |z|^2 moves all logits of a token alike and cancels in the softmax.
    if affinity == "dot":
        return z_TD @ codebook_KD.T / tau
    square_K = codebook_KD.square().sum(1)
    return torch.addmm(-square_K, z_TD, codebook_KD.T, alpha=2.0) / tau


class _EntropyPenalty(torch.autograd.Function):
    """Two passes over tiles of tokens x codes: p-bar and the value, then the gradients

        dL/da = p/T * [(log p-bar - sum_k p log p-bar) - (log p + H_n)].

    Tiles are visited in a fixed order, so the sums are the same on every run.
    """

    @staticmethod
    def forward(
        ctx: Any, z_TD: Tensor, codebook_KD: Tensor, tau: float, affinity: Affinity
    ) -> Tensor:
        num_tokens, num_codes = len(z_TD), len(codebook_KD)
        log_mean_K = z_TD.new_full((num_codes,), -math.inf)
        entropies = []
        with exact_fp32(z_TD.device):
            for rows in token_chunks(num_tokens, num_codes):
                logp = _logits(z_TD[rows], codebook_KD, tau, affinity).log_softmax(1)
                entropies.append(_entropy(logp))
                log_mean_K = torch.logaddexp(log_mean_K, logp.logsumexp(0))
        log_mean_K = logsumexp_over_processes(log_mean_K) - math.log(num_tokens * world_size())
        entropy_T = torch.cat(entropies)
        ctx.save_for_backward(z_TD, codebook_KD, entropy_T, log_mean_K)
        ctx.tau, ctx.affinity = tau, affinity
        return entropy_T.mean() - _entropy(log_mean_K[None])[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z_TD, codebook_KD, entropy_T, log_mean_K = ctx.saved_tensors
        slope = 2.0 if ctx.affinity == "distance" else 1.0
        scale = grads[0] / (len(z_TD) * ctx.tau)
        dz_TD, de_KD = torch.empty_like(z_TD), torch.zeros_like(codebook_KD)
        with exact_fp32(z_TD.device):
            for rows in token_chunks(len(z_TD), len(codebook_KD)):
                logp = _logits(z_TD[rows], codebook_KD, ctx.tau, ctx.affinity).log_softmax(1)
                p = logp.exp()
                # A code that no token can reach has p = 0 and log p-bar = -inf.
                p_log_mean = torch.where(p > 0, p * log_mean_K, torch.zeros_like(p))
                inner = p_log_mean.sum(1, keepdim=True) + entropy_T[rows, None]
                p_logp = torch.where(p > 0, p * logp, torch.zeros_like(p))
                da = (p_log_mean - p_logp - p * inner) * scale
                dz_TD[rows] = slope * (da @ codebook_KD)
                de_KD += slope * (da.T @ z_TD[rows])
                if ctx.affinity == "distance":
                    de_KD -= 2.0 * da.sum(0)[:, None] * codebook_KD
        return dz_TD, de_KD, None, None


def _entropy(logp: Tensor) -> Tensor:
    """Entropy of each row of log probabilities, nats; 0 log 0 is 0."""
    p = logp.exp()
    return -torch.where(p > 0, p * logp, torch.zeros_like(p)).sum(1)
