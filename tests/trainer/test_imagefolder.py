"""Image folders and LSUN, with the hash cache that they share."""

from __future__ import annotations

import os
import sys
import types

import numpy as np
import pytest
from PIL import Image

from tokenlaw.trainer.datasets import _files, imagefolder, lsun
from tokenlaw.trainer.datasets._decode import decode_image

NONE = "data: {} needs a folder"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_HOME", str(tmp_path / "home"))


def write(path, shade, size=(6, 5), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for shade, name in enumerate(("n02", "n01", "n10")):
        for index in range(3):
            write(root / "train" / name / f"{index}.png", 10 * shade + index)
        write(root / "val" / name / "v.png", 100 + shade)
    (root / "train" / "n01" / "notes.txt").write_text("no image")
    return root


def hashes(monkeypatch):
    """Paths that are hashed from now on."""
    seen = []
    real = _files._sha256
    monkeypatch.setattr(_files, "_sha256", lambda path: (seen.append(path), real(path))[1])
    return seen


def test_classes_are_sorted_and_both_halves_counted(folder):
    config = imagefolder.Config()
    facts = imagefolder.describe(config, folder)
    assert (facts.num_classes, facts.num_train, facts.num_val, facts.skipped) == (3, 9, 3, 0)
    train = imagefolder.open_split(config, folder, "train")
    found = [(train.label(i), int(train.image(i)[0, 0, 0])) for i in range(len(train))]
    # n01 was made second (shades 10 ..) and is class 0.
    assert found == [(0, 10), (0, 11), (0, 12), (1, 0), (1, 1), (1, 2), (2, 20), (2, 21), (2, 22)]
    assert train.image(0).shape == (5, 6, 3) and train.image(0).dtype == np.uint8
    val = imagefolder.open_split(config, folder, "val")
    assert [(val.label(i), int(val.image(i)[0, 0, 0])) for i in range(3)] == [
        (0, 101),
        (1, 100),
        (2, 102),
    ]


def test_digest_follows_names_and_contents_not_places(folder, tmp_path):
    config = imagefolder.Config()
    digest = imagefolder.describe(config, folder).digest
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert imagefolder.describe(config, moved).digest == digest
    path = moved / "train" / "n01" / "0.png"
    path.rename(path.with_name("9.png"))
    renamed = imagefolder.describe(config, moved).digest
    path.with_name("9.png").rename(path)
    assert renamed != digest and imagefolder.describe(config, moved).digest == digest
    write(path, 77)
    assert imagefolder.describe(config, moved).digest != digest


def test_second_look_hashes_only_what_changed(folder, monkeypatch):
    config = imagefolder.Config()
    seen = hashes(monkeypatch)
    first = imagefolder.describe(config, folder)
    assert len(seen) == 12
    seen.clear()
    assert imagefolder.describe(config, folder) == first and not seen
    path = folder / "val" / "n10" / "v.png"
    os.utime(path, ns=(1, 1))
    assert imagefolder.describe(config, folder) == first and seen == [path]


def test_torn_cache_line_is_no_entry(folder, monkeypatch):
    config = imagefolder.Config()
    first = imagefolder.describe(config, folder)
    cache = _files._cache_path(folder)
    cache.write_bytes(cache.read_bytes()[:-20])
    seen = hashes(monkeypatch)
    assert imagefolder.describe(config, folder) == first and len(seen) == 1
    seen.clear()
    assert imagefolder.describe(config, folder) == first and not seen


def test_large_sets_are_listed_once_per_process(folder, monkeypatch):
    monkeypatch.setattr(imagefolder, "REMEMBER_FROM", 5)
    config = imagefolder.Config()
    first = imagefolder.describe(config, folder)

    def refuse(*_):
        raise AssertionError("listed again")

    with monkeypatch.context() as patch:
        patch.setattr(imagefolder, "file_facts", refuse)
        assert imagefolder.describe(config, folder) == first
    write(folder / "train" / "n10" / "new.png", 9)
    assert imagefolder.describe(config, folder).num_train == 10
    imagefolder._scan_at.cache_clear()


def test_unreadable_image_is_named_or_left_out(folder):
    config = imagefolder.Config()
    whole = imagefolder.describe(config, folder)
    path = folder / "train" / "n02" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"n02/1\.png cannot be read as an image"):
        imagefolder.open_split(config, folder, "train").image(4)
    skipping = imagefolder.Config(on_broken="skip")
    facts = imagefolder.describe(skipping, folder)
    assert (facts.num_train, facts.num_val, facts.skipped) == (8, 3, 1)
    assert facts.digest != whole.digest
    train = imagefolder.open_split(skipping, folder, "train")
    shades = [int(train.image(i)[0, 0, 0]) for i in range(len(train))]
    assert shades == [10, 11, 12, 0, 2, 20, 21, 22]
    assert imagefolder.describe(config, folder).num_train == 9
    path.unlink()
    assert imagefolder.describe(skipping, folder).digest == facts.digest


