"""What a plan warns of before anything is trained: misleading distances, files that are missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_study
from PIL import Image

from tokenlaw.analysis.cautions import cautions as cautions_of
from tokenlaw.analysis.drawing import index
from tokenlaw.sweeps.cli.app import main
from tokenlaw.sweeps.cli.verbs.results import results_text
from tokenlaw.sweeps.plan import make_plan
from tokenlaw.trainer.accounting.caution import caution, few_samples, near_chance
from tokenlaw.trainer.accounting.config import part
from tokenlaw.trainer.accounting.label_prior import reference_of, sample_labels

STUDY = str(tiny.ROOT / "tests" / "tiny_study.py")
METRICS = "evaluations.samples.metrics"
PRIOR = "evaluations.samples.label_prior"


@pytest.fixture
def pictures(tmp_path):
    """A folder with as many images of each class as asked for."""

    def make(train: tuple[int, ...], val: tuple[int, ...]) -> str:
        for half, counts in (("train", train), ("val", val)):
            for label, count in enumerate(counts):
                (tmp_path / "set" / half / str(label)).mkdir(parents=True)
                for number in range(count):
                    pixels = np.full((16, 16, 3), 8 * label + number, np.uint8)
                    place = tmp_path / "set" / half / str(label) / f"{number}.png"
                    Image.fromarray(pixels).save(place)
        return f"imagefolder:{tmp_path / 'set'}"

    return make


def warned(home: Path, data: str | None, *sets: tuple[str, object]) -> list[str]:
    fewer = [("codes.num_train", 10), ("evaluations.reconstruction.num_samples", 3)]
    plan = make_plan(tiny_study.study(), home=home, data=data, overrides=[*fewer, *sets])
    return [text for text in plan.warnings if "equal class counts" in text]


@pytest.mark.parametrize(
    ("train", "sets", "words"),
    [
        ((30, 10), (), "^evaluation samples: fcd: samples .* the train images from 10 to 30"),
        ((16, 10), (), "from 10 to 16"),
        ((15, 10), (), None),  # one and a half times is no more than that
        ((30, 10), ((PRIOR, "as_reference"),), None),
        ((30, 10), (("generator.label_mode", "none"),), None),
        ((30, 10), ((METRICS, [part("fcd", reference="val")]),), "the val images from 2 to 8"),
        ((30, 10), ((METRICS, [part("clip_fid")]),), "clip_fid: samples have .* the val images"),
        ((30,), (), None),
    ],
)  # fmt: skip
def test_uneven_classes_of_the_reference_are_warned_of(home, pictures, train, sets, words):
    found = warned(home, pictures(train, (8, 2)[: len(train)]), *sets)
    if words is None:
        assert found == []
    else:
        (text,) = found
        assert pd.Series(text).str.contains(words).all(), text


def test_even_classes_and_absent_images_are_not_warned_of(home):
    assert warned(home, None) == []


@pytest.mark.parametrize(
    ("num", "features", "texts"),
    [
        (63, 64, ["63 samples for 64 features: too few, the distance is biased"]),
        (64, 64, []),
    ],
)
def test_few_samples_begin_below_the_number_of_features(num, features, texts):
    assert list(caution(few_samples(num, features)).values()) == texts


def test_a_plan_warns_of_few_images(home):
    sets = [
        ("extractor.width", 64),
        ("evaluations.samples.num_samples", 2047),
        ("evaluations.samples.metrics", [part("fid", reference="train_subset", train_images=99)]),
    ]
    plan = make_plan(tiny_study.study(), home=home, overrides=sets)
    assert plan.warnings == (
        "evaluation samples: fid: 2047 samples for 2048 features: too few, the distance is biased",
        "evaluation samples: fid: 99 reference images for 2048 features: too few, the distance is "
        "biased",
    )
    sets = [("evaluations.samples.num_samples", 7), ("evaluations.samples.metrics", ["fcd"])]
    plan = make_plan(tiny_study.study(), home=home, overrides=sets)
    assert [text[:36] for text in plan.warnings] == ["evaluation samples: fcd: 7 samples f"]


@pytest.mark.parametrize(
    ("accuracy", "chance", "num", "near"),
    [
        (0.042, 1 / 12, 24, True),
        (0.15, 0.1, 360, True),  # half of a tenth above chance
        (0.3, 0.1, 360, False),
        (0.3, 0.1, 10, True),  # within three standard errors
        (0.52, 0.51, 10_000, True),  # always the largest class
        (1.0, 1.0, 100, True),  # one class: nothing to learn
        (0.99, 0.1, 360, False),
    ],
)
def test_near_chance(accuracy, chance, num, near):
    assert (near_chance(accuracy, chance, num) is not None) == near


# -------------------------------------------------------------------------------------- label prior


@pytest.mark.parametrize(
    ("num", "counts", "labels"),
    [
        (7, [1, 1, 1], [0, 1, 2, 0, 1, 2, 0]),
        (6, [2, 1], [0, 1, 0, 0, 1, 0]),
        (4, [1, 0, 1], [0, 2, 0, 2]),
        (1, [3, 5], [1]),
        (0, [3, 5], []),
    ],
)
def test_labels_follow_the_counts(num, counts, labels):
    assert sample_labels(num, counts) == labels


def test_labels_are_in_proportion_to_one():
    counts = np.random.default_rng(0).integers(0, 1300, 1000).tolist()
    labels = np.bincount(sample_labels(50_000, counts), minlength=1000)
    assert labels.sum() == 50_000
    assert np.abs(labels - 50_000 * np.array(counts) / sum(counts)).max() < 1
    assert sample_labels(997, [4] * 10) == [index % 10 for index in range(997)]


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ([part("fcd")], ("train", None)),
        ([part("fcd", reference="val"), part("fid"), part("clip_fid")], ("val", None)),
        ([part("fid", reference="train_subset", train_images=7)], ("train", 7)),
        ([part("fcd"), part("fid")], "needs one reference for all metrics; they have fcd .*, fid"),
        (
            [part("fid", reference="adm_npz", adm_sha256="01234567")],
            "needs labels; the reference file of fid has none; allowed: balanced",
        ),
    ],
)
def test_the_reference_of_the_prior(metrics, found):
    from tokenlaw.trainer.accounting.config import decode_part

    decoded = [decode_part("metrics", metric) for metric in metrics]
    if isinstance(found, tuple):
        assert reference_of(decoded) == found
    else:
        with pytest.raises(ValueError, match=found):
            reference_of(decoded)


# ------------------------------------------------------------------------------------- weight files


@pytest.mark.parametrize(
    ("setting", "file", "needs"),
    [
        ('evaluations.samples.metrics=["fid"]', "weights-inception-2015-12-05-", "fid of ev"),
        ('evaluations.reconstruction.metrics=["lpips"]', "vgg16-397923af.pth", "lpips of ev"),
        ('evaluations.samples.metrics=["clip_fid"]', "clip-vit-b-32-", "clip_fid of evaluation"),
        ("tokenizer.perceptual=lpips", "vgg16-397923af.pth", "lpips of tokenizer"),
    ],
)  # fmt: skip
def test_a_missing_weight_file_is_told_before_anything_is_trained(
    home, tmp_path, capsys, monkeypatch, setting, file, needs
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    arguments = [STUDY, "--set", setting, "--home", str(home)]
    assert main(["plan", *arguments]) == 0
    assert f"note: weights {file}" in capsys.readouterr().out
    assert main(["plan", *arguments, "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["missing_weights"]
    assert line.startswith(f"weights {file}") and needs in line and "does not exist" in line
    assert main(["launch", *arguments, "--on", "local", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {line}\n")
    assert not list(home.glob("*/*/config.json"))
    # Another file in its place is none.
    name = line.split()[1].rstrip(":")
    (tmp_path / "other.pth").write_bytes(b"other")
    assert (
        main(["plan", *arguments, "--json", "--weights", f"{name}={tmp_path / 'other.pth'}"]) == 0
    )
    (line,) = json.loads(capsys.readouterr().out)["missing_weights"]
    assert "other.pth has sha256" in line


def test_a_plan_that_needs_no_files_has_none_missing(home, capsys):
    assert main(["plan", STUDY, "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing_weights"] == []


# ------------------------------------------------------------------------------------------- tables

NEAR = "the classifier is near chance: accuracy 0.042, chance 0.083"


@pytest.fixture
def table():
    rows = range(4)
    return pd.DataFrame(
        {
            "arm": ["vq", "vq", "crt", "crt"],
            "run_id": [f"run{number}" for number in rows],
            "status": "done",
            "flops_train": [1e15, 2e15, 1e15, 2e15],
            "val_loss": [3.0, 2.5, 2.9, 2.4],
            "gfcd": [0.5, 0.4, 0.45, 0.35],
            "gfcd_extractor_accuracy": 0.042,
            "gfcd_caution": [NEAR, NEAR, None, None],
        }
    )


def test_a_table_tells_its_cautions(table):
    assert cautions_of(table) == [f"gfcd: {NEAR} (2 rows)"]
    assert f"\ncaution: gfcd: {NEAR} (2 rows)\n" in results_text(table, wide=True)
    long = pd.DataFrame({"metric": ["gfcd"], "provenance": [{"caution": NEAR}], "value": [0.5]})
    assert cautions_of(long) == [f"gfcd: {NEAR} (1 row)"]
    assert cautions_of(table.drop(columns="gfcd_caution")) == []


def test_a_figure_of_a_distance_tells_its_cautions(table):
    options = {"bootstrap": 0}
    picture = index.make(table, "distance_vs_flops", options=options)
    assert f"Caution: gfcd: {NEAR} (2 rows)." in picture.table.attrs["note"]
    assert "gfcd_caution" in picture.columns
    shown = " ".join(text.get_text() for text in picture.figure.texts)
    assert "Caution: gfcd: the classifier is near chance" in shown
    picture = index.make(table, "loss_vs_flops", options=options)
    assert "Caution" not in picture.table.attrs["note"]


def test_a_report_tells_its_cautions_and_the_accuracy(table, tmp_path):
    from tokenlaw.analysis.report import sections
    from tokenlaw.analysis.request import ReportRequest

    request = ReportRequest(bootstrap=0, only=("loss_vs_flops",), zoom=False)
    page = sections.write(table, tmp_path / "r.html", request).read_text()
    assert f"<b>Caution.</b> gfcd: {NEAR} (2 rows)" in page
    assert "its accuracy on validation images" in page and "0.042" in page
