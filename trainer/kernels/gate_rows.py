"""SwiGLU's gate, silu(gate) * value, as one Triton kernel that reads both halves of a row in place.

Without gradient, for rows of one token. Imported only where kernels can run. Shape suffixes: B
rows, F hidden size, P = 2 F.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # numbers of a program


@triton.jit
def _kernel(in_ptr, out_ptr, hidden, BLOCK: tl.constexpr):
    """A block of one row."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = f < hidden
    dtype = out_ptr.dtype.element_ty
    gate = tl.load(in_ptr + row * 2 * hidden + f, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(in_ptr + row * 2 * hidden + hidden + f, mask=inside, other=0.0)
    # Rounded in between, as the plain path rounds it.
    gate = (gate / (1 + tl.exp(-gate))).to(dtype).to(tl.float32)
    tl.store(out_ptr + row * hidden + f, (gate * value.to(tl.float32)).to(dtype), mask=inside)


def gate_rows(x_BP: Tensor) -> Tensor:
    """[B, F] from gates and values, [B, 2 F]."""
    assert x_BP.is_contiguous()
    rows, hidden = len(x_BP), x_BP.shape[1] // 2
    out_BF = x_BP.new_empty(rows, hidden)
    _kernel[(rows, triton.cdiv(hidden, _BLOCK))](x_BP, out_BF, hidden, BLOCK=_BLOCK, num_warps=4)
    return out_BF
