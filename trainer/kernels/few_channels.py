"""The convolution of an image of few channels to many, as one Triton kernel: for inference.

What it writes is all that costs: the few numbers under a pixel's window are one short row of a
matrix product. Channels last; sums in fp32. Shape suffixes: B images, C channels of the image, E of
the result, H x W pixels, S side of the window (odd). Imported only where there is a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WINDOW_MAX = 64  # numbers under the window, at most
_PIXELS, _CHANNELS = 64, 128  # of a tile, at most
_TILES = 8  # one after another
_WARPS = 4


@triton.jit(do_not_specialize=["height", "width", "tiles"])
def _kernel(
    x_ptr, weight_ptr, out_ptr, height, width, tiles, per_row, across,
    IN: tl.constexpr, OUT: tl.constexpr, SIDE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, WINDOW: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Convolve some tiles of an image, each of neighbours in a row."""
    b = tl.program_id(1).to(tl.int64)
    j = tl.arange(0, WINDOW)  # of the window: row, column, channel
    down, right, channel = j // (SIDE * IN) - SIDE // 2, j // IN % SIDE - SIDE // 2, j % IN
    used = j < SIDE * SIDE * IN
    c = tl.program_id(0) % across * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < OUT
    weight_ptr += c[None, :] * (SIDE * SIDE * IN) + j[:, None]
    weight = tl.load(weight_ptr, mask=used[:, None] & inside[None, :], other=0.0)
    weight = weight.to(out_ptr.dtype.element_ty)
    x_ptr += b * height * width * IN
    out_ptr += b * height * width * OUT
    near = (down * width + right) * IN + channel
    first = tl.program_id(0) // across * TILES
    for tile in range(first, tl.minimum(first + TILES, tiles)):
        row = tile // per_row
        column = tile % per_row * PIXELS + tl.arange(0, PIXELS)
        over, beside = row + down, column[:, None] + right[None, :]
        valid = (used & (over >= 0) & (over < height))[None, :] & (beside >= 0) & (beside < width)
        pixel = row * width + column
        x = tl.load(x_ptr + (pixel[:, None] * IN + near[None, :]), mask=valid, other=0.0).to(
            out_ptr.dtype.element_ty
        )
        out = tl.dot(x, weight, input_precision="ieee").to(out_ptr.dtype.element_ty)
        at = pixel[:, None] * OUT + c[None, :]
        tl.store(out_ptr + at, out, mask=(column < width)[:, None] & inside[None, :])


def suits(weight_ECSS: Tensor) -> bool:
    """Tell if `few_channels` can be the convolution."""
    return weight_ECSS[0].numel() <= WINDOW_MAX and weight_ECSS.shape[2] % 2 == 1


def few_channels(x_BCHW: Tensor, weight_ECSS: Tensor, dtype: torch.dtype) -> Tensor:
    """Convolve with stride 1, padded by zeros, without a bias: [B, E, H, W], channels last.

    Factors and result are in `dtype`. It has no gradient.
    """
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    weight_ECSS = weight_ECSS.contiguous(memory_format=torch.channels_last)
    (batch, given, height, width), (made, _, side, _) = x_BCHW.shape, weight_ECSS.shape
    out_BEHW = torch.empty(
        (batch, made, height, width),
        dtype=dtype,
        device=x_BCHW.device,
        memory_format=torch.channels_last,
    )
    pixels = min(_PIXELS, max(16, triton.next_power_of_2(width)))
    channels = min(_CHANNELS, triton.next_power_of_2(made))
    per_row, across = triton.cdiv(width, pixels), triton.cdiv(made, channels)
    tiles = height * per_row
    with torch.cuda.device_of(x_BCHW):  # kernels start on the current device
        _kernel[(triton.cdiv(tiles, _TILES) * across, batch)](
            x_BCHW, weight_ECSS, out_BEHW, height, width, tiles, per_row, across,
            IN=given, OUT=made, SIDE=side, PIXELS=pixels, CHANNELS=channels,
            WINDOW=max(16, triton.next_power_of_2(side * side * given)), TILES=_TILES,
            num_warps=_WARPS, num_stages=1,
        )  # fmt: skip
    return out_BEHW
