"""Triton kernels of our own, where they clearly beat what torch or its compiler makes.

Each module holds one operation with its gradient; it imports triton, so it is imported inside the
function that needs it, after `usable` has said that it can run. The plain code that it replaces
stays where it is used, runs everywhere else, and is what tests compare it with: by Triton's
interpreter, on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

HAS_TRITON = find_spec("triton") is not None  # comes with torch for GPUs on Linux


def available(device: torch.device) -> bool:
    """Tell if kernels can run there."""
    return HAS_TRITON and device.type == "cuda"


def usable(x: Tensor) -> bool:
    """Tell if kernels can work on `x`."""
    return available(x.device)


def adopted_by(model: nn.Module, device: torch.device, *, recompute: bool = False) -> bool:
    """Switch `model` to kernels where it has any for the device (its `use_kernels`).

    Returns: True if it runs by kernels now. There is little left to compile then.
    """
    adopt: Callable[[bool], None] | None = getattr(model, "use_kernels", None)
    if not available(device) or adopt is None:
        return False
    adopt(recompute)
    return True
