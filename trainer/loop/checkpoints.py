"""Checkpoints: weights and optimiser state as safetensors, the rest as JSON, in one durable folder.

No RNG state is kept: every step draws from seeds made of (seed, step), see `optim.derive_seed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ...results_db.durable import MisplacedError, remove_folder, stage_folder, verify_folder
from ...results_db.record import RunDir
from ...results_db.recorded_files import FINAL, folder_cure, staged_manifest
from ...results_db.state import read_attempts
from ...results_db.strict_json import DamagedError, canonical_json, read_json, read_plain
from ..accounting import trunks
from ..fast_start.adamw import AdamW
from . import distributed, tensor_files

if TYPE_CHECKING:
    from ..run import Run

KEEP = 2  # the newest, and the one before in case the newest is damaged
_NAME = re.compile(r"step-(\d{8})-a(\d{3,6})")


def folder_name(step: int, attempt: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}-a{attempt:03d}"


def checkpoints(run_dir: RunDir) -> list[tuple[int, int, Path]]:
    """Return (step, attempt, folder) of every checkpoint, newest first."""
    if not run_dir.checkpoints_path.is_dir():
        return []
    found = []
    for path in run_dir.checkpoints_path.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and not path.is_symlink():
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found, reverse=True)


def save(
    run: Run,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, AdamW],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint of the state before iteration `step`, then drop all but the last two.

    Of several processes the first writes. Raises Fenced when a newer attempt at the run exists;
    OSError leaves the older ones untouched.
    """
    if distributed.rank() > 0:
        return
    run.attempt.check()
    final = run.dir.checkpoints_path / folder_name(step, run.attempt.number)
    if final.exists():
        return
    write_folder(final, run.attempt.number, step, modules, optimizers, extra or {})
    for _, _, path in checkpoints(run.dir)[KEEP:]:
        remove_folder(path)


def load(
    run: Run,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, AdamW],
) -> tuple[int, dict[str, Any]] | None:
    """Restore the newest checkpoint that verifies; return (step, extra), or None without one.

    A damaged one is named in the log and the one before is taken. Of several processes all take the
    newest that each of them can read. When all are damaged the run refuses: starting over in
    silence would hide a broken disk. It also refuses a checkpoint of another run, which would be
    dropped in time, and one that another number of processes left.
    """
    found = checkpoints(run.dir) if distributed.rank() == 0 else []
    count = distributed.broadcast_int(len(found))
    for index in range(count):
        step, attempt, _ = found[index] if found else (0, 0, None)
        step, attempt = distributed.broadcast_int(step), distributed.broadcast_int(attempt)
        path = run.dir.checkpoints_path / folder_name(step, attempt)
        state: dict[str, Any] = {}
        why = "another process cannot read it"
        try:
            state = read_folder(path, modules, optimizers)
        except MisplacedError:
            raise
        except DamagedError as error:
            why = str(error)
        if not distributed.any_true(not state):
            _check_world(run, attempt)
            return step, state["extra"]
        run.warn(f"checkpoint {path.name} is damaged ({why}); taking the one before")
    if count:
        raise DamagedError(
            f"{run.dir.checkpoints_path}: all {count} checkpoints are damaged; remove the folder "
            "to train from the start"
        )
    return None


def _check_world(run: Run, attempt: int) -> None:
    """Refuse to go on with another number of processes, whose sums have other bits."""
    claims = read_attempts(run.dir, [attempt])
    saved, now = claims[0].get("world_size"), distributed.world_size()
    if saved in (None, now) or run.settings.any_world_size:
        return
    raise ValueError(
        f"world size: {now}, but {run.dir.checkpoints_path} was saved by {saved} processes, and "
        f"another number ends with other bits; allowed: {saved}, or launch --any-world-size"
    )


