"""How long a plan of 20,000 generator runs and their evaluations takes, and how much memory.

    python benchmarks/plan_speed.py [--runs 20000]

The import of torch and printing are not counted: one small plan first, so that parts are imported.
Every id of a sample is compared with that of the config alone.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import tempfile
import time

from tokenlaw.sweeps.grid import Axis, Grid, part
from tokenlaw.sweeps.plan import make_plan
from tokenlaw.trainer.accounting.identity import run_id

WIDTHS = tuple(range(64, 64 + 32 * 20, 32))
ITERATIONS = tuple(range(100, 100 + 50 * 25, 50))
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def study(runs: int) -> Grid:
    """Two arms x 4 learning rates x 20 widths x 25 durations x seeds: 4,000 runs for each seed, and
    no two generators of an arm share a config.
    """
    return Grid(
        name="plan_speed",
        data={"dataset": part("digits"), "resolution": 32},
        extractor={"width": 64},
        tokenizer={
            "tokenizer": part("vqgan", ch=16, ch_mult=[1, 1, 2, 2]),
            "quantizer": part("vq"),
            "iterations": 200,
            "batch_size": 32,
        },
        generator={
            "model": {"width": 64, "layers": 2, "heads": 2},
            "iterations": 100,
            "optim": {"lr_peak": 1e-3, "schedule": "cosine"},
        },
        evaluations={
            "reconstruction": {"subject": "tokenizer", "metrics": [part("fcd"), part("psnr")]},
            "samples": {"subject": "generator", "metrics": [part("fcd")], "num_samples": 1000},
        },
        arms={"vq": {}, "crt": {"tokenizer.regularizer": part("crt", width=64, heads=2)}},
        axes=(
            Axis("lr_peak", RATES, path="generator.optim.lr_peak"),
            Axis("width", WIDTHS, path="generator.model.width"),
            Axis("iterations", ITERATIONS, path="generator.iterations"),
            Axis("seed", tuple(range(max(1, runs // 4000))), path="generator.seed"),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as home:
        make_plan(study(1), home=home, overrides=["axes.width=[64]", "axes.iterations=[100]"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, start_cpu = time.perf_counter(), time.process_time()
        plan = make_plan(study(runs), home=home)
        planned, planned_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        start = time.perf_counter()
        document = plan.to_json()
        shown = time.perf_counter() - start
        start = time.perf_counter()
        path = plan.write(home)
        written = time.perf_counter() - start
        size = os.path.getsize(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for run in plan.runs[:: max(1, len(plan.runs) // 500)]:
        assert run_id(run.kind, run.config, run.parents) == run.id
    kinds = {kind: entry["runs"] for kind, entry in document["totals"]["by_kind"].items()}
    print(f"date          {datetime.date.today()}, {platform.processor() or platform.machine()}")
    print(f"runs          {len(plan.runs)}: {kinds}")
    print(f"plan          {planned:.2f} s, {planned_cpu:.2f} s of CPU (goal 5 s)")
    print(f"to JSON tree  {shown:.2f} s")
    print(f"plan file     {written:.2f} s, {size / 1e6:.0f} MB")
    print(f"memory        {peak / 1024:.0f} MiB, {before / 1024:.0f} before (goal 1024)")


if __name__ == "__main__":
    main()
