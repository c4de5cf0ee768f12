"""silu(gate) * value with both in one tensor, and its gradient, in one pass each; fp32 inside."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _forward(both_ptr, out_ptr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < HIDDEN
    at = both_ptr + row * 2 * HIDDEN + h
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(at + HIDDEN, mask=inside, other=0.0).to(tl.float32)
    out = gate * tl.sigmoid(gate) * value
    tl.store(out_ptr + row * HIDDEN + h, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(both_ptr, grad_ptr, grad_both_ptr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < HIDDEN
    at = row * 2 * HIDDEN + h
    gate = tl.load(both_ptr + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(both_ptr + at + HIDDEN, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * HIDDEN + h, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    grad_gate = grad * value * share * (1.0 + gate * (1.0 - share))
    grad_value = grad * gate * share
    dtype = grad_both_ptr.dtype.element_ty
    tl.store(grad_both_ptr + at, grad_gate.to(dtype), mask=inside)
    tl.store(grad_both_ptr + at + HIDDEN, grad_value.to(dtype), mask=inside)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        assert both.is_contiguous()
        ctx.save_for_backward(both)
        hidden = both.shape[-1] // 2
        out = both.new_empty(*both.shape[:-1], hidden)
        _forward[_grid(both)](both, out, HIDDEN=hidden, BLOCK=_BLOCK, num_warps=4)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        grad_both = torch.empty_like(both)
        hidden = both.shape[-1] // 2
        _backward[_grid(both)](
            both, grads[0].contiguous(), grad_both, HIDDEN=hidden, BLOCK=_BLOCK, num_warps=4
        )
        return grad_both


def _grid(both: Tensor) -> tuple[int, int]:
    return both.numel() // both.shape[-1], triton.cdiv(both.shape[-1] // 2, _BLOCK)


def swiglu(both: Tensor) -> Tensor:
    """[..., hidden] of [..., 2 * hidden], whose first half is the gate."""
    return _SwiGLU.apply(both)
