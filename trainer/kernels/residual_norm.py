"""Residual addition with dropout, and the RMSNorm that follows, in one pass over the tokens.

x' = x + dropout(delta), normed = x' / rms(x') * gain. Everything is in fp32 between reading and
writing. The dropout mask is a function of a seed and the place alone (Philox), made again by the
gradient. The order of sums is fixed (no atomics).

Shape suffixes: T tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# The fastest on an H100: many small programs, whose reductions stay inside a warp.
ROWS = 8  # of a program of the gradient, which leaves one partial sum of the gain's gradient
NUMBERS = 32  # of a row that a thread holds
_DROP_STEPS = 65536  # dropout rates are multiples of its inverse

# A row is dealt with in two pieces of A and B numbers, powers of two: D = 768 is 512 + 256, where
# one piece of 1,024 would do a quarter of its work for nothing.


@triton.jit
def row_factor(ptr, WIDTH: tl.constexpr, eps, PADDED: tl.constexpr):
    """Return the factor by which RMSNorm multiplies a row, but for the gain."""
    d = tl.arange(0, PADDED)
    x = tl.load(ptr + d, mask=d < WIDTH, other=0.0).to(tl.float32)
    return 1.0 / tl.sqrt(tl.sum(x * x, 0) / WIDTH + eps)


@triton.jit
def _place(row, first, D: tl.constexpr, SIZE: tl.constexpr):
    """Return the offsets of a piece from column `first` on, and which of them exist."""
    d = first + tl.arange(0, SIZE)
    return row.to(tl.int64) * D + d, d < D


@triton.jit
def _gain(ptr, first, D: tl.constexpr, SIZE: tl.constexpr):
    d = first + tl.arange(0, SIZE)
    return tl.load(ptr + d, mask=d < D, other=0.0).to(tl.float32)


@triton.jit
def _survivors(
    x, seed, row, threshold, keep_scale, first, ROW: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    """Dropout of a piece: eight 16-bit numbers from every call of Philox, with the seven rounds
    that pass the usual tests of randomness.
    """
    at = row.to(tl.uint32) * (ROW // 8) + first // 8 + tl.arange(0, SIZE // 8)
    a, b, c, d = tl.randint4x(seed, at, n_rounds=7)
    bits = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32, bitcast=True)
    bits = tl.reshape(tl.join(bits & 0xFFFF, bits >> 16), (SIZE,))
    return tl.where(bits >= threshold, x * keep_scale, 0.0)


@triton.jit
def _summed(
    x_ptr, delta_ptr, sum_ptr, row, seed, threshold, keep_scale, first,
    ADD: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    at, inside = _place(row, first, D, SIZE)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if DROP:
            delta = _survivors(delta, seed, row, threshold, keep_scale, first, ROW, SIZE)
        rounded = (x + delta).to(x_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    return x


@triton.jit(do_not_specialize=["seed", "threshold"])
def _forward(
    x_ptr, delta_ptr, gain_ptr, sum_ptr, normed_ptr, inverse_ptr, seed, threshold, keep_scale, eps,
    ADD: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Compute one row."""
    row = tl.program_id(0)
    a = _summed(
        x_ptr, delta_ptr, sum_ptr, row, seed, threshold, keep_scale, 0, ADD, DROP, D, A + B, A
    )
    squares = tl.sum(a * a, 0)
    if B > 0:
        b = _summed(
            x_ptr, delta_ptr, sum_ptr, row, seed, threshold, keep_scale, A, ADD, DROP, D, A + B, B
        )
        squares += tl.sum(b * b, 0)
    inverse = 1.0 / tl.sqrt(squares / D + eps)
    tl.store(inverse_ptr + row, inverse)
    dtype = normed_ptr.dtype.element_ty
    at, inside = _place(row, 0, D, A)
    tl.store(normed_ptr + at, (a * inverse * _gain(gain_ptr, 0, D, A)).to(dtype), mask=inside)
    if B > 0:
        at, inside = _place(row, A, D, B)
        tl.store(normed_ptr + at, (b * inverse * _gain(gain_ptr, A, D, B)).to(dtype), mask=inside)


