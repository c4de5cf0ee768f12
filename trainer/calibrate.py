"""Times runs that do not exist yet: `python -m tokenlaw.trainer.calibrate SPEC.json RESULT.json`.

The train loops themselves do a few iterations of each run, on random codes or on the study's images
(random ones where those are not at hand), in a folder that is thrown away. SPEC and RESULT are
described at `measure`; an executor may run the command wherever both can be reached.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..results_db.durable import write_json
from ..results_db.masking import mask_secrets, mask_tracebacks
from ..results_db.processes import EXIT_TRY_AGAIN
from ..results_db.record import RunDir, claim
from ..results_db.strict_json import read_json
from . import parts
from .accounting import flops
from .accounting.config import (
    CodesConfig,
    GeneratorConfig,
    TokenizerConfig,
    decode,
    decode_run,
    to_tree,
)
from .accounting.identity import run_id
from .fast_start import compiler, startup
from .loop.code_sets import Codes
from .loop.optim import Diverged
from .run import Run, Settings, hardware_name
from .stop import Stop
from .worker import pick_device, prepare_numerics, stage_function

WARMUP = {"cpu": 2, "cuda": 8}  # iterations before the clock runs: compiling, first allocations
WINDOWS = 5  # timed pieces, whose spread is the interval
MOST = 1_000_000_000  # iterations: more than are ever timed
IMAGES = 64  # random pictures where the study's are not at hand


class Enough(Exception):
    """All windows are timed."""


class Meter(Stop):
    """Stands in for the stop flag, which the loops ask at the start of every iteration.

    After the warm-up and one iteration that tells how many make a window, it times `WINDOWS`
    windows of about `seconds` in all, then raises Enough.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self._device = device
        self._seconds = seconds
        self._left = WARMUP[device.type]
        self._size: int | None = None  # iterations of a window; None before its length is known
        self._began = 0.0
        self.windows: list[float] = []  # seconds per iteration

    @property
    def requested(self) -> bool:  # type: ignore[override]
        if self._left > 0:
            self._left -= 1
            return False
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._began:
            each = (now - self._began) / (self._size or 1)
            if self._size is None:
                self._size = max(1, math.ceil(self._seconds / WINDOWS / max(each, 1e-6)))
            else:
                self.windows.append(each)
        if len(self.windows) == WINDOWS:
            raise Enough
        self._began = time.perf_counter()
        self._left = (self._size or 1) - 1
        return False


def measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Time every job of a spec.

    SPEC: {"device": "auto", "seconds": of each job, "settings": more settings of a run, "jobs":
    [{"kind": "generator", "config": .., "codes": config of its codes, "tokenizer": config},
    {"kind": "tokenizer", "config": .., "random_images": false}]}, configs as plain data.
    RESULT: {"hardware", "results": [{"seconds_per_step": [..], "unit": "tokens/s" or "images/s",
    "units_per_step", "flops_per_step", "peak_memory_bytes"} or {"error": ".."}]}, in the order of
    the jobs.
    """
    device = pick_device(spec["device"])
    results = []
    for number, job in enumerate(spec["jobs"], 1):
        print(f"timing {number} of {len(spec['jobs'])}: {job['kind']}", file=sys.stderr, flush=True)
        try:
            results.append(_measure_one(job, device, spec["seconds"], spec.get("settings", {})))
        except (ValueError, Diverged, torch.OutOfMemoryError) as error:
            # One shape that cannot be timed here (memory, weights that are missing) spares the
            # others; the caller says which.
            results.append({"error": mask_secrets(str(error)).strip().splitlines()[0]})
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {"hardware": hardware_name(device), "results": results}


def _measure_one(
    job: Mapping[str, Any], device: torch.device, seconds: float, settings: Mapping[str, Any]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tokenlaw-calibrate-") as folder:
        home = Path(folder)
        config = decode_run(job["kind"], job["config"])
        parents = {}
        if isinstance(config, GeneratorConfig):
            images = 4 * config.batch_size
            parents["codes"] = random_codes(home, job["codes"], job["tokenizer"], images)
            config = dataclasses.replace(config, num_train=None)
        elif job.get("random_images"):
            config, settings = random_images(home, config, settings)
        config = timed(config)
        run_dir = lay_out(home, job["kind"], config, parents)
        meter = Meter(device, seconds)
        how = decode(Settings, {**settings, "checkpoint_seconds": 1e9}, where="settings")
        attempt = claim(run_dir, executor="calibrate")
        run = Run(run_dir, config, parents, how, attempt, device, meter)
        prepare_numerics(run)
        startup.get_ready(run.kind, device, run.compile, how.activation_memory)
        _forget_peak(device)
        try:
            stage_function(run.kind)(run)
        except Enough:
            measured = {"seconds_per_step": meter.windows, "peak_memory_bytes": _peak(device)}
            return {**measured, **_per_step(config, parents)}
    raise AssertionError("the loop ended before it was timed")


def timed(config: TokenizerConfig | GeneratorConfig) -> TokenizerConfig | GeneratorConfig:
    """Return the config of the run's most expensive iterations: alone, endless, discriminator on.

    The rate is next to nothing, so that nothing diverges on random data.
    """
    optim = dataclasses.replace(
        config.optim, schedule="constant", warmup_iterations=0, lr_peak=1e-9
    )
    changes: dict[str, Any] = {"iterations": MOST, "optim": optim, "trunk": None}
    if isinstance(config, TokenizerConfig) and config.adversarial is not None:
        part = config.adversarial
        own = dataclasses.replace(part.config, start_iteration=0)
        changes["adversarial"] = dataclasses.replace(part, config=own)
    return dataclasses.replace(config, **changes)


def _per_step(
    config: TokenizerConfig | GeneratorConfig, parents: Mapping[str, RunDir]
) -> dict[str, Any]:
    """Return unit, units and FLOPs of one iteration of the timed run."""
    one = dataclasses.replace(config, iterations=1)
    if isinstance(one, TokenizerConfig):
        total = flops.tokenizer_flops_train(one)
        return {"unit": "images/s", "units_per_step": one.batch_size, "flops_per_step": total}
    codes = Codes(parents["codes"])
    total = flops.generator_flops_train(one, codes.codebook_size, codes.tokens_per_image)
    tokens = one.batch_size * codes.tokens_per_image
    return {"unit": "tokens/s", "units_per_step": tokens, "flops_per_step": total}


def lay_out(home: Path, kind: str, config: Any, parents: Mapping[str, RunDir]) -> RunDir:
    """Make the folder of a run that no plan knows."""
    ids = {role: parent.id for role, parent in parents.items()}
    run_dir = RunDir.of(home, kind, run_id(kind, config, ids))
    run_dir.path.mkdir(parents=True, exist_ok=True)
    (home / "spool").mkdir(exist_ok=True)
    stored = {"scheme": 1, "id": run_dir.id, "kind": kind}
    write_json(run_dir.config_path, {**stored, "config": to_tree(config), "parents": ids})
    return run_dir


def random_codes(
    home: Path, codes: Mapping[str, Any], tokenizer: Mapping[str, Any], num_train: int
) -> RunDir:
    """Make the folder of a codes run whose codes are random, and of its tokenizer."""
    made: CodesConfig = decode_run("codes", codes)
    above: TokenizerConfig = decode_run("tokenizer", tokenizer)
    parent = lay_out(home, "tokenizer", above, {})
    run_dir = lay_out(home, "codes", made, {"tokenizer": parent})
    part, size = above.tokenizer.config, above.quantizer.config.num_codes
    resolution = made.data.resolution
    tokens = part.tokens_per_image(resolution)
    # As of a quantizer whose codebook grows along the sequence, where it does.
    sizes = above.quantizer.config.codebook_sizes(tokens) or [size] * tokens
    folder = run_dir.path / "codes"
    folder.mkdir()
    random = np.random.default_rng(0)
    dtype = np.uint16 if size <= 1 << 16 else np.uint32
    shards = {}
    for split, images in (("train", num_train), ("val", 1)):
        drawn = random.integers(0, sizes, (images, 1, tokens)).astype(dtype)
        np.save(folder / f"{split}-00000.npy", drawn)
        labels = random.integers(0, made.data.num_classes, images, dtype=np.int32)
        np.save(folder / f"labels-{split}.npy", labels)
        shards[split] = [{"file": f"{split}-00000.npy", "shape": list(drawn.shape)}]
    manifest = {"codebook_size": size, "tokens_per_image": tokens, "shards": shards}
    manifest |= {"grid": list(part.grid_shape(resolution)), "num_classes": made.data.num_classes}
    write_json(folder / "manifest.json", manifest)
    return run_dir


def random_images(
    home: Path, config: TokenizerConfig, settings: Mapping[str, Any]
) -> tuple[TokenizerConfig, dict[str, Any]]:
    """Return the run on a folder of random pictures, and the settings that name the folder."""
    folder = home / "pictures"
    data = to_tree(config)["data"] | random_pictures(folder, config.data.resolution, IMAGES)
    locations = {**settings.get("locations", {}), "data": str(folder)}
    changed = decode_run("tokenizer", {**to_tree(config), "data": data})
    return changed, {**settings, "locations": locations}


def random_pictures(folder: Path, side: int, num_train: int) -> dict[str, Any]:
    """Write random JPEGs in the ImageNet layout; return their facts as fields of DataConfig.

    They are a third larger than `side` px, as photographs are: reading them is timed too.
    """
    random = np.random.default_rng(0)
    shape = (side * 4 // 3, side * 4 // 3)
    for split, number in (("train", num_train), ("val", 16)):
        (folder / split / "class0").mkdir(parents=True)
        for index in range(number):
            coarse = random.integers(0, 256, (max(1, side // 16),) * 2 + (3,), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC)
            picture.save(folder / split / "class0" / f"{index:05d}.jpg")
    module = parts.load("datasets", "imagefolder")
    facts = module.describe(module.Config(), folder)
    return {
        "dataset": "imagefolder",
        "digest": facts.digest,
        "num_classes": facts.num_classes,
        "num_train": facts.num_train,
        "num_val": facts.num_val,
    }


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is used now
        except OSError:
            pass  # not allowed in some containers: the peak is then of all shapes so far


def _peak(device: torch.device) -> int | None:
    """Peak memory in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m tokenlaw.trainer.calibrate SPEC.json RESULT.json", file=sys.stderr)
        return 2
    spec, result = arguments
    if compiler.worthwhile():
        compiler.start()
    try:
        found = measure(read_json(spec))
    except ValueError as error:
        found = {"error": mask_secrets(str(error))}
    write_json(result, found)
    return 2 if "error" in found else 0


if __name__ == "__main__":
    # Told to end, by Ctrl-C or by a scheduler, it leaves without a word and takes its folder along.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(EXIT_TRY_AGAIN))
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
