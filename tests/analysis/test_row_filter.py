"""The language of --where: what it answers, and that it runs nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis.row_filter import MAX_LENGTH, keep

FRAME = pd.DataFrame(
    {
        "C": [1e18, 1e19, 1e20],
        "arm": ["vq", "crt", "vq"],
        "Model Size": [1, 2, 3],
        "finished": [True, False, True],
        "loss": [1.0, None, 2.0],
        "maybe": [True, None, False],
    }
)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("C > 1e18", [0, 1, 1]),
        ("1e18 < C <= 1e20 and arm == 'vq'", [0, 0, 1]),
        ("arm in ('vq', 'crt') and not arm == 'vq'", [0, 1, 0]),
        ("arm not in ['vq']", [0, 1, 0]),
        ("C in {1e18, 1e20}", [1, 0, 1]),
        ("not finished", [0, 1, 0]),
        ("finished", [1, 0, 1]),
        ("maybe", [1, 0, 0]),
        ("`Model Size` >= 2", [0, 1, 1]),
        ("loss == None", [0, 1, 0]),
        ("loss != None or finished", [1, 0, 1]),
        ("loss < 5", [1, 0, 1]),
        ("C > -1", [1, 1, 1]),
        ("arm == '`C`'", [0, 0, 0]),
        ("arm > 'd'", [1, 0, 1]),
        ("True", [1, 1, 1]),
        ("  C > 1e19  ", [0, 0, 1]),
        ("arm == 'vq' or arm == 'crt' and C > 1e19", [1, 0, 1]),
    ],
)
def test_answers(expression: str, expected: list[int]) -> None:
    found = keep(FRAME, expression)
    assert found.dtype == bool
    assert found.tolist() == [bool(one) for one in expected]


@pytest.mark.parametrize(
    "expression",
    [
        "C.to_csv('stolen.csv')",
        "@pd.read_csv('x')",
        "__import__('os').system('true')",
        "C > 1 and arm.str.len() > 1",
        "[one for one in arm]",
        "(lambda: 1)()",
        "C if finished else C",
        "arm[0] == 'v'",
        "f'{C}' == 'a'",
        "C > 1; C",
        "(big := C) > 1",
        "C is None",
        "arm in 'vq'",
        "arm in (C, 'vq')",
        "1 in (1, 2)",
        "b'vq' == arm",
        "arm > 3",
        "C < None",
        "C",
        "1",
        "'vq'",
        "not C",
        "nope > 1",
        "",
        "\x00",
        "(" * 300 + "C > 1" + ")" * 300,
        "C > 1 or " * MAX_LENGTH + "C > 1",
        "not " * 400 + "finished and",
    ],
)
def test_refuses(expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^where: ") as error:
        keep(FRAME, expression)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_deep_nesting_ends_in_an_answer_or_one_line() -> None:
    expression = "not " * 300 + "finished"
    assert len(expression) < MAX_LENGTH
    assert keep(FRAME, expression).tolist() == FRAME["finished"].tolist()


def test_names_the_nearest_column() -> None:
    with pytest.raises(ValueError, match="did you mean 'loss'"):
        keep(FRAME, "los > 1")


def test_any_text_is_answered_or_refused() -> None:
    rng = np.random.default_rng(0)
    pieces = ["C < 1", "arm == 'vq'", "finished", "'vq'", "and", "or", "not", "(", ")", ".", "in"]
    answered = 0
    for _ in range(500):
        text = " ".join(rng.choice(pieces, size=rng.integers(1, 9)))
        try:
            found = keep(FRAME, text)
        except ValueError:
            continue
        answered += 1
        assert found.shape == (3,)
    assert answered > 0
