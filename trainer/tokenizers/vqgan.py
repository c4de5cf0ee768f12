"""The convolutional VQGAN of taming, LlamaGen (VQ-16), CRT, VCQ and IBQ: encoder and decoder.

Shapes: B images, C channels, H x W pixels or grid cells, N = H*W tokens in raster order, D latent
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from .. import kernels
from ..accounting import flops
from ..accounting.config import STRICT, PositiveInt, Share
from ..accounting.flops import Cost
from ._blocks import (
    Attention,
    Downsample,
    ResBlock,
    Upsample,
    _attention_cost,
    _middle,
    _middle_cost,
    _norm,
    _res_cost,
)

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are LlamaGen's VQ-16, which CRT uses: 71.7M parameters without the codebook."""

    __pydantic_config__ = STRICT

    ch: PositiveInt = 128  # width of the first level of the encoder, channels
    ch_mult: tuple[PositiveInt, ...] = (1, 1, 2, 2, 4)  # width of each level over ch; f = 2^(n-1)
    num_res_blocks_encoder: PositiveInt = 2  # per level; IBQ: 4
    num_res_blocks_decoder: PositiveInt = 3  # per level; IBQ: 5
    ch_decoder: PositiveInt | None = None  # width of the decoder; None: ch (181 about doubles it)
    z_channels: PositiveInt = 256  # between the trunk and the 1x1 projection to the quantizer
    dropout: Share = 0.0  # inside residual blocks

    def __post_init__(self) -> None:
        if not self.ch_mult:
            raise ValueError("ch_mult: () is not allowed; needs one entry per level")

    @property
    def downsampling(self) -> int:
        """Return the pixels per side of a token."""
        return int(2 ** (len(self.ch_mult) - 1))

    def grid_shape(self, resolution: int) -> tuple[int, int]:
        """Return the rows and columns of tokens. ValueError when the resolution does not divide."""
        if resolution % self.downsampling:
            raise ValueError(
                f"resolution: {resolution} is not a multiple of {self.downsampling}, the "
                f"downsampling of ch_mult {self.ch_mult}"
            )
        side = resolution // self.downsampling
        return side, side

    def tokens_per_image(self, resolution: int) -> int:
        """Length of the sequence of codes of a square image."""
        rows, columns = self.grid_shape(resolution)
        return rows * columns

    def cost(self, resolution: int, dim: int) -> tuple[Cost, Cost]:
        """Encoder and decoder for latents of width `dim`, the 1x1 projections included."""
        return self._encoder_cost(resolution, dim), self._decoder_cost(resolution, dim)

    def _encoder_cost(self, resolution: int, dim: int) -> Cost:
        grid, _ = self.grid_shape(resolution)
        widths = [self.ch * mult for mult in self.ch_mult]
        cost = flops.conv(3, self.ch, 3, resolution**2)
        width, side = self.ch, resolution
        for level, out in enumerate(widths):
            for _ in range(self.num_res_blocks_encoder):
                cost += _res_cost(width, out, side**2)
                width = out
                if level == len(widths) - 1:
                    cost += _attention_cost(width, side**2)
            if level < len(widths) - 1:
                side //= 2
                cost += flops.conv(width, width, 3, side**2)
        cost += _middle_cost(width, grid**2)
        cost += flops.norm(width) + flops.conv(width, self.z_channels, 3, grid**2)
        return cost + flops.conv(self.z_channels, dim, 1, grid**2)

    def _decoder_cost(self, resolution: int, dim: int) -> Cost:
        grid, _ = self.grid_shape(resolution)
        widths = [(self.ch_decoder or self.ch) * mult for mult in self.ch_mult]
        width, side = widths[-1], grid
        cost = flops.conv(dim, self.z_channels, 1, grid**2)
        cost += flops.conv(self.z_channels, width, 3, grid**2) + _middle_cost(width, grid**2)
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(self.num_res_blocks_decoder):
                cost += _res_cost(width, out, side**2)
                width = out
                if level == len(widths) - 1:
                    cost += _attention_cost(width, side**2)
            if level > 0:
                side *= 2
                cost += flops.conv(width, width, 3, side**2)
        return cost + flops.norm(width) + flops.conv(width, 3, 3, resolution**2)


