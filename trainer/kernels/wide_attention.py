"""Attention of the few cells of a grid to each other, by one head of many channels, as one Triton
kernel: for inference. All scores of some cells are held at once.

16-bit inputs; scores, softmax and sums in fp32. Shape suffixes: B images, N cells, C channels.
Imported only where there is a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CELLS_MAX = 256
_ROWS = 64  # cells of a program
_CHANNELS = 64  # at once
_WARPS, _STAGES = 4, 2
_LOG2E = 1.4426950408889634


@triton.jit(do_not_specialize=["cells"])
def _kernel(
    qkv_ptr, out_ptr, cells, channels, scale,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    key = tl.arange(0, KEYS)
    c = tl.arange(0, CHANNELS)
    known, asked = key < cells, row < cells
    qkv_ptr += b * cells * 3 * channels
    out_ptr += b * cells * channels
    q_at = row[:, None] * (3 * channels) + c[None, :]
    k_at = key[:, None] * (3 * channels) + c[None, :]
    score = tl.zeros((ROWS, KEYS), tl.float32)
    for first in range(0, channels, CHANNELS):
        inside = (first + c < channels)[None, :]
        q = tl.load(qkv_ptr + first + q_at, mask=asked[:, None] & inside, other=0.0)
        k = tl.load(qkv_ptr + channels + first + k_at, mask=known[:, None] & inside, other=0.0)
        score = tl.dot(q, k.T, score)
    score = tl.where(known[None, :], score * scale, -float("inf"))
    share = tl.exp2(score - tl.max(score, 1)[:, None])
    total = tl.sum(share, 1)
    share = share.to(out_ptr.dtype.element_ty)
    for first in range(0, channels, CHANNELS):
        inside = (first + c < channels)[None, :]
        v = tl.load(qkv_ptr + 2 * channels + first + k_at, mask=known[:, None] & inside, other=0.0)
        out = (tl.dot(share, v) / total[:, None]).to(out_ptr.dtype.element_ty)
        at = row[:, None] * channels + first + c[None, :]
        tl.store(out_ptr + at, out, mask=asked[:, None] & inside)


def suits(cells: int, dtype: torch.dtype) -> bool:
    """Tell if `wide_attention` can do these cells and dtype."""
    return cells <= CELLS_MAX and dtype in (torch.bfloat16, torch.float16)


def wide_attention(qkv_BNC: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt C) v, [B, N, C], of q, k, v side by side, [B, N, 3 C].

    It has no gradient.
    """
    batch, cells, three = qkv_BNC.shape
    channels = three // 3
    out_BNC = qkv_BNC.new_empty(batch, cells, channels)
    keys = max(16, triton.next_power_of_2(cells))
    rows = min(_ROWS, keys)
    with torch.cuda.device_of(qkv_BNC):  # kernels start on the current device
        _kernel[(triton.cdiv(cells, rows), batch)](
            qkv_BNC.contiguous(), out_BNC, cells, channels, _LOG2E * channels**-0.5,
            ROWS=rows, KEYS=keys, CHANNELS=_CHANNELS, num_warps=_WARPS, num_stages=_STAGES,
        )  # fmt: skip
    return out_BNC
