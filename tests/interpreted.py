"""Kernels on the CPU, by Triton's interpreter: a test file runs itself as a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def output(file: str, *arguments: object) -> str:
    """What the test file prints with these arguments. Triton decides at its import whether it
    interprets, so this takes a process of its own.
    """
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch for GPUs)")
    places = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
    }
    command = [sys.executable, file, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
