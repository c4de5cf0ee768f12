"""Check the English of docstrings, comments, help texts and pages."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Openings that make a riddle of any docstring or help text.
RIDDLES = frozenset("What Where Whether Of How Says Inside Else Which Why Who When".split())
# Openings of a function's docstring that are no imperative verb. Verbs of the third person and
# plurals end in s; formulas and names are no capitalised word.
NO_VERBS = frozenset(
    "The A An All Each One Every Those This That These Its Own In For From As No Not Nothing At By "
    "On With Without Around Several Some Two Three Four Most Many Any Both Half Least More Other "
    "Another None Only Final Whole".split()
)
DIARY = re.compile(
    r"\b(by now|some time ago|used to be|on a busier day|an earlier form)\b", re.IGNORECASE
)

# Files whose first lines are still to be rewritten: take a file out once it is clean.
NOT_YET = frozenset(
    """
    analysis/command.py
    analysis/drawing/panels.py
    analysis/fitting/bootstrap.py
    analysis/fitting/checklist.py
    analysis/fitting/checks.py
    analysis/fitting/draws.py
    analysis/fitting/fit.py
    analysis/fitting/fitted.py
    analysis/fitting/law.py
    analysis/fitting/optimum.py
    analysis/fitting/solve.py
    analysis/report/interactive.py
    analysis/report/laws.py
    analysis/report/page.py
    analysis/report/sections.py
    analysis/report/tables.py
    analysis/result.py
    analysis/table.py
    slurm/launch.py
    slurm/run_states.py
    slurm/worker/devices.py
    slurm/worker/group.py
    slurm/worker/payload.py
    slurm/worker/pool.py
    slurm/worker/step.py
    sweeps/cli/verbs/analyse.py
    sweeps/cost.py
    sweeps/stage_configs.py
    sweeps/trunks.py
    trainer/__main__.py
    trainer/accounting/config.py
    trainer/accounting/trunks.py
    trainer/fast_start/adamw.py
    trainer/fast_start/ahead.py
    trainer/fast_start/compiler.py
    trainer/fast_start/startup.py
    trainer/models/build.py
    trainer/models/llama.py
    trainer/run.py
    trainer/sampling/draw.py
    trainer/sampling/picture.py
    trainer/sampling/sampler.py
    trainer/sampling/token_step.py
    trainer/worker.py
""".split()
)


def modules() -> list[Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(paths) + sorted((ROOT / "tokenlaw").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def is_refused(text: str, *, function: bool) -> bool:
    """Tell if a docstring opens with a riddle or, for a function, with no imperative verb."""
    word = re.split(r"[\s,.:;(]", text.strip())[0]
    if word in RIDDLES or not function:
        return word in RIDDLES
    is_word = re.fullmatch(r"[A-Z][a-z]+(-[a-z]+)?", word) is not None
    return not is_word or word in NO_VERBS or (word.endswith("s") and not word.endswith("ss"))


def refused_openings(path: Path) -> list[str]:
    """List the first lines of a file's docstrings and help texts that are refused."""
    tree = ast.parse(path.read_text())
    lines = [
        text.split("\n")[0]
        for node, text in docstrings(tree)
        if is_refused(text, function=isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "help":
            text = node.value.value if isinstance(node.value, ast.Constant) else None
            if isinstance(text, str) and is_refused(text, function=False):
                lines.append(text)
    return lines


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_first_lines_say_what_the_code_does(path: Path) -> None:
    lines = refused_openings(path)
    if name_of(path) in NOT_YET:
        assert lines, "the file is clean: take it out of NOT_YET"
    else:
        assert not lines, lines


def test_the_list_of_files_to_rewrite_only_shrinks() -> None:
    assert NOT_YET <= {name_of(path) for path in modules()}
    assert len(NOT_YET) <= 45


def test_nothing_is_a_diary() -> None:
    refused = []
    for path in modules():
        with tokenize.open(path) as file:
            comments = [
                t for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT
            ]
        # A comment may go over several lines.
        texts = [" ".join(t.string.lstrip("# ") for t in comments)]
        texts += [text for _, text in docstrings(ast.parse(path.read_text()))]
        refused += [name_of(path) for text in texts if DIARY.search(" ".join(text.split()))]
    refused += [name_of(path) for path in PAGES if DIARY.search(" ".join(path.read_text().split()))]
    assert not refused


@pytest.mark.parametrize(
    ("text", "function", "refused"),
    [
        ("Return the log files of a run.", True, False),
        ("Pass the batch on.", True, False),
        ("Returns the log files of a run.", True, True),
        ("The log files of a run.", True, True),
        ("log y at log x.", True, True),
        ("Aligned columns of plain text.", False, False),
        ("What a run costs.", False, True),
    ],
)
def test_the_guard_can_fail(text: str, function: bool, refused: bool) -> None:
    assert is_refused(text, function=function) is refused
