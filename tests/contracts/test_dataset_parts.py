"""What every data set keeps to, however it stores its images."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting import config as configs

FOLDER = "datasets"


def _png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def _imagefolder(root):
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            path = root / split / f"c{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_png(index))


def _parquet(root):
    for split, count in (("train", 6), ("test", 2)):
        images = [{"bytes": _png(index), "path": None} for index in range(count)]
        labels = [index % 2 for index in range(count)]
        pq.write_table(pa.table({"image": images, "label": labels}), root / f"{split}.parquet")


def _lsun(root):
    for split, count in (("train", 6), ("val", 2)):
        path = root / f"bedroom_{split}"
        path.mkdir()
        for index in range(count):
            (path / f"{index}.png").write_bytes(_png(index))


# A data set that is not here brings its images itself, as digits does.
MAKE = {"imagefolder": _imagefolder, "parquet": _parquet, "lsun": _lsun}


@pytest.fixture(params=parts.names(FOLDER))
def dataset(request, tmp_path, monkeypatch):
    """(module, config, folder) of every part."""
    monkeypatch.setenv("TOKENLAW_HOME", str(tmp_path / "home"))
    module = parts.load(FOLDER, request.param)
    folder = None
    if request.param in MAKE:
        folder = tmp_path / "data"
        folder.mkdir()
        MAKE[request.param](folder)
    return module, module.Config(), folder


def test_counts_are_those_of_the_splits(dataset):
    module, config, folder = dataset
    facts = module.describe(config, folder)
    assert len(facts.digest) == 64 and facts.skipped == 0
    for split, count in (("train", facts.num_train), ("val", facts.num_val)):
        images = module.open_split(config, folder, split)
        assert len(images) == count > 0
        labels = {images.label(index) for index in range(count)}
        assert labels <= set(range(facts.num_classes))


def test_images_are_rgb_and_the_same_each_time(dataset):
    module, config, folder = dataset
    first = module.open_split(config, folder, "val")
    second = module.open_split(config, folder, "val")
    for index in range(min(3, len(first))):
        image = first.image(index)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert np.array_equal(image, second.image(index))
        assert isinstance(first.label(index), int) and first.label(index) == second.label(index)
    assert module.describe(config, folder) == module.describe(config, folder)


def test_unknown_split_is_refused(dataset):
    module, config, folder = dataset
    with pytest.raises(ValueError, match="'test', allowed: train, val"):
        module.open_split(config, folder, "test")


def test_config_is_strict_and_frozen(dataset):
    module, config, _ = dataset
    with pytest.raises(ValueError, match="there is no such field"):
        configs.decode(module.Config, {"no_such_field": 1})
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


def test_missing_folder_is_bad_input(dataset, tmp_path):
    module, config, folder = dataset
    if folder is None:
        assert module.describe(config, None) == module.describe(config, tmp_path / "nowhere")
        return
    for missing in (None, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="^data: "):
            module.describe(config, missing)
