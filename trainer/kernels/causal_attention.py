"""Causal self-attention with QK-norm and rotary positions inside, for training.

Queries, keys and values come as the projection leaves them. LayerNorm of each head's queries and
keys (ViT-22B), the rotation and the softmax happen on the way; queries and keys are written once
more as they enter the products, for the gradient, and nothing else is. Sums are in fp32, matrix
products in the dtype of the input, and the order of sums is fixed (no atomics).

Shape suffixes: B sequences, L positions, H heads, E head size, P = E / 2 pairs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOG2_E = math.log2(math.e)
# Positions that are met at a time: the fastest on an H100 or H200 for heads of 64 in 16 bits. With
# 128 registers a thread four programs share a multiprocessor, which pays for a few spilled ones.
FORWARD = {"TILE": 64, "INNER": 64, "PREPARED": 64, "num_warps": 4, "num_stages": 1, "maxnreg": 128}
BACKWARD = {"TILE": 64, "INNER": 32, "num_warps": 4, "num_stages": 1, "maxnreg": 128}
# Wider heads, and fp32, would spill kilobytes of them.
WIDE_INNER = 32


@triton.jit
def _rows(ptr, t, e, stride, length, E: tl.constexpr):
    """Load rows `t` of a head, zero beyond its end."""
    inside = (t[:, None] < length) & (e[None, :] < E)
    return tl.load(ptr + t[:, None] * stride + e[None, :], mask=inside, other=0.0)


@triton.jit
def _put_rows(ptr, x, t, e, stride, length, E: tl.constexpr):
    inside = (t[:, None] < length) & (e[None, :] < E)
    tl.store(ptr + t[:, None] * stride + e[None, :], x.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _angles(cos_ptr, sin_ptr, t, length, E: tl.constexpr, PADDED: tl.constexpr):
    pair = tl.arange(0, PADDED // 2)
    at = t[:, None] * (E // 2) + pair[None, :]
    inside = (t[:, None] < length) & (pair[None, :] < E // 2)
    return tl.load(cos_ptr + at, mask=inside, other=0.0), tl.load(
        sin_ptr + at, mask=inside, other=0.0
    )


@triton.jit
def _turned(x, cos, sin, T: tl.constexpr, PADDED: tl.constexpr):
    """Neighbouring pairs of a tile [T, PADDED] turned by angles [T, PADDED / 2]."""
    even, odd = tl.split(tl.reshape(x, (T, PADDED // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (T, PADDED))


@triton.jit
def _normed(x, e, eps, E: tl.constexpr):
    """Return rows of mean 0 and variance 1, and the factor that scaled them."""
    x = tl.where(e[None, :] < E, x - tl.sum(x, 1)[:, None] / E, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / E + eps)
    return x * inverse[:, None], inverse


@triton.jit
def _prepare(
    raw_ptr, gain_ptr, cos, sin, to_ptr, t, e, stride, to_stride, length, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr,
    E: tl.constexpr, PADDED: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write queries or keys `t` as they enter the products."""
    x = _rows(raw_ptr, t, e, stride, length, E).to(tl.float32)
    if NORM:
        x, _ = _normed(x, e, eps, E)
        x *= tl.load(gain_ptr + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    if ROTATE:
        x = _turned(x, cos, sin, T, PADDED)
    _put_rows(to_ptr, x, t, e, to_stride, length, E)


@triton.jit
def _back_to_raw(
    grad, raw_ptr, gain_ptr, gain_grad_ptr, cos_ptr, sin_ptr, t, e, stride, length, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr,
    E: tl.constexpr, PADDED: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Gradient of the raw rows from that of the prepared ones; stores this tile's share of the
    gain's gradient.
    """
    if ROTATE:
        cos, sin = _angles(cos_ptr, sin_ptr, t, length, E, PADDED)
        grad = _turned(grad, cos, -sin, T, PADDED)
    if NORM:
        x = _rows(raw_ptr, t, e, stride, length, E).to(tl.float32)
        x, inverse = _normed(x, e, eps, E)
        tl.store(gain_grad_ptr + e, tl.sum(grad * x, 0), mask=e < E)
        grad *= tl.load(gain_ptr + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
        mean = tl.sum(grad, 1) / E
        slope = tl.sum(grad * x, 1) / E
        grad = (grad - mean[:, None] - x * slope[:, None]) * inverse[:, None]
    return grad


@triton.jit
def _meet(q, k, v, mask, top, total, found, scale_log2, MASK: tl.constexpr):
    """Merge the softmax so far with that of the queries over some more keys."""
    score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    if MASK:
        score = tl.where(mask, score, -float("inf"))
    higher = tl.maximum(top, tl.max(score, 1))
    weight = tl.exp2(score - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(weight, 1)
    found = tl.dot(weight.to(v.dtype), v, found * shrink[:, None], input_precision="ieee")
    return higher, total, found


@triton.jit(do_not_specialize=["heads", "length"])
def _forward(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, qk_ptr, out_ptr, lse_ptr,
    heads, length, scale_log2, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, INNER: tl.constexpr, PREPARED: tl.constexpr,
):  # fmt: skip
    """Compute all of one head.

    Its queries and keys are prepared first, once each; then they are read back, out of the cache.
    INNER divides TILE.
    """
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    stride = 3 * heads * E
    q_ptr = qkv_ptr + b * length * stride + h * E
    k_ptr, v_ptr = q_ptr + heads * E, q_ptr + 2 * heads * E
    qk_stride = (2 if NORM or ROTATE else 3) * heads * E
    qk_ptr += b * length * qk_stride + h * E
    out_ptr += b * length * heads * E + h * E
    lse_ptr += tl.program_id(0) * length
    e = tl.arange(0, PADDED)
    if NORM or ROTATE:
        for first in tl.range(0, length, PREPARED):
            t = first + tl.arange(0, PREPARED)
            cos, sin = 0.0, 0.0
            if ROTATE:
                cos, sin = _angles(cos_ptr, sin_ptr, t, length, E, PADDED)
            _prepare(
                q_ptr, q_gain_ptr, cos, sin, qk_ptr, t, e, stride, qk_stride, length, eps,
                NORM, ROTATE, E, PADDED, PREPARED,
            )  # fmt: skip
            _prepare(
                k_ptr, k_gain_ptr, cos, sin, qk_ptr + heads * E, t, e, stride, qk_stride,
                length, eps, NORM, ROTATE, E, PADDED, PREPARED,
            )  # fmt: skip
        tl.debug_barrier()
    for start in tl.range(0, length, TILE):
        t = start + tl.arange(0, TILE)
        q = _rows(qk_ptr, t, e, qk_stride, length, E)
        top = tl.full((TILE,), -float("inf"), tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        found = tl.zeros((TILE, PADDED), tl.float32)
        for first in tl.range(0, start, INNER):
            n = first + tl.arange(0, INNER)
            k = _rows(qk_ptr + heads * E, n, e, qk_stride, length, E)
            v = _rows(v_ptr, n, e, stride, length, E)
            top, total, found = _meet(q, k, v, 0, top, total, found, scale_log2, False)
        for first in tl.range(start, start + TILE, INNER):
            n = first + tl.arange(0, INNER)
            k = _rows(qk_ptr + heads * E, n, e, qk_stride, length, E)
            v = _rows(v_ptr, n, e, stride, length, E)
            mask = t[:, None] >= n[None, :]
            top, total, found = _meet(q, k, v, mask, top, total, found, scale_log2, True)
        _put_rows(out_ptr, found / total[:, None], t, e, heads * E, length, E)
        tl.store(lse_ptr + t, top + tl.log2(total), mask=t < length)


@triton.jit(do_not_specialize=["heads", "length"])
def _backward(
    qkv_ptr, q_gain_ptr, k_gain_ptr, cos_ptr, sin_ptr, qk_ptr, out_ptr, lse_ptr, grad_ptr,
    grad_qkv_ptr, gain_grads_ptr, heads, length, scale, scale_log2, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of one head.

    The first half of its programs owns a tile of keys and values each, the second half a tile of
    queries. Each goes through the tiles of the other kind that it meets.
    """
    tiles = tl.num_programs(0) // 2
    b, h = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    stride, out_stride = 3 * heads * E, heads * E
    start = b * length * stride + h * E
    raw_q_ptr, raw_k_ptr = qkv_ptr + start, qkv_ptr + start + heads * E
    v_ptr = qkv_ptr + start + 2 * heads * E
    qk_stride = (2 if NORM or ROTATE else 3) * heads * E
    q_ptr = qk_ptr + b * length * qk_stride + h * E
    k_ptr = q_ptr + heads * E
    lse_ptr += tl.program_id(1) * length
    out_ptr += b * length * out_stride + h * E
    grad_ptr += b * length * out_stride + h * E
    gain_grads_ptr += (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * E
    e = tl.arange(0, PADDED)
    if tl.program_id(0) < tiles:
        n = tl.program_id(0) * TILE + tl.arange(0, TILE)
        k = _rows(k_ptr, n, e, qk_stride, length, E)
        v = _rows(v_ptr, n, e, stride, length, E)
        grad_k = tl.zeros((TILE, PADDED), tl.float32)
        grad_v = tl.zeros((TILE, PADDED), tl.float32)
        for first in range(tl.program_id(0) * TILE, length, INNER):
            t = first + tl.arange(0, INNER)
            q = _rows(q_ptr, t, e, qk_stride, length, E)
            grad = _rows(grad_ptr, t, e, out_stride, length, E)
            out = _rows(out_ptr, t, e, out_stride, length, E)
            shift = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
            lse = tl.load(lse_ptr + t, mask=t < length, other=float("inf"))
            score = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
            weight = tl.where(n[:, None] <= t[None, :], tl.exp2(score - lse[None, :]), 0.0)
            grad_v = tl.dot(weight.to(grad.dtype), grad, grad_v, input_precision="ieee")
            change = tl.dot(v, tl.trans(grad), input_precision="ieee") - shift[None, :]
            grad_k = tl.dot((weight * change).to(q.dtype), q, grad_k, input_precision="ieee")
        grad_k = _back_to_raw(
            grad_k * scale, raw_k_ptr, k_gain_ptr, gain_grads_ptr, cos_ptr, sin_ptr,
            n, e, stride, length, eps, NORM, ROTATE, E, PADDED, TILE,
        )  # fmt: skip
        inside = (n[:, None] < length) & (e[None, :] < E)
        at = grad_qkv_ptr + start + heads * E + n[:, None] * stride + e[None, :]
        tl.store(at, grad_k.to(k.dtype), mask=inside)
        tl.store(at + heads * E, grad_v.to(k.dtype), mask=inside)
    else:
        tile = 2 * tiles - 1 - tl.program_id(0)  # long ones first
        t = tile * TILE + tl.arange(0, TILE)
        q = _rows(q_ptr, t, e, qk_stride, length, E)
        grad = _rows(grad_ptr, t, e, out_stride, length, E)
        out = _rows(out_ptr, t, e, out_stride, length, E)
        shift = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
        lse = tl.load(lse_ptr + t, mask=t < length, other=float("inf"))
        grad_q = tl.zeros((TILE, PADDED), tl.float32)
        for first in range(0, tl.minimum((tile + 1) * TILE, length), INNER):
            n = first + tl.arange(0, INNER)
            k = _rows(k_ptr, n, e, qk_stride, length, E)
            v = _rows(v_ptr, n, e, stride, length, E)
            score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            weight = tl.where(t[:, None] >= n[None, :], tl.exp2(score - lse[:, None]), 0.0)
            change = tl.dot(grad, tl.trans(v), input_precision="ieee") - shift[:, None]
            grad_q = tl.dot((weight * change).to(k.dtype), k, grad_q, input_precision="ieee")
        grad_q = _back_to_raw(
            grad_q * scale, raw_q_ptr, q_gain_ptr, gain_grads_ptr, cos_ptr, sin_ptr,
            t, e, stride, length, eps, NORM, ROTATE, E, PADDED, TILE,
        )  # fmt: skip
        inside = (t[:, None] < length) & (e[None, :] < E)
        at = grad_qkv_ptr + start + t[:, None] * stride + e[None, :]
        tl.store(at, grad_q.to(q.dtype), mask=inside)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv_BLF: Tensor,
        heads: int,
        q_gain_E: Tensor | None,
        k_gain_E: Tensor | None,
        cos_LP: Tensor | None,
        sin_LP: Tensor | None,
        eps: float,
    ) -> Tensor:
        batch, length, width = qkv_BLF.shape
        size = width // (3 * heads)
        assert qkv_BLF.is_contiguous()
        out_BLD = qkv_BLF.new_empty(batch, length, heads * size)
        changed = q_gain_E is not None or cos_LP is not None
        qk_BLG = qkv_BLF.new_empty(batch, length, 2 * heads * size) if changed else qkv_BLF
        lse_BHL = torch.empty(batch, heads, length, dtype=torch.float32, device=qkv_BLF.device)
        ctx.eps, ctx.heads = eps, heads
        ctx.save_for_backward(qkv_BLF, q_gain_E, k_gain_E, cos_LP, sin_LP, qk_BLG, out_BLD, lse_BHL)
        _forward[(batch * heads,)](
            qkv_BLF, q_gain_E, k_gain_E, cos_LP, sin_LP, qk_BLG, out_BLD, lse_BHL,
            heads, length, _LOG2_E / math.sqrt(size), eps,
            **_settings(FORWARD, qkv_BLF, size, q_gain_E, cos_LP),
        )  # fmt: skip
        return out_BLD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        qkv_BLF, q_gain_E, k_gain_E, cos_LP, sin_LP, qk_BLG, out_BLD, lse_BHL = ctx.saved_tensors
        batch, length, width = qkv_BLF.shape
        size = width // (3 * ctx.heads)
        grad_qkv = torch.empty_like(qkv_BLF)
        settings = _settings(BACKWARD, qkv_BLF, size, q_gain_E, cos_LP)
        tiles = triton.cdiv(length, settings["TILE"])
        gain_grads = None
        if q_gain_E is not None:
            shape = (batch * ctx.heads, 2, tiles, size)
            gain_grads = torch.empty(shape, dtype=torch.float32, device=qkv_BLF.device)
        _backward[(2 * tiles, batch * ctx.heads)](
            qkv_BLF, q_gain_E, k_gain_E, cos_LP, sin_LP, qk_BLG, out_BLD, lse_BHL,
            grads[0].contiguous(), grad_qkv, lse_BHL if gain_grads is None else gain_grads,
            ctx.heads, length, 1 / math.sqrt(size), _LOG2_E / math.sqrt(size), ctx.eps, **settings,
        )  # fmt: skip
        q_gain_grad = k_gain_grad = None
        if gain_grads is not None:
            k_gain_grad, q_gain_grad = gain_grads.sum((0, 2)).to(q_gain_E.dtype).unbind(0)
        return grad_qkv, None, q_gain_grad, k_gain_grad, None, None, None


def _settings(
    how: dict[str, int], qkv_BLF: Tensor, size: int, gain_E: Tensor | None, cos_LP: Tensor | None
) -> dict[str, Any]:
    """Return the constants of a kernel; tiles no longer than short sequences."""
    how = dict(how)
    if size > 64 or qkv_BLF.element_size() > 2:
        how["INNER"] = min(how["INNER"], WIDE_INNER)
        how.pop("maxnreg", None)
    most = max(16, triton.next_power_of_2(qkv_BLF.shape[1]))
    for name in {"TILE", "INNER", "PREPARED"} & how.keys():
        how[name] = min(how[name], most)
    return {
        **how,
        "NORM": gain_E is not None,
        "ROTATE": cos_LP is not None,
        "E": size,
        "PADDED": max(16, triton.next_power_of_2(size)),
    }


def causal_attention(
    qkv_BLF: Tensor,
    heads: int,
    q_gain_E: Tensor | None = None,
    k_gain_E: Tensor | None = None,
    cos_LP: Tensor | None = None,
    sin_LP: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Attend from every position to those up to itself, heads joined, [B, L, H * E].

    `qkv_BLF` holds queries, keys and values of all heads, F = 3 * H * E. Gains are those of the
    LayerNorms of queries and keys (None: no norm); cosines and sines turn pairs of neighbouring
    dimensions (None: no rotation). The head size must be even where it rotates.
    """
    attended: Tensor = _CausalAttention.apply(
        qkv_BLF, heads, q_gain_E, k_gain_E, cos_LP, sin_LP, eps
    )
    return attended
