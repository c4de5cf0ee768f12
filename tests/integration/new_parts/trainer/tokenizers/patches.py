"""A tokenizer of one linear layer per patch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..accounting import flops
from ..accounting.config import STRICT, PositiveInt
from ..accounting.flops import Cost

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Size of a patch and width before the projection."""

    __pydantic_config__ = STRICT

    patch: PositiveInt = 4  # pixels a side
    z_channels: PositiveInt = 16

    def grid_shape(self, resolution: int) -> tuple[int, int]:
        if resolution % self.patch:
            raise ValueError(f"resolution: {resolution} is not a multiple of patch {self.patch}")
        return resolution // self.patch, resolution // self.patch

    def tokens_per_image(self, resolution: int) -> int:
        rows, columns = self.grid_shape(resolution)
        return rows * columns

    def cost(self, resolution: int, dim: int) -> tuple[Cost, Cost]:
        tokens, pixels = self.tokens_per_image(resolution), 3 * self.patch**2
        encoder = flops.linear(pixels, self.z_channels, tokens, bias=True)
        encoder += flops.linear(self.z_channels, dim, tokens, bias=True)
        decoder = flops.linear(dim, self.z_channels, tokens, bias=True)
        decoder += flops.linear(self.z_channels, pixels, tokens, bias=True)
        return encoder, decoder


class Tokenizer(nn.Module):
    """Linear in, linear out."""

    def __init__(self, config: Config, dim: int, resolution: int) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid_shape(resolution)
        pixels = 3 * config.patch**2
        self.embed = nn.Linear(pixels, config.z_channels)
        self.project_in = nn.Linear(config.z_channels, dim)
        self.project_out = nn.Linear(dim, config.z_channels)
        self.unembed = nn.Linear(config.z_channels, pixels)

    def encode(self, x_BCHW: Tensor) -> Tensor:
        return self.project(self.features(x_BCHW))

    def features(self, x_BCHW: Tensor) -> Tensor:
        patches = nn.functional.unfold(x_BCHW, self.config.patch, stride=self.config.patch)
        return self.embed(patches.transpose(1, 2)).tanh()

    def project(self, h_BNC: Tensor) -> Tensor:
        return self.project_in(h_BNC)

    def decode(self, z_BND: Tensor) -> Tensor:
        patches = self.unembed(self.project_out(z_BND).tanh()).transpose(1, 2)
        side = self.grid[0] * self.config.patch
        return nn.functional.fold(
            patches, (side, side), self.config.patch, stride=self.config.patch
        )

    @property
    def last_layer(self) -> nn.Parameter:
        return self.unembed.weight
