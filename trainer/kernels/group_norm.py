"""GroupNorm with the activation behind it and the sums in front of it, as Triton kernels.

What is normalised is x, or x + addend + bias: the bias of the convolution that made x, and the
other branch of a residual block. Tensors are channels last, bf16 or fp32, statistics and sums fp32.
Forward, x is read twice and the result written once (and the sum once, if others read it too);
backward, x and the gradient are read twice and the gradient of x is written once, with that of
the other readers added to it and that of the bias summed up on the way. Every sum is made of parts
whose order depends on the shape of one image only: neither the batch nor its neighbours change it.

Shape suffixes: B images, C channels, H x W pixels, G groups, K chunks of the pixels of an image.
Imported only where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..loop import distributed

Activation = Literal["none", "silu", "leaky_relu"]

SLOPE = 0.2  # of the leaky ReLU
_SLOPE = tl.constexpr(SLOPE)
_LOG2E = tl.constexpr(1.4426950408889634)
# Instructions for NVIDIA's GPUs instead of Triton's own sigmoid, which takes three times as many.
_PTX = tl.constexpr(torch.version.hip is None and not triton.knobs.runtime.interpret)
_WIDTH_MAX = 128  # channels of a program; wider tensors take several, so one kernel serves them all
_CHUNKS = 8  # of an image at least, if its pixels suffice
_FINISH = 1024  # partial results that a program merges at once
# One compiled kernel for all shapes; what matters is whether `channels` is a multiple of 16.
_ANY = ["pixels", "chunks", "chunk_pixels", "across", "groups", "size"]


class Tiling(NamedTuple):
    """Amount of work of a program."""

    elements: int  # of a tensor, held at once
    warps: int
    tiles: int  # one after another, at most
    stages: int  # tiles that are fetched ahead, plus one


FORWARD = Tiling(2048, 4, 32, 1)
# Here registers are scarce, and what ptxas does to save some is to wait for one load before it
# starts the next: so tiles are smaller, and are fetched into shared memory ahead.
BACKWARD = Tiling(1024, 4, 64, 3)


class Chunks(NamedTuple):
    """Shares of an image's pixels and channels among programs."""

    tile: dict[str, int]  # as kernels take it: its pixels, its channels and how it is dealt with
    pixels: int  # of a chunk: a multiple of those of a tile
    number: int  # chunks of an image
    across: int  # programs side by side for all channels

    @classmethod
    def of(cls, pixels: int, channels: int, tiling: Tiling | None = None) -> Chunks:
        tiling = tiling or FORWARD
        width = min(_WIDTH_MAX, max(16, triton.next_power_of_2(channels)))
        rows = tiling.elements // width
        chunk = rows * min(tiling.tiles, triton.cdiv(pixels, rows * _CHUNKS))
        tile = {"ROWS": rows, "WIDTH": width, "STAGES": tiling.stages, "num_warps": tiling.warps}
        return cls(tile, chunk, triton.cdiv(pixels, chunk), triton.cdiv(channels, width))


