"""Fixtures of all tests: one torch thread, no variables of the user's, a home of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Folders of tests are called like the packages that they test; the packages come first.
sys.path.insert(0, str(ROOT))

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums split over threads round differently, and tests share the machine's cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no home, database or data folder that happens to be set on this machine."""
    for name in ("TOKENLAW_HOME", "TOKENLAW_DB", "TOKENLAW_JOB", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty $TOKENLAW_HOME."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("TOKENLAW_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real image sets: $TOKENLAW_DATA, or ../shared/data beside the project.

    Skips, saying so, where there is none.
    """
    named = os.environ.get("TOKENLAW_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no image sets at {folder}: set TOKENLAW_DATA to their folder")
    return folder
