"""`tokenlaw quickstart STUDY` from plan to report, and again, with a study of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_of_seconds import STUDY

from tokenlaw.sweeps.cli.app import main


def test_from_plan_to_report_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.py").write_text(STUDY)
    home = tmp_path / "home"
    words = ["quickstart", str(tmp_path / "small.py"), "--device", "cpu", "--home", str(home)]
    words += ["--option", "seeds=[0]", "--option", "iterations=[4, 8, 16, 32]"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "7 of 7 runs done" in out and "base" in out and "report.html" in out
    assert (home / "studies" / "small" / "report.html").stat().st_size > 10_000
    assert main(words) == 0
    assert "0 submitted now" in capsys.readouterr().out
