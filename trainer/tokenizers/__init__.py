"""Tokenizer architectures, one file each.

A part exposes `VERSION`, a frozen `Config` and a final `Tokenizer(nn.Module)`:

    Config.tokens_per_image(resolution) -> int            ValueError if the resolution does not fit
    Config.grid_shape(resolution) -> (rows, columns)      of the tokens; (1, N) for 1D tokenizers
    Config.cost(resolution, dim) -> (Cost, Cost)          encoder and decoder, projections included
    Tokenizer(config, dim, resolution)                    dim: width of the quantizer's latents
    Tokenizer.encode(x_BCHW) -> z_BND                     images in [-1, 1]; latents in raster order
    Tokenizer.features(x_BCHW) -> h_BNC                   before projecting; C = Config.z_channels
    Tokenizer.project(h_BNC) -> z_BND                     encode(x) is project(features(x))
    Tokenizer.decode(z_BND) -> x_BCHW
    Tokenizer.last_layer -> nn.Parameter                  weight for the adaptive adversarial weight
    Tokenizer.use_kernels(recompute)                      optional: run by `trainer.kernels` on GPUs
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    class Tokenizer(nn.Module):
        """A tokenizer as loops call it; for type checkers only, since parts need no base class."""

        last_layer: nn.Parameter

        def encode(self, x_BCHW: Tensor) -> Tensor: ...
        def features(self, x_BCHW: Tensor) -> Tensor: ...
        def project(self, h_BNC: Tensor) -> Tensor: ...
        def decode(self, z_BND: Tensor) -> Tensor: ...
