"""What a process does before its first iteration besides the set-up of the run itself: imports,
the helpers of the compiler, the device, its end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING, Any

from ...results_db.processes import collector_paused

if TYPE_CHECKING:
    import torch

COMPILING = ("tokenizer", "generator", "codes")  # kinds that compile, whatever their size


def get_ready(
    kind: str, device: torch.device, compiled: bool, activation_memory: float = 1.0
) -> None:
    """Imports now what runs of `kind` import anyway, while the device opens in another thread.

    Where there are kernels of our own, little is left to torch's compiler, and it is not imported.
    Its worker processes need seconds to start, and until then kernels are compiled one by one in
    this process. Left alone, they start with the first compilation. `activation_memory` is a
    setting of runs (run.py).
    """
    from .. import kernels
    from . import switch

    with ThreadPoolExecutor(1) as pool, collector_paused():
        opened = pool.submit(_open, device)
        if compiled and kernels.available(device):
            # It reads half a gigabyte of Triton, for which the first kernel would wait.
            # Private: triton_key (triton 3.6, 3.9).
            if (triton_key := switch.find("triton.runtime.cache", "triton_key")) is not None:
                Thread(target=triton_key, daemon=True).start()
        elif compiled and kind in COMPILING:
            if device.type == "cuda":
                # Private: maybe_warm_pool (torch 2.11, 2.15).
                warm_pool = switch.find("torch._inductor.async_compile", "maybe_warm_pool")
                if warm_pool is not None:
                    warm_pool()
            switch.find("torch._inductor.compile_fx", "")  # imports it; private (torch 2.11, 2.15)
            import torch._functorch.config

            torch._functorch.config.activation_memory_budget = activation_memory
        opened.result()


def _open(device: torch.device) -> None:
    """Makes the GPU's context, which the first tensor would."""
    if device.type == "cuda":
        import torch

        torch.zeros(1, device=device)


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
