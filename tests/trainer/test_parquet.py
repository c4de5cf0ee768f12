from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenlaw.trainer.datasets import parquet


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_HOME", str(tmp_path / "home"))


def png(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (shade, shade, shade)).save(buffer, "png")
    return buffer.getvalue()


def write(path, images, labels, names=None, image_column="image", label_column="label", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    column = [{"bytes": content, "path": None} for content in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {image_column: pa.array(column, kind), label_column: pa.array(labels, pa.int64())}
    )
    if names:
        info = {"info": {"features": {label_column: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, **options)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write(root / "train-0.parquet", [png(i) for i in range(5)], [0, 1, 2, 0, 1], row_group_size=2)
    write(root / "train-1.parquet", [png(i) for i in range(5, 8)], [2, 0, 1])
    write(root / "test.parquet", [png(100), png(101), png(102)], [1, 0, 2])
    return root


def shades(split):
    return [int(split.image(i)[0, 0, 0]) for i in range(len(split))]


def labels(split):
    return [split.label(i) for i in range(len(split))]


def test_rows_of_all_files_in_order(folder):
    config = parquet.Config()
    facts = parquet.describe(config, folder)
    assert (facts.num_classes, facts.num_train, facts.num_val) == (3, 8, 3)
    train = parquet.open_split(config, folder, "train")
    assert shades(train) == list(range(8))
    assert labels(train) == [0, 1, 2, 0, 1, 2, 0, 1]
    assert train.image(7).shape == (3, 4, 3) and train.image(7).dtype == np.uint8
    val = parquet.open_split(config, folder, "val")
    assert (shades(val), labels(val)) == ([100, 101, 102], [1, 0, 2])


def test_val_is_preferred_to_test_and_the_data_folder_is_found(folder, tmp_path):
    write(folder / "validation.parquet", [png(50), png(51), png(52)], [0, 1, 2])
    assert shades(parquet.open_split(parquet.Config(), folder, "val")) == [50, 51, 52]
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "data")
    assert parquet.describe(parquet.Config(), tmp_path / "outer").num_train == 8


def test_class_names_of_the_schema_count(tmp_path):
    names = ["ant", "bee", "cat", "dog"]
    for part in ("train", "test"):
        write(tmp_path / f"{part}.parquet", [png(i) for i in range(4)], [3, 1, 1, 0], names)
    with pytest.raises(ValueError, match=r"class 2 \(cat\) has no readable images for training"):
        parquet.describe(parquet.Config(), tmp_path)
    kept = parquet.describe(parquet.Config(on_empty_class="keep"), tmp_path)
    assert (kept.num_classes, kept.labels, kept.class_names) == (4, None, tuple(names))
    config = parquet.Config(on_empty_class="leave_out")
    facts = parquet.describe(config, tmp_path)
    assert (facts.num_classes, facts.labels) == (3, (0, 1, 3))
    assert facts.class_names == ("ant", "bee", "dog")
    assert labels(parquet.open_split(config, tmp_path, "val")) == [2, 1, 1, 0]


def test_read_from_several_threads_with_few_groups_kept(folder, monkeypatch):
    monkeypatch.setattr(parquet, "KEEP_BYTES", 0)
    monkeypatch.setattr(parquet, "KEEP_GROUPS", 1)
    train = parquet.open_split(parquet.Config(), folder, "train")
    order = [index % 8 for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: int(train.image(index)[0, 0, 0]), order))
    assert found == order
    assert train._read.cache_info().currsize == 1


def test_broken_rows_are_named_or_left_out(folder):
    write(folder / "train-1.parquet", [png(5), b"no image", None, png(8)], [2, 0, 1, 1])
    train = parquet.open_split(parquet.Config(), folder, "train")
    with pytest.raises(ValueError, match=r"train-1\.parquet row group 0 row 1 cannot be read"):
        train.image(6)
    with pytest.raises(ValueError, match=r"row 2 has no bytes in 'image'"):
        train.image(7)
    skipping = parquet.Config(on_broken="skip")
    facts = parquet.describe(skipping, folder)
    assert (facts.num_train, facts.num_val, facts.skipped) == (7, 3, 2)
    assert facts.digest != parquet.describe(parquet.Config(), folder).digest
    good = parquet.open_split(skipping, folder, "train")
    assert shades(good) == [0, 1, 2, 3, 4, 5, 8]
    assert labels(good) == [0, 1, 2, 0, 1, 2, 1]


def test_digest_follows_the_contents(folder):
    digest = parquet.describe(parquet.Config(), folder).digest
    assert parquet.describe(parquet.Config(), folder).digest == digest
    write(folder / "test.parquet", [png(100), png(101), png(103)], [1, 0, 2])
    assert parquet.describe(parquet.Config(), folder).digest != digest


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (lambda root: (root / "train.parquet").unlink(), {}, "holds test.parquet; parquet needs"),
        (lambda root: (root / "train.parquet").write_bytes(b"x"), {}, "cannot be read as parquet"),
        (lambda root: None, {"image_column": "img"}, "no column 'img'; its columns are image, lab"),
        (lambda root: None, {"image_column": "label"}, "column 'label' is int64; allowed: struct"),
        (lambda root: write(root / "test.parquet", [png(1)], [-1]), {}, "has the label -1"),
        (lambda root: write(root / "test.parquet", [png(1)], [None]), {}, "without gaps"),
        (lambda root: write(root / "train.parquet", [png(1)], [2], ["a"]), {}, "names 1 classes"),
        (lambda root: write(root / "test.parquet", [], []), {}, "no images in its val files"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, make, config, message):
    write(tmp_path / "train.parquet", [png(1)], [0])
    write(tmp_path / "test.parquet", [png(2)], [0])
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        parquet.describe(parquet.Config(**config), tmp_path)


def test_needs_a_folder():
    with pytest.raises(ValueError, match="parquet needs a folder; give --data parquet:FOLDER"):
        parquet.describe(parquet.Config(), None)
