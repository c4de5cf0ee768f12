"""A command that must be refused without touching the home."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tokenlaw.sweeps.cli.app import main


def contents(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def refused(home, capsys):
    """Runs a command that must be refused without touching the home; gives its one line."""

    def run(*arguments: str, code: int = 2) -> str:
        before = contents(home)
        found = main([*arguments, "--home", str(home)])
        out, err = capsys.readouterr()
        assert (found, out) == (code, ""), err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        assert contents(home) == before
        return err

    return run
