"""Differentiable augmentation of what a discriminator sees (DiffAugment, arXiv 2006.10738).

Real and made images are both changed at random before the discriminator, and gradients pass through
the change to the made ones. So a discriminator cannot learn a small set by heart, and what is made
does not take over the augmentation. Strengths are the paper's. Random numbers come from torch's
generator, which the train loop seeds from (seed, step). Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Name = Literal["color", "translation", "cutout"]

SHIFT_MAX = 1 / 8  # of the side
HOLE = 1 / 2  # of the side


def augment(x_BCHW: Tensor, names: Sequence[Name]) -> Tensor:
    """Apply the named changes to images in about [-1, 1]; each image has its own random numbers."""
    for name in names:
        x_BCHW = {"color": color, "translation": translation, "cutout": cutout}[name](x_BCHW)
    return x_BCHW


def color(x_BCHW: Tensor) -> Tensor:
    """Brightness by up to half of 1, saturation by a factor of 0 to 2, contrast by one of 0.5 to
    1.5."""
    brightness, saturation, contrast = torch.rand(3, len(x_BCHW), 1, 1, 1, device=x_BCHW.device)
    x_BCHW = x_BCHW + (brightness - 0.5)
    grey_B1HW = x_BCHW.mean(1, keepdim=True)
    x_BCHW = grey_B1HW + (x_BCHW - grey_B1HW) * (2 * saturation)
    mean_B111: Tensor = x_BCHW.mean((1, 2, 3), keepdim=True)
    x_BCHW = mean_B111 + (x_BCHW - mean_B111) * (contrast + 0.5)
    return x_BCHW


def translation(x_BCHW: Tensor) -> Tensor:
    """Moved by up to an eighth of each side; what comes in is 0."""
    rows_BH, row_inside_BH = _moved(x_BCHW, x_BCHW.shape[2])
    columns_BW, column_inside_BW = _moved(x_BCHW, x_BCHW.shape[3])
    image_B11 = torch.arange(len(x_BCHW), device=x_BCHW.device)[:, None, None]
    moved_BHWC = x_BCHW.permute(0, 2, 3, 1)[image_B11, rows_BH[:, :, None], columns_BW[:, None]]
    inside_BHW = row_inside_BH[:, :, None] & column_inside_BW[:, None]
    return (moved_BHWC * inside_BHW[..., None]).permute(0, 3, 1, 2)


def _moved(x_BCHW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Draw the source of each row (or column) of an image, and whether it was inside."""
    limit = int(side * SHIFT_MAX + 0.5)
    shift_B1 = torch.randint(-limit, limit + 1, (len(x_BCHW), 1), device=x_BCHW.device)
    source_BS = torch.arange(side, device=x_BCHW.device) + shift_B1
    return source_BS.clamp(0, side - 1), (source_BS >= 0) & (source_BS < side)


def cutout(x_BCHW: Tensor) -> Tensor:
    """Set a square of half the side to 0, its centre anywhere in the image."""
    hole_BHW = _hit(x_BCHW, x_BCHW.shape[2])[:, :, None] & _hit(x_BCHW, x_BCHW.shape[3])[:, None]
    return x_BCHW * ~hole_BHW[:, None]


def _hit(x_BCHW: Tensor, side: int) -> Tensor:
    """Mark the rows (or columns) that the square takes."""
    size = int(side * HOLE + 0.5)
    # An even size has its centre between two pixels, so there is one place more.
    centre_B1 = torch.randint(0, side + 1 - size % 2, (len(x_BCHW), 1), device=x_BCHW.device)
    place_BS = torch.arange(side, device=x_BCHW.device) - (centre_B1 - size // 2)
    return (place_BS >= 0) & (place_BS < size)
