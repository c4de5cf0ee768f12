"""Which GPUs and CPU cores this process may use, found without importing torch."""

from __future__ import annotations

import os
from pathlib import Path

from ...results_db.provenance import ask_gpus

_DRIVER = Path("/proc/driver/nvidia/gpus")
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs as CUDA_VISIBLE_DEVICES takes them; empty when there are none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        # CUDA stops reading at the first invalid one; -1 is the usual way to hide all.
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return tuple(names[:end])
    indices = ask_gpus("index")
    if indices is not None:
        return tuple(index for index in indices if index.isdigit())
    if _DRIVER.is_dir():
        return tuple(str(index) for index in range(len(list(_DRIVER.iterdir()))))
    return ()


def usable_cores() -> int:
    """CPU cores this process may use: its affinity, or less where a container has a smaller
    share.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = _CGROUP_CPU.read_text().split()[:2]
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, round(int(quota) / int(period))))
