"""Build modules without drawing their weights, for weights that are read from a file next.

Drawing those of VQ-16 takes half a second.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import switch


def undrawn() -> AbstractContextManager[Any]:
    """Return a context in which modules leave their weights as the memory happens to be.

    With the fast start off, weights are drawn inside as everywhere.
    """
    return _Undrawn() if switch.wanted() else nullcontext()


class _Undrawn(TorchFunctionMode):
    # Private: that torch.nn.init and in-place draws pass through modes (torch 2.11, 2.15). Those
    # that do not are drawn: nothing else depends on it.
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func in (Tensor.uniform_, Tensor.normal_):
            return args[0]
        return func(*args, **kwargs)
