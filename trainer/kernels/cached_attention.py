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

from .residual_norm import row_factor

# Positions read at once, for one head by one warp: the fastest of what was tried on an H100.
TILE = 64
BYTES_TILE = 64  # the same for a cache of bytes


@triton.jit
def _turned(
    row_ptr, factor, gain_ptr, table_ptr, position, e, inside, eps,
    E: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Return one head's query or key after its LayerNorm and its rotation, in fp32."""
    x = tl.load(row_ptr + e, mask=inside, other=0.0).to(tl.float32) * factor
    mean, shrink = 0.0, 1.0
    if NORM:
        mean = tl.sum(x, 0) / E
        x = tl.where(inside, x - mean, 0.0)
        shrink = 1 / tl.sqrt(tl.sum(x * x, 0) / E + eps)
        x = x * shrink * tl.load(gain_ptr + e, mask=inside, other=0.0).to(tl.float32)
    if TURN:
        # The other one of each pair, read again rather than passed between threads.
        other = e ^ 1
        y = tl.load(row_ptr + other, mask=inside, other=0.0).to(tl.float32) * factor
        if NORM:
            gain = tl.load(gain_ptr + other, mask=inside, other=0.0).to(tl.float32)
            y = (y - mean) * shrink * gain
        row = table_ptr + position * (2 * E)
        cos = tl.load(row + 2 * e, mask=inside, other=0.0)
        sin = tl.load(row + 2 * e + 1, mask=inside, other=0.0)
        x = x * cos + y * sin
    return x


# A byte b stands for b - 128 units. Reading puts it into the second byte of 1.0: 1 + b / 2^15, one
# instruction a number, where a conversion takes four; sums of products then hold this much more.
_STEP = tl.constexpr(2.0**-15)
_ZERO = tl.constexpr(1 + 128 * 2.0**-15)
_PTX = tl.constexpr(torch.version.hip is None and not triton.knobs.runtime.interpret)


@triton.jit
def _store_bytes(ptr, unit_ptr, x, e, inside):
    """Store the bytes of `x`, and their unit: the greatest is 127."""
    unit = tl.max(tl.abs(x), 0) / 127
    byte = tl.floor(x / tl.where(unit == 0, 1.0, unit) + 128.5).to(tl.uint8)
    tl.store(ptr.to(tl.pointer_type(tl.uint8), bitcast=True) + e, byte, mask=inside)
    tl.store(unit_ptr, unit)


@triton.jit
def _byte_of(word, INDEX: tl.constexpr):
    if _PTX:
        return tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, 0x3F800000, $2;", "=f,r,r", [word, 0x7604 + 16 * INDEX],
            tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    bits = ((word >> (8 * INDEX)) & 255) << 8 | 0x3F800000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _quarters(x, PADDED: tl.constexpr):
    """Return every fourth number from the first, second, third and fourth on."""
    even, odd = tl.split(tl.reshape(x, (PADDED // 4, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _found_in_bytes(
    query, key, value, keys, values, units, units_kv, position, e,
    E: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Attend as `_found`, to a cache of bytes."""
    WORDS: tl.constexpr = E // 4
    ROWS: tl.constexpr = 8 if TILE > 8 else TILE
    w = tl.arange(0, PADDED // 4)
    inside = w < WORDS
    new = position * WORDS
    _store_bytes(keys + new, units + position, key, e, e < E)
    _store_bytes(values + new, units + units_kv + position, value, e, e < E)
    top = tl.sum(query * key, 0)
    total, weights = 1.0, 0.0
    query = query / _STEP
    zero = tl.sum(query, 0) * _ZERO
    query0, query1, query2, query3 = _quarters(query, PADDED)
    # Sums of every eighth position, which a thread has to itself: joined at the end.
    found0 = tl.zeros([ROWS, PADDED // 4], tl.float32)
    found1, found2, found3 = found0, found0, found0
    fresh = 1.0  # what is left of the new value's weight
    for first in tl.range(0, position, TILE, num_stages=1):
        t = first + tl.arange(0, TILE)
        earlier = t < position
        at = t[:, None] * WORDS + w[None, :]
        valid = earlier[:, None] & inside[None, :]
        # Any byte is a number, so that what is not read may be anything: it has no weight.
        k = tl.load(keys + at, mask=valid, eviction_policy="evict_first")
        v = tl.load(values + at, mask=valid, eviction_policy="evict_first")
        k_unit = tl.load(units + t, mask=earlier, other=0.0)
        v_unit = tl.load(units + units_kv + t, mask=earlier, other=0.0)
        products = _byte_of(k, 0) * query0[None, :]
        products += _byte_of(k, 1) * query1[None, :]
        products += _byte_of(k, 2) * query2[None, :]
        products += _byte_of(k, 3) * query3[None, :]
        score = (tl.sum(products, 1) - zero) * k_unit
        score = tl.where(earlier, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        weight = tl.exp(score - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weight, 0)
        weight = weight * (v_unit / _STEP)
        weights = weights * shrink + tl.sum(weight, 0)
        weight = weight[:, None]
        SHAPE: tl.constexpr = (TILE // ROWS, ROWS, PADDED // 4)
        read0 = tl.reshape(_byte_of(v, 0) * weight, SHAPE)
        read1 = tl.reshape(_byte_of(v, 1) * weight, SHAPE)
        read2 = tl.reshape(_byte_of(v, 2) * weight, SHAPE)
        read3 = tl.reshape(_byte_of(v, 3) * weight, SHAPE)
        found0 = found0 * shrink + tl.sum(read0, 0)
        found1 = found1 * shrink + tl.sum(read1, 0)
        found2 = found2 * shrink + tl.sum(read2, 0)
        found3 = found3 * shrink + tl.sum(read3, 0)
        fresh = fresh * shrink
        top = higher
    even = tl.join(tl.sum(found0, 0), tl.sum(found2, 0))
    odd = tl.join(tl.sum(found1, 0), tl.sum(found3, 0))
    found = tl.reshape(tl.join(even, odd), (PADDED,)) - weights * _ZERO
    return (found + value * fresh) / total


@triton.jit
def _found(
    query, key, value, keys, values, position, e, inside, dtype: tl.constexpr,
    E: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Store the new key and value, and return the attention's output for the query."""
    tl.store(keys + position * E + e, key.to(dtype), mask=inside)
    tl.store(values + position * E + e, value.to(dtype), mask=inside)
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
        score = tl.sum(k.to(tl.float32) * query[None, :], 1)
        score = tl.where(earlier, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 0))
        weight = tl.exp(score - higher)
        shrink = tl.exp(top - higher)
        total = total * shrink + tl.sum(weight, 0)
        found = found * shrink + tl.sum(v.to(tl.float32) * weight[:, None], 0)
        top = higher
    return found / total


@triton.jit
def _kernel(
    qkv_ptr, stream_ptr, q_gain_ptr, k_gain_ptr, table_ptr, keys_ptr, values_ptr, units_ptr,
    out_ptr, position_ptr, scale, stream_eps, eps, units_kv,
    HEADS: tl.constexpr, LENGTH: tl.constexpr, E: tl.constexpr, PADDED: tl.constexpr,
    WIDTH: tl.constexpr, NORM: tl.constexpr, TURN: tl.constexpr, BYTES: tl.constexpr,
    TILE: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Attend with one head of one sequence: a softmax in one pass over the positions, by tiles."""
    number = tl.program_id(0).to(tl.int64)
    b, h = number // HEADS, number % HEADS
    position = tl.load(position_ptr).to(tl.int32)
    e = tl.arange(0, PADDED)
    inside = e < E
    dtype = out_ptr.dtype.element_ty
    head = qkv_ptr + b * (3 * HEADS * E) + h * E
    factor = 1.0
    if SCALED:
        factor = row_factor(stream_ptr + b * (HEADS * E), HEADS * E, stream_eps, WIDTH)
    query = _turned(head, factor, q_gain_ptr, table_ptr, position, e, inside, eps, E, NORM, TURN)
    key_ptr, value_ptr = head + HEADS * E, head + 2 * HEADS * E
    key = _turned(key_ptr, factor, k_gain_ptr, table_ptr, position, e, inside, eps, E, NORM, TURN)
    value = tl.load(value_ptr + e, mask=inside, other=0.0).to(tl.float32) * factor
    # Rounded as the plain path rounds them.
    query, key = query.to(dtype).to(tl.float32) * scale, key.to(dtype).to(tl.float32)
    row = number * LENGTH
    if BYTES:
        keys, values = keys_ptr + row * (E // 4), values_ptr + row * (E // 4)
        found = _found_in_bytes(
            query, key, value, keys, values, units_ptr + row, units_kv, position, e,
            E, PADDED, TILE,
        )  # fmt: skip
    else:
        keys, values = keys_ptr + row * E, values_ptr + row * E
        found = _found(query, key, value, keys, values, position, e, inside, dtype, E, TILE)
    tl.store(out_ptr + number * E + e, found.to(dtype), mask=inside)


def attend_cached(
    qkv_BP: Tensor,
    keys_BHLE: Tensor,
    values_BHLE: Tensor,
    position_1: Tensor,
    gains: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    table_TE2: Tensor | None = None,
    units_2BHL: Tensor | None = None,
    stream_BD: Tensor | None = None,
    stream_eps: float = 0.0,
) -> Tensor:
    """Attend from the new queries to positions 0 .. `position_1`, heads joined: [B, D].

    `qkv_BP` is the projection's output, [B, 3 D]. Queries and keys pass a LayerNorm with these
    gains (None: no norm) and are turned by the position's row of `table_TE2` (None: not turned).
    The new key and value are stored first. A cache of int8 keeps with each key and value, in
    `units_2BHL`, the fp32 number that one of its steps means; its bytes are 128 more, unsigned.
    With `stream_BD` the projection was that of these rows before their RMSNorm (but for its gain,
    which the weight holds): its factor comes in here.
    """
    batch, heads, length, size = keys_BHLE.shape
    assert qkv_BP.is_contiguous() and qkv_BP.shape == (batch, 3 * heads * size)
    assert keys_BHLE.is_contiguous() and values_BHLE.is_contiguous()
    in_bytes = keys_BHLE.dtype == torch.int8
    assert in_bytes == (units_2BHL is not None) and (in_bytes or keys_BHLE.dtype == qkv_BP.dtype)
    if in_bytes:
        assert size % 4 == 0
        keys_BHLE, values_BHLE = keys_BHLE.view(torch.int32), values_BHLE.view(torch.int32)
    q_gain_E, k_gain_E = gains or (qkv_BP, qkv_BP)
    out_BD = qkv_BP.new_empty(batch, heads * size)
    _kernel[(batch * heads,)](
        qkv_BP, qkv_BP if stream_BD is None else stream_BD, q_gain_E, k_gain_E,
        qkv_BP if table_TE2 is None else table_TE2,
        keys_BHLE, values_BHLE, qkv_BP if units_2BHL is None else units_2BHL, out_BD,
        position_1, 1 / math.sqrt(size), stream_eps, eps, batch * heads * length,
        HEADS=heads, LENGTH=length, E=size, PADDED=triton.next_power_of_2(size),
        WIDTH=triton.next_power_of_2(heads * size), SCALED=stream_BD is not None,
        NORM=gains is not None, TURN=table_TE2 is not None, BYTES=in_bytes,
        TILE=BYTES_TILE if in_bytes else TILE, num_warps=1,
    )  # fmt: skip
    return out_BD
