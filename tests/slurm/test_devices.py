"""GPUs and cores, found without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tokenlaw.slurm.worker import devices


@pytest.mark.parametrize(
    ("value", "gpus"),
    [
        ("0,1", ("0", "1")),
        ("3", ("3",)),
        ("", ()),
        ("-1", ()),
        ("0,-1,2", ("0",)),
        ("GPU-a1, GPU-b2", ("GPU-a1", "GPU-b2")),
    ],
)
def test_the_visible_ones(
    monkeypatch: pytest.MonkeyPatch, value: str, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert devices.visible_gpus() == gpus


def test_the_drivers_own_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.visible_gpus() == ("0", "1", "2")
    script.write_text("#!/bin/sh\nexit 9\n")
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "none")
    assert devices.visible_gpus() == ()
    (tmp_path / "none" / "0000:01:00.0").mkdir(parents=True)
    assert devices.visible_gpus() == ("0",)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("junk", 8)]
)
def test_a_containers_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(devices, "_CGROUP_CPU", tmp_path / "cpu.max")
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(8)))
    assert devices.usable_cores() == cores


def test_no_heavy_import_is_needed_to_ask() -> None:
    code = (
        "import sys; from tokenlaw.slurm import launch; "
        "from tokenlaw.slurm.follow import cancel, status; "
        "from tokenlaw.slurm.executors import local, slurm; "
        "print([m for m in ('torch', 'submitit', 'ray', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
