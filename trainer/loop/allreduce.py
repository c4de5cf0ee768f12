"""Sums over processes that carry gradients or stay in the log domain; without a process group, the
value itself. `dist` has the plain collectives of the loops.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as td
from torch import Tensor

from .distributed import active


class _Sum(torch.autograd.Function):
    """Every process's input enters every process's sum, so its gradient is the sum of all their
    gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        td.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(grads[0].contiguous())
        return total


def sum_over_processes(x: Tensor) -> Tensor:
    """Element-wise sum of all processes' `x`, differentiable any number of times.

    Gradients of parameters are then those of the sum of all processes' losses; averaged over
    processes, as the loops do, those of the mean loss.
    """
    return _Sum.apply(x) if active() else x


def logsumexp_over_processes(x: Tensor) -> Tensor:
    """Element-wise log of the sum of all processes' exp(x). Not differentiable."""
    if not active():
        return x
    top = x.detach().clone()
    td.all_reduce(top, op=td.ReduceOp.MAX)
    # An element that is -inf everywhere stays so; -inf minus -inf would be NaN.
    shift = torch.where(torch.isinf(top), torch.zeros_like(top), top)
    total = (x.detach() - shift).exp()
    td.all_reduce(total)
    return total.log() + shift
