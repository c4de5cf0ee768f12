"""The nearest code of each latent, as one Triton kernel: distances never leave the registers.

For narrow codes, whose products are a few fp32 multiply-adds of the ordinary kind: no tensor cores.
Shape suffixes: T tokens, D width, K codes, S parts of the codebook. Imported only where there is a
GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 16  # code; for wider ones, a matrix product is as fast
_CODES = 8  # of a block, all in one thread
_WARPS = 4
_PROGRAMS = 1024  # to share out the codes among, if tokens are few
_PART = 512  # codes of a program, at least


@triton.jit(do_not_specialize=["tokens", "part"])
def _kernel(
    z_ptr, table_ptr, size_ptr, key_ptr, tokens, codes, part,
    WIDTH: tl.constexpr, SIZED: tl.constexpr, TOKENS: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    """Find the best of a part of the codes, with its distance in the upper half of the key.

    The table has a row for each dimension and one of |e|^2; tiles lie so that a thread has some
    tokens and all codes of a block, and minima need no exchange.
    """
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    inside = t < tokens
    z = ()
    for d in tl.static_range(WIDTH):
        column = tl.load(z_ptr + t.to(tl.int64) * WIDTH + d, mask=inside, other=0.0)
        z = z + (-2.0 * column,)  # type: ignore[assignment]
    first = tl.program_id(1) * part  # in blocks of codes
    last = tl.minimum(first + part, codes // CODES)
    if SIZED:
        size = tl.load(size_ptr + t, mask=inside, other=0)
        last = tl.minimum(last, tl.cdiv(tl.max(size, 0), CODES))
    least = tl.full((TOKENS,), float("inf"), tl.float32)
    found = tl.zeros((TOKENS,), tl.int32) + first
    for block in range(first, last):
        k = block * CODES + tl.arange(0, CODES)
        square = tl.load(table_ptr + WIDTH * codes + k)
        distance = tl.broadcast_to(square[:, None], (CODES, TOKENS))
        for d in tl.static_range(WIDTH):
            e = tl.load(table_ptr + d * codes + k)
            distance = tl.fma(
                tl.broadcast_to(e[:, None], (CODES, TOKENS)),
                tl.broadcast_to(z[d][None, :], (CODES, TOKENS)),
                distance,
            )
        if SIZED:
            distance = tl.where(k[:, None] < size[None, :], distance, float("inf"))
        lower = tl.min(distance, 0)
        found = tl.where(lower < least, block, found)  # what comes later and ties is no nearer
        least = tl.minimum(lower, least)
    # Which code of its block it was: the same sums once more give the same number.
    code = found * CODES
    for back in range(1, CODES + 1):
        k = found * CODES + (CODES - back)
        distance = tl.load(table_ptr + WIDTH * codes + k)
        for d in tl.static_range(WIDTH):
            distance = tl.fma(tl.load(table_ptr + d * codes + k), z[d], distance)
        if SIZED:
            distance = tl.where(k < size, distance, float("nan"))  # equal to nothing
        code = tl.where(distance == least, k, code)
    bits = least.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the distances
    key = (order.to(tl.int64) << 32) | code.to(tl.int64)
    tl.store(key_ptr + tl.program_id(1).to(tl.int64) * tokens + t, key, mask=inside)


def nearest(z_TD: Tensor, codebook_KD: Tensor, size_T: Tensor | None = None) -> Tensor:
    """Find code_T int64: the row with the smallest Euclidean distance in fp32, the lowest on ties.

    With `size_T` (int32), the nearest of the first so many codes.
    """
    (tokens, width), codes = z_TD.shape, len(codebook_KD)
    padded = triton.cdiv(codes, 16) * 16  # so that rows are aligned, and no block is cut off
    table = codebook_KD.new_zeros(width + 1, padded)
    table[:width, :codes] = codebook_KD.T
    table[width, codes:] = torch.inf
    torch.sum(codebook_KD.square(), 1, out=table[width, :codes])
    tile = 32 * _WARPS * (4 if width <= 8 else 2)
    rows = triton.cdiv(tokens, tile)
    parts = max(1, min(triton.cdiv(_PROGRAMS, max(1, rows)), padded // _PART))
    part = triton.cdiv(padded, parts * _CODES)
    parts = triton.cdiv(padded, part * _CODES)
    key_ST = torch.empty(parts, tokens, dtype=torch.int64, device=z_TD.device)
    if tokens:
        with torch.cuda.device_of(z_TD):  # kernels start on the current device
            _kernel[(rows, parts)](
                z_TD.contiguous(), table, size_T, key_ST, tokens, padded, part,
                WIDTH=width, SIZED=size_T is not None, TOKENS=tile, CODES=_CODES,
                num_warps=_WARPS,
            )  # fmt: skip
    return key_ST.amin(0) & 0xFFFFFFFF
