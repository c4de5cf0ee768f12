"""Perceptual loss on an UNTRAINED VGG16: the distance of LPIPS without its weights and heads.

Random features still compare texture at five scales, and nothing has to be downloaded. It is no
LPIPS and never called so. Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import kernels
from ..accounting.config import STRICT, CountInt, NonNegativeFloat
from ..accounting.flops import Cost
from . import _vgg

VERSION = 1
ROLE = "perceptual"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The stand-in for LPIPS where no weights can be had."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 1.0
    seed: CountInt = 0  # of the network's weights

    def cost(self, resolution: int) -> Cost:
        """Count one image through the network once."""
        return _vgg.trunk_cost(resolution)

    def weights(self) -> dict[str, str]:
        """Return the files to load: none."""
        return {}


class Loss(nn.Module):
    """Sum over five layers of the squared distance of unit features, mean over cells and images."""

    def __init__(self, config: Config, weights: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config = config
        self._by_kernels = False
        self.model = _vgg.empty_lpips(with_heads=False)
        # torchvision's own initialisation, from a generator of our own: the global one is others'.
        generator = torch.Generator().manual_seed(config.seed)
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.kaiming_normal_(
                    layer.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
                nn.init.zeros_(layer.bias)
        self.train(False)

    def train(self, mode: bool = True) -> Loss:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
        _vgg.check_images(x_BCHW)
        _vgg.check_images(y_BCHW)
        if self._by_kernels and kernels.usable(y_BCHW) and not x_BCHW.requires_grad:
            return _vgg.by_kernels(self.model, x_BCHW, y_BCHW)
        distance: Tensor = self.model(x_BCHW, y_BCHW).mean()
        return distance

    def use_kernels(self, recompute: bool) -> None:
        """Run by kernels of our own where there is a GPU."""
        self._by_kernels = True
