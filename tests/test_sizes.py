"""Keep files short enough to read and functions short enough to see; name each exception."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")
FILE_LINES, FUNCTION_LINES = 500, 100

# What is longer, and why. At most six files and ten functions.
LONG_FILES = {
    "analysis/drawing/panels.py": "the panels of all scaling figures share their tidy tables",
    "analysis/drawing/style.py": "legends and labels of our own, until matplotlib lays them out",
    "trainer/accounting/config.py": "the five configs refer to one another",
    "trainer/kernels/group_norm.py": "forward and backward of one kernel family",
    "trainer/kinds/evaluation.py": "one kind of run in one file, read from top to bottom",
}
LONG_FUNCTIONS = {
    "trainer/kinds/tokenizer.py:main": "a training loop, read from top to bottom",
    "trainer/kinds/generator.py:main": "a training loop, read from top to bottom",
    "trainer/kinds/codes.py:main": "one kind of run, read from top to bottom",
    "results_db/migrations/versions/0001_first_schema.py:upgrade": "a frozen schema",
    "analysis/table.py:prepare": "the filters of a table, in their order",
}
PARAMETERS = 8
# Kernels and the command line aside, as their callers are a compiler and typer.
FREE = ("trainer/kernels/", "sweeps/cli/")
MANY_PARAMETERS = {
    "slurm/launch.py:launch": "the options of the command line, each by its keyword",
    "analysis/frontiers/envelopes.py:draw": "the options of an envelope, each by its keyword",
}


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_functions_have_few_parameters() -> None:
    many = set()
    for path in modules():
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or name.startswith(
                FREE
            ):
                continue
            arguments = node.args
            taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            taken += [star for star in (arguments.vararg, arguments.kwarg) if star is not None]
            if len([each for each in taken if each.arg not in ("self", "cls")]) > PARAMETERS:
                many.add(f"{name}:{node.name}")
    assert many == set(MANY_PARAMETERS), "a reason is missing, or no longer needed"


def test_files_and_functions_are_short_but_for_those_with_a_reason() -> None:
    files, functions = set(), set()
    for path in modules():
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        if len(text.splitlines()) > FILE_LINES:
            files.add(name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                if node.end_lineno - node.lineno + 1 > FUNCTION_LINES:
                    functions.add(f"{name}:{node.name}")
    assert files == set(LONG_FILES), "a reason is missing, or no longer needed"
    assert functions == set(LONG_FUNCTIONS), "a reason is missing, or no longer needed"
    assert len(LONG_FILES) <= 6 and len(LONG_FUNCTIONS) <= 10
