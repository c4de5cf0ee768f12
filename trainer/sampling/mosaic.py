"""One picture of many images, in rows."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from torch import Tensor


def picture(rows: list[Tensor]) -> bytes:
    """Encode rows of uint8 images [B, 3, H, W] as PNG, two white pixels between them."""
    gap = 2
    side = rows[0].shape[-1]
    width = max(len(row) for row in rows) * (side + gap) - gap
    canvas = np.full((len(rows) * (side + gap) - gap, width, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image_CHW in enumerate(row.cpu().numpy()):
            top, left = y * (side + gap), x * (side + gap)
            canvas[top : top + side, left : left + side] = image_CHW.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "png")
    return buffer.getvalue()
