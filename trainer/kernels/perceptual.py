"""Triton kernels of a perceptual loss, around the convolutions of a frozen network.

They compute bias and ReLU in one pass, and the distance of two maps of features.

Channels last, bf16 or fp32, sums in fp32 in an order that the shape decides.
Shape suffixes: B images, C channels, H x W cells. Imported only where there is a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .group_norm import Chunks, channels_last, like

_TILE = 4096  # elements of a map that a program holds at once
_TILES = 8  # that it takes one after another
_EPS = 1e-10  # added to lengths, as in the package lpips
_EPS_KERNEL = tl.constexpr(_EPS)


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "across"])
def _bias_relu(
    x_ptr, bias_ptr,
    pixels, channels, chunk_pixels, across,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Apply bias and ReLU in place."""
    first = (tl.program_id(0) // across).to(tl.int64) * chunk_pixels
    c = (tl.program_id(0) % across) * WIDTH + tl.arange(0, WIDTH)
    inside = c < channels
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(pixels - first, chunk_pixels).to(tl.int32)
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < count)[:, None] & inside[None, :]
        at = first * channels + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32) + bias[None, :]
        # NaN stays NaN, as in torch.
        x = tl.where(x < 0, 0.0, x)
        tl.store(x_ptr + at, x.to(x_ptr.dtype.element_ty), mask=valid)


@triton.jit
def _unit(ptr, at, valid):
    """Load features, and their length in each cell."""
    x = tl.load(ptr + at, mask=valid, other=0.0).to(tl.float32)
    return x, tl.sqrt(tl.sum(x * x, 1))


@triton.jit(do_not_specialize=["cells", "tiles"])
def _distance(
    x_ptr, y_ptr, weight_ptr, sum_ptr,
    cells, channels, tiles,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, WIDTH)
    inside = c < channels
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for tile in range(0, tiles):
        p = (tl.program_id(0).to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        valid = (p < cells)[:, None] & inside[None, :]
        at = p[:, None] * channels + c[None, :]
        x, x_length = _unit(x_ptr, at, valid)
        y, y_length = _unit(y_ptr, at, valid)
        away = x / (x_length + _EPS_KERNEL)[:, None] - y / (y_length + _EPS_KERNEL)[:, None]
        total += tl.sum(away * away * weight[None, :], 1)
    tl.store(sum_ptr + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["cells", "tiles"])
def _distance_backward(
    x_ptr, y_ptr, weight_ptr, d_ptr, d_y_ptr,
    cells, channels, tiles,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradient of y; `d_ptr` is that of the mean over cells."""
    c = tl.arange(0, WIDTH)
    inside = c < channels
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    weight *= 2.0 * tl.load(d_ptr).to(tl.float32) / cells
    for tile in range(0, tiles):
        p = (tl.program_id(0).to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        valid = (p < cells)[:, None] & inside[None, :]
        at = p[:, None] * channels + c[None, :]
        x, x_length = _unit(x_ptr, at, valid)
        y, y_length = _unit(y_ptr, at, valid)
        shorter = y_length + _EPS_KERNEL
        unit = y / shorter[:, None]
        d_unit = weight[None, :] * (unit - x / (x_length + _EPS_KERNEL)[:, None])
        # A unit vector moves only across itself.
        along = tl.sum(d_unit * unit, 1) / tl.where(y_length > 0, y_length, 1.0)
        d_y = d_unit / shorter[:, None] - y * (along / shorter)[:, None]
        tl.store(d_y_ptr + at, d_y.to(d_y_ptr.dtype.element_ty), mask=valid)


class _BiasRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, bias_C: Tensor) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        how = Chunks.of(batch * height * width, channels)
        _bias_relu[(how.number * how.across,)](
            x_BCHW, bias_C, batch * height * width, channels, how.pixels, how.across,
            **how.tile,
        )  # fmt: skip
        ctx.mark_dirty(x_BCHW)
        ctx.save_for_backward(x_BCHW)
        return x_BCHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (out_BCHW,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(channels_last(grads[0]), out_BCHW, 0), None


def bias_relu(x_BCHW: Tensor, bias_C: Tensor) -> Tensor:
    """Compute relu(x + bias) for a bias without gradient. Overwrite `x_BCHW` if channels last."""
    with torch.cuda.device_of(x_BCHW):  # kernels start on the current device
        out_BCHW: Tensor = _BiasRelu.apply(channels_last(x_BCHW), bias_C)
    return out_BCHW


class _Distance(torch.autograd.Function):
    @staticmethod
    def _launch(x_BCHW: Tensor) -> tuple[int, tuple[int, int, int], dict[str, int]]:
        """Number of programs, and their arguments."""
        batch, channels, height, width = x_BCHW.shape
        padded = triton.next_power_of_2(channels)
        rows, cells = max(1, _TILE // padded), batch * height * width
        programs = triton.cdiv(cells, rows * _TILES)
        return programs, (cells, channels, _TILES), {"ROWS": rows, "WIDTH": padded}

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, y_BCHW: Tensor, weight_C: Tensor) -> Tensor:
        x_BCHW, y_BCHW = channels_last(x_BCHW), channels_last(y_BCHW)
        programs, shape, tile = _Distance._launch(x_BCHW)
        sums = torch.empty(programs, device=x_BCHW.device)
        _distance[(programs,)](x_BCHW, y_BCHW, weight_C, sums, *shape, **tile, num_warps=4)
        ctx.save_for_backward(x_BCHW, y_BCHW, weight_C)
        return sums.sum() / shape[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        x_BCHW, y_BCHW, weight_C = ctx.saved_tensors
        programs, shape, tile = _Distance._launch(x_BCHW)
        d_y_BCHW = like(y_BCHW, y_BCHW.dtype)
        _distance_backward[(programs,)](
            x_BCHW, y_BCHW, weight_C, grads[0], d_y_BCHW, *shape, **tile, num_warps=4
        )
        return None, d_y_BCHW, None


def unit_distance(x_BCHW: Tensor, y_BCHW: Tensor, weight_C: Tensor) -> Tensor:
    """Mean over images and cells of sum_C weight * (x / |x| - y / |y|)^2; the gradient is y's."""
    with torch.cuda.device_of(x_BCHW):  # kernels start on the current device
        distance: Tensor = _Distance.apply(x_BCHW, y_BCHW, weight_C)
    return distance
