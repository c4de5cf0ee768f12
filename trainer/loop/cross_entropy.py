"""Output layer and cross-entropy in one, without ever holding all logits.

At batch 256, 256 tokens and 16,384 codes one fp32 copy of the logits is 4 GiB, and autograd keeps
several. Here the tokens pass in chunks: each chunk's logits are made, turned into the loss and at
once into the gradient, and dropped. No matrix product is done twice.

Shape suffixes: T tokens, D width, V codebook size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import usable

CHUNK_TOKENS = 8192


def plain(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    illegal_TV: Tensor | None = None,
    z_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Mean loss (with z-loss) and mean cross-entropy in nats, fp32 logits: the reference."""
    logits_TV = F.linear(hidden_TD, weight_VD.to(hidden_TD.dtype)).float()
    if illegal_TV is not None:
        logits_TV = logits_TV.masked_fill(illegal_TV, -math.inf)
    cross_entropy = F.cross_entropy(logits_TV, target_T)
    if z_weight == 0:
        return cross_entropy, cross_entropy.detach()
    z_loss = logits_TV.logsumexp(-1).square().mean()
    return cross_entropy + z_weight * z_loss, cross_entropy.detach()


def chunked(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    target_T: Tensor,
    illegal_TV: Tensor | None = None,
    z_weight: float = 0.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """Compute `plain` in chunks of tokens. Products have the dtype of `hidden_TD`, sums fp32."""
    loss, cross_entropy = _Chunked.apply(
        hidden_TD, weight_VD, target_T, illegal_TV, z_weight, chunk_tokens
    )
    return loss, cross_entropy


def _body(
    logits_TV: Tensor, target_T: Tensor, illegal_TV: Tensor | None, z_weight: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum cross-entropy and squared log-partition; return both with the gradient of the logits."""
    logits = logits_TV.float()
    if illegal_TV is not None:
        logits = logits.masked_fill(illegal_TV, -math.inf)
    lse_T = logits.logsumexp(-1)
    picked_T = logits.gather(1, target_T[:, None])[:, 0]
    probability_TV = (logits - lse_T[:, None]).exp()
    grad_TV = probability_TV * (1.0 + 2.0 * z_weight * lse_T[:, None])
    is_target_TV = torch.arange(logits.shape[1], device=logits.device) == target_T[:, None]
    grad_TV = (grad_TV - is_target_TV.float()) * scale
    return (lse_T - picked_T).sum(), lse_T.square().sum(), grad_TV.to(logits_TV.dtype)


def _kernel_body(
    logits_TV: Tensor, target_T: Tensor, illegal_TV: Tensor | None, z_weight: float, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `_body` by a kernel; the gradient takes the place of the logits."""
    from ..kernels.token_loss import token_loss_and_gradient

    loss_T, lse_T = token_loss_and_gradient(logits_TV, target_T, illegal_TV, z_weight, scale)
    return loss_T.sum(), lse_T.square().sum(), logits_TV


class _Chunked(torch.autograd.Function):
    """The gradient is made in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        target_T: Tensor,
        illegal_TV: Tensor | None,
        z_weight: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        body = _kernel_body if usable(hidden_TD) else _body
        with torch.autocast(hidden_TD.device.type, enabled=False):
            weight = weight_VD.to(hidden_TD.dtype)
            tokens = hidden_TD.shape[0]
            grad_hidden = torch.empty_like(hidden_TD)
            grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
            cross_entropy = torch.zeros((), device=hidden_TD.device)
            squares = torch.zeros((), device=hidden_TD.device)
            for first in range(0, tokens, chunk_tokens):
                part = slice(first, first + chunk_tokens)
                hidden = hidden_TD[part]
                illegal = None if illegal_TV is None else illegal_TV[part]
                logits = hidden @ weight.T
                ce, square, grad = body(logits, target_T[part], illegal, z_weight, 1.0 / tokens)
                cross_entropy += ce
                squares += square
                grad_hidden[part] = grad @ weight
                grad_weight += grad.T @ hidden
            ctx.save_for_backward(grad_hidden, grad_weight)
            ctx.weight_dtype = weight_VD.dtype
            cross_entropy /= tokens
            loss = cross_entropy + z_weight * squares / tokens
        ctx.mark_non_differentiable(cross_entropy)
        return loss, cross_entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_hidden * scale.to(grad_hidden.dtype),
            (grad_weight * scale).to(ctx.weight_dtype),
            None, None, None, None,
        )  # fmt: skip
