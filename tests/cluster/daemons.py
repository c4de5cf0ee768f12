"""What tests do with real daemons: launch toy studies, look at queues, wait."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_started: list[subprocess.Popen[str]] = []

ROOT = Path(__file__).resolve().parent.parent.parent
TOYS = ROOT / "tests" / "slurm"
PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running set of daemons."""

    base: Path
    environment: Mapping[str, str]

    def ask(self, *command: str) -> str:
        """The output of a command of theirs."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """The SLURM queue, also what ended a moment ago."""
        text = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%j|%P")
        names = ("id", "state", "name", "partition")
        return [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A copy of the code with the stand-in for the trainer."""

    path: Path

    def start(
        self,
        home: Path,
        place: Place,
        *,
        on: str = "slurm",
        generators: int = 1,
        wait: bool = True,
        options: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
        **more: Any,
    ) -> subprocess.Popen[str]:
        """`launch` of the toy study in a process of its own."""
        request = {
            "home": str(home),
            "executor": on,
            "generators": generators,
            "wait": wait,
            "options": {"poll_seconds": 1.0, **(options or {})} if on == "slurm" else options,
            **more,
        }
        environment = {**os.environ, **place.environment, "PYTHONPATH": f"{self.path}:{TOYS}"}
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(ROOT / "tests/cluster/launch_remote.py"),
                json.dumps(request),
            ],
            env={**environment, **(extra or {})},
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        _started.append(process)
        return process

    def launch(self, home: Path, place: Place, seconds: float = 120.0, **options: Any) -> Launched:
        """The same, to its end."""
        process = self.start(home, place, **options)
        return ended(process, seconds)


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A launch that has ended."""

    code: int
    text: str
    summary: dict[str, Any] = field(default_factory=dict)


def ended(process: subprocess.Popen[str], seconds: float = 120.0) -> Launched:
    """Waits for a launch; its last line is its summary."""
    try:
        text = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"launch did not end:\n{process.communicate()[0]}") from None
    lines = text.strip().splitlines()
    summary = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Launched(code=process.returncode, text=text, summary=summary)


def end_launches() -> None:
    """Kills the launches that a failed test left behind."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.communicate()


def make_project(path: Path) -> Project:
    """Copies the packages to `path`, with the stand-in as `python -m trainer`."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(TOYS / "fake_trainer.py", path / "trainer" / "__main__.py")
    return Project(path=path)


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Waits for `condition`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def counting(folder: Path, command: str, before: str = "", after: str = "") -> dict[str, str]:
    """A PATH on which `command` is wrapped: each call adds a line to `folder/command.calls`.

    `before` and `after` are shell lines around the real call, whose exit code is $code.
    """
    real = shutil.which(command)
    assert real is not None
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / command
    script.write_text(
        f'#!/bin/bash\necho "$*" >>{folder}/{command}.calls\n{before}\n'
        f'{real} "$@"\ncode=$?\n{after}\nexit $code\n'
    )
    script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def calls(folder: Path, command: str) -> int:
    """How often a wrapped command was called."""
    path = folder / f"{command}.calls"
    return len(path.read_text().splitlines()) if path.exists() else 0
