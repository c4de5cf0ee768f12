"""Rows as e4m3, each with a unit of its own: the value is the number times the unit.

Shape suffixes: R rows, C numbers of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .e4m3 import LARGEST, SMALLEST_UNIT


@triton.jit
def _kernel(
    x_ptr, out_ptr, unit_ptr, C: tl.constexpr, BLOCK: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    inside = c < C
    x = tl.load(x_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
    unit = tl.maximum(tl.max(tl.abs(x), 0) / LARGEST, SMALLEST)
    tl.store(out_ptr + row * C + c, (x / unit).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(unit_ptr + row, unit)


def float8_rows(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Return e4m3 [R, C] and units [R, 1] in fp32, such that the largest of each row is 448."""
    rows, columns = x_RC.shape
    assert x_RC.is_contiguous()
    out_RC = torch.empty_like(x_RC, dtype=torch.float8_e4m3fn)
    unit_R1 = x_RC.new_empty(rows, 1, dtype=torch.float32)
    block = triton.next_power_of_2(columns)
    _kernel[(rows,)](
        x_RC, out_RC, unit_R1, C=columns, BLOCK=block, LARGEST=LARGEST, SMALLEST=SMALLEST_UNIT,
        num_warps=max(1, min(8, block // 512)),
    )  # fmt: skip
    return out_RC, unit_R1