@triton.jit
def _loaded(sum_ptr, grad_ptr, inverse, row, first, D: tl.constexpr, SIZE: tl.constexpr):
    """Load x / rms(x) and the gradient of the norm, of a piece."""
    at, inside = _place(row, first, D, SIZE)
    x = tl.load(sum_ptr + at, mask=inside, other=0.0).to(tl.float32) * inverse
    return x, tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _stored(
    x, grad, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
    row, seed, threshold, keep_scale, first,
    SUM: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    at, inside = _place(row, first, D, SIZE)
    grad = (grad - x * slope) * inverse
    if SUM:
        grad += tl.load(grad_sum_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
    if DROP:
        grad = _survivors(grad, seed, row, threshold, keep_scale, first, ROW, SIZE)
        tl.store(grad_delta_ptr + at, grad.to(grad_delta_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "seed", "threshold"])
def _backward(
    sum_ptr, gain_ptr, inverse_ptr, grad_sum_ptr, grad_normed_ptr,
    grad_x_ptr, grad_delta_ptr, gain_grads_ptr, tokens, seed, threshold, keep_scale,
    SUM: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a program's rows, one after another.

    SUM: the sum has a gradient of its own too.
    """
    gain_a = _gain(gain_ptr, 0, D, A)
    gain_grad_a = tl.zeros((A,), tl.float32)
    if B > 0:
        gain_b = _gain(gain_ptr, A, D, B)
        gain_grad_b = tl.zeros((B,), tl.float32)
    first = tl.program_id(0) * ROWS
    for number in range(first, tl.minimum(first + ROWS, tokens)):
        row = tl.full((), number, tl.int64)
        inverse = tl.load(inverse_ptr + row)
        a, grad_a = _loaded(sum_ptr, grad_normed_ptr, inverse, row, 0, D, A)
        gain_grad_a += grad_a * a
        grad_a *= gain_a
        slope = tl.sum(grad_a * a, 0)
        if B > 0:
            b, grad_b = _loaded(sum_ptr, grad_normed_ptr, inverse, row, A, D, B)
            gain_grad_b += grad_b * b
            grad_b *= gain_b
            slope += tl.sum(grad_b * b, 0)
        slope = slope / D
        _stored(
            a, grad_a, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
            row, seed, threshold, keep_scale, 0, SUM, DROP, D, A + B, A,
        )  # fmt: skip
        if B > 0:
            _stored(
                b, grad_b, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
                row, seed, threshold, keep_scale, A, SUM, DROP, D, A + B, B,
            )  # fmt: skip
    at, inside = _place(tl.program_id(0), 0, D, A)
    tl.store(gain_grads_ptr + at, gain_grad_a, mask=inside)
    if B > 0:
        at, inside = _place(tl.program_id(0), A, D, B)
        tl.store(gain_grads_ptr + at, gain_grad_b, mask=inside)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        gain_D: Tensor,
        eps: float,
        drop: float,
        seed: int,
    ) -> Tensor | tuple[Tensor, Tensor]:
        tokens = x.numel() // x.shape[-1]
        assert x.is_contiguous() and (delta is None or delta.is_contiguous())
        total = x if delta is None else torch.empty_like(x)
        normed = torch.empty_like(x)
        inverse_T = torch.empty(tokens, dtype=torch.float32, device=x.device)
        threshold = round(drop * _DROP_STEPS) if delta is not None else 0
        keep_scale = _DROP_STEPS / (_DROP_STEPS - threshold)
        ctx.how = seed, threshold, keep_scale, delta is not None
        _forward[(tokens,)](
            x, delta, gain_D, total, normed, inverse_T, seed, threshold, keep_scale, eps,
            ADD=delta is not None, DROP=threshold > 0, **_settings(x.shape[-1]),
        )  # fmt: skip
        ctx.save_for_backward(total, gain_D, inverse_T)
        ctx.set_materialize_grads(False)
        return normed if delta is None else (total, normed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        total, gain_D, inverse_T = ctx.saved_tensors
        seed, threshold, keep_scale, added = ctx.how
        grad_sum, grad_normed = grads if added else (None, grads[0])
        assert grad_normed is not None
        tokens, width = len(inverse_T), total.shape[-1]
        programs = triton.cdiv(tokens, ROWS)
        grad_x = torch.empty_like(total)
        # Without dropout both have the same gradient.
        grad_delta = torch.empty_like(total) if threshold > 0 else grad_x
        gain_grads = torch.empty(programs, width, dtype=torch.float32, device=total.device)
        _backward[(programs,)](
            total, gain_D, inverse_T, None if grad_sum is None else grad_sum.contiguous(),
            grad_normed.contiguous(), grad_x, grad_delta, gain_grads,
            tokens, seed, threshold, keep_scale,
            SUM=grad_sum is not None, DROP=threshold > 0, ROWS=ROWS, **_settings(width),
        )  # fmt: skip
        gain_grad = gain_grads.sum(0).to(gain_D.dtype)
        return grad_x, grad_delta if added else None, gain_grad, None, None, None


def _settings(width: int) -> dict[str, int]:
    """Return the constants of both kernels."""
    first = max(16, triton.next_power_of_2(width + 1) // 2)
    rest = max(0, width - first)
    second = max(16, triton.next_power_of_2(rest)) if rest else 0
    warps = max(1, triton.next_power_of_2(first + second) // (32 * NUMBERS))
    return {"D": width, "A": first, "B": second, "num_warps": warps}


def residual_norm(
    x: Tensor, delta: Tensor | None, gain_D: Tensor, eps: float, drop: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return x + dropout(delta), in the dtype of `x`, and its RMSNorm; [..., D] each.

    Without `delta` the first is `x` itself. `seed` decides what is dropped: another for every call
    of a training step.
    """
    if delta is None:
        return x, _ResidualNorm.apply(x, None, gain_D, eps, 0.0, 0)
    normed: tuple[Tensor, Tensor] = _ResidualNorm.apply(x, delta, gain_D, eps, drop, seed)
    return normed
