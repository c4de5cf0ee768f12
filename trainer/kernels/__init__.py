"""Triton kernels of our own, where they clearly beat what torch or its compiler makes.

Each module holds one operation with its gradient; it imports triton, so it is imported inside the
function that needs it, after `usable` has said that it can run. The plain code that it replaces
stays where it is used, runs everywhere else, and is what tests compare it with: by Triton's
interpreter, on a CPU.
"""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

HAS_TRITON = find_spec("triton") is not None  # comes with torch for GPUs on Linux


def usable(x: Tensor) -> bool:
    """Whether kernels can work on `x`."""
    return HAS_TRITON and x.is_cuda
