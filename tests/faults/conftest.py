"""What the tests of faults share."""

from __future__ import annotations

from pathlib import Path

import pytest
from launched import launch


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an undisturbed launch."""
    home = tmp_path_factory.mktemp("calm")
    process = launch(home)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return home
