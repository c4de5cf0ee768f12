"""Image sets as they lie on disks: what a plan takes for classes, images and shards, and what it
refuses, in one line, with nothing written."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenlaw.sweeps.cli.app import main
from tokenlaw.trainer import parts
from tokenlaw.trainer.datasets import _files

STUDY = """
from tokenlaw import Axis, Grid, part

def study() -> Grid:
    return Grid(
        data={"dataset": DATASET, "resolution": 16, **COUNTS},
        tokenizer={"tokenizer": part("vqgan", ch=8, ch_mult=[1, 1, 1], num_res_blocks_encoder=1,
                   num_res_blocks_decoder=1, z_channels=8),
                   "quantizer": part("vq", codebook_size=32, dim=4),
                   "iterations": 2, "batch_size": 8},
        codes={"crops": "center"},
        generator={"model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
                   "iterations": 2, "batch_size": 16},
        axes=(Axis("seed", (0,), path="generator.seed"),),
    )
"""


def encoded(seed):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


PNG = [encoded(seed) for seed in range(24)]
VAL = 12  # from here on the pictures are of validation images


def images(folder, count, first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index}.png").write_bytes(PNG[first + index])


def folders(root):
    for number, name in enumerate(("cat", "dog")):
        images(root / "train" / name, 8, number)
        images(root / "val" / name, 4, VAL + number)


def table(path, labels, kind=None, names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    column = [{"bytes": PNG[index % 8], "path": None} for index in range(len(labels))]
    content = pa.table({"image": column, "label": pa.array(labels, kind or pa.int64())})
    if names:
        info = {"info": {"features": {"label": {"names": names}}}}
        content = content.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(content, path)


def halves(root, labels, val=None, kind=None, names=None):
    table(root / "train.parquet", labels, kind, names)
    table(root / "test.parquet", sorted(set(labels)) if val is None else val, kind, names)


def shards(root, *stems, val=("test",)):
    for stem in (*stems, *val):
        table(root / f"{stem}.parquet", [0, 1] * 4)


def lsun(root):
    images(root / "bedroom_train" / "a", 6)
    images(root / "bedroom_val", 2)


def link(place, target):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def add(*steps):
    """Make folders, then change them: `step(root)` each."""
    return lambda root: [step(root) for step in (folders, *steps)]


def moved(root, name="dog"):
    """Put a class on another disk, with a link in its place."""
    shutil.move(root / "train" / name, root.parent / "store")
    link(root / "train" / name, root.parent / "store")


def unreadable(root, part="train"):
    for index in range(8):
        (root / part / "dog" / f"{index}.png").write_bytes(b"no image")


def study(tmp_path, kind, options=None, counts=None):
    path = tmp_path / "my_study.py"
    dataset = f"part({kind!r}, **{options or {}!r})"
    text = STUDY.replace("DATASET", dataset).replace("COUNTS", repr(counts or {}))
    path.write_text(text)
    return str(path)


def kind_of(root):
    if any(root.rglob("*.parquet")):
        return "parquet"
    return "lsun" if any(root.glob("bedroom*")) else "imagefolder"


@pytest.fixture
def planned(tmp_path, home, capsys):
    """Plans a study of a folder; gives the JSON document."""

    def run(make, options=None, counts=None, *more):
        root = tmp_path / "images"
        root.mkdir(exist_ok=True)
        if make is not None:
            make(root)
        kind = kind_of(root)
        path = study(tmp_path, kind, options, counts)
        data = f"{kind}:{root}"
        code = main(["plan", path, "--data", data, "--json", "--home", str(home), *more])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


REAL = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # ids that a subset kept

TAKEN = {  # make, options, classes, training images, validation images, skipped
    "a class on another disk": (add(moved), {}, (2, 16, 8, 0)),
    "images in a linked folder of a class": (
        add(
            lambda r: images(r.parent / "more", 3),
            lambda r: link(r / "train/cat/more", r.parent / "more"),
        ),
        {},
        (2, 19, 8, 0),
    ),
    "links back above themselves": (
        add(
            lambda r: link(r / "train/cat/self", "."),
            lambda r: link(r / "train/cat/up", ".."),
            lambda r: link(r / "train/dog/deep/top", "../../.."),
            lambda r: link(r / "val/dog/disk", r.parent),
        ),
        {},
        (2, 16, 8, 0),
    ),
    "hidden and system folders": (
        add(
            *(
                lambda r, folder=f"{place}/{name}": images(r / folder, 2)
                for name in (".ipynb_checkpoints", ".Trash-1000", "@eaDir", "__MACOSX")
                + ("lost+found", "$RECYCLE.BIN", "System Volume Information", ".thumbnails")
                for place in ("train", "val", "train/cat", "val/dog/a")
            )
        ),
        {},
        (2, 16, 8, 0),
    ),
    "sidecar files": (
        add(lambda r: (r / "train/cat/._1.png").write_bytes(b"\0\5\x16\7" + bytes(60))),
        {},
        (2, 16, 8, 0),
    ),
    "empty system folder": (add(lambda r: (r / "train/#recycle").mkdir()), {}, (2, 16, 8, 0)),
    "empty class kept": (
        add(lambda r: (r / "train/bird").mkdir()),
        {"on_empty_class": "keep"},
        (3, 16, 8, 0),
    ),
    "empty class left out": (
        add(lambda r: (r / "train/bird").mkdir()),
        {"on_empty_class": "leave_out"},
        (2, 16, 8, 0),
    ),
    "broken images": (
        add(lambda r: (r / "val/cat/1.png").write_bytes(b"no image")),
        {"on_broken": "skip"},
        (2, 16, 7, 1),
    ),
    "no validation folder": (
        add(lambda r: shutil.rmtree(r / "val")),
        {"num_val_held_out": 6},
        (2, 10, 6, 0),
    ),
    "ids with gaps": (lambda r: halves(r, REAL * 2), {}, (10, 20, 10, 0)),
    "ids from 1": (lambda r: halves(r, [1, 2, 3, 4] * 2), {}, (4, 8, 4, 0)),
    "unsigned ids": (lambda r: halves(r, [3, 200] * 2, kind=pa.uint64()), {}, (2, 4, 2, 0)),
    "no validation files": (
        lambda r: shards(r, "train", val=()),
        {"num_val_held_out": 2},
        (2, 6, 2, 0),
    ),
    "a whole series": (
        lambda r: shards(r, *(f"train-{i:05d}-of-00003" for i in range(3))),
        {},
        (2, 24, 8, 0),
    ),
    "a whole series with hashes": (
        lambda r: shards(r, *(f"train-{i:05d}-of-00002-a09b74b3ef9c3b5{i}" for i in range(2))),
        {},
        (2, 16, 8, 0),
    ),
    "a series from 1": (
        lambda r: shards(r, "train-1-of-2", "train-2-of-2"),
        {},
        (2, 16, 8, 0),
    ),
    "years": (lambda r: shards(r, "train_2012", "train_2014"), {}, (2, 16, 8, 0)),
    "folders of the hub": (
        lambda r: shards(r, "train/0000", "train/0001", val=("test/0000",)),
        {},
        (2, 16, 8, 0),
    ),
    "LSUN with a thumbnail": (
        lambda r: (lsun(r), images(r / "bedroom_train" / "@eaDir", 2)),
        {},
        (1, 6, 2, 0),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken(name, planned):
    make, options, wanted = TAKEN[name]
    data = planned(make, options)["data"]
    assert (data["classes"], data["train"], data["val"], data["skipped"]) == wanted


REFUSED = {  # make, options, words of the one line
    "empty class": (add(lambda r: (r / "train/bird").mkdir()), {}, "class 'bird' has no readable"),
    "class of training only": (
        add(lambda r: images(r / "train/bird", 2)),
        {},
        "class 'bird' has no readable images for validation",
    ),
    "class of validation only": (
        add(lambda r: images(r / "val/bird", 2)),
        {"on_empty_class": "leave_out"},
        "class 'bird' has no readable images for training; allowed: classes with images in both "
        "halves, or the option dataset.on_empty_class=keep",
    ),
    "link to nowhere": (
        add(lambda r: link(r / "train/bird", r / "gone")),
        {},
        "train/bird is a link to ",
    ),
    "link to itself": (add(lambda r: link(r / "train/bird", "bird")), {}, "train/bird is a link"),
    "class above itself": (
        add(lambda r: link(r / "train/all", "..")),
        {},
        "train/all is a link to a folder that it lies in",
    ),
    "one folder, two classes": (
        add(lambda r: link(r / "train/kitten", "cat")),
        {},
        "train/cat are one folder; allowed: a folder of its own for each class",
    ),
    "lost part of a class": (
        add(lambda r: link(r / "train/cat/more", r / "unmounted")),
        {},
        "train/cat/more is a link to ",
    ),
    "image in no class": (add(lambda r: images(r / "train", 1)), {}, "lies in no class folder"),
    "no validation folder": (
        add(lambda r: shutil.rmtree(r / "val")),
        {},
        "has no validation half; give dataset.num_val_held_out",
    ),
    "both validation and held out": (
        add(),
        {"num_val_held_out": 3},
        "dataset.num_val_held_out: 3 is not allowed",
    ),
    "all held out": (
        add(lambda r: shutil.rmtree(r / "val")),
        {"num_val_held_out": 16},
        "dataset.num_val_held_out: 16 is not allowed",
    ),
    "only other formats": (
        lambda r: [(r / p / "cat").mkdir(parents=True) for p in ("train", "val")],
        {},
        "holds no images (.jpeg",
    ),
    "row ids": (
        lambda r: halves(r, list(range(8))),
        {},
        "column 'label' has 8 labels for 8 training images",
    ),
    "large ids": (lambda r: halves(r, [0, 1 << 31] * 2), {}, "the label 2147483648; allowed: 0 to"),
    "huge ids": (
        lambda r: halves(r, [0, (1 << 64) - 1] * 2, kind=pa.uint64()),
        {},
        "the label 18446744073709551615; allowed",
    ),
    "negative ids": (lambda r: halves(r, [0, -1] * 2), {}, "the label -1; allowed: 0 to 2^31 - 1"),
    "fractional ids": (
        lambda r: halves(r, [0.0, 0.5] * 2, kind=pa.float64()),
        {},
        "column 'label' must hold whole numbers",
    ),
    "label of training only": (
        lambda r: halves(r, [0, 1, 2] * 2, [0, 2]),
        {},
        "class 1 has no readable images for validation",
    ),
    "named class without images": (
        lambda r: halves(r, [0, 2] * 2, names=["ant", "bee", "cat"]),
        {},
        "class 1 (bee) has no readable images",
    ),
    "missing shard": (
        lambda r: shards(r, "train-00000-of-00003", "train-00002-of-00003"),
        {},
        "lacks train-00001-of-00003; allowed",
    ),
    "missing last shard": (lambda r: shards(r, "train-0-of-2"), {}, "lacks train-1-of-2"),
    "missing validation shard": (
        lambda r: shards(r, "train", val=("test-00001-of-00002",)),
        {},
        "lacks test-00000-of-00002",
    ),
    "two series": (
        lambda r: shards(r, "train-0-of-1", "train-0-of-2", "train-1-of-2"),
        {},
        "are not of one series",
    ),
    "a shard twice": (
        lambda r: shards(r, "train-0-of-1-aaaaaaaa", "train-0-of-1-bbbbbbbb"),
        {},
        "are not of one series",
    ),
    "a copy": (lambda r: shards(r, "train-0-of-1", "train-0-of-1 (1)"), {}, "not of one series"),
    "a number beyond": (lambda r: shards(r, "train-0-of-1", "train-5-of-1"), {}, "not allowed"),
    "gap in a series": (lambda r: shards(r, "train-0", "train-2"), {}, "lacks train-1; allowed"),
    "series without its start": (lambda r: shards(r, "train-0004"), {}, "lacks train-0001, train"),
    "whole and parts": (lambda r: shards(r, "train", "train-0", "train-1"), {}, "not of one serie"),
    "sub-folder of the hub": (
        lambda r: shards(r, "plain_text/train", val=("plain_text/test",)),
        {},
        "give the folder below it: --data parquet:",
    ),
    "training files at two places": (
        lambda r: shards(r, "train", "data/train"),
        {},
        "and its folder data both hold training files",
    ),
    "no validation files": (
        lambda r: shards(r, "train", val=()),
        {},
        "has no validation half; give dataset.num_val_held_out",
    ),
    "LSUN with a lost part": (
        lambda r: (lsun(r), link(r / "bedroom_train" / "b", r / "gone")),
        {},
        "bedroom_train/b is a link to ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path, refused):
    make, options, words = REFUSED[name]
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    kind = kind_of(root)
    line = refused("plan", study(tmp_path, kind, options), "--data", f"{kind}:{root}")
    assert words in line and str(root) in line or "dataset.num_val_held_out" in line


def test_a_class_whose_images_are_all_broken(tmp_path, home, capsys):
    root = tmp_path / "images"
    folders(root)
    unreadable(root)
    path = study(tmp_path, "imagefolder", {"on_broken": "skip"})
    code = main(["plan", path, "--data", f"imagefolder:{root}", "--home", str(home)])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "class 'dog' has no readable images for training" in err
    assert [entry.name for entry in home.iterdir()] == ["cache"]  # hashes of files, and no more


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch, refused):
    """As for a user without the right to: the tests may run as one who has it."""
    root = tmp_path / "images"
    folders(root)
    locked, scandir = root / "train" / "dog" / "locked", os.scandir
    locked.mkdir()

    def refuse(path="."):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    line = refused("plan", study(tmp_path, "imagefolder"), "--data", f"imagefolder:{root}")
    assert f"{locked} cannot be listed: Permission denied" in line


def test_the_map_of_labels_is_in_the_config_and_in_the_images(tmp_path, planned):
    made = planned(lambda root: halves(root, REAL * 2))
    assert made["data_sets"][0]["labels"] == REAL
    module = parts.load("datasets", "parquet")
    train = module.open_split(module.Config(), tmp_path / "images", "train")
    assert [train.label(index) for index in range(20)] == [*range(10)] * 2


def test_held_out_images_are_of_every_class_and_of_one_half(tmp_path):
    for kind, make in (("imagefolder", folders), ("parquet", lambda r: shards(r, "train"))):
        root = tmp_path / kind
        make(root)
        for path in (*root.glob("val*"), *root.glob("test*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        module = parts.load("datasets", kind)
        config = module.Config(num_val_held_out=2)
        train, val = (module.open_split(config, root, half) for half in ("train", "val"))
        labels = [val.label(index) for index in range(len(val))]
        assert sorted(labels) == [0, 1]
        total = 16 if kind == "imagefolder" else 8
        assert len(train) == total - 2
        other = module.describe(module.Config(num_val_held_out=4), root)
        assert other.digest != module.describe(config, root).digest


# ---------------------------------------------------------------------------- images of both halves

IN_BOTH = {  # make, options, words of the warning
    "imagefolder": (
        add(lambda r: images(r / "val/dog/more", 2, 7)),
        {},
        "2 of 10 validation images have the content of training images, the first: "
        "'val/dog/more/0.png'",
    ),
    "imagefolder, of another class": (
        add(lambda r: shutil.copy(r / "train/cat/0.png", r / "val/dog/line\nbreak.png")),
        {},
        "1 of 9 validation images have the content of training images, the first: "
        r"'val/dog/line\nbreak.png'",
    ),
    "imagefolder, held out": (
        add(lambda r: shutil.rmtree(r / "val"), lambda r: images(r / "train/dog", 8)),
        {"num_val_held_out": 2},
        "2 of 2 validation images",
    ),
    "parquet": (
        lambda r: shards(r, "train-0", "train-1", val=("test-0",)),
        {},
        "8 of 8 validation images have the content of training images, the first: "
        "'test-0.parquet row 0'",
    ),
    "parquet, held out": (
        lambda r: shards(r, "train-0", "train-1", val=()),
        {"num_val_held_out": 2},
        "2 of 2 validation images",
    ),
    "lsun": (
        lsun,
        {},
        "2 of 2 validation images have the content of training images, the first: "
        "'bedroom_val/0.png'",
    ),
}


@pytest.mark.parametrize("name", IN_BOTH)
def test_images_of_both_halves_are_warned_of(name, tmp_path, home, planned, monkeypatch, capsys):
    make, options, words = IN_BOTH[name]
    (text,) = planned(make, options)["warnings"]
    root = tmp_path / "images"
    assert text.startswith(f"data: {root}: {words}") and "\n" not in text
    monkeypatch.setattr(_files, "_sha256", None)  # the hashes are those that are kept
    arguments = [str(tmp_path / "my_study.py"), "--data", f"{kind_of(root)}:{root}"]
    assert main(["plan", *arguments, "--home", str(home)]) == 0
    assert capsys.readouterr().out.count(f"warning: {text}\n") == 1


@pytest.mark.parametrize("kind", ["parquet", "lsun"])
def test_halves_that_share_no_image_are_not_warned_of(kind, planned):
    make = {
        "parquet": lambda r: shards(r, "train", val=()),
        "lsun": lambda r: (lsun(r), images(r / "bedroom_val", 2, VAL)),
    }[kind]
    options = {"num_val_held_out": 2} if kind == "parquet" else {}
    assert planned(make, options)["warnings"] == []


# --------------------------------------------------------------------- counts that a study states

STATED = {"num_classes": 2, "num_train": 1_281_167, "num_val": 8}


def test_other_counts_than_stated_are_refused_or_accepted(tmp_path, refused, planned):
    root = tmp_path / "images"
    planned(folders)  # hashes of the files are kept, whatever becomes of the plan
    path = study(tmp_path, "imagefolder", counts=STATED)
    for verb in ("plan", "launch"):
        line = refused(verb, path, "--data", f"imagefolder:{root}")
        assert f"{root} has 16 training images, the study states 1281167; allowed: " in line
    made = planned(None, {}, STATED, "--accept-counts")
    assert made["data"]["train"] == 16
    assert any("16 training images, the study states 1281167" in w for w in made["warnings"])
    assert planned(None, {}, STATED | {"num_train": 16})["warnings"] == []


# ------------------------------------------------------------------ data that differ from the runs'

CHANGES = {
    "an image more": (lambda r: images(r / "train/cat", 9), ["counts", "content"], "17 training"),
    "another image": (
        lambda r: (r / "train/cat/0.png").write_bytes(PNG[5]),
        ["content"],
        "digest ",
    ),
    "a class more": (
        lambda r: (images(r / "train/bird", 1), images(r / "val/bird", 1, VAL)),
        ["classes", "counts", "content"],
        "3 classes, were 2",
    ),
    "a class of another name": (
        lambda r: [(r / part / "dog").rename(r / part / "hound") for part in ("train", "val")],
        ["classes", "content"],
        "class 'hound', was 'dog'",
    ),
}


@pytest.fixture(scope="module")
def done_runs(tmp_path_factory):
    """A home where the study of a folder is done, and the folder: skipped images are counted."""
    place = tmp_path_factory.mktemp("done")
    root = place / "images"
    folders(root)
    (root / "train/cat/broken.png").write_bytes(b"no image")
    path = study(place, "imagefolder", {"on_broken": "skip"})
    home = place / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLAW_HOME", str(home))
        words = ["launch", path, "--data", f"imagefolder:{root}", "--device", "cpu", "--quiet"]
        assert main([*words, "--home", str(home)]) == 0
    return place


@pytest.mark.parametrize("name", CHANGES)
def test_data_that_differ_from_those_of_done_runs(name, done_runs, tmp_path, monkeypatch, capsys):
    change, kinds, words = CHANGES[name]
    shutil.copytree(done_runs, tmp_path / "done")
    root, home = tmp_path / "done" / "images", tmp_path / "done" / "home"
    monkeypatch.setenv("TOKENLAW_HOME", str(home))
    arguments = ["plan", str(tmp_path / "done" / "my_study.py"), "--data", f"imagefolder:{root}"]
    arguments += ["--home", str(home), "--json"]

    def plan():
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    same = plan()
    assert (same["data_changes"], same["warnings"]) == (None, [])
    assert same["data"] == {
        "name": "imagefolder",
        "classes": 2,
        "train": 16,
        "val": 8,
        "skipped": 1,
    }
    (root / "train/.Trash-1000").mkdir()  # no image: nothing changes
    assert plan()["totals"]["done"] == same["totals"]["runs"]
    change(root)
    other = plan()
    assert other["totals"]["done"] == 0
    assert other["data_changes"]["kinds"] == kinds
    assert words in other["data_changes"]["text"]
    assert other["warnings"] == [other["data_changes"]["text"]]


def test_a_plan_prints_classes_images_and_those_skipped(tmp_path, home, planned, capsys):
    make, options, _ = TAKEN["broken images"]
    planned(make, options)
    data = f"imagefolder:{tmp_path / 'images'}"
    assert main(["plan", str(tmp_path / "my_study.py"), "--data", data, "--home", str(home)]) == 0
    line = "imagefolder: 2 classes, 16 training and 7 validation images, 1 skipped"
    assert f"\ndata: {line}\n" in capsys.readouterr().out


def test_skipped_images_are_counted_in_status_and_report(done_runs, capsys):
    home, path = done_runs / "home", str(done_runs / "my_study.py")
    line = "imagefolder: 2 classes, 16 training and 8 validation images, 1 skipped"
    assert main(["status", path, "--home", str(home)]) == 0
    assert f"data: {line}" in capsys.readouterr().out
    assert main(["status", path, "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"][0]["skipped"] == 1
    assert main(["report", path, "--home", str(home)]) == 0
    pages = list(home.rglob("report.html"))
    assert len(pages) == 1 and line in pages[0].read_text()
