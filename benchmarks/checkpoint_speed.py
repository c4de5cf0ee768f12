"""How fast weights reach the disk: hashed and synced while they are written, and after.

    python benchmarks/checkpoint_speed.py [--folder DIR] [--megabytes 850] [--repeats 5]

850 MB are the weights of a 212M generator. Both ways end with the same durable folder, whose files
are then read and compared with its manifest; medians of turns that follow one another.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from tokenlaw.results_db import durable
from tokenlaw.trainer.loop import tensor_files

WAYS = ("one after the other", "meanwhile")


def weights(megabytes: int) -> nn.Module:
    """Layers of 16.8 MB, as those of a transformer are."""
    layers = max(1, round(megabytes / 16.8))
    return nn.ModuleList([nn.Linear(1024, 4096, bias=False) for _ in range(layers)])


class Nothing:
    """Stands for a sha256 of what is written; no file's hash is remembered then."""

    def update(self, piece: object) -> None:
        pass

    def hexdigest(self) -> str:
        return ""


def seconds(module: nn.Module, folder: Path, meanwhile: bool) -> float:
    """Of one folder."""
    parts: list[Any] = [mock.patch.object(tensor_files.hashlib, "sha256", Nothing)]
    parts.append(mock.patch.object(tensor_files, "remember_hash", lambda path, sha256: None))
    parts.append(mock.patch.object(tensor_files, "_SYNC_BYTES", 1 << 60))
    began = time.perf_counter()
    with ExitStack() as stack, durable.stage_folder(folder) as staging:
        for part in () if meanwhile else parts:
            stack.enter_context(part)
        tensor_files.write(staging.file("generator.safetensors"), module.state_dict())
        stack.close()  # the writer hashes what it has not been told
    taken = time.perf_counter() - began
    durable._hashed.clear()  # the files are read, not what is known of them
    durable.verify_folder(folder)
    durable.remove_folder(folder)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary files")
    parser.add_argument("--megabytes", type=int, default=850)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    module = weights(chosen.megabytes)
    size = sum(tensor.nbytes for tensor in module.state_dict().values()) / 1e6
    print(f"{datetime.date.today()}  {os.cpu_count()} cores, torch {torch.__version__}")
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="tokenlaw-bench-", dir=chosen.folder) as folder:
        for _ in range(chosen.repeats):
            for way in WAYS:
                found[way].append(seconds(module, Path(folder) / "final", way == WAYS[1]))
    print(f"{size:.0f} MB to {chosen.folder or tempfile.gettempdir()}")
    medians = {way: statistics.median(times) for way, times in found.items()}
    for way, median in medians.items():
        print(f"{way:<19} {median:6.2f} s  {size / 1e3 / median:5.2f} GB/s")
    print(f"ratio {medians[WAYS[0]] / medians[WAYS[1]]:.2f}")


if __name__ == "__main__":
    main()
