"""Hold studies of papers to docs/recipes: configs, tables of published values and pages agree."""

from __future__ import annotations

import csv
import itertools
import shutil
from pathlib import Path

import pytest
from recipes import FOLDER, differences, fields, of_papers, page, paper, published, read


@pytest.mark.parametrize("name", of_papers())
def test_study_table_and_page_agree(name: str) -> None:
    assert differences(name) == []


@pytest.mark.parametrize("name", of_papers())
def test_every_field_of_a_study_is_on_its_page_once(name: str) -> None:
    rows = [line.split("`")[1] for line in page(name).splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(fields(name))


def test_there_is_a_table_for_every_study_and_for_nothing_else() -> None:
    studies = of_papers()
    assert len(studies) >= 10
    papers = {paper(name) for name in studies}
    assert {path.stem for path in FOLDER.glob("*.csv")} == {*studies, *papers}
    assert {path.stem for path in FOLDER.glob("*.md")} == set(studies)
    for stem in papers:
        known = {f for name in studies if paper(name) == stem for f in fields(name)}
        assert set(read(stem)) <= known, stem


def change(folder: Path, stem: str, field: str, columns: dict[str, str]) -> None:
    path = folder / f"{stem}.csv"
    rows = list(read(stem, folder).values())
    for row in rows:
        if row["field"] == field:
            row |= columns
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("stem", "field", "columns", "message"),
    [
        ("crt", "tokenizer.batch_size", {"here": "256"}, "has '256', the study '128'"),
        ("crt", "tokenizer.batch_size", {"published": "256"}, "why is empty"),
        ("crt", "tokenizer.batch_size", {"source": ""}, "needs its source"),
        ("crt", "tokenizer.batch_size", {"published": ""}, "why begins with one of"),
        ("crt", "tokenizer.augment", {"why": "LlamaGen's"}, "why begins with one of"),
        ("crt", "tokenizer.augment", {"why": "own choice: another"}, "is not the page"),
        ("crt", "tokenizer.batch_size", {"source": "CRT, Table 9"}, "is not the page"),
        ("crt_lsun", "generator.label_mode", {"field": "generator.label"}, "has no such field"),
        # Two generators change places.
        (
            "crt_lsun",
            "generator.model.layers",
            {"here": "by size: 111M = 24; 343M = 12; 775M = 36"},
            "343M = 12; 775M = 36', the study",
        ),
    ],
)
def test_a_difference_is_named(
    tmp_path: Path, stem: str, field: str, columns: dict[str, str], message: str
) -> None:
    folder = tmp_path / "recipes"
    shutil.copytree(FOLDER, folder)
    assert differences("crt_lsun", folder) == []
    change(folder, stem, field, columns)
    (difference,) = differences("crt_lsun", folder)
    assert message in difference


def test_a_page_that_was_edited_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    shutil.copytree(FOLDER, folder)
    path = folder / "ibq_scaling.md"
    path.write_text(path.read_text().replace("| 0.999 | 0.999 |", "| 0.9999 | 0.999 |"))
    (difference,) = differences("ibq_scaling", folder)
    assert "is not the page" in difference


def test_the_page_of_vcq_lists_every_numeral_that_is_not_legible() -> None:
    text = (FOLDER.parent / "vcq.md").read_text()
    section = text.split("## Numerals that are not legible")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    listed: dict[str, str] = {}
    for _, values, switches in rows:
        names = switches.replace("`", "").split(", ")
        prefix = names[0].rpartition(".")[0]
        numbers = values.split(", ")
        for name, number in itertools.zip_longest(names, numbers):
            listed[name if "." in name else f"{prefix}.{name}"] = number
    expected = {
        field: row["here"]
        for field, row in published("vcq_schedules").items()
        if "not legible" in row["why"]
    }
    # Of Equation 4 the form is what is missing; decay of embeddings follows from the text.
    expected[".cfg_codebook"] = expected.pop("evaluations.samples.sampling.cfg_codebook")
    assert set(listed) == {*expected, "generator.optim.decay_embeddings"}
    for field, value in expected.items():
        if field != ".cfg_codebook":
            assert float(listed[field]) == float(value), field
