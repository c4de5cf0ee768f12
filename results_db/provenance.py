"""Code, packages and machine of a run: recorded and compared, never part of its identity."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from .processes import host_name
from .strict_json import read_json

SNAPSHOT_COMMIT = (
    ".tokenlaw-commit.json"  # beside the packages of a code snapshot, which is no git repository
)
# The folder that holds the package tokenlaw: a checkout, a code snapshot or site-packages. Links
# are kept, because tokenlaw/results_db of a checkout is a link to results_db.
CODE_ROOT = Path(__file__).absolute().parents[2]
_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "safetensors",
    "lpips",
    "torch-fidelity",
    "pytorch-msssim",
    "sqlalchemy",
    "pydantic",
    "submitit",
    "ray",
)


def provenance(root: Path | None = None) -> dict[str, Any]:
    """Return the provenance of this code.

    {"commit": str or None, "dirty": bool or None, "versions": {package: version}, "host": str}. The
    commit is that of the snapshot file beside the packages if there is one, else git's; None when
    neither is there.
    """
    commit, dirty = _commit(root or CODE_ROOT)
    return {"commit": commit, "dirty": dirty, "versions": dict(_versions()), "host": host_name()}


@functools.cache
def _commit(root: Path) -> tuple[str | None, bool | None]:
    snapshot = root / SNAPSHOT_COMMIT
    if snapshot.exists():
        content = read_json(snapshot)
        return content["commit"], content["dirty"]
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installed copy inside somebody else's repository (a .venv, say) must not claim that
    # repository's commit.
    if top is None or Path(top).resolve() != root.resolve():
        return None, None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    changes = _git(root, "status", "--porcelain")
    return commit or None, None if changes is None else bool(changes)


def cpu_name() -> str:
    """Name of this machine's processor, as runs on a CPU record their hardware."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU {line.split(':', 1)[1].strip()}"
    except OSError:
        pass
    return f"CPU {platform.machine()}"


def ask_gpus(field: str) -> list[str] | None:
    """Return a field of each GPU of this machine, as its driver tells; None without an answer."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else None


def _git(root: Path, *arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # The folder is the code that is running, so it is trusted; in containers it often belongs to
    # another user.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "-c",
        "core.fsmonitor=false",
        "--no-optional-locks",
        *arguments,
    ]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=30
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)
