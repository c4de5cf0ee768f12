"""One run from its folder to its endpoint: decode, claim, train, record.

The stages are functions from a `Run` to a `Result`; this file is all that they share.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..results_db.durable import MisplacedError, append_line, write_bytes
from ..results_db.masking import mask_secrets
from ..results_db.provenance import cpu_name
from ..results_db.record import Attempt, RunDir, read_endpoint
from ..results_db.strict_json import DamagedError
from .accounting import stored_config
from .accounting.config import STRICT, NonNegativeFloat, PositiveInt, Share
from .loop import distributed
from .metrics import Value
from .stop import Stop


class Preempted(Exception):
    """Asked to stop; the state is saved and another attempt goes on from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How and where a run is executed: nothing here changes a result, nothing here is hashed."""

    __pydantic_config__ = STRICT

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    locations: dict[str, Any] = field(default_factory=dict)  # {"data": folder, "weights": {..}}
    checkpoint_seconds: NonNegativeFloat = 120.0  # time between checkpoints
    checkpoint_steps: PositiveInt | None = None  # also every so many iterations
    log_every: PositiveInt = 10  # iterations between lines of log.jsonl
    # Whether to be faster than plain modules, by kernels of our own or torch.compile; None: on GPUs
    # only, and small tokenizers stay plain. Generators without AdaLN use kernels on GPUs anyway.
    compile: bool | None = None
    executor: str = "local"  # recorded in the attempt
    micro_batch: PositiveInt | None = None  # images per backward pass of stage 2; None: all
    # Share of a step's activations that is held at once. Stage 2: the batch passes in parts, unless
    # micro_batch says so. Stage 1: the rest is computed again in the backward pass; by kernels that
    # is all or, below 1, about half.
    activation_memory: Share = 1.0
    any_world_size: bool = False  # go on with another number of processes than saved the state
    cache_codes_bytes: PositiveInt = 16 << 30  # codes up to this size are kept on the device


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a stage hands back; `worker.py` adds FLOPs, provenance and times."""

    values: list[Value]
    columns: dict[str, Any] = field(default_factory=dict)


class Run:
    """A claimed run: its config, its parents, and how to report on it."""

    def __init__(
        self,
        run_dir: RunDir,
        config: Any,
        parents: Mapping[str, RunDir],
        settings: Settings,
        attempt: Attempt,
        device: torch.device,
        stop: Stop,
    ) -> None:
        self.dir = run_dir
        self.id = run_dir.id
        self.kind = run_dir.kind
        self.config = config
        self.parents = parents
        self.settings = settings
        self.attempt = attempt
        self.device = device
        self.artifacts: list[dict[str, Any]] = []
        self._stop = stop
        self._last_save = time.monotonic()
        self._started = time.monotonic()
        self.last_step: int | None = None  # of the newest heartbeat: where a failure is said to be
        self.seconds_before = 0.0  # spent by earlier attempts, up to the checkpoint taken

    @property
    def compile(self) -> bool:
        """Whether to use torch.compile, or kernels where there are any."""
        wanted = self.settings.compile
        return self.device.type == "cuda" if wanted is None else wanted

    def parent_config(self, role: str) -> Any:
        """The decoded config of a parent."""
        return stored_config.read(self.parents[role]).config

    def parent_endpoint(self, role: str) -> dict[str, Any]:
        """The endpoint of a parent, which is finished."""
        endpoint = read_endpoint(self.parents[role])
        assert endpoint is not None
        return endpoint

    def stopping(self) -> bool:
        """Whether a signal asked this process to stop: save, then raise Preempted."""
        return distributed.any_true(self._stop.requested)

    def save_due(self, step: int) -> bool:
        """Whether a checkpoint is due before iteration `step`; the same answer in all processes."""
        every = self.settings.checkpoint_steps
        late = time.monotonic() - self._last_save >= self.settings.checkpoint_seconds
        if distributed.any_true(late) or (every is not None and step % every == 0):
            self._last_save = time.monotonic()
            return True
        return False

    def seconds(self) -> float:
        """Seconds of work so far, over all attempts whose work was kept."""
        return self.seconds_before + time.monotonic() - self._started

    def progress(self, step: int, steps: int, phase: str, unit_per_second: float) -> None:
        """Heartbeat for `status` and the progress bars; at most one write a second."""
        self.last_step = step
        if distributed.rank() == 0:
            rate = round(unit_per_second, 3)
            beat = self.attempt.heartbeat.beat
            beat(step=step, steps=steps, phase=phase, unit_per_second=rate)

    def log(self, entry: Mapping[str, Any]) -> None:
        """One line in log.jsonl. Raises Fenced when a newer attempt at the run exists."""
        if distributed.rank() == 0:
            self.attempt.check()
            entry = {**entry, "time": round(time.time(), 3)}
            if self.device.type == "cuda":
                entry["memory_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
            line = json.dumps(entry, allow_nan=True, separators=(",", ":"))
            append_line(self.dir.log_path, line)

    def warn(self, message: str) -> None:
        """A warning on stderr and in the log."""
        message = mask_secrets(message)
        print(f"{self.kind} {self.id}: {message}", file=sys.stderr, flush=True)
        self.log({"warning": message})

    def artifact(self, name: str, content: np.ndarray | Mapping[str, np.ndarray] | bytes) -> Path:
        """Writes artifacts/`name` durably and lists it in the endpoint.

        The ending says how: .npy takes an array, .npz a dict of arrays, others take bytes.
        """
        if isinstance(content, bytes):
            data = content
        else:
            buffer = io.BytesIO()
            if isinstance(content, np.ndarray):
                np.save(buffer, content, allow_pickle=False)
            else:
                np.savez_compressed(buffer, allow_pickle=False, **content)
            data = buffer.getvalue()
        path = self.dir.artifacts_path / name
        if distributed.rank() == 0:
            self.attempt.check()
            write_bytes(path, data)
        self.list_artifact(name, name, hashlib.sha256(data).hexdigest(), len(data))
        return path

    def list_artifact(self, name: str, file: str, sha256: str, size: int) -> None:
        """Lists a file of the run folder, written elsewhere, in the endpoint."""
        self.artifacts = [entry for entry in self.artifacts if entry["name"] != name]
        self.artifacts.append({"name": name, "file": file, "sha256": sha256, "bytes": size})


def own_endpoint(run_dir: RunDir) -> dict[str, Any] | None:
    """The run's endpoint; None also for a damaged one, which the next is written in place of."""
    try:
        return read_endpoint(run_dir)
    except MisplacedError:
        raise
    except DamagedError:
        return None


def hardware_name(device: torch.device) -> str:
    """Name of the device, as it is recorded and used to look up throughput."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()
