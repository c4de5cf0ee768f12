"""What the light modules may load: jobs and `tokenlaw --help` must start quickly."""

import subprocess
import sys
from pathlib import Path

import pytest

from tokenlaw import results_db

OTHERS = ("trainer", "sweeps", "slurm", "analysis")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("durable", ("sqlalchemy", "pandas", "numpy", "torch", "tokenlaw.results_db.record")),
        ("record", ("sqlalchemy", "pandas", "numpy", "torch", "pydantic")),
        ("spool", ("sqlalchemy", "pandas", "numpy", "torch", "pydantic")),
        ("read", ("torch", "alembic", *(f"tokenlaw.{name}" for name in OTHERS))),
    ],
)
def test_a_module_loads_only_what_it_needs(module, forbidden):
    code = f"import sys, tokenlaw.results_db.{module}; print(*sys.modules)"
    root = Path(results_db.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert f"tokenlaw.results_db.{module}" in loaded, done.stderr
    assert [name for name in forbidden if name in loaded] == []
