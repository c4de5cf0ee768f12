"""What the input pipeline delivers per CPU core: JPEG decoding, training crops, ten crops.

    python benchmarks/input_speed.py [--images 200] [--threads 1 2 4]

Writes an image folder of ImageNet-like JPEGs (500 x 375, about 110 kB on average in ImageNet) cut
from scikit-learn's two bundled photographs, and reads it through `trainer.loop.data`, as training
and tokenising do. Each job is timed in CPU seconds of the process as well as in wall seconds, so
that a busy machine does not change images per core-second. Correctness is checked in the same run:
ten crops equal those cut one by one from the decoded file.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from tokenlaw.trainer.accounting.config import DataConfig, decode, part
from tokenlaw.trainer.datasets import imagefolder
from tokenlaw.trainer.loop import data

SIDE, RATIO, BATCH = 256, 1.1, 64


def write_folder(folder: Path, images: int) -> None:
    """JPEGs of quality 97 in the ImageNet layout, each another cut of the photographs."""
    photographs = load_sample_images().images
    draws = np.random.default_rng(0)
    for half, number in (("train", images), ("val", 1)):
        place = folder / half / "class0"
        place.mkdir(parents=True)
        for index in range(number):
            photograph = Image.fromarray(photographs[index % 2])
            left, top = draws.uniform(0, 100), draws.uniform(0, 100)
            box = (left, top, left + 500, top + 320)
            photograph.resize((500, 375), Image.Resampling.BICUBIC, box=box).save(
                place / f"{index:05d}.jpg", quality=97
            )


def measured(images: data.Images, threads: int, job: Callable[[list[int]], int]) -> str:
    """One row: images of the job per CPU second, per wall second, and the two of them in cores."""
    images._pool = ThreadPoolExecutor(threads)
    indices = list(range(len(images)))
    job(indices[:BATCH])
    wall, cpu = time.perf_counter(), time.process_time()
    made = sum(job(indices[at : at + BATCH]) for at in range(0, len(indices), BATCH))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{made / cpu:>12,.0f} {made / wall:>12,.0f} {cpu / wall:>10.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tokenlaw-bench-") as name:
        folder = Path(name)
        write_folder(folder, chosen.images)
        kilobytes = np.mean([path.stat().st_size for path in folder.rglob("*.jpg")]) / 1e3
        facts = imagefolder.describe(imagefolder.Config(), folder)
        tree = {
            "dataset": part("imagefolder"),
            "digest": facts.digest,
            "num_classes": facts.num_classes,
            "num_train": facts.num_train,
            "num_val": facts.num_val,
            "resolution": SIDE,
        }
        split = imagefolder.open_split(imagefolder.Config(), folder, "train")
        data.DENSE_BYTES = 0  # as a data set that does not fit in memory
        images = data.Images(decode(DataConfig, tree), split)

        first = data.center_crop(split.image(0), int(SIDE * RATIO))[:SIDE, :SIDE]
        found = images.crops_of([0], "ten_crop", RATIO)[0, 0].permute(1, 2, 0)
        assert np.array_equal(found.numpy(), first)

        def decoded(indices: list[int]) -> int:
            return len(list(images._pool.map(split.image, indices)))

        def trained(indices: list[int]) -> int:
            return len(images.augmented(torch.tensor(indices), 0, "crop_flip", 0.8))

        def tokenised(indices: list[int]) -> int:
            return images.crops_of(indices, "ten_crop", RATIO).flatten(0, 1).shape[0]

        print(
            f"{datetime.date.today()}  {platform.processor() or platform.machine()}, "
            f"{os.cpu_count()} cores; Pillow {PIL.__version__}; {chosen.images} JPEGs of "
            f"500 x 375, {kilobytes:.0f} kB on average"
        )
        print(
            f"{'job':<38} {'threads':>7} {'per core-s':>12} {'per second':>12} {'cores used':>10}"
        )
        jobs = {
            "JPEG decoding, images": decoded,
            "training: decode, random crop, images": trained,
            "tokenising: decode, ten crops, crops": tokenised,
        }
        for job, work in jobs.items():
            for threads in chosen.threads:
                print(f"{job:<38} {threads:>7} {measured(images, threads, work)}")


if __name__ == "__main__":
    main()
