"""A residual added and the RMS norm that follows it, as one Triton kernel for rows of one token.

Imported only where kernels can run. Shape suffixes: B rows, D width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(
    x_ptr, delta_ptr, gain_ptr, sum_ptr, normed_ptr, eps,
    D: tl.constexpr, PADDED: tl.constexpr, ADDS: tl.constexpr,
):  # fmt: skip
    """One row."""
    d = tl.arange(0, PADDED)
    inside = d < D
    at = tl.program_id(0).to(tl.int64) * D + d
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        x += tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)  # the norm is of what is kept
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    shrink = 1 / tl.sqrt(tl.sum(x * x, 0) / D + eps)
    gain = tl.load(gain_ptr + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed_ptr + at, (x * shrink * gain).to(normed_ptr.dtype.element_ty), mask=inside)


def add_norm(
    x_BD: Tensor, delta_BD: Tensor | None, gain_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + delta (x itself for None), rounded to its dtype, and the norm of that."""
    width = x_BD.shape[1]
    assert x_BD.is_contiguous() and (delta_BD is None or delta_BD.is_contiguous())
    adds = delta_BD is not None
    sum_BD = torch.empty_like(x_BD) if adds else x_BD
    normed_BD = torch.empty_like(x_BD)
    _kernel[(len(x_BD),)](
        x_BD, delta_BD if adds else x_BD, gain_D, sum_BD, normed_BD, eps,
        D=width, PADDED=triton.next_power_of_2(width), ADDS=adds, num_warps=4,
    )  # fmt: skip
    return sum_BD, normed_BD
