"""What a launch shows while it waits."""

import io
import time

import pytest

from tokenlaw.slurm import progress
from tokenlaw.slurm.progress import (
    Lines,
    Quiet,
    Running,
    View,
    duration,
    make_display,
    summary_line,
)

RUNNING = Running(
    name="generator 0123abcd (crt)",
    phase="train",
    step=40,
    steps=100,
    unit_per_second=20.0,
    eta_seconds=3.0,
)
VIEW = View(
    total=9, done=4, failed=1, blocked=2, queued=1, share=0.5, eta_seconds=90.0, running=[RUNNING]
)


def test_one_line_tells_it_all() -> None:
    assert summary_line(VIEW) == (
        "4/9 done, 1 running, 1 waiting, 1 failed, 2 blocked, about 1 min 30 s left: "
        "generator 0123abcd (crt) train 40/100 20/s, 3 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_are_few_and_only_news(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    display = Lines(stream)
    for _ in range(10):
        display.show(VIEW)
    assert len(stream.getvalue().splitlines()) == 1
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now + 60)
    display.show(VIEW)
    assert len(stream.getvalue().splitlines()) == 1, "nothing changed"
    display.say("a word")
    assert stream.getvalue().endswith("a word\n")


def test_without_a_terminal_there_are_lines_and_without_progress_nothing() -> None:
    stream = io.StringIO()
    assert isinstance(make_display(True, stream), Lines)
    quiet = make_display(False, stream)
    assert isinstance(quiet, Quiet)
    quiet.show(VIEW)
    quiet.close()
    assert stream.getvalue() == ""


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    display = progress.Bars()
    display.show(VIEW)
    display.say("generator failed: [brackets] stay")
    display.show(VIEW, final=True)
    display.close()
    text = capsys.readouterr().err
    assert "4/9 done" in text and "[brackets] stay" in text
