"""Columns of plain text."""

from tokenlaw.sweeps.cli.text_table import columns


def test_titles_and_cells_are_aligned():
    text = columns(
        [("run", "left"), ("step", "right"), ("", "left")],
        [["a", "10", "an [/odd] word"], ["longer", "7", ""]],
    )
    assert text.split("\n") == ["run     step", "a         10  an [/odd] word", "longer     7"]


def test_titles_alone():
    assert columns([("run", "left"), ("step", "right")], []) == "run  step"
