"""What tests do with real daemons: launch toy studies, look at queues, wait."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_SECONDS = 400  # with the installation of packages
_started: list[subprocess.Popen[str]] = []

ROOT = Path(__file__).resolve().parent.parent.parent
TOYS = ROOT / "tests" / "slurm"


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


@dataclass(kw_only=True)
class Postgres:
    """A PostgreSQL server that can be killed and started again."""

    base: Path
    script: Path
    environment: Mapping[str, str]
    url: str = ""

    def start(self) -> None:
        lines = run_script(["bash", str(self.script), "up"], self.environment).split()
        self.url = next(
            line for line in lines if line.startswith("postgresql+psycopg://postgres@1")
        )

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, without a word to anybody."""
        pid = int((self.base / "data/postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for number in (pid, *map(int, children)):
            os.kill(number, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the server is dead")
        # Where nobody reaps it, the dead server looks alive to the next one.
        for lock in (self.base / "data/postmaster.pid", *self.base.glob("sock/.s.PGSQL.*")):
            lock.unlink()


def run_script(command: list[str], environment: Mapping[str, str]) -> str:
    """The output of a start script; its own words in the error when it fails."""
    done = subprocess.run(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_START_SECONDS,
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}"
    return done.stdout


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


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


def kept(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """`process`, which is ended with the test that started it."""
    _started.append(process)
    return process


def end_launches() -> None:
    """Kills the launches that a failed test left behind."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
        process.communicate()


def make_project(path: Path) -> Project:
    """Copies the packages to `path`, with the stand-in as `python -m tokenlaw.trainer`."""
    package = path / "tokenlaw"
    shutil.copytree(ROOT / "tokenlaw", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOYS / "fake_trainer.py", package / "trainer" / "__main__.py")
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
