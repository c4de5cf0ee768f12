"""docs/cli.md and docs/studies.md say what there is: every verb and option, every study."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import typer

from tokenlaw.sweeps.cli.app import VERBS, app
from tokenlaw.sweeps.plan import make_plan
from tokenlaw.sweeps.study import load_study, names, study_name

DOCS = Path(__file__).resolve().parents[2] / "docs"


@cache
def sections() -> dict[str, str]:
    """Title -> text of the sections of docs/cli.md."""
    parts = re.split(r"^## (.+)$", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def flags(verb: str) -> set[str]:
    """All options of a verb as the parser has them."""
    command = typer.main.get_command(app).commands[verb]
    found = {flag for parameter in command.params for flag in parameter.opts}
    found |= {flag for parameter in command.params for flag in parameter.secondary_opts}
    return {flag for flag in found if flag.startswith("-")} - {"--help", "-h"}


@pytest.mark.parametrize("verb", [verb.__name__ for verb in VERBS])
def test_every_verb_and_option_is_documented(verb):
    documented = set(re.findall(r"`(--?[a-z][a-z-]*)`", sections()[verb]))
    assert documented == flags(verb)


@pytest.mark.parametrize("verb", [verb.__name__ for verb in VERBS])
def test_the_examples_use_options_that_exist(verb):
    for line in sections()[verb].partition("```")[2].partition("```")[0].strip().splitlines():
        assert line.startswith(f"tokenlaw {verb}")
        assert set(re.findall(r"(?<= )(--?[a-z][a-z-]*)", line)) <= flags(verb)


def test_verbs_stand_in_the_order_of_the_flow():
    listed = [title for title in sections() if title in {verb.__name__ for verb in VERBS}]
    assert listed == [verb.__name__ for verb in VERBS]
    assert list(typer.main.get_command(app).commands) == listed


def test_every_study_is_in_the_table():
    text = (DOCS / "studies.md").read_text()
    rows = re.findall(r"^\| `([a-z0-9_-]+)` \| (.+?) \| (\d+, \d+, \d+) \| (\S+) \|$", text, re.M)
    assert sorted(row[0] for row in rows) == sorted(study_name(name) for name in names())
    for name, _, runs, stated in rows:
        totals = make_plan(load_study(name), home="/nowhere").totals()
        kinds = ("tokenizer", "codes", "generator")
        assert runs == ", ".join(str(totals["by_kind"][kind]["runs"]) for kind in kinds)
        if stated != "minutes":
            assert float(stated) == pytest.approx(totals["flops_train"], rel=0.06)


def test_the_study_of_the_page_plans(tmp_path):
    text = (DOCS / "studies.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    path = tmp_path / "my_study.py"
    path.write_text(code)
    plan = make_plan(load_study(str(path)), home=tmp_path)
    found = plan.totals()["by_kind"]
    numbers = {kind: found[kind]["runs"] for kind in ("extractor", "tokenizer", "codes")}
    assert numbers == {"extractor": 1, "tokenizer": 6, "codes": 6}
    assert len(plan.dropped) == 2
    assert len(code.strip().splitlines()) <= 45