@triton.jit
def _place(
    pixels, channels, chunks, chunk_pixels, across, WIDTH: tl.constexpr, LAST_FIRST: tl.constexpr
):
    """Return this program's image and chunk as one number, image, first element, pixels, channels.

    First passes begin with the last chunk, which the convolution before may have left in the cache,
    and leave the first ones there for the second pass.
    """
    number = tl.program_id(0)
    if LAST_FIRST:
        number = tl.num_programs(0) - 1 - number
    part = (number // across).to(tl.int64)
    b, k = part // chunks, part % chunks
    first = (b * pixels + k * chunk_pixels) * channels
    count = tl.minimum(pixels - k * chunk_pixels, chunk_pixels).to(tl.int32)
    c = (number % across) * WIDTH + tl.arange(0, WIDTH)
    return part, b, first, count, c


@triton.jit(do_not_specialize=_ANY)
def _statistics(
    x_ptr, addend_ptr, bias_ptr, sum_ptr, mean_ptr, squares_ptr,
    pixels, channels, chunks, chunk_pixels, across,
    ADDEND: tl.constexpr, STORE: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each channel in each chunk."""
    part, b, first, count, c = _place(pixels, channels, chunks, chunk_pixels, across, WIDTH, True)
    inside = c < channels
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    # Deviations from the first pixel: a mean that is large beside the spread costs no digits.
    centre = tl.load(x_ptr + first + c, mask=inside, other=0.0).to(tl.float32)
    if ADDEND:
        centre += tl.load(addend_ptr + first + c, mask=inside, other=0.0).to(tl.float32)
    if STORE:
        centre += bias
    ones = tl.zeros((ROWS, WIDTH), tl.float32)
    twos = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < count)[:, None] & inside[None, :]
        at = first + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
        if ADDEND:
            x += tl.load(addend_ptr + at, mask=valid, other=0.0).to(tl.float32)
        if STORE:
            # What is stored is what the other passes see: the statistics are of its rounded values.
            rounded = (x + bias[None, :]).to(sum_ptr.dtype.element_ty)
            tl.store(sum_ptr + at, rounded, mask=valid)
            x = rounded.to(tl.float32)
        x = tl.where(valid, x - centre[None, :], 0.0)
        ones += x
        twos += x * x
    one, two = tl.sum(ones, 0), tl.sum(twos, 0)
    mean = centre + one / count
    if not STORE:
        mean += bias
    at = part * channels + c
    tl.store(mean_ptr + at, mean, mask=inside)
    tl.store(squares_ptr + at, tl.maximum(two - one * one / count, 0.0), mask=inside)


@triton.jit(do_not_specialize=_ANY)
def _merge_statistics(
    means_ptr, squares_ptr, mean_ptr, rstd_ptr,
    pixels, channels, chunks, chunk_pixels, groups, size, eps,
    TALL: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / deviation of a group, from the parts of its channels (Chan's formula)."""
    b, g = tl.program_id(0) // groups, tl.program_id(0) % groups
    j = tl.arange(0, SIZE)
    first = b * chunks * channels + g * size
    centre = tl.load(means_ptr + first)
    found = tl.zeros((TALL, SIZE), tl.float32)
    for start in range(0, chunks, TALL):
        k = start + tl.arange(0, TALL)
        valid = (k < chunks)[:, None] & (j < size)[None, :]
        at = first + (k[:, None] * channels + j[None, :])
        count = tl.minimum(pixels - k * chunk_pixels, chunk_pixels).to(tl.float32)
        mean = tl.load(means_ptr + at, mask=valid, other=0.0)
        found += tl.where(valid, (mean - centre) * count[:, None], 0.0)
    total = 1.0 * pixels * size
    own = centre + tl.sum(tl.sum(found, 0), 0) / total
    found = tl.zeros((TALL, SIZE), tl.float32)
    for start in range(0, chunks, TALL):
        k = start + tl.arange(0, TALL)
        valid = (k < chunks)[:, None] & (j < size)[None, :]
        at = first + (k[:, None] * channels + j[None, :])
        count = tl.minimum(pixels - k * chunk_pixels, chunk_pixels).to(tl.float32)
        away = tl.load(means_ptr + at, mask=valid, other=0.0) - own
        squares = tl.load(squares_ptr + at, mask=valid, other=0.0)
        found += tl.where(valid, squares + away * away * count[:, None], 0.0)
    variance = tl.sum(tl.sum(found, 0), 0) / total
    tl.store(mean_ptr + tl.program_id(0), own)
    tl.store(rstd_ptr + tl.program_id(0), 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _of_channels(bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, b, groups, size, c, inside):
    """Load centre, scale and shift of each channel, its 1 / deviation and its group.

    The normalised x is z = (x - centre) * scale + shift.
    """
    group = b * groups + c // size
    centre = tl.load(mean_ptr + group, mask=inside, other=0.0)
    centre -= tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + group, mask=inside, other=0.0)
    scale = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32) * rstd
    shift = tl.load(shift_ptr + c, mask=inside, other=0.0).to(tl.float32)
    return centre, scale, shift, rstd, group


@triton.jit
def _sigmoid(z):
    if _PTX:
        share = tl.inline_asm_elementwise(
            """
            ex2.approx.ftz.f32 $0, $1;
            add.ftz.f32 $0, $0, 0f3F800000;
            rcp.approx.ftz.f32 $0, $0;
            """,
            "=f,f", [z * -_LOG2E], dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        share = tl.sigmoid(z)
    return share


@triton.jit
def _before(dy, z, ACT: tl.constexpr):
    """Gradient of z, of which the activation had the gradient `dy`."""
    if ACT == "silu":
        share = _sigmoid(z)
        dy *= z * (share - share * share) + share
    elif ACT == "leaky_relu":
        dy = tl.where(z > 0, dy, dy * _SLOPE)
    return dy


@triton.jit(do_not_specialize=_ANY)
def _apply(
    x_ptr, bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, out_ptr,
    pixels, channels, chunks, chunk_pixels, across, groups, size,
    ACT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    part, b, first, count, c = _place(pixels, channels, chunks, chunk_pixels, across, WIDTH, False)
    inside = c < channels
    centre, scale, shift, _, _ = _of_channels(
        bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, b, groups, size, c, inside
    )
    shift -= centre * scale
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < count)[:, None] & inside[None, :]
        at = first + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
        z = x * scale[None, :] + shift[None, :]
        if ACT == "silu":
            z *= _sigmoid(z)
        elif ACT == "leaky_relu":
            z = tl.where(z > 0, z, z * _SLOPE)
        tl.store(out_ptr + at, z.to(out_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=_ANY)
def _sums_backward(
    x_ptr, bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, d_out_ptr, plain_ptr, scaled_ptr,
    pixels, channels, chunks, chunk_pixels, across, groups, size,
    ACT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Per chunk and channel: the sums of dz and of dz times the normalised x (z: before ACT)."""
    part, b, first, count, c = _place(pixels, channels, chunks, chunk_pixels, across, WIDTH, True)
    inside = c < channels
    centre, scale, shift, rstd, _ = _of_channels(
        bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, b, groups, size, c, inside
    )
    plain = tl.zeros((ROWS, WIDTH), tl.float32)
    scaled = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < count)[:, None] & inside[None, :]
        at = first + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
        # 0 where nothing is loaded, and so are the terms of the sums.
        dz = tl.load(d_out_ptr + at, mask=valid, other=0.0).to(tl.float32)
        away = x - centre[None, :]
        dz = _before(dz, away * scale[None, :] + shift[None, :], ACT)
        plain += dz
        scaled += dz * away
    at = part * channels + c
    tl.store(plain_ptr + at, tl.sum(plain, 0), mask=inside)
    tl.store(scaled_ptr + at, tl.sum(scaled, 0) * rstd, mask=inside)


@triton.jit(do_not_specialize=_ANY)
def _merge_backward(
    plains_ptr, scaleds_ptr, weight_ptr, plain_ptr, scaled_ptr, group_plain_ptr, group_scaled_ptr,
    pixels, channels, chunks, groups, size,
    TALL: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Merge those sums over an image, for each channel and as weighted means of a group."""
    b, g = tl.program_id(0) // groups, tl.program_id(0) % groups
    j = tl.arange(0, SIZE)
    inside = j < size
    first = b * chunks * channels + g * size
    plains = tl.zeros((TALL, SIZE), tl.float32)
    scaleds = tl.zeros((TALL, SIZE), tl.float32)
    for start in range(0, chunks, TALL):
        k = start + tl.arange(0, TALL)
        valid = (k < chunks)[:, None] & inside[None, :]
        at = first + (k[:, None] * channels + j[None, :])
        plains += tl.load(plains_ptr + at, mask=valid, other=0.0)
        scaleds += tl.load(scaleds_ptr + at, mask=valid, other=0.0)
    plain, scaled = tl.sum(plains, 0), tl.sum(scaleds, 0)
    at = b * channels + g * size + j
    tl.store(plain_ptr + at, plain, mask=inside)
    tl.store(scaled_ptr + at, scaled, mask=inside)
    weight = tl.load(weight_ptr + g * size + j, mask=inside, other=0.0).to(tl.float32)
    total = 1.0 * pixels * size
    tl.store(group_plain_ptr + tl.program_id(0), tl.sum(plain * weight, 0) / total)
    tl.store(group_scaled_ptr + tl.program_id(0), tl.sum(scaled * weight, 0) / total)


@triton.jit(do_not_specialize=_ANY)
def _apply_backward(
    x_ptr, bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, d_out_ptr, d_more_ptr,
    group_plain_ptr, group_scaled_ptr, d_x_ptr, sum_ptr,
    pixels, channels, chunks, chunk_pixels, across, groups, size,
    ACT: tl.constexpr, MORE: tl.constexpr, SUM: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of x; with MORE, plus that of its other readers; with SUM, its sum by channel."""
    part, b, first, count, c = _place(pixels, channels, chunks, chunk_pixels, across, WIDTH, False)
    inside = c < channels
    centre, scale, shift, rstd, group = _of_channels(
        bias_ptr, weight_ptr, shift_ptr, mean_ptr, rstd_ptr, b, groups, size, c, inside
    )
    shift -= centre * scale
    # dx = dz * scale - (mean_plain + (x - centre) * rstd * mean_scaled) * rstd
    slope = -tl.load(group_scaled_ptr + group, mask=inside, other=0.0) * rstd * rstd
    level = -tl.load(group_plain_ptr + group, mask=inside, other=0.0) * rstd - centre * slope
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in tl.range(0, count, ROWS, num_stages=STAGES):
        p = start + tl.arange(0, ROWS)
        valid = (p < count)[:, None] & inside[None, :]
        at = first + (p[:, None] * channels + c[None, :])
        x = tl.load(x_ptr + at, mask=valid, other=0.0).to(tl.float32)
        dz = tl.load(d_out_ptr + at, mask=valid, other=0.0).to(tl.float32)
        dz = _before(dz, x * scale[None, :] + shift[None, :], ACT)
        dx = dz * scale[None, :] + (x * slope[None, :] + level[None, :])
        if MORE:
            dx += tl.load(d_more_ptr + at, mask=valid, other=0.0).to(tl.float32)
        tl.store(d_x_ptr + at, dx.to(d_x_ptr.dtype.element_ty), mask=valid)
        if SUM:
            total += tl.where(valid, dx, 0.0)
    if SUM:
        tl.store(sum_ptr + part * channels + c, tl.sum(total, 0), mask=inside)


# -------------------------------------------------------------------------------- from torch


def channels_last(x_BCHW: Tensor) -> Tensor:
    """Return the tensor, channels last: itself where convolutions made it."""
    return x_BCHW.contiguous(memory_format=torch.channels_last)


def like(x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Make an empty tensor of that shape, channels last."""
    return torch.empty_like(x_BCHW, dtype=dtype, memory_format=torch.channels_last)


def _finishing(size: int) -> dict[str, int]:
    """Tile of the programs that merge the parts of a group of `size` channels."""
    padded = max(16, triton.next_power_of_2(size))
    return {"TALL": max(1, _FINISH // padded), "SIZE": padded}


def _applied(
    x_BCHW: Tensor,
    bias_C: Tensor,
    weight_C: Tensor,
    shift_C: Tensor,
    mean_BG: Tensor,
    rstd_BG: Tensor,
    activation: Activation,
    dtype: torch.dtype,
) -> Tensor:
    """Run the second pass over `x_BCHW`, given the statistics of the first."""
    batch, channels, height, width = x_BCHW.shape
    groups, pixels = mean_BG.shape[1], height * width
    how = Chunks.of(pixels, channels)
    out_BCHW = like(x_BCHW, dtype)
    _apply[(batch * how.number * how.across,)](
        x_BCHW, bias_C, weight_C, shift_C, mean_BG, rstd_BG, out_BCHW,
        pixels, channels, how.number, how.pixels, how.across, groups, channels // groups,
        ACT=activation, **how.tile,
    )  # fmt: skip
    return out_BCHW


class _Norm(torch.autograd.Function):
    """Inputs and outputs as of `group_norm`, with the statistics besides."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        addend_BCHW: Tensor | None,
        bias_C: Tensor | None,
        weight_C: Tensor,
        shift_C: Tensor,
        groups: int,
        eps: float,
        activation: Activation,
        also_sum: bool,
        dtype: torch.dtype,
        over_processes: bool,
    ) -> tuple[Tensor, ...]:
        x_BCHW = channels_last(x_BCHW)
        batch, channels, height, width = x_BCHW.shape
        pixels, size = height * width, channels // groups
        how = Chunks.of(pixels, channels)
        no_bias_C = torch.zeros(channels, device=x_BCHW.device)
        given_C = no_bias_C if bias_C is None else bias_C
        # A bias alone is added on the fly, wherever x is read.
        stored = addend_BCHW is not None or (also_sum and bias_C is not None)
        sum_BCHW = like(x_BCHW, x_BCHW.dtype) if stored else x_BCHW
        means_BKC, squares_BKC = x_BCHW.new_empty(
            (2, batch, how.number, channels), dtype=torch.float32
        )
        _statistics[(batch * how.number * how.across,)](
            x_BCHW, x_BCHW if addend_BCHW is None else channels_last(addend_BCHW),
            given_C, sum_BCHW, means_BKC, squares_BKC,
            pixels, channels, how.number, how.pixels, how.across,
            ADDEND=addend_BCHW is not None, STORE=stored,
            **how.tile,
        )  # fmt: skip
        mean_BG, rstd_BG = x_BCHW.new_empty((2, batch, groups), dtype=torch.float32)
        _merge_statistics[(batch * groups,)](
            means_BKC, squares_BKC, mean_BG, rstd_BG,
            pixels, channels, how.number, how.pixels, groups, size, eps,
            **_finishing(size), num_warps=4,
        )  # fmt: skip
        if over_processes:
            mean_BG, rstd_BG = _of_all_processes(mean_BG, rstd_BG)
        left_C = no_bias_C if stored else given_C
        out_BCHW = _applied(
            sum_BCHW, left_C, weight_C, shift_C, mean_BG, rstd_BG, activation, dtype
        )
        ctx.save_for_backward(sum_BCHW, left_C, weight_C, shift_C, mean_BG, rstd_BG)
        ctx.activation, ctx.added = activation, addend_BCHW is not None
        ctx.over_processes = over_processes
        ctx.mark_non_differentiable(mean_BG, rstd_BG, left_C)
        ctx.set_materialize_grads(False)
        return out_BCHW, sum_BCHW, mean_BG, rstd_BG, left_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_out_BCHW, d_more_BCHW = grads[:2]
        sum_BCHW, left_C, weight_C, shift_C, mean_BG, rstd_BG = ctx.saved_tensors
        assert d_out_BCHW is not None, "the normalised output was not used"
        d_out_BCHW = channels_last(d_out_BCHW)
        batch, channels, height, width = sum_BCHW.shape
        pixels, groups = height * width, mean_BG.shape[1]
        size, how = channels // groups, Chunks.of(pixels, channels, BACKWARD)
        grid = (batch * how.number * how.across,)
        given = (sum_BCHW, left_C, weight_C, shift_C, mean_BG, rstd_BG, d_out_BCHW)
        shape = (pixels, channels, how.number, how.pixels, how.across, groups, size)
        parts_2BKC = mean_BG.new_empty((2, batch, how.number, channels))
        _sums_backward[grid](
            *given, *parts_2BKC, *shape,
            ACT=ctx.activation, **how.tile,
        )  # fmt: skip
        sums_2BC = mean_BG.new_empty((2, batch, channels))
        means_2BG = mean_BG.new_empty((2, batch, groups))
        _merge_backward[(batch * groups,)](
            *parts_2BKC, weight_C, *sums_2BC, *means_2BG,
            pixels, channels, how.number, groups, size, **_finishing(size), num_warps=4,
        )  # fmt: skip
        if ctx.over_processes:
            means_2BG = distributed.mean(means_2BG)
        d_x_BCHW = like(sum_BCHW, sum_BCHW.dtype)
        wants_bias = ctx.needs_input_grad[2]
        _apply_backward[grid](
            *given, d_out_BCHW if d_more_BCHW is None else channels_last(d_more_BCHW),
            *means_2BG, d_x_BCHW, parts_2BKC[0], *shape,
            ACT=ctx.activation, MORE=d_more_BCHW is not None, SUM=wants_bias,
            **how.tile,
        )  # fmt: skip
        d_bias_C = parts_2BKC[0].sum((0, 1)) if wants_bias else None
        d_shift_C, d_weight_C = sums_2BC.sum(1)
        d_addend_BCHW = d_x_BCHW if ctx.added else None
        return (d_x_BCHW, d_addend_BCHW, d_bias_C, d_weight_C, d_shift_C, *[None] * 6)


def _of_all_processes(mean_BG: Tensor, rstd_BG: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the statistics of all processes, which have as many pixels each."""
    centre_BG = distributed.mean(mean_BG)
    spread_BG = distributed.mean(rstd_BG.pow(-2) + (mean_BG - centre_BG).square())
    return centre_BG, spread_BG.rsqrt()


class Normed(NamedTuple):
    """Output of `group_norm`."""

    out_BCHW: Tensor
    sum_BCHW: Tensor  # x + addend + bias; without the bias, unless `also_sum` or an addend
    again: Callable[[], Tensor]  # makes the values of `out_BCHW` once more, in one pass


def group_norm(
    x_BCHW: Tensor,
    weight_C: Tensor,
    shift_C: Tensor,
    groups: int,
    eps: float,
    *,
    addend_BCHW: Tensor | None = None,
    bias_C: Tensor | None = None,
    activation: Activation = "none",
    also_sum: bool = False,
    dtype: torch.dtype | None = None,
    over_processes: bool = False,
) -> Normed:
    """Compute activation(GroupNorm(x + addend + bias)), channels last, in `dtype`.

    `dtype` None: that of x. `also_sum`: the sum itself is given too, for other readers, and their
    gradient is added in the norm's own backward pass. The sum is rounded to the dtype of x once,
    before its statistics. `over_processes`: with the statistics of all processes' tensors, which
    are alike in shape; the gradient of x is then that of the sum of all their losses.
    """
    wanted = dtype or x_BCHW.dtype
    with torch.cuda.device_of(x_BCHW):  # kernels start on the current device
        out_BCHW, sum_BCHW, mean_BG, rstd_BG, left_C = _Norm.apply(
            *(x_BCHW, addend_BCHW, bias_C, weight_C, shift_C),
            *(groups, eps, activation, also_sum, wanted, over_processes),
        )
    given = (sum_BCHW.detach(), left_C, weight_C.detach(), shift_C.detach(), mean_BG, rstd_BG)

    def again() -> Tensor:
        return _applied(*given, activation, wanted)

    return Normed(out_BCHW, sum_BCHW, again)
