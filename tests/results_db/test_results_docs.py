"""docs/results.md says what the code says."""

import re
from pathlib import Path

import pytest

from tokenlaw.results_db import columns, engine, record

TEXT = (Path(engine.__file__).resolve().parents[1] / "docs" / "results.md").read_text()


def table_after(heading):
    """name -> (dtype, meaning) of the first table under a heading."""
    section = TEXT.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {
        name: (dtype, meaning)
        for name, dtype, meaning in re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", section, re.M)
    }


@pytest.mark.parametrize(
    ("heading", "expected"),
    [("The long table", columns.LONG_COLUMNS), ("The wide table", columns.WIDE_COLUMNS)],
)
def test_the_columns_are_documented(heading, expected):
    documented = table_after(heading)
    assert list(documented) == list(expected)
    assert documented == expected


def test_the_states_and_suffixes_are_documented():
    for state in record.STATES:
        assert f"`{state}`" in TEXT
    for suffix in columns.WIDE_SUFFIXES:
        assert f"`METRIC_{suffix}`" in TEXT