def save_final(
    run: Run,
    modules: Mapping[str, nn.Module],
    step: int,
    optimizers: Mapping[str, AdamW] | None = None,
) -> None:
    """Save the weights that children of this run use: RUN/final/.

    With `optimizers`, which segments of a trunk leave, it holds all that a run needs to go on from
    `step`.
    """
    if distributed.rank() > 0:
        return
    final = run.dir.path / FINAL
    run.attempt.check()
    if final.exists():
        try:
            _verified(final)
            return
        except MisplacedError:
            raise
        except DamagedError:
            remove_folder(final)
    write_folder(final, run.attempt.number, step, modules, optimizers or {}, {})


def take_over(
    run: Run,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, AdamW],
) -> tuple[int, dict[str, Any]] | None:
    """Load the state that the parent `trunk` left, as `load` returns it; None without one.

    DamagedError names the fault.
    """
    if trunks.ROLE not in run.parents:
        return None
    path = run.parents[trunks.ROLE].path / FINAL
    state = read_folder(path, modules, optimizers)
    if state["step"] != run.config.trunk.start:
        raise DamagedError(f"{path}: is the state before iteration {state['step']}")
    return state["step"], {}


def load_weights(run_dir: RunDir, modules: Mapping[str, nn.Module]) -> None:
    """Load final weights of a finished run into `modules`. DamagedError names a damaged file."""
    read_folder(run_dir.path / FINAL, modules, {})


def write_folder(
    path: Path,
    attempt: int,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, AdamW],
    extra: Mapping[str, Any],
) -> None:
    """Write one durable folder of weights and states, marked with its run."""
    meta = {"step": step, "run": _run_of(path).owner}
    with stage_folder(path, attempt, meta=meta) as folder:
        for name, module in modules.items():
            tensor_files.write(folder.file(f"{name}.safetensors"), module.state_dict())
        for name, optimizer in optimizers.items():
            path_of_state = folder.file(f"{name}.optimizer.safetensors")
            tensor_files.write(path_of_state, _optimizer_tensors(optimizer))
        with open(folder.file("state.json"), "xb") as file:
            file.write(canonical_json({"step": step, "extra": dict(extra)}).encode())


def read_folder(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, AdamW],
) -> dict[str, Any]:
    """Verify a folder, then fill modules and optimisers from it; return state.json.

    Raises: DamagedError, or MisplacedError where it is of another run than it lies in.
    """
    manifest = _verified(path)
    needed = {f"{name}.safetensors" for name in modules}
    needed |= {f"{name}.optimizer.safetensors" for name in optimizers} | {"state.json"}
    if missing := sorted(needed - set(manifest["files"])):
        raise DamagedError(f"{path}: does not hold {', '.join(missing)}")
    for name, module in modules.items():
        module.load_state_dict(_read(path / f"{name}.safetensors"))
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, _read(path / f"{name}.optimizer.safetensors"))
    state = read_json(path / "state.json")
    assert isinstance(state, dict)
    return state


def _verified(path: Path) -> dict[str, Any]:
    """Return the manifest of a folder of weights after comparing all files with it."""
    run_dir = _run_of(path)
    staged_manifest(run_dir, path)
    try:
        return verify_folder(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; {folder_cure(run_dir, path)}") from error


def _run_of(path: Path) -> RunDir:
    """Return the run in whose folder RUN/final or RUN/checkpoints/NAME lies."""
    return RunDir(path.parent if path.name == FINAL else path.parent.parent)


def _read(path: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(path)


def _optimizer_tensors(optimizer: AdamW) -> dict[str, Tensor]:
    tensors = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"{index}.{key}"] = value
    # safetensors refuses an empty file: an optimiser that has not stepped has no state.
    return tensors or {"empty": torch.zeros(1)}


def _load_optimizer(optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name != "empty":
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state})


def truncate_log(run: Run, step: int) -> None:
    """Drop lines of log.jsonl from iteration `step` on: they will be written again."""
    path = run.dir.log_path
    if distributed.rank() > 0 or not path.exists():
        return
    kept = []
    run.attempt.check()
    for line in read_plain(path, limit_bytes=1 << 30).decode(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a line torn by a crash
        if entry.get("step", -1) < step:
            kept.append(line)
    from ...results_db.durable import write_bytes

    write_bytes(path, "".join(line + "\n" for line in kept).encode())
