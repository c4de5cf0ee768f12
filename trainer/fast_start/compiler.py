"""Compiles kernels in processes of their own, while this one sets a run up.

Triton's compiler is Python, and threads of one process take turns at it. So a process is forked off
before the GPU is opened and before there are threads, with torch imported; asked for kernels, it
forks one process for each. None of them knows of a GPU: functions that launch kernels run on small
tensors on the CPU with launches left out, and what they would have launched is compiled for the
target that the asking process names. All goes through Triton's cache on disk: whatever becomes of
the compiling processes, a kernel that is not there is compiled at its first launch as ever.

What this takes from Triton is private to it: the list and the versions tried are in switch.py. The
compiling process checks the list when it begins, and compiles nothing where a name is missing.
"""

from __future__ import annotations

import gc
import os
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import count
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from ...results_db.processes import die_with_parent
from ..kernels import HAS_TRITON
from . import switch

PATIENCE = 120.0  # seconds that kernels are waited for

Task = Callable[[], object]  # launches kernels
Kernel = tuple[str, str, str]  # module, function, and Triton's description of what to compile

_requests: Connection | None = None
_numbers = count()


def worthwhile() -> bool:
    """Whether this process may come to launch kernels that nobody else compiles, without asking the
    GPU. Of the processes of a host the first compiles for all.
    """
    gpu = any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg")))
    return switch.wanted() and HAS_TRITON and gpu and os.environ.get("LOCAL_RANK", "0") == "0"


def start() -> int | None:
    """Forks the compiling process off; call it before anything opens the GPU or starts threads.

    Its process id, or None when there is one already. It ends with this process.
    """
    global _requests
    if _requests is not None:
        return None
    ours, theirs = Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            _serve(theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    _requests = ours
    return pid


def ask(make_tasks: Callable[[], list[Task]], device: torch.device) -> Callable[[], str | None]:
    """Has the kernels compiled that the tasks launch; `make_tasks` is pickled. With no compiling
    process nothing happens.

    The function returned waits for the end. It gives a reason when not all could be compiled.
    """
    if _requests is None:
        return lambda: None
    number = next(_numbers)
    major, minor = torch.cuda.get_device_capability(device)
    try:
        target = "cuda", 10 * major + minor, 32
        _requests.send((number, _triton_environment(), target, make_tasks))
    except OSError as error:
        reason = _given_up(error)
        return lambda: reason
    return lambda: _answer(number)


def _triton_environment() -> dict[str, str]:
    """Variables that Triton reads; torch's compiler sets some when it comes to work."""
    return {name: value for name, value in os.environ.items() if name.startswith("TRITON_")}


def _answer(number: int) -> str | None:
    reason: str | None
    while _requests is not None:
        try:
            if not _requests.poll(PATIENCE):
                raise TimeoutError(f"no answer for {PATIENCE:.0f} s")
            answered, reason = _requests.recv()
        except (EOFError, OSError) as error:
            return _given_up(error)
        if answered == number:  # and not what an earlier run did not wait for
            return reason
    return "the compiling process was given up"


def _given_up(error: Exception) -> str:
    """Nothing more is asked for."""
    global _requests
    if _requests is not None:
        _requests.close()
        _requests = None
    return f"the compiling process: {type(error).__name__} {error}".strip()


# ---------------------------------------------------------------------------------- over there


def _serve(requests: Connection) -> None:
    die_with_parent(always=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the process that we end with
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # whose other ends deal with that process alone
        os.dup2(nothing, stream)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    gc.disable()
    gc.freeze()
    missing = switch.missing_of_triton()
    if missing is None:
        # What takes its time and is needed in any case, while nothing is asked for yet.
        from triton.runtime.cache import triton_key

        from ..kernels import causal_attention, residual_norm, swiglu, token_loss  # noqa: F401

        triton_key()
    done: set[tuple[str | None, Kernel]] = set()
    while True:
        try:
            number, environment, target, make_tasks = requests.recv()
        except (EOFError, OSError):
            return
        os.environ.update(environment)
        reason = missing and f"this Triton has no {missing}"
        try:
            if missing is None:
                _compile_all(target, make_tasks(), done)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        requests.send((number, reason))


def _compile_all(
    target: tuple[str, int, int], tasks: list[Task], done: set[tuple[str | None, Kernel]]
) -> None:
    """Each kernel in a process of its own, as far as there are cores; those `done` were before."""
    cache = os.environ.get("TRITON_CACHE_DIR")
    wanted = [kernel for kernel in launched(target, tasks) if (cache, kernel) not in done]
    if not wanted:
        return
    workers = min(len(wanted) + 1, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, get_context("fork"), lambda: die_with_parent(True)) as pool:
        jobs = [pool.submit(_compile, *kernel) for kernel in wanted]
        jobs.append(pool.submit(_build_utilities))
        for job in jobs:
            job.result()
    done.update((cache, kernel) for kernel in wanted)


class Standin:
    """What Triton asks its driver for before it launches."""

    def __init__(self, backend: str, arch: int, warp_size: int) -> None:
        self._target = backend, arch, warp_size

    def get_current_device(self) -> str:
        return str(self._target)

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*self._target)


def launched(target: tuple[str, int, int], tasks: list[Task]) -> list[Kernel]:
    """The kernels that tasks launch, each once; nothing is compiled, and Triton keeps the stand-in
    as its driver.
    """
    import triton

    found: dict[Kernel, None] = {}

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        function = fn.jit_function
        found[function.__module__, function.__name__, compile["specialization_data"]] = None
        return True  # as if it were compiled elsewhere: no launch

    triton.runtime.driver.set_active(Standin(*target))
    triton.knobs.runtime.jit_cache_hook = note
    try:
        for task in tasks:
            task()
    finally:
        triton.knobs.runtime.jit_cache_hook = None
    return list(found)


def _compile(module: str, name: str, description: str) -> None:
    import triton.backends.nvidia.driver as nvidia

    kernel = getattr(import_module(module), name).preload(description)
    if hasattr(nvidia, "make_launcher") and _links():  # a launcher in C for each, until Triton 3.6
        nvidia.CudaLauncher(kernel.src, kernel.metadata)


def _build_utilities() -> None:
    """The module in C that Triton's driver begins with."""
    from triton.backends.nvidia.driver import CudaUtils

    if _links():
        CudaUtils()


def _links() -> bool:
    """Whether there is the library of the GPU's driver, that modules in C need."""
    from triton.backends.nvidia.driver import libcuda_dirs

    try:
        return bool(libcuda_dirs())
    except AssertionError:
        return False
