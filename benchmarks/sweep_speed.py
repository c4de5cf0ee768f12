"""A sweep of many small runs through the launcher: which share of the wall time is spent in steps.

    python benchmarks/sweep_speed.py [--workers 1 2] [--tiny]

Twelve generators (52M, 111M, 212M x 20, 50, 100, 200 iterations at batch 256) of 256 tokens,
each followed by an evaluation of 1,024 samples at 256 px. Tokenizer, codes and the classifier of
the Frechet distance are made beforehand and not counted. The launch is what a user types; the time
in steps is read from the logs: iterations times the median time of one, as if alone. The rest is
start-up, compilation, data, validation loss, sampling and writing. `--tiny` is the same at sizes
for a CPU. Each run is checked to have ended with an endpoint, and no run to have been done twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from results_db.record import RunDir, read_attempts, read_endpoint
from sweeps.grid import Axis, Grid, part
from sweeps.plan import Plan, make_plan, write_run
from sweeps.study import load_study
from trainer import calibrate, count
from trainer.config import to_tree

SIZES, ITERATIONS = ("52M", "111M", "212M"), (20, 50, 100, 200)


def study(tiny: bool = False) -> Grid:
    """The grid; `--option tiny=true` at sizes for a CPU."""
    named = count.generators()
    sizes = {name: {"generator.model": to_tree(named[f"llama-{name}"])} for name in SIZES}
    iterations, side, batch, samples = ITERATIONS, 256, 256, 1024
    vqgan, precision = part("vqgan"), "bf16"
    if tiny:
        sizes = {
            name: {"generator.model": {"width": width, "layers": 2, "heads": 2}}
            for name, width in zip(SIZES, (32, 64, 96), strict=True)
        }
        iterations, side, batch, samples = (20, 30, 40, 50), 32, 16, 64
        vqgan, precision = part("vqgan", ch=16, ch_mult=[1, 1, 2]), "fp32"
    numerics = {"precision": precision}
    return Grid(
        name="sweep_speed",
        data={"dataset": part("imagefolder"), "resolution": side},
        extractor={"width": 16, "iterations": 10, "batch_size": 16},
        tokenizer={
            "tokenizer": vqgan,
            "quantizer": part("vq", codebook_size=256 if tiny else 16_384),
            "iterations": 1,
            "batch_size": 4,
            "numerics": numerics,
        },
        codes={"crops": "ten_crop", "batch_size": 64, "numerics": numerics},
        generator={
            "iterations": 20,
            "batch_size": batch,
            "optim": {"lr_peak": 1e-4, "weight_decay": 0.05, "clip": 1.0},
            "numerics": numerics,
        },
        evaluations={
            "samples": {
                "subject": "generator",
                "metrics": [part("fcd")],
                "num_samples": samples,
                "sampling": {"cfg_scale": 1.75},
                "batch_size": min(samples, 512),
                "numerics": numerics,
            }
        },
        axes=(Axis("size", sizes), Axis("iterations", iterations, path="generator.iterations")),
    )


def prepare(plan: Plan, home: Path, device: str) -> None:
    """Does the runs that are not measured."""
    settings = {"device": device, "locations": plan.locations}
    for run in plan.runs:
        if run.kind in ("extractor", "tokenizer", "codes"):
            folder = write_run(home, run, settings)
            command = [sys.executable, "-m", "trainer", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def in_steps(plan: Plan, home: Path) -> Iterator[tuple[str, int, float, float, float]]:
    """(size, iterations, ms of a step, seconds in steps, seconds of the run) of every generator."""
    for run in plan.runs:
        if run.kind not in ("generator", "evaluation"):
            continue
        folder = RunDir.of(home, run.kind, run.id)
        endpoint = read_endpoint(folder)
        assert endpoint is not None and endpoint["status"] == "done", run.id
        attempts = read_attempts(folder)
        assert len(attempts) == 1, f"{run.id} took {len(attempts)} attempts"
        if run.kind == "generator":
            log = [json.loads(line) for line in folder.log_path.read_text().splitlines()]
            gaps = [
                (later["time"] - earlier["time"]) / (later["step"] - earlier["step"])
                for earlier, later in zip(log, log[1:], strict=False)
            ]
            step = statistics.median(gaps)
            total = float(attempts[0]["end"]["seconds"])
            size, iterations = run.axes["size"], run.axes["iterations"]
            yield size, iterations, 1e3 * step, step * iterations, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1])
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device = "cpu" if chosen.tiny else "cuda"
    name = "this CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(f"{datetime.date.today()}  {name}, {os.cpu_count()} cores, torch {torch.__version__}")
    for workers in chosen.workers:
        with tempfile.TemporaryDirectory(prefix="tokenlaw-bench-") as folder:
            measure(Path(folder), workers, device, chosen.tiny)


def measure(home: Path, workers: int, device: str, tiny: bool) -> None:
    """One launch in a fresh home, with a cold compile cache."""
    from train_speed import compile_caches  # this file is a study too, which has no such neighbour

    pictures = home / "pictures"
    calibrate.random_pictures(pictures, 32 if tiny else 256, 512)
    data, me = f"imagefolder:{pictures}", str(Path(__file__).resolve())
    option: dict[str, Any] = {"tiny": "true"} if tiny else {}
    plan = make_plan(load_study(me, option), home=home, data=data)
    prepare(plan, home, device)
    environment = {**os.environ, **compile_caches(home)}
    command = [sys.executable, "-m", "sweeps", "launch", me, "--home", str(home), "--data", data]
    command += ["--device", device, "--workers", str(workers), "--yes", "--quiet"]
    command += [word for pair in option.items() for word in ("--option", "=".join(pair))]
    clock = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - clock
    print(f"{'size':>6} {'iterations':>10} {'ms/step':>9} {'in steps, s':>12} {'run, s':>8}")
    stepping = 0.0
    for size, iterations, step, inside, total in in_steps(plan, home):
        print(f"{size:>6} {iterations:>10} {step:>9.1f} {inside:>12.1f} {total:>8.1f}")
        stepping += inside
    print(
        f"workers {workers}: {wall:.1f} s from launch to end, {stepping:.1f} s in steps: "
        f"{stepping / wall:.0%}"
    )


if __name__ == "__main__":
    main()