# ------------------------------------------------------------------------------------------ modules


def _encoder(config: Config) -> nn.Sequential:
    widths = [config.ch * mult for mult in config.ch_mult]
    layers: list[nn.Module] = [nn.Conv2d(3, config.ch, 3, padding=1)]
    width = config.ch
    for level, out in enumerate(widths):
        last = level == len(widths) - 1
        for _ in range(config.num_res_blocks_encoder):
            layers.append(ResBlock(width, out, config.dropout))
            width = out
            if last:
                layers.append(Attention(width))
        if not last:
            layers.append(Downsample(width))
    layers += _middle(width, config.dropout)
    layers += [_norm(width), nn.SiLU(), nn.Conv2d(width, config.z_channels, 3, padding=1)]
    return nn.Sequential(*layers)


def _decoder(config: Config) -> nn.Sequential:
    widths = [(config.ch_decoder or config.ch) * mult for mult in config.ch_mult]
    width = widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(config.z_channels, width, 3, padding=1)]
    layers += _middle(width, config.dropout)
    for level, out in reversed(list(enumerate(widths))):
        for _ in range(config.num_res_blocks_decoder):
            layers.append(ResBlock(width, out, config.dropout))
            width = out
            if level == len(widths) - 1:
                layers.append(Attention(width))
        if level > 0:
            layers.append(Upsample(width))
    layers += [_norm(width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(*layers)


class Tokenizer(nn.Module):
    """Images to latents and back. Convolutional, so a trained one also takes other resolutions.

    The output is neither squashed nor clamped, in training or later.
    """

    def __init__(self, config: Config, dim: int, resolution: int) -> None:
        super().__init__()
        config.grid_shape(resolution)  # refuses a resolution that does not divide
        self.config = config
        self.encoder = _encoder(config)
        self.project_in = nn.Conv2d(config.z_channels, dim, 1)  # quant_conv
        self.project_out = nn.Conv2d(dim, config.z_channels, 1)  # post_quant_conv
        self.decoder = _decoder(config)
        self._by_kernels = self._recompute = False

    def use_kernels(self, recompute: bool) -> None:
        """Run encoder and decoder by kernels of our own where there is a GPU.

        With `recompute`, they take less memory (see _fused.py).
        """
        self._by_kernels, self._recompute = True, recompute

    def _through(self, layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
        if not self._by_kernels or not kernels.usable(x_BCHW):
            out_BCHW: Tensor = layers(x_BCHW)
            return out_BCHW
        from . import _fused

        return _fused.run(layers, x_BCHW, self._recompute)

    def encode(self, x_BCHW: Tensor) -> Tensor:
        """Encode square images in [-1, 1] into z_BND, raster order."""
        return self.project(self.features(x_BCHW))

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Compute h_BNC, C = z_channels: the first half of `encode`, before the projection to D."""
        if x_BCHW.shape[2] != x_BCHW.shape[3]:
            raise ValueError(f"image: {tuple(x_BCHW.shape[2:])} is not square")
        self.config.grid_shape(x_BCHW.shape[2])
        return self._through(self.encoder, x_BCHW).flatten(2).transpose(1, 2)

    def project(self, h_BNC: Tensor) -> Tensor:
        """Project to z_BND: the second half of `encode`."""
        z_BND: Tensor = (
            self.project_in(h_BNC.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)
        )
        return z_BND

    def decode(self, z_BND: Tensor) -> Tensor:
        """Decode latents in raster order into images; the number of tokens must be a square."""
        side = math.isqrt(z_BND.shape[1])
        if side * side != z_BND.shape[1]:
            raise ValueError(f"tokens: {z_BND.shape[1]} latents are no square grid")
        z_BDHW = z_BND.transpose(1, 2).unflatten(2, (side, side))
        return self._through(self.decoder, self.project_out(z_BDHW))

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, for the adaptive adversarial weight."""
        last = self.decoder[-1]
        assert isinstance(last, nn.Conv2d) and isinstance(last.weight, nn.Parameter)
        return last.weight
