"""Coverage gates of frontiers, small: benchmarks/coverage.py has the same designs at full size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import coverage as simulation  # noqa: E402  (the benchmark of that name)

TRIALS, SLACK = 200, 0.03
CHOSEN = (
    "1 run against 5 equally good, pareto",
    "1 run against 10 equally good, binned",
    "1 seed against 3 of the same cells",
    "5 tokenizers each, no difference",
)


@pytest.mark.parametrize("name", CHOSEN)
def test_intervals_hold_as_often_as_they_say(name: str) -> None:
    (design,) = [one for one in simulation.designs() if one.name == name]
    row = simulation.simulate(design, TRIALS, draws=200)
    assert row.passed(SLACK, widest=1.7), row


def test_a_true_gain_is_called_so_and_one_tokenizer_never_is() -> None:
    found = {one.name: one for one in simulation.designs()}
    row = simulation.simulate(found["true gain of 1.2, 1 run against 3"], 20, draws=200)
    assert row.significant >= 0.8, row
    row = simulation.simulate(found["1 tokenizer each, no difference"], 10, draws=100)
    assert row.significant == 0.0, row
