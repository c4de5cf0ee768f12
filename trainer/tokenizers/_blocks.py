"""Blocks of convolutional tokenizers: residual blocks, attention, changes of size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting import flops
from ..accounting.flops import Cost

_NORM_EPS = 1e-6  # of every GroupNorm, as in taming


def _res_cost(channels_in: int, channels_out: int, pixels: int) -> Cost:
    cost = flops.norm(channels_in) + flops.conv(channels_in, channels_out, 3, pixels)
    cost += flops.norm(channels_out) + flops.conv(channels_out, channels_out, 3, pixels)
    if channels_in != channels_out:
        cost += flops.conv(channels_in, channels_out, 1, pixels)
    return cost


def _attention_cost(channels: int, pixels: int) -> Cost:
    projections = 4 * flops.conv(channels, channels, 1, pixels)
    return flops.norm(channels) + projections + flops.attention(pixels, pixels, channels)


def _middle_cost(channels: int, pixels: int) -> Cost:
    return 2 * _res_cost(channels, channels, pixels) + _attention_cost(channels, pixels)


def norm_groups(channels: int) -> int:
    """Return the groups of a GroupNorm: 32, fewer for narrow models.

    The largest divisor of `channels` that is at most 32 and leaves at least four channels a group,
    which is 32 at every width of the papers (128 and up).
    """
    most = max(1, min(32, channels // 4))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(norm_groups(channels), channels, eps=_NORM_EPS)


class ResBlock(nn.Module):
    """norm, swish, conv, norm, swish, dropout, conv; a 1x1 convolution on the skip path if the
    width changes.
    """

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = _norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        h_BCHW = self.conv2(self.dropout(F.silu(self.norm2(h_BCHW))))
        out_BCHW: Tensor = self.skip(x_BCHW) + h_BCHW
        return out_BCHW


class Attention(nn.Module):
    """Self-attention over grid cells with a single head of all channels, scale C^-1/2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = x_BCHW + self.out(self.attend(self.norm(x_BCHW)))
        return out_BCHW

    def attend(self, h_BCHW: Tensor) -> Tensor:
        """Attend from each cell to all, before the projection out."""
        q_BNC, k_BNC, v_BNC = (
            layer(h_BCHW).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        a_BNC = F.scaled_dot_product_attention(q_BNC, k_BNC, v_BNC)
        a_BCHW: Tensor = a_BNC.transpose(1, 2).unflatten(2, h_BCHW.shape[2:])
        return a_BCHW


class Downsample(nn.Module):
    """Halve the side: pad right and bottom by one, then a 3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))
        return out_BCHW


class Upsample(nn.Module):
    """Double the side by repetition, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))
        return out_BCHW


def _middle(channels: int, dropout: float) -> list[nn.Module]:
    return [
        ResBlock(channels, channels, dropout),
        Attention(channels),
        ResBlock(channels, channels, dropout),
    ]
