"""Turn the fast start on or off, and look up the private names of torch and triton it stands on.

`TOKENLAW_FAST_START=0` turns off what these functions give. A name that this torch or triton lacks
turns off what needs it. The trainer then takes the plain way: slower to start, with equal results.
Tested with torch 2.11 (triton 3.6) and torch 2.15 (triton 3.9); pyproject.toml bounds torch.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Module and attribute of everything that compiler.py takes from triton and promises to nobody.
_OF_TRITON = (
    ("triton", "JITFunction.preload"),
    ("triton", "knobs.runtime.jit_cache_hook"),
    ("triton.runtime", "driver.set_active"),
    ("triton.runtime.cache", "triton_key"),
    ("triton.backends.compiler", "GPUTarget"),
    ("triton.backends.nvidia.driver", "CudaLauncher"),
    ("triton.backends.nvidia.driver", "CudaUtils"),
    ("triton.backends.nvidia.driver", "libcuda_dirs"),
)
_OF_ADAM = ("foreach", "fused", "decoupled_weight_decay", "amsgrad", "maximize")


def wanted() -> bool:
    """Return False if the environment turns the fast start off."""
    return os.environ.get("TOKENLAW_FAST_START") != "0"


def find(module: str, name: str) -> Any:
    """Return attribute `name` (dotted; "": the module itself), None if missing or not wanted."""
    if not wanted():
        return None
    try:
        value: Any = import_module(module)
        for part in filter(None, name.split(".")):
            value = getattr(value, part)
    except (ImportError, AttributeError):
        return None
    return value


def adam() -> Callable[..., None] | None:
    """Return torch's function behind Adam, if it takes the arguments that adamw.py gives."""
    function: Callable[..., None] | None = find("torch.optim.adam", "adam")
    if function is None or not {*_OF_ADAM} <= {*inspect.signature(function).parameters}:
        return None
    return function


def missing_of_triton() -> str | None:
    """Return the first private name of triton that is missing, or None if all are there."""
    for module, name in _OF_TRITON:
        holder, _, last = name.rpartition(".")
        if not hasattr(find(module, holder), last):  # the hook itself is None until it is set
            return f"{module}.{name}"
    return None
