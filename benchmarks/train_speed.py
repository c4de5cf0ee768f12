"""Training speed on this machine's GPU, through the trainer itself.

    python benchmarks/train_speed.py [--generators 111M 343M 775M] [--tokenizers 64] [--steps 60]
                                     [--activation-memory 0.5] [--float8] [--gpus 2] [--warm]

Lays out real run folders over random codes (generators: batch 256 x 256 tokens, V = 16384, the
recipe of LlamaGen with dropout 0.1 and QK-norm, bf16) and over random 256 px images (tokenizer:
VQ-16 with PatchGAN and a VGG perceptual loss, whose weights do not matter for speed), does them by
`python -m tokenlaw.trainer` and reads log.jsonl. Beside each figure stand the ceilings measured in
the same call: an 8192^3 bf16 matrix product and a device copy.

`--gpus 2` measures two GPUs first, at the batch of one each, which also fills the compile cache;
then one. The multiple is that of these two.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tokenlaw.results_db.durable import write_json
from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.trainer import calibrate
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import decode_run, part, to_tree

TOKENS, VOCABULARY, CLASSES = 256, 16384, 1000
LLAMAGEN = {"111M": 590e3, "343M": 213e3, "775M": 93.7e3}  # tokens/s on one H200, its own script
LLAMAGEN_GIB = {"111M": 33, "343M": 73, "775M": 130}
LLAMAGEN_TOKENIZER = 86.0  # images/s at batch 64, 133 GiB
LLAMAGEN_CEILING = 759e12  # FLOP/s of the matrix product in the session of those figures (741-777)


def ceilings() -> tuple[float, float]:
    """(FLOP/s of a bf16 matrix product, bytes/s of a device copy), medians of 10."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    product = seconds(lambda: torch.matmul(a, b))
    copy = seconds(lambda: target.copy_(source))
    return 2 * 8192**3 / product, 2 * source.numel() * 4 / copy


def seconds(work: Callable[[], Any]) -> float:
    """Median device time of ten calls after three."""
    times = []
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[3:])


def lay_out(
    home: Path, kind: str, tree: dict[str, Any], parents: dict[str, RunDir], **settings: Any
) -> RunDir:
    """A planned run's folder."""
    run = calibrate.lay_out(home, kind, decode_run(kind, tree), parents)
    write_json(run.settings_path, {"device": "cuda", "checkpoint_seconds": 1e6, **settings})
    return run


def finish(run: RunDir) -> None:
    """Marks a run as done, with no values."""
    attempt = claim(run, executor="benchmark")
    attempt.write_endpoint({"status": "done", "values": [], "columns": {"flops_train": 0.0}})
    attempt.finish("done")


def compile_caches(home: Path) -> dict[str, str]:
    """The environment in which compiled code is kept in `home` and nowhere else."""
    kept = home / "compiled"
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {name: str(kept / name.split("_")[0].lower()) for name in names}