def test_broken_files_are_remembered(folder, monkeypatch):
    (folder / "train" / "n02" / "1.png").write_bytes(b"no image")
    skipping = imagefolder.Config(on_broken="skip")
    first = imagefolder.describe(skipping, folder)
    calls = []
    monkeypatch.setattr(imagefolder, "check_image_file", lambda *args: calls.append(args))
    assert imagefolder.describe(skipping, folder) == first and not calls


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: None, "needs a folder"),
        (lambda root: root / "nowhere", "nowhere is not a folder"),
        (lambda root: root / "train", r"train/train is not there"),
    ],
)
def test_missing_folders_are_named(folder, change, message):
    with pytest.raises(ValueError, match=message):
        imagefolder.describe(imagefolder.Config(), change(folder))


def test_layout_mistakes_are_named(folder):
    write(folder / "val" / "v.png", 1)
    with pytest.raises(ValueError, match=r"val/v\.png lies in no class folder"):
        imagefolder.describe(imagefolder.Config(), folder)


def test_every_mode_becomes_rgb(tmp_path):
    for mode, suffix in (
        ("L", "png"),
        ("CMYK", "jpg"),
        ("RGBA", "png"),
        ("P", "png"),
        ("1", "png"),
    ):
        path = tmp_path / f"{mode}.{suffix}"
        Image.new(mode, (4, 3), 1 if mode in ("P", "1") else None).save(path)
        assert decode_image(path, path).shape == (3, 4, 3)
    path = tmp_path / "transparent.png"
    Image.new("P", (4, 3), 1).save(path, transparency=bytes([0, 128, 255]))
    assert decode_image(path, path).shape == (3, 4, 3)


# ------------------------------------------------------------------------------------------ LSUN


