"""Photographs as JPEG files in class folders, at 256 px, from the folder to the report."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from tokenlaw.sweeps.cli.app import main

STUDY = """
from tokenlaw import Axis, Grid, part

def study() -> Grid:
    return Grid(
        data={"dataset": part("imagefolder"), "resolution": 256},
        tokenizer={"tokenizer": part("vqgan", ch=8, ch_mult=[1, 1, 1, 1, 1], z_channels=8,
                   num_res_blocks_encoder=1, num_res_blocks_decoder=1),
                   "quantizer": part("vq", codebook_size=64, dim=4),
                   "augment": "crop_flip", "iterations": 2, "batch_size": 2},
        codes={"crops": "center"},
        generator={"model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
                   "iterations": 2, "batch_size": 4},
        evaluations={"reconstruction": {"subject": "tokenizer", "num_samples": 4,
                     "metrics": [part("psnr"), part("ms_ssim"), part("codebook_usage")]}},
        axes=(Axis("seed", (0,), path="generator.seed"),),
    )
"""


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Cuts of scikit-learn's two photographs, 427 x 640 px, each photograph a class."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    root = tmp_path / "photographs"
    for path in (source / "china.jpg", source / "flower.jpg"):
        with Image.open(path) as image:
            for index in range(6):
                folder = root / ("val" if index > 3 else "train") / path.stem
                folder.mkdir(parents=True, exist_ok=True)
                left, top = 55 * index, 15 * index
                cut = image.crop((left, top, left + 360, top + 300 + 10 * index))
                cut.save(folder / f"{index}.JPEG", quality=90)
    return root


def test_from_a_folder_of_photographs_to_the_report(photographs, tmp_path, home, capsys):
    path = tmp_path / "photographs.py"
    path.write_text(STUDY)
    at = ["--home", str(home)]
    data = ["--data", f"imagefolder:{photographs}"]
    assert main(["plan", str(path), *data, *at, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    counts = {"classes": 2, "train": 8, "val": 4, "skipped": 0}
    assert plan["data"] == {"name": "imagefolder", **counts}
    assert main(["launch", str(path), *data, *at, "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["results", str(path), *at, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    values = {row["metric"]: row["value"] for row in rows}
    assert 5 < values["psnr"] < 40 and 0 < values["ms_ssim"] < 1
    assert main(["report", str(path), *at]) == 0
    pages = list(home.rglob("report.html"))
    line = "imagefolder: 2 classes, 8 training and 4 validation images"
    assert len(pages) == 1 and line in pages[0].read_text()
