"""Guidance, legal codes, temperature and the draw of one code per row, and the next token's input,
as two Triton kernels.

In float64, as `trainer.sampling.draw.draw`, whose codes they draw without top-k and top-p: logits
are read once for the weights of blocks of codes, and once more in the block in which the draw
falls. Imported only where kernels can run.

Shape suffixes: B samples, R rows (with guidance 2 B, conditional ones first), L tokens per image,
V codebook size, D width, N blocks of codes, C chunks of blocks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 128  # codes of a block
_CHUNK = 2048  # codes of a program of the first kernel


@triton.jit
def _logits(
    conditional_ptr, unconditional_ptr, scale_ptr, size_ptr, temperature_ptr, row, position, v,
    codes, GUIDED: tl.constexpr, SIZED: tl.constexpr,
):  # fmt: skip
    """Return the logits by which the codes `v` of a row are drawn; -inf for illegal ones."""
    legal = v < codes
    at = row * codes + v
    x = tl.load(conditional_ptr + at, mask=legal, other=0.0).to(tl.float32)
    if GUIDED:
        without = tl.load(unconditional_ptr + at, mask=legal, other=0.0).to(tl.float32)
        x = without + tl.load(scale_ptr + position) * (x - without)
    x = x.to(tl.float64) / tl.load(temperature_ptr)
    if SIZED:
        legal = legal & (v < tl.load(size_ptr + position))
    return tl.where(legal, x, -float("inf"))


@triton.jit
def _weigh(
    conditional_ptr, unconditional_ptr, scale_ptr, size_ptr, temperature_ptr, position_ptr,
    sum_ptr, top_ptr, codes,
    GUIDED: tl.constexpr, SIZED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the weights of a chunk's blocks, as shares of the chunk's greatest (in `top`)."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    v = chunk * CHUNK + tl.arange(0, CHUNK)
    x = _logits(
        conditional_ptr, unconditional_ptr, scale_ptr, size_ptr, temperature_ptr, row,
        tl.load(position_ptr), v, codes, GUIDED, SIZED,
    )  # fmt: skip
    top = tl.max(x, 0)
    tl.store(top_ptr + row * tl.num_programs(1) + chunk, top)
    weight = tl.exp(x - tl.where(top == -float("inf"), 0.0, top))
    sums = tl.sum(tl.reshape(weight, (CHUNK // BLOCK, BLOCK)), 1)
    first = (row * tl.num_programs(1) + chunk) * (CHUNK // BLOCK)
    tl.store(sum_ptr + first + tl.arange(0, CHUNK // BLOCK), sums)


@triton.jit
def _place(weight, running, share, index, NONE: tl.constexpr):
    """Return the first index at which the running sum is above `share`.

    It is at most that of the sum's last rise, and has some weight: rounding cannot choose a code of
    no weight.
    """
    there = weight > 0
    first = tl.min(tl.where(there & (running > share), index, NONE), 0)
    last = tl.min(tl.where(there & (running >= tl.max(running, 0)), index, NONE), 0)
    return tl.minimum(tl.minimum(first, last), tl.max(tl.where(there, index, 0), 0))


@triton.jit
def _choose(
    conditional_ptr, unconditional_ptr, scale_ptr, size_ptr, temperature_ptr, position_ptr,
    sum_ptr, top_ptr, uniform_ptr, code_ptr, embedding_ptr, input_ptr, codes, blocks, length,
    GUIDED: tl.constexpr, SIZED: tl.constexpr, PADDED: tl.constexpr, PER_CHUNK: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
):  # fmt: skip
    """Find the block in which one row's draw falls, then the code, and its embedding."""
    row = tl.program_id(0).to(tl.int64)
    position = tl.load(position_ptr)
    n = tl.arange(0, PADDED)
    known = n < blocks
    tops = tl.load(
        top_ptr + row * (blocks // PER_CHUNK) + n // PER_CHUNK, mask=known, other=-float("inf")
    )
    top = tl.max(tops, 0)
    sums = tl.load(sum_ptr + row * blocks + n, mask=known, other=0.0) * tl.exp(tops - top)
    passed = tl.cumsum(sums, 0)
    share = tl.load(uniform_ptr + row * length + position)
    target = share * tl.sum(tl.where(n == PADDED - 1, passed, 0.0), 0)
    block = _place(sums, passed, target, n, PADDED)
    # Inside the block weights are shares of its own chunk's greatest: none is lost to underflow.
    greatest = tl.sum(tl.where(n == block, tops, 0.0), 0)
    before = tl.sum(tl.where(n == block - 1, passed, 0.0), 0)
    i = tl.arange(0, BLOCK)
    x = _logits(
        conditional_ptr, unconditional_ptr, scale_ptr, size_ptr, temperature_ptr, row, position,
        block * BLOCK + i, codes, GUIDED, SIZED,
    )  # fmt: skip
    weight = tl.exp(x - greatest)
    left = (target - before) / tl.exp(greatest - top)
    code = block * BLOCK + _place(weight, tl.cumsum(weight, 0), left, i, BLOCK)
    code = code.to(tl.int64)
    tl.store(code_ptr + row * length + position, code)
    d = tl.arange(0, PADDED_WIDTH)
    inside = d < WIDTH
    embedded = tl.load(embedding_ptr + code * WIDTH + d, mask=inside, other=0.0)
    embedded = embedded.to(input_ptr.dtype.element_ty)
    tl.store(input_ptr + row * WIDTH + d, embedded, mask=inside)
    if GUIDED:
        unconditional = row + tl.num_programs(0)
        tl.store(input_ptr + unconditional * WIDTH + d, embedded, mask=inside)


def draw_code(
    logits_RV: Tensor,
    uniform_BL: Tensor,
    scale_L: Tensor,
    size_L: Tensor | None,
    temperature_1: Tensor,
    position_1: Tensor,
    code_BL: Tensor,
    embedding_VD: Tensor,
    input_RD: Tensor,
) -> None:
    """Draw the codes of the position into its column of `code_BL`.

    Their embeddings go into `input_RD`, for both rows of a guided sample.

    The position's column of `uniform_BL` (float64), entry of `scale_L` (guidance) and of `size_L`
    (legal codes; None: all) count. The temperature is a float64 tensor.
    """
    (batch, length), codes = code_BL.shape, logits_RV.shape[1]
    guided, sized = len(logits_RV) == 2 * batch, size_L is not None
    assert guided or len(logits_RV) == batch
    for tensor in (logits_RV, uniform_BL, code_BL, embedding_VD, input_RD):
        assert tensor.is_contiguous()
    assert uniform_BL.dtype == temperature_1.dtype == torch.float64
    chunks = triton.cdiv(codes, _CHUNK)
    blocks = chunks * (_CHUNK // _BLOCK)
    sum_BN = uniform_BL.new_empty(batch, blocks)
    top_BC = uniform_BL.new_empty(batch, chunks)
    given = (
        logits_RV, logits_RV[-batch:], scale_L, size_L if sized else position_1, temperature_1,
        position_1, sum_BN, top_BC,
    )  # fmt: skip
    _weigh[(batch, chunks)](
        *given, codes, GUIDED=guided, SIZED=sized, CHUNK=_CHUNK, BLOCK=_BLOCK, num_warps=4
    )
    width = embedding_VD.shape[1]
    _choose[(batch,)](
        *given, uniform_BL, code_BL, embedding_VD, input_RD, codes, blocks, length,
        GUIDED=guided, SIZED=sized, PADDED=triton.next_power_of_2(blocks),
        PER_CHUNK=_CHUNK // _BLOCK, BLOCK=_BLOCK,
        WIDTH=width, PADDED_WIDTH=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
