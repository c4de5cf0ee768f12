"""What a process does before its first iteration besides the set-up of the run itself: imports,
the helpers of the compiler, the device, its end.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

COMPILING = ("tokenizer", "generator", "codes")  # kinds that compile, whatever their size


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside.

    Where many objects are made that stay (importing torch and its compiler: a million), each
    collection walks through all of them for nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def get_ready(
    kind: str, device: torch.device, compiled: bool, activation_memory: float = 1.0
) -> None:
    """Imports now what runs of `kind` import anyway, while the device opens in another thread.

    Where there are kernels of our own, little is left to torch's compiler, and it is not imported.
    Its worker processes need seconds to start, and until then kernels are compiled one by one in
    this process. Left alone, they start with the first compilation. `activation_memory` is a
    setting of runs (run.py).
    """
    from . import kernels

    with ThreadPoolExecutor(1) as pool, collector_paused():
        opened = pool.submit(_open, device)
        if compiled and kernels.available(device):
            from triton.runtime.cache import triton_key

            # It reads half a gigabyte of Triton, for which the first kernel would wait.
            Thread(target=triton_key, daemon=True).start()
        elif compiled and kind in COMPILING:
            if device.type == "cuda":
                from torch._inductor.async_compile import maybe_warm_pool

                maybe_warm_pool()
            import torch._functorch.config
            import torch._inductor.compile_fx

            torch._functorch.config.activation_memory_budget = activation_memory
        opened.result()


def _open(device: torch.device) -> None:
    """Makes the GPU's context, which the first tensor would."""
    if device.type == "cuda":
        import torch

        torch.zeros(1, device=device)


def die_with_parent(always: bool = False) -> None:
    """Asks Linux to kill this process when the one that started it dies, however it dies."""
    if os.environ.get("TOKENLAW_KEEP_ALIVE") and not always:
        return
    if sys.platform == "linux":
        parent = os.getppid()
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(75)  # try again


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile, however many shapes a worker meets that does run after run."""
    import torch

    allow_many_shapes()
    return torch.compile(function)


def allow_many_shapes() -> None:
    """From the ninth shape of a function on, torch would go on without compiling it, and say so in
    a warning only.
    """
    import torch._dynamo.config as limits

    limits.recompile_limit = 1024
    limits.accumulated_recompile_limit = 1 << 16
