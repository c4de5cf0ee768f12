"""The tests' side of `fake_slurm.py`: looks into its file and moves jobs on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("fake_slurm.py")


class FakeCluster:
    """A queue in a file, on the PATH of this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "slurm.json"
        self._write({"next": 100, "jobs": {}, "calls": {}, "switches": {}, "environment": {}})
        names = folder / "bin"
        names.mkdir()
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sacctmgr", "srun"):
            # -S and -E: it needs nothing but the standard library, and starts faster so.
            command = f"{sys.executable} -S -E {names / name}.py"
            (names / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (names / name).chmod(0o755)
            (names / f"{name}.py").symlink_to(SCRIPT)
        monkeypatch.setenv("PATH", f"{names}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("FAKE_SLURM", str(self.file))

    def switch(self, **switches: object) -> None:
        """Sets what goes wrong from now on."""
        state = self.state()
        state["switches"] |= switches
        self._write(state)

    def move(self, to: str, *, reason: str = "None", jobs: list[str] | None = None) -> None:
        """Puts jobs (all) into another state."""
        state = self.state()
        for job_id in jobs or list(state["jobs"]):
            state["jobs"][job_id] |= {"state": to, "reason": reason}
        self._write(state)

    def forget(self) -> None:
        """The queue does not list any job any more."""
        state = self.state()
        state["jobs"] = {}
        self._write(state)

    def calls(self, command: str) -> int:
        """How often a command was called."""
        return len(self.state()["calls"].get(command, []))

    def jobs(self) -> dict[str, dict[str, str]]:
        return self.state()["jobs"]

    def state(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())

    def _write(self, state: dict[str, Any]) -> None:
        self.file.write_text(json.dumps(state))
