"""What a user can get wrong: one line that names the field, the value and what is allowed; exit
code 2 (1 for the database and the disk); and nothing is lost or half-written."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts
from tokenlaw.sweeps.cli.app import main

STUDY = str(tiny.ROOT / "tests" / "tiny_study.py")


# ------------------------------------------------------------------ names, types, ranges, NaN

SET = {
    # unknown fields, parts, axes, arms: with the nearest name
    "generator.modle.width=64": (
        "generator.modle: there is no such field (did you mean 'model'?); allowed: "
    ),
    "generator.model.widht=64": (
        "generator.model.widht: there is no such field (did you mean 'width'?); allowed: "
    ),
    "generatr.seed=1": (
        "'generatr.seed' names no stage of this study (did you mean 'generator'?); allowed"
    ),
    "tokenizer.quantizer=vqq": (
        "tokenizer.quantizer: quantizers: 'vqq' is unknown (did you mean 'vq'?); allowed: "
    ),
    "tokenizer.quantizer.codebok_size=8": (
        "vq.codebok_size: there is no such field (did you mean 'codebook_size'?)"
    ),
    "data.dataset=digts": (
        "data.dataset: datasets: 'digts' is unknown (did you mean 'digits'?); allowed: "
    ),
    "axes.siez=[1]": ("axes.siez is not an axis of the study (did you mean 'size'?); allowed: "),
    "arms.crtt.generator.seed=1": (
        "arms.crtt is not an arm of the study (did you mean 'crt'?); allowed: vq, crt"
    ),
    # types
    'generator.iterations="8"': (
        "generator.iterations: '8' is not allowed; input should be a valid integer"
    ),
    "generator.iterations=1.5": "generator.iterations: 1.5 is not allowed",
    "generator.model=3": "generator.model is what the axis 'size' varies; allowed: ",
    "generator.optim=3": "generator.optim: 3 is not allowed; input should be an object",
    "generator.mask_illegal=yes": (
        "generator.mask_illegal: 'yes' is not allowed; input should be a valid boolean"
    ),
    # ranges
    "generator.iterations=0": (
        "generator.iterations: 0 is not allowed; input should be greater than or equal to 1"
    ),
    "tokenizer.quantizer.codebook_size=-1": "vq.codebook_size: -1 is not allowed;",
    "generator.optim.beta2=2": "generator.optim.beta2: 2",
    "generator.optim.schedule=cosin": (
        "generator.optim.schedule: 'cosin' is not allowed; input should be 'constant', 'cosine'"
    ),
    "data.resolution=18": "resolution: 18 is not a multiple of 4",
    "codes.num_train=5000": ("codes: num_train: 5000 is not allowed; the data have 1437 images"),
    "generator.num_train=101": (
        "generator: num_train: 101 is not allowed; the codes have 100 images"
    ),
    "evaluations.reconstruction.num_samples=361": (
        "num_samples: 361 is not allowed; the validation set has 360 images"
    ),
    # not finite
    "generator.z_loss=NaN": ("generator.z_loss: nan is not allowed; must be a finite number"),
    "generator.optim.lr_peak=Infinity": (
        "generator.optim.lr_peak: inf is not allowed; must be a finite number"
    ),
}


@pytest.mark.parametrize("override", SET)
@pytest.mark.parametrize("verb", ["plan", "launch"])
def test_what_is_set(override, verb, refused):
    assert SET[override] in refused(verb, STUDY, "--set", override)


ARGUMENTS = {
    "unknown study": (
        ["plan", "quickstrat"],
        ("study: 'quickstrat' is unknown (did you mean 'quickstart'?); allowed: "),
    ),
    "unknown executor": (
        ["launch", STUDY, "--on", "slrum"],
        "'slrum' is unknown (did you mean 'slurm'?); allowed: ",
    ),
    "unknown data set": (
        ["plan", STUDY, "--data", "parqet:/tmp"],
        "'parqet' is unknown (did you mean 'parquet'?)",
    ),
    "unknown device": (
        ["launch", STUDY, "--device", "gpu"],
        "--device: 'gpu' is unknown; allowed: auto, cpu, cuda, cuda:N",
    ),
    "unknown resource": (
        ["launch", STUDY, "--resource", "procesess=2"],
        "'procesess' means nothing on this machine; allowed: processes",
    ),
    "unknown resource of a cluster": (
        ["launch", STUDY, "--on", "slurm", "--yes", "--resource", "partitoin=gpu"],
        "'partitoin' is unknown (did you mean 'partition'?); allowed: ",
    ),
    "GPUs that are not there": (
        ["launch", STUDY, "--device", "cpu", "--gpus", "1"],
        "gpus: 1 is not allowed with device cpu; must be 0",
    ),
    "no workers": (
        ["launch", STUDY, "--workers", "0"],
        "--workers",
    ),
    "unknown option": (
        ["launch", STUDY, "--wrokers", "2"],
        "--wrokers",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name, refused):
    arguments, expected = ARGUMENTS[name]
    assert expected in refused(*arguments)


def test_tables_and_laws(refused, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("arm,flops_train,val_loss\nvq,1e9,3\nvq,2e9,2.5\nvq,4e9,2.2\n")
    line = refused("fit", str(table), "--law", "power_lw")
    assert "'power_lw' is unknown (did you mean 'power_law'?); allowed: " in line
    line = refused("fit", str(table), "--y", "val_los")
    assert "val_los" in line and "val_loss" in line
    line = refused("figures", str(table), "--only", "loss_vs_flop")
    assert "'loss_vs_flop'" in line and "did you mean 'loss_vs_flops'" in line
    line = refused("fit", str(tmp_path / "nowhere.csv"))
    assert "nowhere.csv" in line


# ---------------------------------------------------------------------------------------- data


@pytest.fixture
def pictures(tmp_path):
    """An image folder of two classes, six training and two validation images each."""
    draws = np.random.default_rng(0)
    for half, count in (("train", 6), ("val", 2)):
        for label in ("a", "b"):
            folder = tmp_path / "pictures" / half / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def with_pictures(folder: Path) -> list[str]:
    settings = [
        "codes.num_train=12",
        "evaluations.reconstruction.num_samples=4",
        "tokenizer.batch_size=4",
        "extractor.batch_size=4",
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    return [STUDY, "--data", f"imagefolder:{folder}", *options]


def test_a_missing_folder(refused, tmp_path):
    line = refused("launch", *with_pictures(tmp_path / "nowhere"), "--device", "cpu")
    assert str(tmp_path / "nowhere") in line
    line = refused("launch", STUDY, "--data", f"parquet:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in line


def test_an_unreadable_image_is_named(home, pictures, capsys):
    broken = pictures / "train" / "b" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    code = main(
        ["launch", *with_pictures(pictures), "--device", "cpu", "--quiet", "--home", str(home)]
    )
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "3.png" in line]
    assert lines and "train/b/3.png" in lines[0], err
    assert "Traceback" not in err + out
    assert code in (1, 2)
    for run in (RunDir(path.parent) for path in home.glob("*/*/config.json")):
        assert read_endpoint(run) is None
    assert not tiny.temporaries(home)


def test_data_that_changed_after_the_plan(home, pictures, capsys):
    """Between planning and training an image is exchanged: the run refuses, by its digest."""
    arguments = with_pictures(pictures)
    assert main(["plan", *arguments, "--json", "--home", str(home)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["totals"]["runs"] == 15
    tree = tiny.tokenizer(data=tiny.data() | {"digest": "0" * 64})
    run_dir = tiny.lay_out(home, "tokenizer", tree)
    done = tiny.run_command(run_dir)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "data.digest: the run was planned with '000" in errors[0]
    assert read_attempts(run_dir)[0]["end"]["error_class"] == "ValueError"
    assert not (run_dir.path / "final").exists()


# ---------------------------------------------------------------------------- database and disk


def test_a_database_that_cannot_be_opened(home, refused, monkeypatch):
    (home / "tokenlaw.db").write_bytes(b"this is no database" * 100)
    line = refused("results", STUDY, code=1)
    assert "tokenlaw.db" in line
    monkeypatch.setenv("TOKENLAW_DB", "postgresql+psycopg://user:secret@127.0.0.1:9/none")
    line = refused("results", STUDY, code=1)
    assert "127.0.0.1" in line and "secret" not in line


def test_a_database_of_newer_code(home, refused, capsys):
    assert main(["sync", "--home", str(home)]) == 0
    capsys.readouterr()
    with sqlite3.connect(home / "tokenlaw.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    line = refused("results", STUDY, code=1)
    assert "schema 9999 is newer than this code's" in line


def test_a_launch_with_a_broken_database_loses_nothing(home, capsys):
    (home / "tokenlaw.db").write_bytes(b"this is no database" * 100)
    code = main(["launch", STUDY, "--device", "cpu", "--quiet", "--home", str(home)])
    out, err = capsys.readouterr()
    assert code == 1, err
    assert err.count("error: ") == 1 and "tokenlaw.db" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["plan", "quickstrat"], ["plan", STUDY, "--set", "a=1"]])
def test_the_command_itself(arguments, tmp_path):
    """As a process: the exit code and the one line are what a shell sees."""
    done = subprocess.run(
        [sys.executable, "-m", "tokenlaw", *arguments, "--home", str(tmp_path / "home")],
        cwd=tiny.ROOT,
        env=tiny.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()
