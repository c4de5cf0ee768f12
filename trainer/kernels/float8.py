"""The feed-forward layers with 8-bit products, an option: four of their six products, those that
make activations and gradients of activations, take e4m3 numbers with one unit a row; gradients of
weights stay in the dtype of the activations. Everything else of a step is as without it.

The rounding is that of e4m3 (4 significant bits), so that losses move a little: `benchmarks/
same_losses.py --float8` says how much.

Shape suffixes: T tokens, D width, F hidden size, P = 2 F, R rows, C numbers of a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import usable
from .e4m3 import LARGEST, SMALLEST_UNIT


def check(device: torch.device) -> None:
    """Raise ValueError where such products cannot be made."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"float8_ffn: {name} has no 8-bit products; allowed here: false")


def rows(x_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Convert rows to e4m3 [R, C] with units [R, 1]: the largest number of each becomes 448."""
    x_RC = x_RC.contiguous()
    if usable(x_RC):
        from .float8_rows import float8_rows

        return float8_rows(x_RC)
    unit_R1 = (x_RC.float().abs().amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST_UNIT)
    return (x_RC.float() / unit_R1).to(torch.float8_e4m3fn), unit_R1


def product(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype, exact_sums: bool
) -> Tensor:
    """Multiply every row of `a` with every row of `b`.

    Without `exact_sums` Hopper adds with fewer bits.
    """
    (a_RC, a_unit_R1), (b_SC, b_unit_S1) = a, b
    return torch._scaled_mm(
        a_RC, b_SC.t(), a_unit_R1, b_unit_S1.t(), out_dtype=dtype, use_fast_accum=not exact_sums
    )


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, w13_PD: Tensor, w2_DF: Tensor) -> Tensor:
        both_TP = product(rows(x_TD), rows(w13_PD), x_TD.dtype, exact_sums=False)
        if usable(x_TD):
            from .swiglu import swiglu_float8

            hidden_TF, *eight = swiglu_float8(both_TP)
        else:
            gate, value = both_TP.float().chunk(2, -1)
            hidden_TF = (F.silu(gate) * value).to(x_TD.dtype)
            eight = list(rows(hidden_TF))
        ctx.save_for_backward(x_TD, w13_PD, w2_DF, both_TP, hidden_TF)
        return product((eight[0], eight[1]), rows(w2_DF), x_TD.dtype, exact_sums=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x_TD, w13_PD, w2_DF, both_TP, hidden_TF = ctx.saved_tensors
        grad_TD = grads[0].contiguous()
        grad_TF = product(rows(grad_TD), rows(w2_DF.t()), grad_TD.dtype, exact_sums=True)
        if usable(grad_TD):
            from .swiglu import swiglu_float8_gradient

            grad_TP, *eight = swiglu_float8_gradient(both_TP, grad_TF)
        else:
            with torch.enable_grad():
                both = both_TP.float().requires_grad_()
                gate, value = both.chunk(2, -1)
                (grad,) = torch.autograd.grad(F.silu(gate) * value, both, grad_TF.float())
            grad_TP = grad.to(grad_TD.dtype)
            eight = list(rows(grad_TP))
        grad_x = product((eight[0], eight[1]), rows(w13_PD.t()), grad_TD.dtype, exact_sums=True)
        grad_w13 = (grad_TP.t() @ x_TD).to(w13_PD.dtype)
        grad_w2 = (grad_TD.t() @ hidden_TF).to(w2_DF.dtype)
        return grad_x, grad_w13, grad_w2


def feed_forward(x: Tensor, w13_PD: Tensor, w2_DF: Tensor) -> Tensor:
    """Compute w2 (silu(gate) * value), [..., D]; gate and value are the halves of w13 x.

    `x` must be of a 16-bit dtype; weights are kept as they are, in fp32.
    """
    flat: Tensor = _FeedForward.apply(x.flatten(0, -2), w13_PD, w2_DF)
    return flat.view(x.shape)
