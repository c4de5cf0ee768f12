import pytest


@pytest.fixture(autouse=True)
def own_settings(monkeypatch):
    """Tests say themselves where runs and databases are."""
    monkeypatch.delenv("TOKENLAW_DB", raising=False)
    monkeypatch.delenv("TOKENLAW_HOME", raising=False)
