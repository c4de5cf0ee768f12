"""silu(gate) * value with both in one tensor, and its gradient, in one pass each; fp32 inside.

`swiglu_float8` and its gradient also give what they compute as e4m3 with one unit a row, while it
is at hand. Shape suffixes: T tokens, F hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import LARGEST, SMALLEST_UNIT
from .residual_norm import row_factor

_BLOCK = 1024


@triton.jit
def _forward(
    both_ptr, stream_ptr, out_ptr, out8_ptr, unit_ptr, eps,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EIGHT: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Compute a block of a row.

    EIGHT: a whole row. WIDTH: of the stream whose norm is still to come, or 0.
    """
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = h < HIDDEN
    at = both_ptr + row * 2 * HIDDEN + h
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(at + HIDDEN, mask=inside, other=0.0).to(tl.float32)
    if WIDTH > 0:
        factor = row_factor(stream_ptr + row * WIDTH, WIDTH, eps, PADDED)
        gate, value = gate * factor, value * factor
    out = gate * tl.sigmoid(gate) * value
    tl.store(out_ptr + row * HIDDEN + h, out.to(out_ptr.dtype.element_ty), mask=inside)
    if EIGHT:
        unit = tl.maximum(tl.max(tl.abs(out), 0) / LARGEST, SMALLEST)
        tl.store(
            out8_ptr + row * HIDDEN + h, (out / unit).to(out8_ptr.dtype.element_ty), mask=inside
        )
        tl.store(unit_ptr + row, unit)


@triton.jit
def _backward(
    both_ptr, grad_ptr, grad_both_ptr, grad8_ptr, unit_ptr,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EIGHT: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
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
    if EIGHT:
        largest = tl.max(tl.maximum(tl.abs(grad_gate), tl.abs(grad_value)), 0)
        unit = tl.maximum(largest / LARGEST, SMALLEST)
        dtype8 = grad8_ptr.dtype.element_ty
        tl.store(grad8_ptr + at, (grad_gate / unit).to(dtype8), mask=inside)
        tl.store(grad8_ptr + at + HIDDEN, (grad_value / unit).to(dtype8), mask=inside)
        tl.store(unit_ptr + row, unit)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        return _forward_of(both, None, None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        return _backward_of(both, grads[0], None, None)


def _forward_of(
    both: Tensor,
    out8: Tensor | None = None,
    unit: Tensor | None = None,
    stream: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    assert both.is_contiguous() and (stream is None or stream.is_contiguous())
    out = both.new_empty(*both.shape[:-1], both.shape[-1] // 2)
    grid, settings = _settings(both, out8)
    width = 0 if stream is None else stream.shape[-1]
    _forward[grid](
        both, both if stream is None else stream, out, out8, unit, eps,
        WIDTH=width, PADDED=triton.next_power_of_2(max(1, width)), **settings,
    )  # fmt: skip
    return out


def _backward_of(both: Tensor, grad: Tensor, grad8: Tensor | None, unit: Tensor | None) -> Tensor:
    grad_both = torch.empty_like(both)
    grid, settings = _settings(both, grad8)
    _backward[grid](both, grad.contiguous(), grad_both, grad8, unit, **settings)
    return grad_both


def _settings(both: Tensor, eight: Tensor | None) -> tuple[tuple[int, int], dict[str, Any]]:
    hidden = both.shape[-1] // 2
    block = _BLOCK if eight is None else triton.next_power_of_2(hidden)
    return (both.numel() // both.shape[-1], triton.cdiv(hidden, block)), {
        "HIDDEN": hidden,
        "BLOCK": block,
        "EIGHT": eight is not None,
        "LARGEST": LARGEST,
        "SMALLEST": SMALLEST_UNIT,
        "num_warps": 4 if eight is None else 8,
    }


def swiglu(both: Tensor) -> Tensor:
    """Compute SwiGLU: [..., F] of [..., 2 F], whose first half is the gate."""
    gated: Tensor = _SwiGLU.apply(both)
    return gated


def normed_swiglu(both_TP: Tensor, stream_TD: Tensor, eps: float) -> Tensor:
    """Compute SwiGLU [T, F] of the projection of `stream_TD` before its RMSNorm.

    The norm's factor comes in here; the weight holds its gain. It has no gradient.
    """
    return _forward_of(both_TP, stream=stream_TD, eps=eps)


def swiglu_float8(both_TP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute SwiGLU without a gradient, in the dtype of its input and in e4m3.

    The e4m3 numbers have units [T, 1].
    """
    tokens, hidden = both_TP.shape[0], both_TP.shape[1] // 2
    out8_TF = both_TP.new_empty(tokens, hidden, dtype=torch.float8_e4m3fn)
    unit_T1 = both_TP.new_empty(tokens, 1, dtype=torch.float32)
    return _forward_of(both_TP, out8_TF, unit_T1), out8_TF, unit_T1


def swiglu_float8_gradient(both_TP: Tensor, grad_TF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the input, twice as well."""
    grad8_TP = torch.empty_like(both_TP, dtype=torch.float8_e4m3fn)
    unit_T1 = both_TP.new_empty(len(both_TP), 1, dtype=torch.float32)
    return _backward_of(both_TP, grad_TF, grad8_TP, unit_T1), grad8_TP, unit_T1
