"""VGG16's convolutional trunk in the `lpips` package: its cost, its construction, its guard."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting import flops
from ..accounting.flops import Cost

CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SMALLEST = 16  # pixels: four poolings leave one


def trunk_cost(resolution: int) -> Cost:
    """Count one image through the trunk. ValueError when it is too small."""
    if resolution < SMALLEST:
        raise ValueError(
            f"resolution: {resolution} px is too small for VGG16; at least {SMALLEST} px"
        )
    cost, width, side = Cost(), 3, resolution
    for block in CHANNELS:
        for channels in block:
            cost += flops.conv(width, channels, 3, side**2)
            width = channels
        side //= 2
    return cost


def empty_lpips(with_heads: bool) -> Any:
    """Make `lpips.LPIPS` on VGG16 whose trunk has no values yet; frozen, in eval mode.

    Built on the meta device: torchvision makes the whole classifier, 123M weights, only for
    lpips to throw it away.
    """
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        # lpips 0.1.4 calls torchvision by a keyword that torchvision 0.13 renamed; same meaning.
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        model = lpips.LPIPS(
            net="vgg", pnet_rand=True, pretrained=False, lpips=with_heads, verbose=False
        )
    model.to_empty(device="cpu")
    model.scaling_layer = lpips.ScalingLayer()
    return model.requires_grad_(False).eval()


def check_images(x_BCHW: Tensor) -> None:
    """Raise ValueError for images that lpips accepts and silently measures wrongly."""
    if not x_BCHW.is_floating_point() or x_BCHW.ndim != 4 or x_BCHW.shape[1] != 3:
        raise ValueError(
            f"image: {x_BCHW.dtype} {tuple(x_BCHW.shape)} is not allowed; "
            "must be floating point in [-1, 1], [B, 3, H, W]"
        )


def by_kernels(model: Any, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Compute the mean of `model(x, y)` by kernels of our own between the convolutions.

    Only y gets a gradient. Dropout in the heads must be off.
    """
    from ..kernels.perceptual import unit_distance

    total = torch.zeros((), device=x_BCHW.device)
    x_BCHW, y_BCHW = model.scaling_layer(x_BCHW), model.scaling_layer(y_BCHW)
    for number in range(model.L):
        layers = getattr(model.net, f"slice{number + 1}")
        with torch.no_grad():
            x_BCHW = _through(layers, x_BCHW)
        y_BCHW = _through(layers, y_BCHW)
        if model.lpips:
            weight_C = model.lins[number].model[-1].weight.flatten()
        else:
            weight_C = torch.ones(y_BCHW.shape[1], device=y_BCHW.device)
        total = total + unit_distance(x_BCHW, y_BCHW, weight_C)
    return total


def _through(layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
    """Compute the features behind some layers; each convolution has a ReLU behind it."""
    from ..kernels.perceptual import bias_relu

    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            x_BCHW = F.conv2d(x_BCHW, layer.weight, None, layer.stride, layer.padding)
            x_BCHW = bias_relu(x_BCHW, layer.bias)
        elif not isinstance(layer, nn.ReLU):
            x_BCHW = layer(x_BCHW)
    return x_BCHW
