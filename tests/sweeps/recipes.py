"""Write docs/recipes/NAME.md, the recipe of each study of a paper field by field.

    python tests/sweeps/recipes.py

Fields and values are those of the study's planned configs. What is published is in
docs/recipes/PAPER.csv and, for rows of one study, in docs/recipes/NAME.csv beside it.
"""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tokenlaw.sweeps.plan import make_plan  # noqa: E402
from tokenlaw.sweeps.study import load_study, names  # noqa: E402
from tokenlaw.trainer.accounting.config import to_tree  # noqa: E402

FOLDER = ROOT / "docs" / "recipes"
COLUMNS = ["field", "published", "source", "here", "why"]
# A row without a published value says what its value rests on.
REASONS = ("own choice: ", "inferred: ")


def of_papers() -> list[str]:
    """List the studies of papers: those whose docstring names one."""
    return [name for name in names() if "arXiv" in _docstring(name)]


def _docstring(name: str) -> str:
    return importlib.import_module(f"tokenlaw.sweeps.studies.{name}").__doc__ or ""


# --------------------------------------------------------------------------- fields of the configs


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields below a path with their values as text, parts by their names."""
    if isinstance(value, Mapping):
        if "version" in value:  # a part
            yield path, value["name"]
            value = {name: v for name, v in value.items() if name not in ("name", "version")}
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):  # metrics
        yield path, ", ".join(part["name"] for part in value)
        for part in value:
            for name, inner in part.items():
                if name not in ("name", "version"):
                    yield from _leaves(f"{path}.{part['name']}.{name}", inner)
    else:
        yield path, "none" if value is None else value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(value)


@cache
def fields(name: str) -> dict[str, str]:
    """Return every field of a study's configs with its value, or its values by arm and axes."""
    seen: dict[str, dict[tuple[tuple[str, Any], ...], str]] = {}
    for run in make_plan(load_study(name), home="/nowhere").runs:
        tree = to_tree(run.config)
        for member in run.members:
            stage = f"evaluations.{member.evaluation}" if member.evaluation else run.kind
            cell = tuple(sorted({"arm": member.arm, **member.axes}.items()))
            for path, text in _leaves(stage, tree):
                seen.setdefault(path, {})[cell] = text
    found = {path: _by_cell(cells) for path, cells in seen.items()}
    found = {f: text for f, text in found.items() if not f.endswith((".digest", ".trunk"))}
    data = {
        f.partition(".")[2]: text for f, text in found.items() if f.startswith("tokenizer.data")
    }
    # All stages look at the data of the tokenizer; only what another changes is its own.
    own = {
        f: text
        for f, text in found.items()
        if ".data" not in f or text != data.get(f[f.index(".data") + 1 :])
    }
    return {**data, **own}


def _by_cell(cells: Mapping[tuple[tuple[str, Any], ...], str]) -> str:
    """Return the one text of all cells, or the texts by as few of arm and axes as tell them."""
    if len(set(cells.values())) == 1:
        return next(iter(cells.values()))
    common = set.intersection(*({name for name, _ in cell} for cell in cells))
    for count in range(1, len(common) + 1):
        for chosen in itertools.combinations(sorted(common), count):
            values: dict[str, set[str]] = {}
            for cell, text in cells.items():
                key = ", ".join(str(v) for name, v in cell if name in chosen)
                values.setdefault(key, set()).add(text)
            if all(len(texts) == 1 for texts in values.values()):
                texts = "; ".join(f"{key} = {min(texts)}" for key, texts in values.items())
                return f"by {', '.join(chosen)}: {texts}"
    raise AssertionError(f"no column tells {cells} apart")


# ----------------------------------------------------------------------------- what is published


def read(stem: str, folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """Return the rows of STEM.csv by field; ValueError for a broken table."""
    with (folder / f"{stem}.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != COLUMNS or any(None in row.values() or None in row for row in rows):
        raise ValueError(f"{stem}.csv: every row needs the columns {', '.join(COLUMNS)}")
    if len({row["field"] for row in rows}) < len(rows):
        raise ValueError(f"{stem}.csv: a field has two rows")
    return {row["field"]: row for row in rows}


def published(name: str, folder: Path = FOLDER) -> dict[str, dict[str, str]]:
    """Return the rows of a study: its own, and those of its paper for fields that it has."""
    of_paper = read(paper(name), folder)
    return {f: row for f, row in of_paper.items() if f in fields(name)} | read(name, folder)


def paper(name: str) -> str:
    """Return the stem of the table that the studies of a paper share."""
    return name.partition("_")[0]


def differences(name: str, folder: Path = FOLDER) -> list[str]:
    """List what is wrong between a study, its tables and its page; one line each."""
    here, rows = fields(name), published(name, folder)
    wrong = [f"{f}: {fault}" for f, row in rows.items() if (fault := _fault(row, here.get(f)))]
    if not wrong and (folder / f"{name}.md").read_text() != page(name, folder):
        wrong.append(f"{name}.md: is not the page of study and tables; run {Path(__file__).name}")
    return wrong


def _fault(row: Mapping[str, str], here: str | None) -> str | None:
    if here is None:
        return "the study has no such field"
    if row["here"] != here:
        return f"the table has {row['here']!r}, the study {here!r}"
    if not row["published"]:
        if row["source"] or not row["why"].startswith(REASONS):
            return f"without a published value, why begins with one of {REASONS}"
    elif not row["source"]:
        return "a published value needs its source"
    elif row["published"] != here and not row["why"]:
        return "differs from what is published, and why is empty"
    return None


# ---------------------------------------------------------------------------------------- the page


def page(name: str, folder: Path = FOLDER) -> str:
    """Return the page of a study."""
    here, rows = fields(name), published(name, folder)
    title = _docstring(name).split("\n")[0]
    stated = [
        f"| `{f}` | {row['published']} | {here[f]} | {row['source']} | {row['why']} |"
        for f, row in sorted(rows.items())
    ]
    own = [f"| `{f}` | {text} |" for f, text in sorted(here.items()) if f not in rows]
    return "\n".join(
        [
            f"# {name}",
            "",
            title,
            "",
            f"Study: `sweeps/studies/{name}.py`. `tests/sweeps/recipes.py` writes this page from",
            f"its configs, `{paper(name)}.csv` and `{name}.csv`: change those.",
            "",
            "## Published, and here",
            "",
            "| field | published | here | source | why |",
            "|---|---|---|---|---|",
            *stated,
            "",
            "## Own choices",
            "",
            "Fields without a source: own choices, mostly defaults of the code.",
            "",
            "| field | here |",
            "|---|---|",
            *own,
            "",
        ]
    )


if __name__ == "__main__":
    for study in of_papers():
        (FOLDER / f"{study}.md").write_text(page(study))
