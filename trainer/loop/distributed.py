"""One process per device: the few collective operations that the train loops need.

Without a process group every function is the identity, so the loops read the same on one device.
What processes decide together travels between hosts, by gloo: no decision waits for a GPU.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

# Whether the present run is the work of one process, although a group has been formed.
_apart = False

T = TypeVar("T")

# What gloo says when a connection breaks; it has no class of errors for that.
_LOST = re.compile(r"[Cc]onnection (closed|reset) by peer|Broken pipe|Connection refused")


def active() -> bool:
    """Tell if several processes do this run together."""
    if _apart or not td.is_available() or not td.is_initialized():
        return False
    return td.get_world_size() > 1


def rank() -> int:
    return td.get_rank() if active() else 0


def world_size() -> int:
    return td.get_world_size() if active() else 1


def requested_world_size() -> int:
    """World size that the launcher announces (torchrun's or our executors' environment)."""
    return _number("WORLD_SIZE") or 1


def requested_rank() -> int:
    """Return this process's place in the group that the launcher announces."""
    return (_number("RANK") or 0) if requested_world_size() > 1 else 0


def wrong_size() -> str | None:
    """Describe the mismatch between the announced processes and those that were started.

    Our executors say how many a run is to have; without them the step of a cluster does.

    Returns: None when there is none.
    """
    asked = _number("TOKENLAW_PROCESSES")
    tasks = None if "WORLD_SIZE" in os.environ else _number("SLURM_NTASKS")
    if asked is None and (tasks or 1) > 1:
        return (
            f"SLURM_NTASKS: {tasks} processes, each of which would do the run alone; allowed: 1, "
            f"or WORLD_SIZE={tasks} with RANK, MASTER_ADDR and MASTER_PORT"
        )
    if asked is None or asked == requested_world_size():
        return None
    return (
        f"WORLD_SIZE: {requested_world_size()} is what the environment announces; "
        f"allowed is what was asked for: {asked}"
    )


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name}: {text!r} in the environment is no number; allowed: 0, 1, 2 ..")
    return int(text)


def start(device: torch.device, together: bool = True) -> None:
    """Join the process group that the environment announces: gloo, and NCCL for tensors on GPUs.

    Not `together`: the run that begins is done by the first process alone.

    Raises:
        ValueError: not all of them came within TOKENLAW_JOIN_SECONDS (600).
    """
    global _apart
    _apart = not together
    if together and requested_world_size() > 1 and not td.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, rank_, size = _met(float(os.environ.get("TOKENLAW_JOIN_SECONDS", "600")))
        td.init_process_group(backend, store=store, rank=rank_, world_size=size)


def _met(limit_seconds: float) -> tuple[Any, int, int]:
    """Wait until all processes of the group have come to its store; return (store, rank, size)."""
    size, ends = requested_world_size(), time.monotonic() + limit_seconds
    try:
        store, rank_, _ = next(rendezvous("env://", timeout=timedelta(seconds=limit_seconds)))
        # A store that the launcher keeps waits for nobody.
        store.add("tokenlaw/came", 1)
        while time.monotonic() < ends:
            if store.add("tokenlaw/came", 0) >= size:
                return store, rank_, size
            time.sleep(0.05)
    except (td.DistNetworkError, td.DistStoreError):
        pass
    raise ValueError(
        f"WORLD_SIZE: {size} processes are announced, and not all came within "
        f"{limit_seconds:.0f} s; allowed: as many as announced, or a longer TOKENLAW_JOIN_SECONDS"
    )


def stop() -> None:
    if td.is_available() and td.is_initialized():
        td.destroy_process_group()


def is_lost_process(error: BaseException) -> bool:
    """Tell if an error means that another process of the group has gone."""
    if not active():
        return False
    kinds = (td.DistNetworkError, td.DistBackendError)
    return isinstance(error, kinds) or bool(_LOST.search(str(error)))


def share(batch_size: int) -> slice:
    """Return this process's part of a global batch. ValueError when it does not divide evenly."""
    world = world_size()
    if batch_size % world:
        raise ValueError(
            f"batch_size: {batch_size} cannot be shared by {world} processes; "
            f"allowed are multiples of {world}"
        )
    part = batch_size // world
    return slice(rank() * part, (rank() + 1) * part)


def mean(value: Tensor) -> Tensor:
    """Mean over processes of a tensor that each of them has."""
    if not active():
        return value
    total = value.detach().clone()
    td.all_reduce(total)
    return total / world_size()


def any_of_each(flags: Sequence[bool]) -> list[bool]:
    """Tell for each flag if it is set in any process."""
    if not active():
        return list(flags)
    values = torch.tensor(flags, dtype=torch.uint8)
    td.all_reduce(values, op=td.ReduceOp.MAX)
    return values.bool().tolist()


def any_true(flag: bool) -> bool:
    """Tell if the flag is set in any process: all must stop at the same step."""
    return any_of_each([flag])[0]


def done_by_all(work: Callable[[], T]) -> T:
    """Run `work` in every process and return its result.

    A failure in one process is a failure in all, so that none goes on and waits for the others.
    """
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    if any_true(failure is not None):
        raise failure or RuntimeError("another process of the group failed; its output says why")
    return result


def broadcast_int(value: int) -> int:
    """Rank 0's number."""
    if not active():
        return value
    tensor = torch.tensor(value, dtype=torch.long)
    td.broadcast(tensor, 0)
    return int(tensor.item())


def broadcast_module(module: torch.nn.Module) -> None:
    """Rank 0's weights and buffers everywhere."""
    if active():
        for tensor in [*module.parameters(), *module.buffers()]:
            td.broadcast(tensor.data, 0)


def barrier() -> None:
    """Wait until every process has come here."""
    any_true(False)
