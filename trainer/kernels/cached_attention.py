"""Attention of one new position over a key-value cache, as one Triton kernel that also stores it.

A single query per head leaves the tiles of the usual kernels empty, so here the work is reading the
cache once, at the rate of memory. Sums are in fp32, in an order that depends on nothing but the
position: neither the batch nor its neighbours change a result. Imported only where there is a GPU.

Shape suffixes: B sequences, H heads, L positions of the cache, E head size.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 64  # positions read at once


@triton.jit
def _kernel(
    q_ptr, k_ptr, v_ptr, keys_ptr, values_ptr, out_ptr,
    position, heads, scale,
    q_b, q_h, k_b, k_h, v_b, v_h, cache_b, cache_h, cache_t, out_b, out_h,
    E: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One head of one sequence: softmax over the positions in one pass, tile by tile."""
    b = (tl.program_id(0) // heads).to(tl.int64)
    h = (tl.program_id(0) % heads).to(tl.int64)
    e = tl.arange(0, PADDED)
    inside = e < E
    key = tl.load(k_ptr + b * k_b + h * k_h + e, mask=inside, other=0.0)
    value = tl.load(v_ptr + b * v_b + h * v_h + e, mask=inside, other=0.0)
    cached = b * cache_b + h * cache_h
    tl.store(keys_ptr + cached + position * cache_t + e, key, mask=inside)
    tl.store(values_ptr + cached + position * cache_t + e, value, mask=inside)
    query = tl.load(q_ptr + b * q_b + h * q_h + e, mask=inside, other=0.0).to(tl.float32) * scale
    # The new position comes first; the others follow from the cache.
    top = tl.sum(query * key.to(tl.float32), 0)
    total = 1.0
    found = value.to(tl.float32)
    for first in range(0, position, TILE):
        t = first + tl.arange(0, TILE)
        at = cached + t[:, None] * cache_t + e[None, :]
        valid = (t[:, None] < position) & inside[None, :]
        keys = tl.load(keys_ptr + at, mask=valid, other=0.0).to(tl.float32)
        values = tl.load(values_ptr + at, mask=valid, other=0.0).to(tl.float32)
        score = tl.where(t < position, tl.sum(keys * query[None, :], 1), -float("inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        weight = tl.exp(score - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weight, 0)
        found = found * shrink + tl.sum(weight[:, None] * values, 0)
        top = higher
    out = (found / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + b * out_b + h * out_h + e, out, mask=inside)


def attend_cached(
    q_BH1E: Tensor,
    k_BH1E: Tensor,
    v_BH1E: Tensor,
    keys_BHLE: Tensor,
    values_BHLE: Tensor,
    position: int,
) -> Tensor:
    """What the queries find in positions 0 .. `position`, [B, H, 1, E].

    Keys and values of `position` are stored first. The last dimension of every tensor must be
    contiguous, and both caches of one layout.
    """
    batch, heads, _, size = q_BH1E.shape
    assert keys_BHLE.stride() == values_BHLE.stride()
    # In memory [B, 1, H, E], so that joining the heads copies nothing.
    out_BH1E = torch.empty_like(q_BH1E.transpose(1, 2), memory_format=torch.contiguous_format)
    out_BH1E = out_BH1E.transpose(1, 2)
    _kernel[(batch * heads,)](
        q_BH1E, k_BH1E, v_BH1E, keys_BHLE, values_BHLE, out_BH1E,
        position, heads, 1 / math.sqrt(size),
        q_BH1E.stride(0), q_BH1E.stride(1), k_BH1E.stride(0), k_BH1E.stride(1),
        v_BH1E.stride(0), v_BH1E.stride(1), *keys_BHLE.stride()[:3],
        out_BH1E.stride(0), out_BH1E.stride(1),
        E=size, PADDED=triton.next_power_of_2(size), TILE=_TILE, num_warps=1,
    )  # fmt: skip
    return out_BH1E
