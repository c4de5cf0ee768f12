"""Checks of this machine: packages, devices, disk, database, clusters, pretrained weights."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ...results_db import durable
from ...trainer import parts


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `failed` stops every study; `missing` stops only what needs it."""

    name: str
    status: Literal["ok", "missing", "failed"]
    finding: str


def examine(home: str | os.PathLike[str]) -> list[Check]:
    """Run all checks. They change nothing but a temporary folder under `home`."""
    checks = [_packages(), _devices(), *_disk(Path(home)), _database(Path(home))]
    checks += [_slurm(), _ray()]
    for folder in ("losses", "metrics"):
        checks += [_weights(folder, name) for name in parts.names(folder)]
    return checks


def _packages() -> Check:
    names = ("torch", "torchvision", "numpy", "pandas", "scipy", "sqlalchemy", "matplotlib")
    found, lacking = [f"python {sys.version.split()[0]}"], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lacking.append(name)
    if lacking:
        return Check("packages", "failed", f"not installed: {', '.join(lacking)}")
    return Check("packages", "ok", ", ".join(found))


def _devices() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("devices", "ok", f"no GPU; {os.cpu_count()} CPU cores")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("devices", "ok", f"{len(gpus)} GPUs: {', '.join(sorted(set(gpus)))}")


def _disk(home: Path) -> list[Check]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=home) as folder:
            path = Path(folder) / "probe"
            durable.write_bytes(path, b"1")  # write, fsync, rename, fsync of the folder
            first = durable.create_exclusive(Path(folder) / "claim", b"1")
            second = durable.create_exclusive(Path(folder) / "claim", b"2")
    except OSError as error:
        return [Check("disk", "failed", f"{home}: {error}")]
    if not first or second:
        return [Check("disk", "failed", f"{home}: exclusive creation does not hold")]
    finding = f"{home.absolute()}: fsync, exclusive files; {free / 1e9:.0f} GB free"
    return [Check("disk", "ok" if free > 1e9 else "failed", finding)]


def _database(home: Path) -> Check:
    from ...results_db.engine import StoreError, database_address, opened

    try:
        with opened(home) as engine:
            name = engine.dialect.name
        shown = database_address(home)
    except (StoreError, OSError, ValueError) as error:
        return Check("database", "failed", " ".join(str(error).split()))
    return Check("database", "ok", f"{name}, {shown}")


def _slurm() -> Check:
    lacking = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if lacking:
        return Check("slurm", "missing", f"no {', '.join(lacking)} here; --on slurm needs them")
    return Check("slurm", "ok", str(shutil.which("sbatch")))


def _ray() -> Check:
    if find_spec("ray") is None:
        return Check("ray", "missing", "not installed; --on ray needs it")
    return Check("ray", "ok", f"ray {version('ray')}")


def _weights(folder: str, name: str) -> Check:
    """Check that the files that a loss or metric must load are there, with the right content."""
    title = f"{folder.rpartition('.')[2]}.{name}"
    try:
        module = parts.load(folder, name)
        files: Callable[..., dict[str, str]] | None = vars(module.Config).get("weights")
        needed = files(module.Config()) if files is not None else {}
    except (ImportError, TypeError) as error:
        return Check(title, "missing", str(error))
    if not needed:
        return Check(title, "ok", "needs no files")
    from ...trainer.models import pretrained

    for file, digest in needed.items():
        try:
            pretrained.find(file, digest, None, "other metrics work without it")
        except ValueError as error:
            return Check(title, "missing", str(error))
    return Check(title, "ok", ", ".join(needed))
