"""What every file in analysis/figures must do. A new figure joins by existing."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tokenlaw.analysis.drawing import index
from tokenlaw.results_db.columns import WIDE_COLUMNS
from tokenlaw.sweeps.study import load_study, names
from tokenlaw.trainer import parts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "analysis"))

import fixture_table
from text_boxes import collisions, outside

FIGURES = parts.names("figures")
OPTIONS = {"bootstrap": 20, "seed": 3}

DPI = 60

_made: dict[str, index.Picture] = {}
_bytes: dict[str, bytes] = {}


def table_for(name: str) -> pd.DataFrame:
    return fixture_table.table(fixture_table.STUDY_OF.get(name, "main"))


def make(df: pd.DataFrame, name: str, *, vectors_of: pd.DataFrame | None = None) -> index.Picture:
    vectors = fixture_table.vectors(df if vectors_of is None else vectors_of)
    return index.make(df, name, options=OPTIONS, vectors=vectors)


def picture_of(name: str) -> index.Picture:
    if name not in _made:
        _made[name] = make(table_for(name), name)
    return _made[name]


def png_of(name: str) -> bytes:
    if name not in _bytes:
        _bytes[name] = index.image(picture_of(name), "png", dpi=DPI)
    return _bytes[name]


@pytest.mark.parametrize("name", FIGURES)
def test_exposes_what_a_figure_must(name: str) -> None:
    module = parts.load("figures", name)
    assert module.__doc__
    assert isinstance(module.NEEDS, tuple)
    assert all(isinstance(column, str) for column in module.NEEDS)
    if "Config" in vars(module):
        assert dataclasses.is_dataclass(module.Config)
        with pytest.raises(dataclasses.FrozenInstanceError):
            field = dataclasses.fields(module.Config)[0].name
            setattr(module.Config(), field, None)


@pytest.mark.parametrize("name", FIGURES)
def test_draws_ink_from_the_made_up_table(name: str) -> None:
    picture = picture_of(name)
    assert isinstance(picture.figure, Figure)
    assert picture.run_ids
    pixels = matplotlib.image.imread(io.BytesIO(png_of(name)))
    assert np.ptp(pixels[..., :3]) > 0.5, "the picture is blank"
    coloured = np.ptp(pixels[..., :3], axis=-1) > 0.15
    grey = pixels[..., :3].mean(axis=-1) < 0.75
    assert (coloured | grey).mean() > 0.004


@pytest.mark.parametrize("name", FIGURES)
def test_texts_neither_overlap_nor_leave_the_picture(name: str) -> None:
    figure = picture_of(name).figure
    assert not collisions(figure)
    assert not outside(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_an_exported_table_in_any_order_gives_the_same_bytes(name: str) -> None:
    df = table_for(name)
    text = df.sample(frac=1.0, random_state=5).to_csv(index=False)
    exported = pd.read_csv(io.StringIO(text))
    again, first = make(exported, name, vectors_of=df), picture_of(name)
    assert again.run_ids == first.run_ids
    assert again.data_hash == first.data_hash
    assert index.image(again, "png", dpi=DPI) == png_of(name)
    if first.table is not None and again.table is not None:
        assert index.csv_text(again.table) == index.csv_text(first.table)


@pytest.mark.parametrize("name", FIGURES)
def test_a_missing_column_or_an_empty_table_is_one_clear_line(name: str) -> None:
    df = table_for(name)
    prepared = index.prepare(df)
    for column in parts.load("figures", name).NEEDS:
        if column in ("arm", "run_id"):
            continue  # made up when they are missing
        poorer = prepared.drop(columns=[column, *index.ALIASES.get(column, ())], errors="ignore")
        with pytest.raises(ValueError, match=column) as caught:
            make(poorer, name, vectors_of=df)
        assert "\n" not in str(caught.value)
    for empty in (df.iloc[:0], df.assign(status="pending")):
        with pytest.raises(ValueError) as caught:
            make(empty, name, vectors_of=df)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


# Axes that a figure knows and no study at hand has, and columns of tables from elsewhere.
OF_OTHERS = {"cfg_scale", "k_min", "power", "quantizer", "resolution", "family", "semantic_weight"}


def test_every_column_of_a_figure_is_one_that_something_makes() -> None:
    made = {*WIDE_COLUMNS, *OF_OTHERS}
    for study in map(load_study, names()):
        made |= {axis.name for axis in study.flat_axes()}
    for folder in ("metrics", "kinds"):
        for name in parts.names(folder):
            better = getattr(parts.load(folder, name), "BETTER", {})
            made |= set(better) if isinstance(better, dict) else {name}
    for name in FIGURES:
        module = parts.load("figures", name)
        columns = {*module.NEEDS, *vars(module).get("OPTIONAL", ())} - made
        ends = r"_(std|extractor|floor|num_samples|reference)$"
        assert [column for column in columns if re.sub(ends, "", column) not in made] == [], name
