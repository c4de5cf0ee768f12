"""x + addend + bias laid out for the convolution behind it, as one Triton kernel: each pixel
repeated as 2 x 2, or a column of zeros on the right and a row of them at the bottom.

Channels last, bf16 or fp32; sums in fp32, rounded once. The gradient, which is that of x and of
addend, is gathered in one pass that sums up the bias' gradient on the way.
Shape suffixes: B images, C channels, H x W pixels. Imported only where there is a GPU.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import group_norm
from .group_norm import Chunks, channels_last

Layout = Literal["doubled", "padded"]

_ANY = ["pixels", "chunks", "chunk_pixels", "across", "height", "width"]


@triton.jit(do_not_specialize=_ANY)
def _spread(
    x_ptr, addend_ptr, bias_ptr, out_ptr,
    pixels, channels, chunks, chunk_pixels, across, height, width,
    LAYOUT: tl.constexpr, ADDEND: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Read each pixel of the input once, and write it to all its places in the output."""
    part = (tl.program_id(0) // across).to(tl.int64)
    b, k = part // chunks, part % chunks
    c = (tl.program_id(0) % across) * WIDTH + tl.arange(0, WIDTH)
    inside = c < channels
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    source = b * pixels * channels
    first = (k * chunk_pixels).to(tl.int32)
    last = tl.minimum(first + chunk_pixels, pixels)
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < last)[:, None] & inside[None, :]
        row, column = p // width, p % width
        at = source + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
        if ADDEND:
            x += tl.load(addend_ptr + at, mask=valid, other=0.0).to(tl.float32)
        x = (x + bias[None, :]).to(out_ptr.dtype.element_ty)
        if LAYOUT == "doubled":
            corner = (2 * row * (2 * width) + 2 * column)[:, None] * channels + c[None, :]
            at = b * (4 * pixels) * channels + corner
            below = at + 2 * width * channels
            tl.store(out_ptr + at, x, mask=valid)
            tl.store(out_ptr + at + channels, x, mask=valid)
            tl.store(out_ptr + below, x, mask=valid)
            tl.store(out_ptr + below + channels, x, mask=valid)
        else:
            target = b * ((height + 1) * (width + 1)) * channels
            at = target + ((row * (width + 1) + column)[:, None] * channels + c[None, :])
            below = at + (width + 1) * channels
            tl.store(out_ptr + at, x, mask=valid)
            # The last pixels of rows and columns also write the zeros beside them.
            nothing = tl.zeros((ROWS, WIDTH), out_ptr.dtype.element_ty)
            right_end = valid & (column == width - 1)[:, None]
            lower_end = valid & (row == height - 1)[:, None]
            tl.store(out_ptr + at + channels, nothing, mask=right_end)
            tl.store(out_ptr + below, nothing, mask=lower_end)
            tl.store(out_ptr + below + channels, nothing, mask=right_end & lower_end)


@triton.jit(do_not_specialize=_ANY)
def _gather(
    d_out_ptr, d_x_ptr, sum_ptr,
    pixels, channels, chunks, chunk_pixels, across, height, width,
    LAYOUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of the input, and its sum by channel."""
    part = (tl.program_id(0) // across).to(tl.int64)
    b, k = part // chunks, part % chunks
    c = (tl.program_id(0) % across) * WIDTH + tl.arange(0, WIDTH)
    inside = c < channels
    target = b * pixels * channels
    first = (k * chunk_pixels).to(tl.int32)
    last = tl.minimum(first + chunk_pixels, pixels)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < last)[:, None] & inside[None, :]
        row, column = p // width, p % width
        if LAYOUT == "doubled":
            source = b * (4 * height * width) * channels
            corner = (2 * row * (2 * width) + 2 * column)[:, None] * channels + c[None, :]
            at = source + corner
            below = at + 2 * width * channels
            d = tl.load(d_out_ptr + at, mask=valid, other=0.0).to(tl.float32)
            d += tl.load(d_out_ptr + at + channels, mask=valid, other=0.0).to(tl.float32)
            d += tl.load(d_out_ptr + below, mask=valid, other=0.0).to(tl.float32)
            d += tl.load(d_out_ptr + below + channels, mask=valid, other=0.0).to(tl.float32)
        else:
            source = b * ((height + 1) * (width + 1)) * channels
            at = source + ((row * (width + 1) + column)[:, None] * channels + c[None, :])
            d = tl.load(d_out_ptr + at, mask=valid, other=0.0).to(tl.float32)
        total += d
        at = target + (p[:, None] * channels + c[None, :])
        tl.store(d_x_ptr + at, d.to(d_x_ptr.dtype.element_ty), mask=valid)
    tl.store(sum_ptr + part * channels + c, tl.sum(total, 0), mask=inside)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, addend_BCHW: Tensor | None, bias_C: Tensor, layout: Layout
    ) -> Tensor:
        x_BCHW = channels_last(x_BCHW)
        batch, channels, height, width = x_BCHW.shape
        shape = (2 * height, 2 * width) if layout == "doubled" else (height + 1, width + 1)
        how = Chunks.of(height * width, channels)
        out_BCHW = torch.empty(
            (batch, channels, *shape),
            dtype=x_BCHW.dtype,
            device=x_BCHW.device,
            memory_format=torch.channels_last,
        )
        _spread[(batch * how.number * how.across,)](
            x_BCHW, x_BCHW if addend_BCHW is None else channels_last(addend_BCHW), bias_C, out_BCHW,
            height * width, channels, how.number, how.pixels, how.across, height, width,
            LAYOUT=layout, ADDEND=addend_BCHW is not None,
            **how.tile,
        )  # fmt: skip
        ctx.shape, ctx.layout, ctx.added = x_BCHW.shape, layout, addend_BCHW is not None
        return out_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_out_BCHW = channels_last(grads[0])
        batch, channels, height, width = ctx.shape
        how = Chunks.of(height * width, channels, group_norm.BACKWARD)
        d_x_BCHW = torch.empty(
            ctx.shape,
            dtype=d_out_BCHW.dtype,
            device=d_out_BCHW.device,
            memory_format=torch.channels_last,
        )
        sums_BKC = d_out_BCHW.new_empty((batch, how.number, channels), dtype=torch.float32)
        _gather[(batch * how.number * how.across,)](
            d_out_BCHW, d_x_BCHW, sums_BKC,
            height * width, channels, how.number, how.pixels, how.across, height, width,
            LAYOUT=ctx.layout, **how.tile,
        )  # fmt: skip
        return d_x_BCHW, d_x_BCHW if ctx.added else None, sums_BKC.sum((0, 1)), None


def spread(
    x_BCHW: Tensor, bias_C: Tensor, layout: Layout, addend_BCHW: Tensor | None = None
) -> Tensor:
    """Compute x + addend + bias, each pixel as 2 x 2, or padded by zeros on the right and below."""
    with torch.cuda.device_of(x_BCHW):  # kernels start on the current device
        out_BCHW: Tensor = _Spread.apply(x_BCHW, addend_BCHW, bias_C, layout)
    return out_BCHW
