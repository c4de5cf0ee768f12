"""Figures and report of a study in the database, and of its table exported from there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixture_home import make_home

from tokenlaw.analysis.drawing import index, vectors
from tokenlaw.analysis.report import sections as report
from tokenlaw.analysis.request import ReportRequest
from tokenlaw.results_db import read

DRAWN = ("distance_vs_flops", "entropy_positions")
FEW = {"bootstrap": 20}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_home(folder)
    return folder


@pytest.mark.parametrize("name", DRAWN)
def test_a_study_draws_like_its_exported_table(home: Path, tmp_path: Path, name: str) -> None:
    df = read.endpoints("made", wide=True, home=home)
    from_home = vectors.from_home(home)
    ours = index.make(df, name, options=FEW, vectors=from_home)
    assert set(ours.run_ids) & set(df["run_id"]) or name == "entropy_positions"

    exported = pd.read_csv(io.StringIO(read.flat(df).to_csv(index=False)))
    for identity in df["run_id"]:
        _export(from_home, tmp_path, identity, "val_loss_per_position.npy")
    for identity in df["codes_id"].unique():
        _export(from_home, tmp_path, identity, "entropy.npz")
    theirs = index.make(exported, name, options=FEW, vectors=vectors.from_folder(tmp_path))
    assert theirs.data_hash == ours.data_hash
    assert index.image(theirs, "png", 40) == index.image(ours, "png", 40)


def _export(get: index.Vectors, folder: Path, identity: str, name: str) -> None:
    (folder / identity).mkdir(exist_ok=True)
    content = get(identity, name)
    if isinstance(content, dict):
        np.savez(folder / identity / name, **content)
    else:
        np.save(folder / identity / name, content)


def test_the_report_of_a_study_draws_its_vectors_too(home: Path, tmp_path: Path) -> None:
    path = report.write(
        "made",
        tmp_path / "r.html",
        ReportRequest(bootstrap=0, zoom=False, only=("entropy_positions",)),
        home=home,
    )
    text = path.read_text()
    assert "24 finished generator runs in 2 arms (vq, crt) on digits" in text
    assert "tokenlaw report made" in text
    assert 'id="figure-entropy_positions"' in text


def test_vectors_that_are_not_there_are_one_clear_line(home: Path, tmp_path: Path) -> None:
    df = read.endpoints("made", wide=True, home=home)
    with pytest.raises(ValueError, match="needs the vectors"):
        index.make(df, "conditional_entropy")
    with pytest.raises(ValueError, match="is missing"):
        index.make(df, "conditional_entropy", vectors=vectors.from_folder(tmp_path))
    with pytest.raises(ValueError, match="not a folder"):
        vectors.from_folder(tmp_path / "nowhere")
