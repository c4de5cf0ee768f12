"""A driver shows Ray's token where there is one: clusters started after it ask for it."""

import os
from pathlib import Path

import pytest

from tokenlaw.slurm.executors.ray import _show_token


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    # Set first, so that the test's end takes away what the code sets.
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")


def mode() -> str | None:
    _show_token()
    return os.environ.get("RAY_AUTH_MODE")


def test_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mode() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    assert mode() == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert mode() == "disabled", "what the user says stands"


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_where_the_environment_has_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "secret")
    assert mode() == "token"
