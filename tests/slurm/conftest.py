"""Where toy runs live, and who does them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from toy import FAKE_TRAINER

from tokenlaw.slurm import base, launch, snapshot
from tokenlaw.slurm.snapshot import Snapshot


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TOKENLAW_DB", raising=False)
    return tmp_path / "home"


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets every executor start the stand-in."""

    def command(*arguments: str, python: str = sys.executable) -> list[str]:
        return [python, str(FAKE_TRAINER), *arguments]

    monkeypatch.setattr(base, "trainer_command", command)
    return command


@pytest.fixture
def fake_trainer(fake_command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `fake_command`, and leaves the database out of it."""
    monkeypatch.setattr(launch, "ingest", lambda home: None)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_trainer: None) -> FakeCluster:
    """A fake SLURM whose jobs never run, so that they need no snapshot of the code."""
    code = Snapshot(path=tmp_path / "code", commit=None, dirty=None, warning=None)
    monkeypatch.setattr(snapshot, "take", lambda home, **_: code)
    return FakeCluster(tmp_path, monkeypatch)
