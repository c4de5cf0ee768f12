"""Attention of one new position over a key-value cache, as one Triton kernel: norm and rotation of
the new query and key, their place in the cache, and what the query finds there.

A single query per head leaves the tiles of the usual kernels empty, so here the work is reading the
cache once, at the rate of memory. The position lies on the device, so that a recorded graph can
move it. Sums are in fp32, in an order that depends on nothing but the position: neither the batch
nor its neighbours change a result. Imported only where kernels can run.

Shape suffixes: B sequences, H heads, L positions of the cache, E head size, D = H E.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions read at once, for one head by one warp: the fastest of what was tried on an H100.
TILE = 64


@triton.jit
def _turned(
    row_ptr, gain_ptr, table_ptr, position, e, inside, eps,
    E: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """One head's query or key after its LayerNorm and its rotation, in fp32."""
    x = tl.load(row_ptr + e, mask=inside, other=0.0).to(tl.float32)
    mean, shrink = 0.0, 1.0
    if NORM:
        mean = tl.sum(x, 0) / E
        x = tl.where(inside, x - mean, 0.0)
        shrink = 1 / tl.sqrt(tl.sum(x * x, 0) / E + eps)
        x = x * shrink * tl.load(gain_ptr + e, mask=inside, other=0.0).to(tl.float32)
    if TURN:
        # The other one of each pair, read again rather than passed between threads.
        other = e ^ 1
        y = tl.load(row_ptr + other, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            gain = tl.load(gain_ptr + other, mask=inside, other=0.0).to(tl.float32)
            y = (y - mean) * shrink * gain
        row = table_ptr + position * (2 * E)
        cos = tl.load(row + 2 * e, mask=inside, other=0.0)
        sin = tl.load(row + 2 * e + 1, mask=inside, other=0.0)
        x = x * cos + y * sin
    return x


@triton.jit
def _to_bytes(x):
    """Whole numbers within +-127 for the largest entry of `x`, and the number one of them means."""
    unit = tl.max(tl.abs(x), 0) / 127
    return tl.floor(x / tl.where(unit == 0, 1.0, unit) + 0.5).to(tl.int8), unit


@triton.jit
def _from_bytes(x):
    """int8 to fp32 by placing the bits: several times the rate of the conversion instruction."""
    bits = (x.to(tl.int32) + 128) | 0x4B000000  # 2^23 + 128 + x
    return bits.to(tl.float32, bitcast=True) - 8388736.0


@triton.jit
def _kernel(
    qkv_ptr, q_gain_ptr, k_gain_ptr, table_ptr, keys_ptr, values_ptr, units_ptr, out_ptr,
    position_ptr, scale, eps, units_kv,
    HEADS: tl.constexpr, LENGTH: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr,
    NORM: tl.constexpr, TURN: tl.constexpr, BYTES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One head of one sequence: softmax over the positions in one pass, tile by tile."""
    number = tl.program_id(0).to(tl.int64)
    b, h = number // HEADS, number % HEADS
    position = tl.load(position_ptr).to(tl.int32)
    e = tl.arange(0, PADDED)
    inside = e < E
    dtype = out_ptr.dtype.element_ty
    head = qkv_ptr + b * (3 * HEADS * E) + h * E
    query = _turned(head, q_gain_ptr, table_ptr, position, e, inside, eps, E, NORM, TURN)
    key_ptr, value_ptr = head + HEADS * E, head + 2 * HEADS * E
    key = _turned(key_ptr, k_gain_ptr, table_ptr, position, e, inside, eps, E, NORM, TURN)
    value = tl.load(value_ptr + e, mask=inside, other=0.0).to(tl.float32)
    # Rounded as the plain path rounds them.
    query, key = query.to(dtype).to(tl.float32) * scale, key.to(dtype).to(tl.float32)
    row = number * LENGTH
    keys, values = keys_ptr + row * E, values_ptr + row * E
    units = units_ptr + row
    new = position * E + e
    if BYTES:
        key_bytes, key_unit = _to_bytes(key)
        value_bytes, value_unit = _to_bytes(value)
        tl.store(keys + new, key_bytes, mask=inside)
        tl.store(values + new, value_bytes, mask=inside)
        tl.store(units + position, key_unit)
        tl.store(units + units_kv + position, value_unit)
    else:
        tl.store(keys + new, key.to(dtype), mask=inside)
        tl.store(values + new, value.to(dtype), mask=inside)
    # The new position comes first; the others follow from the cache.
    top = tl.sum(query * key, 0)
    total = 1.0
    found = value
    # One tile under way: more would pass through shared memory, which was slower.
    for first in tl.range(0, position, TILE, num_stages=1):
        t = first + tl.arange(0, TILE)
        earlier = t < position
        at = t[:, None] * E + e[None, :]
        valid = earlier[:, None] & inside[None, :]
        # Each byte is read once per token: weights and activations are what L2 should keep.
        k = tl.load(keys + at, mask=valid, other=0, eviction_policy="evict_first")
        v = tl.load(values + at, mask=valid, other=0, eviction_policy="evict_first")
        if BYTES:
            k_unit = tl.load(units + t, mask=earlier, other=0.0)
            v_unit = tl.load(units + units_kv + t, mask=earlier, other=0.0)
            score = tl.sum(_from_bytes(k) * query[None, :], 1) * k_unit
        else:
            score = tl.sum(k.to(tl.float32) * query[None, :], 1)
        score = tl.where(earlier, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        weight = tl.exp(score - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weight, 0)
        if BYTES:
            read = _from_bytes(v) * (weight * v_unit)[:, None]
        else:
            read = v.to(tl.float32) * weight[:, None]
        found = found * shrink + tl.sum(read, 0)
        top = higher
    tl.store(out_ptr + number * E + e, (found / total).to(dtype), mask=inside)


def attend_cached(
    qkv_BP: Tensor,
    keys_BHLE: Tensor,
    values_BHLE: Tensor,
    position_1: Tensor,
    gains: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    table_TE2: Tensor | None = None,
    units_2BHL: Tensor | None = None,
) -> Tensor:
    """What the new queries find in positions 0 .. `position_1`, heads joined: [B, D].

    `qkv_BP` is the projection's output, [B, 3 D]. Queries and keys pass a LayerNorm with these
    gains (None: no norm) and are turned by the position's row of `table_TE2` (None: not turned).
    The new key and value are stored first. A cache of int8 keeps with each key and value, in
    `units_2BHL`, the fp32 number that one of its steps means.
    """
    batch, heads, length, size = keys_BHLE.shape
    assert qkv_BP.is_contiguous() and qkv_BP.shape == (batch, 3 * heads * size)
    assert keys_BHLE.is_contiguous() and values_BHLE.is_contiguous()
    in_bytes = keys_BHLE.dtype == torch.int8
    assert in_bytes == (units_2BHL is not None) and (in_bytes or keys_BHLE.dtype == qkv_BP.dtype)
    q_gain_E, k_gain_E = gains or (qkv_BP, qkv_BP)
    out_BD = qkv_BP.new_empty(batch, heads * size)
    _kernel[(batch * heads,)](
        qkv_BP, q_gain_E, k_gain_E, qkv_BP if table_TE2 is None else table_TE2,
        keys_BHLE, values_BHLE, qkv_BP if units_2BHL is None else units_2BHL, out_BD,
        position_1, 1 / math.sqrt(size), eps, batch * heads * length,
        HEADS=heads, LENGTH=length, E=size, PADDED=triton.next_power_of_2(size),
        NORM=gains is not None, TURN=table_TE2 is not None, BYTES=in_bytes,
        TILE=TILE, num_warps=1,
    )  # fmt: skip
    return out_BD