def measure(run: RunDir, units_per_step: int, cold: bool, gpus: int = 1) -> dict[str, float]:
    """Does the run in a process of its own, or one for each GPU, and reads its log."""
    environment = {**os.environ, **compile_caches(run.home)}
    if cold:
        shutil.rmtree(run.home / "compiled", ignore_errors=True)
    started = time.time()
    group = ["torch.distributed.run", f"--nproc-per-node={gpus}", "-m"] if gpus > 1 else []
    command = [sys.executable, "-m", *group, "tokenlaw.trainer", str(run.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr[-3000:])
        raise SystemExit(f"{run.path}: exit code {done.returncode}")
    lines = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    log = [entry for entry in lines if "loss" in entry]
    gaps = [
        (later["time"] - earlier["time"]) / (later["step"] - earlier["step"])
        for earlier, later in zip(log, log[1:], strict=False)
    ]
    step_seconds = statistics.median(gaps[len(gaps) // 3 :])
    first = log[0]["time"] - started - log[0]["step"] * step_seconds
    return {
        "per_second": units_per_step / step_seconds,
        "memory_gib": log[-1]["memory_gib"],
        "first_step_seconds": first,
        "wall_seconds": time.time() - started,
        "loss": log[-1]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="*", default=["111M", "343M", "775M"])
    parser.add_argument("--tokenizers", nargs="*", type=int, default=[64], help="batch sizes")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument(
        "--gpus", type=int, default=1, help="measured too, at the batch of one each"
    )
    parser.add_argument("--activation-memory", type=float, default=1.0, help="as of a launch")
    parser.add_argument("--float8", action="store_true", help="generators: float8_ffn")
    parser.add_argument("--warm", action="store_true", help="repeat each with a warm compile cache")
    chosen = parser.parse_args()
    matmul, copy = ceilings()
    print(
        f"{datetime.date.today()} {torch.cuda.get_device_name()} torch {torch.__version__}: "
        f"matrix product {matmul / 1e12:.0f} TFLOP/s, copy {copy / 1e12:.2f} TB/s"
    )
    torch.cuda.empty_cache()
    scale = matmul / LLAMAGEN_CEILING
    home = Path(tempfile.mkdtemp(prefix="tokenlaw-bench-"))
    folder = home / "pictures"
    data = {**calibrate.random_pictures(folder, 256, 512), "resolution": 256}
    codes_tree = {"data": {**data, "num_classes": CLASSES}}
    codes = calibrate.random_codes(home, codes_tree, tokenizer_tree(data, 64, 1), 8192)
    finish(codes)
    named = {name.removeprefix("llama-"): model for name, model in count.generators().items()}
    kept: dict[str, Any] = {"activation_memory": chosen.activation_memory}
    print("job | units/s | share of ceiling | x LlamaGen | GiB | first step s | first step warm s")
    for name in chosen.generators:
        model = to_tree(named[name])
        dropouts = ("token_dropout", "residual_dropout", "ffn_dropout")
        model |= dict.fromkeys(dropouts, chosen.dropout)
        tree = {
            "model": model,
            "iterations": chosen.steps,
            "batch_size": 256,
            "optim": {"lr_peak": 1e-4, "weight_decay": 0.05, "clip": 1.0},
            "numerics": {"precision": "bf16"},
            "float8_ffn": chosen.float8,
        }
        more = None
        if chosen.gpus > 1:
            group = {**tree, "batch_size": 256 * chosen.gpus}
            run = lay_out(home, "generator", group, {"codes": codes}, log_every=5, **kept)
            more = measure(run, chosen.gpus * 256 * TOKENS, cold=True, gpus=chosen.gpus)
        parents, units, cold = {"codes": codes}, 256 * TOKENS, more is None
        found = repeat(home, "generator", tree, parents, units, chosen.warm, cold=cold, **kept)
        per_token = flops.generator_flops_per_token(named[name], VOCABULARY, TOKENS)
        share = found["per_second"] * per_token / matmul
        ratio = found["per_second"] / (LLAMAGEN[name] * scale) if name in LLAMAGEN else float("nan")
        show(f"stage 2 {name}, tokens", found, share, ratio)
        if more is not None:
            show_group(f"stage 2 {name}, tokens", chosen.gpus, more, found)
    for batch in chosen.tokenizers:
        tree = tokenizer_tree(data, batch, chosen.steps)
        where = {"locations": {"data": str(folder)}, **kept}
        more = None
        if chosen.gpus > 1:
            group = tokenizer_tree(data, batch * chosen.gpus, chosen.steps)
            run = lay_out(home, "tokenizer", group, {}, log_every=5, **where)
            more = measure(run, batch * chosen.gpus, cold=True, gpus=chosen.gpus)
        cold = more is None
        found = repeat(home, "tokenizer", tree, {}, batch, chosen.warm, cold=cold, **where)
        config = decode_run("tokenizer", tree)
        per_image = flops.tokenizer_flops_train(config) / (batch * chosen.steps)
        ratio = found["per_second"] / (LLAMAGEN_TOKENIZER * scale)
        show(f"VQ-16 batch {batch}, images", found, found["per_second"] * per_image / matmul, ratio)
        if more is not None:
            show_group(f"VQ-16 batch {batch} each, images", chosen.gpus, more, found)
    shutil.rmtree(home)


def tokenizer_tree(data: dict[str, Any], batch: int, steps: int) -> dict[str, Any]:
    """VQ-16 as in LlamaGen and CRT, with the GAN on from the first iteration."""
    return {
        "data": data,
        "tokenizer": part("vqgan"),
        "quantizer": part("vq", codebook_size=VOCABULARY),
        "perceptual": part("random_vgg", weight=1.0),
        "adversarial": part("patchgan", start_iteration=0, ramp_iterations=0, objective="hinge"),
        "iterations": steps,
        "batch_size": batch,
        "optim": {"name": "adam"},
        "numerics": {"precision": "bf16"},
    }


def repeat(
    home: Path,
    kind: str,
    tree: dict[str, Any],
    parents: dict[str, RunDir],
    units: int,
    warm: bool,
    *,
    cold: bool,
    **settings: Any,
) -> dict[str, float]:
    """Measured with a cold compile cache or the one there is; after a cold one, the first step also
    with the cache that it left.
    """
    run = lay_out(home, kind, tree, parents, log_every=5, **settings)
    found = measure(run, units, cold)
    found["warm"] = float("nan")
    if not cold:
        found["warm"], found["first_step_seconds"] = found["first_step_seconds"], float("nan")
    elif warm:
        again = lay_out(home, kind, {**tree, "seed": 1}, parents, log_every=5, **settings)
        found["warm"] = measure(again, units, cold=False)["first_step_seconds"]
    return found


def show(job: str, found: dict[str, float], share: float, ratio: float) -> None:
    cells = [
        job,
        f"{found['per_second']:,.0f}",
        f"{share:.3f}",
        f"{ratio:.2f}",
        f"{found['memory_gib']:.1f}",
        f"{found['first_step_seconds']:.1f}",
        f"{found['warm']:.1f}",
    ]
    print(" | ".join(cells), flush=True)


def show_group(job: str, gpus: int, found: dict[str, float], one: dict[str, float]) -> None:
    """What several GPUs reach together, as a multiple of one in the same call."""
    times = found["per_second"] / one["per_second"]
    print(
        f"{job}, {gpus} GPUs | {found['per_second']:,.0f} | {times:.2f} x one | first step after "
        f"{found['first_step_seconds']:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
