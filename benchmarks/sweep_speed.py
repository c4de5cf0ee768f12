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
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts
from tokenlaw.sweeps.grid import Axis, Grid, part
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan
from tokenlaw.sweeps.study import load_study
from tokenlaw.trainer import calibrate
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting.config import to_tree

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
            command = [sys.executable, "-m", "tokenlaw.trainer", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Span(NamedTuple):
    """A run of the launch. `step`: median seconds of an iteration; 0 of an evaluation."""

    kind: str
    size: str
    iterations: int
    began: float
    ended: float
    step: float

    @property
    def inside(self) -> float:
        """Seconds in steps."""
        return self.step * self.iterations

    @property
    def outside(self) -> float:
        return self.ended - self.began - self.inside


def spans(plan: Plan, home: Path) -> list[Span]:
    """Every run that was measured, in the order of their beginnings."""
    found = []
    for run in plan.runs:
        if run.kind not in ("generator", "evaluation"):
            continue
        folder = RunDir.of(home, run.kind, run.id)
        endpoint = read_endpoint(folder)
        assert endpoint is not None and endpoint["status"] == "done", run.id
        attempts = read_attempts(folder)
        assert len(attempts) == 1, f"{run.id} took {len(attempts)} attempts"
        began, ended = (
            datetime.datetime.fromisoformat(text).timestamp()
            for text in (attempts[0]["started_at"], attempts[0]["end"]["ended_at"])
        )
        step = 0.0
        if run.kind == "generator":
            log = [json.loads(line) for line in folder.log_path.read_text().splitlines()]
            step = statistics.median(
                (later["time"] - earlier["time"]) / (later["step"] - earlier["step"])
                for earlier, later in itertools.pairwise(log)
            )
        found.append(Span(run.kind, run.axes["size"], run.axes["iterations"], began, ended, step))
    return sorted(found, key=lambda span: span.began)


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
    command = [sys.executable, "-m", "tokenlaw", "launch", me, "--home", str(home), "--data", data]
    command += ["--device", device, "--workers", str(workers), "--yes", "--quiet"]
    command += [word for pair in option.items() for word in ("--option", "=".join(pair))]
    began = time.time()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    ended = time.time()
    wall, done = ended - began, spans(plan, home)
    print(
        f"{'run':<10} {'size':>5} {'iterations':>10} {'ms/step':>8} {'in steps':>9} {'else, s':>8}"
    )
    for span in done:
        print(
            f"{span.kind:<10} {span.size:>5} {span.iterations:>10} {1e3 * span.step:>8.1f}"
            f" {span.inside:>9.1f} {span.outside:>8.1f}"
        )
    stepping = sum(span.inside for span in done)
    phases = {
        "before the first run": done[0].began - began,
        "generators outside their steps": sum(s.outside for s in done if s.kind == "generator"),
        "evaluations": sum(s.outside for s in done if s.kind == "evaluation"),
        "after the last run": ended - max(span.ended for span in done),
    }
    for phase, spent in phases.items():
        print(f"{phase}: {spent:.1f} s")
    print(
        f"workers {workers}: {wall:.1f} s from launch to end, {stepping:.1f} s in steps: "
        f"{stepping / wall:.0%}"
    )


if __name__ == "__main__":
    main()