def test_lsun_exported_folders(tmp_path):
    for index in range(4):
        write(tmp_path / "bedroom_train" / "a" / "b" / f"{index}.webp", index, lossless=True)
    write(tmp_path / "bedroom_val" / "v.webp", 50, lossless=True)
    facts = lsun.describe(lsun.Config(), tmp_path)
    assert (facts.num_classes, facts.num_train, facts.num_val) == (1, 4, 1)
    train = lsun.open_split(lsun.Config(), tmp_path, "train")
    assert [int(train.image(i)[0, 0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert train.label(3) == 0


def test_lsun_images_held_out_replace_the_validation_part(tmp_path):
    for index in range(8):
        write(tmp_path / "bedroom_train" / f"{index}.png", index)
    write(tmp_path / "bedroom_val" / "v.png", 50)
    config = lsun.Config(num_val_held_out=3)
    facts = lsun.describe(config, tmp_path)
    assert (facts.num_train, facts.num_val) == (5, 3)
    halves = [lsun.open_split(config, tmp_path, split) for split in ("train", "val")]
    shades = [[int(half.image(i)[0, 0, 0]) for i in range(len(half))] for half in halves]
    assert sorted(shades[0] + shades[1]) == list(range(8))
    assert facts.digest != lsun.describe(lsun.Config(), tmp_path).digest
    with pytest.raises(ValueError, match="num_val_held_out: 8 is not allowed"):
        lsun.describe(lsun.Config(num_val_held_out=8), tmp_path)


def test_lsun_category_without_validation_part(tmp_path):
    for index in range(10):
        write(tmp_path / "cat" / f"{index}.png", index)
    with pytest.raises(ValueError, match="has no validation half.*num_val_held_out"):
        lsun.describe(lsun.Config(category="cat"), tmp_path)
    config = lsun.Config(category="cat", num_val_held_out=3)
    halves = [lsun.open_split(config, tmp_path, split) for split in ("train", "val")]
    shades = [[int(half.image(i)[0, 0, 0]) for i in range(len(half))] for half in halves]
    assert len(shades[1]) == 3 and sorted(shades[0] + shades[1]) == list(range(10))
    other = lsun.Config(category="cat", num_val_held_out=4)
    assert lsun.describe(other, tmp_path).digest != lsun.describe(config, tmp_path).digest
    with pytest.raises(ValueError, match="num_val_held_out: 10 is not allowed"):
        lsun.describe(lsun.Config(category="cat", num_val_held_out=10), tmp_path)


def test_lsun_says_what_it_looks_for(tmp_path):
    with pytest.raises(ValueError, match="holds no LSUN horse; allowed: horse_train and horse_val"):
        lsun.describe(lsun.Config(category="horse"), tmp_path)


@pytest.fixture
def database(tmp_path):
    """The folders of two databases; what a reader of them gives comes from `fake_lmdb`."""
    for part in ("train", "val"):
        path = tmp_path / f"bedroom_{part}_lmdb" / "data.mdb"
        path.parent.mkdir()
        path.write_bytes(part.encode())
    lsun._open_database.cache_clear()
    yield tmp_path
    lsun._open_database.cache_clear()


def fake_lmdb(entries):
    """The few calls of the lmdb package that are used, over a dict of dicts by folder name."""

    class Reading:
        def __init__(self, content):
            self.content = content

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def cursor(self):
            return types.SimpleNamespace(iternext=lambda values: iter(self.content))

        def get(self, key):
            return self.content.get(key)

    def open_(path, readonly, lock, readahead, max_readers):
        content = entries[os.path.basename(path)]
        return types.SimpleNamespace(begin=lambda write: Reading(content))

    return types.SimpleNamespace(open=open_)


def test_lsun_databases(database, monkeypatch):
    def encoded(shade):
        path = database / "one.png"
        write(path, shade)
        return path.read_bytes()

    entries = {
        "bedroom_train_lmdb": {b"k2": encoded(2), b"k1": encoded(1), b"k3": b"broken"},
        "bedroom_val_lmdb": {b"k9": encoded(9)},
    }
    monkeypatch.setitem(sys.modules, "lmdb", fake_lmdb(entries))
    facts = lsun.describe(lsun.Config(), database)
    assert (facts.num_train, facts.num_val) == (3, 1)
    held_out = lsun.Config(num_val_held_out=1)
    facts = lsun.describe(held_out, database)
    assert (facts.num_train, facts.num_val) == (2, 1)
    kept = [lsun.open_split(held_out, database, split)._keys for split in ("train", "val")]
    assert sorted(sum(kept, [])) == ["k1", "k2", "k3"]
    train = lsun.open_split(lsun.Config(), database, "train")
    assert [int(train.image(i)[0, 0, 0]) for i in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="bedroom_train_lmdb key k3 cannot be read"):
        train.image(2)
    skipping = lsun.Config(on_broken="skip")
    facts = lsun.describe(skipping, database)
    assert (facts.num_train, facts.skipped) == (2, 1)
    assert len(lsun.open_split(skipping, database, "train")) == 2
    assert facts.in_both == lsun.describe(held_out, database).in_both == ()
    (database / "bedroom_val_lmdb" / "data.mdb").write_bytes(b"train")
    assert lsun.describe(lsun.Config(), database).in_both == ("k1", "k2", "k3")


def test_lsun_database_without_the_package(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match="package lmdb is not installed"):
        lsun.describe(lsun.Config(), database)
