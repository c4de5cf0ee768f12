"""The encoder and decoder of `vqgan` with kernels of our own between the convolutions.

What a convolution or a residual block leaves is not added up at once: its bias, and the other
branch, wait for the norm (or the change of size) that reads them next, which adds them on the way.
So each tensor of pixels is written once and read no more than it must be. All is channels last,
and under autocast activations are rounded where the plain modules round them for a convolution.

Imported only where there is a GPU. Shapes: B images, C channels, H x W pixels or grid cells, N =
H*W tokens in raster order.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import few_channels, wide_attention
from ..kernels.group_norm import Activation, Normed, group_norm
from ..kernels.spread import Layout, spread
from ._blocks import Attention, Downsample, ResBlock, Upsample


class Sum(NamedTuple):
    """x + addend + bias, not added up yet."""

    x_BCHW: Tensor
    addend_BCHW: Tensor | None
    bias_C: Tensor


def run(layers: nn.Sequential, x_BCHW: Tensor, recompute: bool) -> Tensor:
    """Run `layers` on `x_BCHW`.

    `recompute`: the backward pass makes the inputs of convolutions behind a norm again instead of
    keeping them. That halves the memory for one pass more over the activations.
    """
    first, *middle, norm, _, last = layers
    now = Sum(_first(first, x_BCHW), None, _bias(first))
    for layer in middle:
        now = _STEPS[type(layer)](layer, now, recompute)
    return _conv(last, _norm(norm, now, "silu"), recompute, _bias(last))


def _bias(conv: nn.Module) -> Tensor:
    assert isinstance(conv.bias, Tensor)
    return conv.bias


def _dtype(x_BCHW: Tensor) -> torch.dtype:
    """Return the dtype in which convolutions of `x_BCHW` work."""
    device = x_BCHW.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BCHW.dtype


def _first(conv: Any, x_BCHW: Tensor) -> Tensor:
    """Convolve without the bias; an image by a kernel which has no gradient."""
    if torch.is_grad_enabled() or not few_channels.suits(conv.weight):
        return _conv(conv, x_BCHW)
    return few_channels.few_channels(x_BCHW, conv.weight, _dtype(x_BCHW))


def _norm(norm: Any, now: Sum, activation: Activation, also_sum: bool = False) -> Normed:
    return group_norm(
        now.x_BCHW,
        norm.weight,
        norm.bias,
        norm.num_groups,
        norm.eps,
        addend_BCHW=now.addend_BCHW,
        bias_C=now.bias_C,
        activation=activation,
        also_sum=also_sum,
        dtype=_dtype(now.x_BCHW),
    )


def _conv(
    conv: Any, given: Tensor | Normed, recompute: bool = False, bias_C: Tensor | None = None
) -> Tensor:
    """Convolve, without the bias unless it is given."""
    kept: AbstractContextManager[Any] = nullcontext()
    if isinstance(given, Normed):
        if recompute:
            kept = _made_again(given)
        given = given.out_BCHW
    with kept:
        return F.conv2d(given, conv.weight, bias_C, conv.stride, conv.padding)


def _made_again(normed: Normed) -> AbstractContextManager[Any]:
    """Save for the backward pass how to make the normalised tensor, not the tensor itself."""
    place, again = normed.out_BCHW.data_ptr(), normed.again

    def pack(saved: Tensor) -> Any:
        return again if saved.data_ptr() == place else saved

    def unpack(packed: Any) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed()

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _res_block(block: ResBlock, now: Sum, recompute: bool) -> Sum:
    normed = _norm(block.norm1, now, "silu", also_sum=True)
    h_BCHW = _conv(block.conv1, normed, recompute)
    hidden = _norm(block.norm2, Sum(h_BCHW, None, _bias(block.conv1)), "silu")
    if block.dropout.p > 0 and block.training:
        h_BCHW = _conv(block.conv2, block.dropout(hidden.out_BCHW))
    else:
        h_BCHW = _conv(block.conv2, hidden, recompute)
    if not isinstance(block.skip, nn.Conv2d):
        return Sum(normed.sum_BCHW, h_BCHW, _bias(block.conv2))
    x_BCHW = _conv(block.skip, normed.sum_BCHW)
    return Sum(x_BCHW, h_BCHW, _bias(block.conv2) + _bias(block.skip))


def _attention(layer: Attention, now: Sum, recompute: bool) -> Sum:
    normed = _norm(layer.norm, now, "none", also_sum=True)
    a_BCHW = _conv(layer.out, _attend(layer, normed.out_BCHW))
    return Sum(normed.sum_BCHW, a_BCHW, _bias(layer.out))


def _attend(layer: Attention, h_BCHW: Tensor) -> Tensor:
    """Compute `layer.attend`; in half precision without a gradient, as one product and one kernel.

    Torch has fused attention for narrower heads only: else it works in fp32, pass by pass.
    """
    height, width = h_BCHW.shape[2:]
    if torch.is_grad_enabled() or not wide_attention.suits(height * width, h_BCHW.dtype):
        return layer.attend(h_BCHW)
    layers = (layer.query, layer.key, layer.value)
    qkv_BNC = F.linear(
        h_BCHW.flatten(2).transpose(1, 2),
        torch.cat([part.weight.flatten(1) for part in layers]),
        torch.cat([_bias(part) for part in layers]),
    )
    a_BNC = wide_attention.wide_attention(qkv_BNC)
    a_BCHW: Tensor = a_BNC.transpose(1, 2).unflatten(2, (height, width))
    return a_BCHW


def _resize(layer: Downsample | Upsample, now: Sum, layout: Layout) -> Sum:
    x_BCHW = spread(now.x_BCHW, now.bias_C, layout, now.addend_BCHW)
    return Sum(_conv(layer.conv, x_BCHW), None, _bias(layer.conv))


_STEPS: dict[type, Any] = {
    ResBlock: _res_block,
    Attention: _attention,
    Downsample: lambda layer, now, recompute: _resize(layer, now, "padded"),
    Upsample: lambda layer, now, recompute: _resize(layer, now, "doubled"),
}
