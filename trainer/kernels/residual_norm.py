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

# Rows at once, rows of a program of the gradient, which leaves one partial sum of the gain's
# gradient, and numbers of a row that a thread holds: the fastest on an H100 or H200.
FORWARD = {"rows": 1, "numbers": 32}
BACKWARD = {"rows": 8, "all_rows": 8, "numbers": 32, "stages": 1}
_DROP_STEPS = 65536  # dropout rates are multiples of its inverse

# A row is dealt with in two pieces of A and B numbers, powers of two: D = 768 is 512 + 256, where
# one piece of 1,024 would do a quarter of its work for nothing.


@triton.jit
def _place(row, tokens, first, D: tl.constexpr, SIZE: tl.constexpr):
    """Offsets [T, SIZE] of a piece from column `first` on, and which of them exist."""
    d = first + tl.arange(0, SIZE)
    return row.to(tl.int64)[:, None] * D + d[None, :], (row[:, None] < tokens) & (d[None, :] < D)


@triton.jit
def _gain(ptr, first, D: tl.constexpr, SIZE: tl.constexpr):
    d = first + tl.arange(0, SIZE)
    return tl.load(ptr + d, mask=d < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _survivors(
    x, seed, row, threshold, keep_scale, first,
    ROW: tl.constexpr, T: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Dropout of a piece: eight 16-bit numbers from every call of Philox, with the seven rounds
    that pass the usual tests of randomness.
    """
    at = row.to(tl.uint32)[:, None] * (ROW // 8) + first // 8 + tl.arange(0, SIZE // 8)[None, :]
    a, b, c, d = tl.randint4x(seed, at, n_rounds=7)
    bits = tl.join(tl.join(a, b), tl.join(c, d)).to(tl.uint32, bitcast=True)
    bits = tl.reshape(tl.join(bits & 0xFFFF, bits >> 16), (T, SIZE))
    return tl.where(bits >= threshold, x * keep_scale, 0.0)


@triton.jit
def _summed(
    x_ptr, delta_ptr, sum_ptr, row, tokens, seed, threshold, keep_scale, first,
    ADD: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, T: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    at, inside = _place(row, tokens, first, D, SIZE)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if DROP:
            delta = _survivors(delta, seed, row, threshold, keep_scale, first, ROW, T, SIZE)
        rounded = (x + delta).to(x_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=inside)
        x = rounded.to(tl.float32)
    return x


@triton.jit(do_not_specialize=["tokens", "seed", "threshold"])
def _forward(
    x_ptr, delta_ptr, gain_ptr, sum_ptr, normed_ptr, inverse_ptr,
    tokens, seed, threshold, keep_scale, eps,
    ADD: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * T + tl.arange(0, T)
    a = _summed(
        x_ptr, delta_ptr, sum_ptr, row, tokens, seed, threshold, keep_scale, 0,
        ADD, DROP, D, A + B, T, A,
    )  # fmt: skip
    squares = tl.sum(a * a, 1)
    if B > 0:
        b = _summed(
            x_ptr, delta_ptr, sum_ptr, row, tokens, seed, threshold, keep_scale, A,
            ADD, DROP, D, A + B, T, B,
        )  # fmt: skip
        squares += tl.sum(b * b, 1)
    inverse = 1.0 / tl.sqrt(squares / D + eps)
    tl.store(inverse_ptr + row, inverse, mask=row < tokens)
    dtype = normed_ptr.dtype.element_ty
    at, inside = _place(row, tokens, 0, D, A)
    tl.store(
        normed_ptr + at, (a * inverse[:, None] * _gain(gain_ptr, 0, D, A)).to(dtype), mask=inside
    )
    if B > 0:
        at, inside = _place(row, tokens, A, D, B)
        tl.store(
            normed_ptr + at,
            (b * inverse[:, None] * _gain(gain_ptr, A, D, B)).to(dtype),
            mask=inside,
        )


@triton.jit
def _loaded(sum_ptr, grad_ptr, inverse, row, tokens, first, D: tl.constexpr, SIZE: tl.constexpr):
    """x / rms(x) and the gradient of the norm, of a piece."""
    at, inside = _place(row, tokens, first, D, SIZE)
    x = tl.load(sum_ptr + at, mask=inside, other=0.0).to(tl.float32) * inverse[:, None]
    return x, tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _stored(
    x, grad, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
    row, tokens, seed, threshold, keep_scale, first,
    SUM: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr, T: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    at, inside = _place(row, tokens, first, D, SIZE)
    grad = (grad - x * slope[:, None]) * inverse[:, None]
    if SUM:
        grad += tl.load(grad_sum_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=inside)
    if DROP:
        grad = _survivors(grad, seed, row, threshold, keep_scale, first, ROW, T, SIZE)
        tl.store(grad_delta_ptr + at, grad.to(grad_delta_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "seed", "threshold", "rows_per_program"])
def _backward(
    sum_ptr, gain_ptr, inverse_ptr, grad_sum_ptr, grad_normed_ptr,
    grad_x_ptr, grad_delta_ptr, gain_grads_ptr,
    tokens, seed, threshold, keep_scale, rows_per_program,
    SUM: tl.constexpr, DROP: tl.constexpr, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Rows of a program one after another; SUM: the sum has a gradient of its own too."""
    gain_a = _gain(gain_ptr, 0, D, A)
    gain_grad_a = tl.zeros((A,), tl.float32)
    if B > 0:
        gain_b = _gain(gain_ptr, A, D, B)
        gain_grad_b = tl.zeros((B,), tl.float32)
    start = tl.program_id(0) * rows_per_program
    end = tl.minimum(start + rows_per_program, tokens)
    for first in tl.range(start, end, T, num_stages=STAGES):
        row = first + tl.arange(0, T)
        inverse = tl.load(inverse_ptr + row, mask=row < tokens, other=0.0)
        a, grad_a = _loaded(sum_ptr, grad_normed_ptr, inverse, row, tokens, 0, D, A)
        gain_grad_a += tl.sum(grad_a * a, 0)
        grad_a *= gain_a
        slope = tl.sum(grad_a * a, 1)
        if B > 0:
            b, grad_b = _loaded(sum_ptr, grad_normed_ptr, inverse, row, tokens, A, D, B)
            gain_grad_b += tl.sum(grad_b * b, 0)
            grad_b *= gain_b
            slope += tl.sum(grad_b * b, 1)
        slope = slope / D
        _stored(
            a, grad_a, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
            row, tokens, seed, threshold, keep_scale, 0, SUM, DROP, D, A + B, T, A,
        )  # fmt: skip
        if B > 0:
            _stored(
                b, grad_b, inverse, slope, grad_sum_ptr, grad_x_ptr, grad_delta_ptr,
                row, tokens, seed, threshold, keep_scale, A, SUM, DROP, D, A + B, T, B,
            )  # fmt: skip
    gain_grads_ptr += tl.program_id(0) * D
    tl.store(gain_grads_ptr + tl.arange(0, A), gain_grad_a, mask=tl.arange(0, A) < D)
    if B > 0:
        d = A + tl.arange(0, B)
        tl.store(gain_grads_ptr + d, gain_grad_b, mask=d < D)


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
        width = x.shape[-1]
        tokens = x.numel() // width
        assert x.is_contiguous() and (delta is None or delta.is_contiguous())
        total = x if delta is None else torch.empty_like(x)
        normed = torch.empty_like(x)
        inverse = torch.empty(tokens, dtype=torch.float32, device=x.device)
        threshold = round(drop * _DROP_STEPS) if delta is not None else 0
        keep_scale = _DROP_STEPS / (_DROP_STEPS - threshold)
        ctx.how = seed, threshold, keep_scale, delta is not None
        pieces = _pieces(width)
        _forward[(triton.cdiv(tokens, FORWARD["rows"]),)](
            x, delta, gain_D, total, normed, inverse,
            tokens, seed, threshold, keep_scale, eps,
            ADD=delta is not None, DROP=threshold > 0, D=width, T=FORWARD["rows"],
            num_warps=_warps(pieces, FORWARD), **pieces,
        )  # fmt: skip
        ctx.save_for_backward(total, gain_D, inverse)
        ctx.set_materialize_grads(False)
        return normed if delta is None else (total, normed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        total, gain_D, inverse = ctx.saved_tensors
        seed, threshold, keep_scale, added = ctx.how
        grad_sum, grad_normed = grads if added else (None, grads[0])
        assert grad_normed is not None
        grad_normed = grad_normed.contiguous()
        width = total.shape[-1]
        tokens = total.numel() // width
        pieces = _pieces(width)
        rows = BACKWARD["all_rows"]
        programs = triton.cdiv(tokens, rows)
        grad_x = torch.empty_like(total)
        # Without dropout both have the same gradient.
        grad_delta = torch.empty_like(total) if threshold > 0 else grad_x
        gain_grads = torch.empty(programs, width, dtype=torch.float32, device=total.device)
        _backward[(programs,)](
            total, gain_D, inverse, None if grad_sum is None else grad_sum.contiguous(),
            grad_normed, grad_x, grad_delta, gain_grads,
            tokens, seed, threshold, keep_scale, rows,
            SUM=grad_sum is not None, DROP=threshold > 0, D=width,
            T=BACKWARD["rows"], STAGES=BACKWARD["stages"],
            num_warps=_warps(pieces, BACKWARD), **pieces,
        )  # fmt: skip
        gain_grad = gain_grads.sum(0).to(gain_D.dtype)
        return grad_x, grad_delta if added else None, gain_grad, None, None, None


def _pieces(width: int) -> dict[str, int]:
    """A and B."""
    first = max(16, triton.next_power_of_2(width + 1) // 2)
    rest = max(0, width - first)
    return {"A": first, "B": max(16, triton.next_power_of_2(rest)) if rest else 0}


def _warps(pieces: dict[str, int], how: dict[str, int]) -> int:
    numbers = how["rows"] * triton.next_power_of_2(sum(pieces.values()))
    return max(1, min(16, numbers // (32 * how["numbers"])))


def residual_norm(
    x: Tensor, delta: Tensor | None, gain_D: Tensor, eps: float, drop: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """x + dropout(delta), rounded to the dtype of `x`, and its RMSNorm; [..., D] each.

    Without `delta` the first is `x` itself. `seed` decides what is dropped: another for every call
    of a training step.
    """
    if delta is None:
        return x, _ResidualNorm.apply(x, None, gain_D, eps, 0.0, 0)
    return _ResidualNorm.apply(x, delta, gain_D, eps, drop, seed)
