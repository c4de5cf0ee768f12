"""Products of a few hundred rows with what surrounds them in a generator's block, as one kernel
each: RMSNorm before, SwiGLU or the addition to the residual stream after.

The root mean square of a row is a factor of that row, so it may come after the product; the squares
that it needs are summed where the row is made, a tile at a time. The norm's gain is a factor of the
weight's columns (`with_gain`). Sums are in fp32, in an order that depends on the tile alone. No
gradients. Imported only where kernels can run.

Shape suffixes: R rows, D width of the input, F outputs, S parts of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tile(NamedTuple):
    """What a program computes, and how. `columns` of a gated product: so many of the gate and as
    many of the value. `inner`: bytes of a row that are read at once."""

    rows: int
    columns: int
    inner: int = 128
    warps: int = 4
    stages: int = 4


# A multiprocessor takes in at most 64 bytes a clock; large squares of output make the most of them,
# but of 512 rows there should be about as many as multiprocessors (132).
NORMED = Tile(128, 128, warps=8)
GATED = Tile(128, 64, warps=8)
ADDED = Tile(64, 64, stages=6)
# 1: programs start while the kernel before ends, and wait then for its data (programmatic dependent
# launch); 2: and fetch the weight into L2 meanwhile.
EARLY = 0


@triton.jit
def _fetch(ptr):
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [ptr],
        tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit(do_not_specialize=["parts"])
def _kernel(
    x_ptr, weight_ptr, residual_ptr, squares_ptr, out_ptr, rows, D, F, eps, parts,
    NORM: tl.constexpr, GATE: tl.constexpr, ADD: tl.constexpr,
    PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One tile of the output. Programs that share a tile of the weight follow one another."""
    row_tiles = tl.cdiv(rows, ROWS)
    tile = tl.program_id(0) // row_tiles
    r = tl.program_id(0) % row_tiles * ROWS + tl.arange(0, ROWS)
    f = tile * COLUMNS + tl.arange(0, COLUMNS)
    d = tl.arange(0, INNER)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        if EARLY == 2:
            # Programs that share the tile share the work.
            for first in range(tl.program_id(0) % row_tiles * INNER, D, row_tiles * INNER):
                _fetch(weight_ptr + (f % F) * D + first)
                if GATE:
                    _fetch(weight_ptr + (f % F + F) * D + first)
        tl.extra.cuda.gdc_wait()
    # Beyond the last row or column others are read, whose results are not stored.
    x_at = x_ptr + (r % rows)[:, None] * D + d[None, :]
    weight_at = weight_ptr + (f % F)[:, None] * D + d[None, :]
    # What is needed after the loop is on its way meanwhile.
    at = r[:, None] * F + f[None, :]
    kept = (r < rows)[:, None] & (f < F)[None, :]
    if NORM:
        s = tl.arange(0, PARTS)[None, :]
        squares = tl.load(squares_ptr + (r % rows)[:, None] * parts + s, mask=s < parts, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + at, mask=kept, other=0.0)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    other = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, D, INNER):
        inside = (d < D - first)[None, :]
        x = tl.load(x_at + first, mask=inside, other=0.0)
        weight = tl.load(weight_at + first, mask=inside, other=0.0)
        total = tl.dot(x, weight.T, total, input_precision="ieee")
        if GATE:
            weight = tl.load(weight_at + F * D + first, mask=inside, other=0.0)
            other = tl.dot(x, weight.T, other, input_precision="ieee")
    # Rounded wherever plain code rounds.
    dtype = out_ptr.dtype.element_ty
    if NORM:
        shrink = tl.rsqrt(tl.sum(squares, 1) / D + eps)[:, None]
        total, other = total * shrink, other * shrink
    total = total.to(dtype)
    if GATE:
        gate = total.to(tl.float32)
        total = (gate * tl.sigmoid(gate) * other.to(dtype).to(tl.float32)).to(dtype)
    if ADD:
        total = (residual.to(tl.float32) + total.to(tl.float32)).to(dtype)
        numbers = tl.where((f < F)[None, :], total.to(tl.float32), 0.0)
        tl.store(squares_ptr + r * parts + tile, tl.sum(numbers * numbers, 1), mask=r < rows)
    tl.store(out_ptr + at, total, mask=kept)


def _product(
    x_RD: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    squares_RS: Tensor,
    tile: Tile,
    **how: Any,
) -> Tensor:
    (rows, width), outputs = x_RD.shape, len(weight) // (2 if how["GATE"] else 1)
    assert weight.shape[1] == width and x_RD.dtype == weight.dtype
    assert x_RD.is_contiguous() and weight.is_contiguous() and squares_RS.is_contiguous()
    out_RF = x_RD.new_empty(rows, outputs)
    assert max(x_RD.numel(), weight.numel(), out_RF.numel()) < 2**31
    programs = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.columns)
    parts = squares_RS.shape[1]
    padded = max(16, triton.next_power_of_2(parts))  # one kernel for all usual widths
    _kernel[(programs,)](
        x_RD, weight, x_RD if residual is None else residual, squares_RS, out_RF, rows,
        width, outputs, parts=parts, PARTS=padded,
        ROWS=tile.rows, COLUMNS=tile.columns, INNER=tile.inner // x_RD.element_size(),
        num_warps=tile.warps, num_stages=tile.stages, EARLY=EARLY, **how,
        **({"launch_pdl": True} if EARLY else {}),
    )  # fmt: skip
    return out_RF


def with_gain(weight_FD: Tensor, gain_D: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of a layer after a norm with this gain, for the functions below."""
    return (weight_FD.float() * gain_D.float()).to(dtype).contiguous()


def squares_of(x_RD: Tensor) -> Tensor:
    """Sums of squares of whole rows, [R, 1], in fp32."""
    return torch.linalg.vector_norm(x_RD, dim=1, keepdim=True, dtype=torch.float32).square_()


def normed_product(
    x_RD: Tensor, squares_RS: Tensor, weight_FD: Tensor, eps: float, tile: Tile | None = None
) -> Tensor:
    """RMSNorm(x) @ weight^T, [R, F], with the gain in the weight. `squares_RS`: the rows' sums of
    squares, in parts."""
    tile = tile or NORMED
    return _product(
        x_RD, weight_FD, None, squares_RS, tile, eps=eps, NORM=True, GATE=False, ADD=False
    )


def normed_swiglu(
    x_RD: Tensor, squares_RS: Tensor, weight_PD: Tensor, eps: float, tile: Tile | None = None
) -> Tensor:
    """silu(gate) * value, [R, P / 2], of the halves of `normed_product`."""
    tile = tile or GATED
    return _product(
        x_RD, weight_PD, None, squares_RS, tile, eps=eps, NORM=True, GATE=True, ADD=False
    )


def product_added(
    x_RF: Tensor, a_RD: Tensor, weight_FD: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """x + a @ weight^T, [R, F], the product rounded before it is added; and its sums of squares in
    parts, [R, S].
    """
    tile = tile or ADDED
    assert x_RF.shape == (len(a_RD), len(weight_FD)) and x_RF.is_contiguous()
    assert x_RF.dtype == a_RD.dtype
    parts = triton.cdiv(len(weight_FD), tile.columns)
    squares_RS = x_RF.new_empty(len(x_RF), parts, dtype=torch.float32)
    out_RF = _product(
        a_RD, weight_FD, x_RF, squares_RS, tile, eps=0.0, NORM=False, GATE=False, ADD=True
    )
    return out_RF, squares_RS
