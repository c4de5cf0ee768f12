"""Cross-entropy of logits and its gradient, which takes their place; fp32 inside.

Shape suffixes: T tokens, V codebook size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


@triton.jit
def _kernel(
    logits_ptr, target_ptr, illegal_ptr, loss_ptr, lse_ptr, z_weight, scale, codes, stride,
    MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Process one token: the sum of exponentials in a first pass, the gradient in a second."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    if MASKED:
        illegal_ptr += row * codes
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, codes, BLOCK):
        v = first + tl.arange(0, BLOCK)
        legal = v < codes
        if MASKED:
            legal = legal & (tl.load(illegal_ptr + v, mask=legal, other=1) == 0)
        x = tl.load(logits_ptr + v, mask=legal, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, x)
        # Where nothing legal was seen, both are -inf and nothing may be added.
        seen = higher > -float("inf")
        shrink = tl.where(seen, tl.exp(top - higher), 0.0)
        total = total * shrink + tl.where(seen, tl.exp(x - higher), 0.0)
        top = higher
    peak = tl.max(top, 0)
    lse = peak + tl.log(tl.sum(total * tl.exp(top - peak), 0))
    target = tl.load(target_ptr + row)
    picked = tl.load(logits_ptr + target).to(tl.float32)
    if MASKED:
        picked = tl.where(tl.load(illegal_ptr + target) == 0, picked, -float("inf"))
    tl.store(loss_ptr + row, lse - picked)
    tl.store(lse_ptr + row, lse)
    tl.debug_barrier()  # the target's logit is read before its place is written
    slope = (1.0 + 2.0 * z_weight * lse) * scale
    for first in range(0, codes, BLOCK):
        v = first + tl.arange(0, BLOCK)
        legal = v < codes
        if MASKED:
            legal = legal & (tl.load(illegal_ptr + v, mask=legal, other=1) == 0)
        x = tl.load(logits_ptr + v, mask=legal, other=-float("inf")).to(tl.float32)
        grad = tl.exp(x - lse) * slope - tl.where(v == target, scale, 0.0)
        tl.store(logits_ptr + v, grad.to(logits_ptr.dtype.element_ty), mask=v < codes)


def token_loss_and_gradient(
    logits_TV: Tensor,
    target_T: Tensor,
    illegal_TV: Tensor | None,
    z_weight: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and log-partition of every token, [T] fp32 each.

    `logits_TV` then holds the gradient of `scale` times the sum over tokens of cross-entropy plus
    `z_weight` times the squared log-partition. Codes in `illegal_TV` have no probability.
    """
    tokens, codes = logits_TV.shape
    assert logits_TV.stride(1) == 1
    loss_T, lse_T = torch.empty(2, tokens, dtype=torch.float32, device=logits_TV.device)
    illegal = None if illegal_TV is None else illegal_TV.contiguous().view(torch.uint8)
    _kernel[(tokens,)](
        logits_TV, target_T, illegal, loss_T, lse_T, z_weight, scale, codes,
        logits_TV.stride(0), MASKED=illegal is not None,
        BLOCK=min(_BLOCK, max(16, triton.next_power_of_2(codes))), num_warps=8,
    )  # fmt: skip
    return loss_T, lse_T
