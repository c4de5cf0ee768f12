"""`tokenlaw sample`: a picture of what a trained run makes, one row per class.

Shape suffixes: B images, C = 3, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...results_db.durable import write_bytes
from ...results_db.record import RunDir, read_endpoint
from ..accounting import stored_config
from ..accounting.config import DataConfig, SamplingConfig
from ..kinds.evaluation import picture
from ..loop import data
from ..loop.optim import derive_seed
from ..models.build import legal_sizes, load_generator, load_tokenizer
from ..worker import pick_device, read_settings
from .sampler import Sampler


def sample(
    run_dir: RunDir,
    *,
    out: Path,
    classes: Sequence[int] | None = None,
    n: int = 8,
    cfg: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Writes a PNG: `n` samples per class of a generator, or originals over reconstructions of a
    tokenizer.

    Without `classes` the first eight are drawn; without `cfg` the guidance scale is 1. ValueError
    for a run that is not finished, is of another kind, or has no such class.
    """
    run_dir = RunDir(run_dir)
    endpoint = read_endpoint(run_dir)
    if endpoint is None or endpoint["status"] != "done":
        raise ValueError(
            f"run: {run_dir.kind} {run_dir.id} is not finished; allowed: finished runs"
        )
    where = pick_device(device)
    if run_dir.kind == "generator":
        rows = _samples(run_dir, classes, n, cfg, seed, where)
    elif run_dir.kind == "tokenizer":
        if cfg is not None:
            raise ValueError(f"--cfg: {cfg} means nothing for a tokenizer; allowed: no --cfg")
        rows = _reconstructions(run_dir, classes, n, where)
    else:
        raise ValueError(
            f"run: {run_dir.id} is of kind {run_dir.kind}; allowed: a generator or a tokenizer"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, picture(rows))


def _chosen(classes: Sequence[int] | None, num_classes: int) -> list[int]:
    chosen = list(range(min(8, num_classes))) if classes is None else list(classes)
    for number in chosen:
        if not 0 <= number < num_classes:
            raise ValueError(f"--classes: {number} is not a class; allowed: 0 to {num_classes - 1}")
    return chosen


@torch.inference_mode()
def _samples(
    run_dir: RunDir,
    classes: Sequence[int] | None,
    n: int,
    cfg: float | None,
    seed: int,
    device: torch.device,
) -> list[Tensor]:
    """uint8 [n, 3, H, W] for each class. A sample depends on (seed, class, number) alone."""
    generator, config = load_generator(run_dir, device)
    codes_dir = RunDir.of(run_dir.home, "codes", stored_config.read(run_dir).parents["codes"])
    tokenizer_id = stored_config.read(codes_dir).parents["tokenizer"]
    tokenizer_dir = RunDir.of(run_dir.home, "tokenizer", tokenizer_id)
    tokenizer, quantizer, _ = load_tokenizer(tokenizer_dir, device)
    sizes = legal_sizes(tokenizer_dir, generator.tokens_per_image)
    sampling = SamplingConfig(cfg_scale=1.0 if cfg is None else cfg)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=config.numerics.precision == "bf16")
    sampler, rows = Sampler(generator, sizes), []
    for number in _chosen(classes, generator.num_classes):
        seeds = [derive_seed("sample", seed, number, index) for index in range(n)]
        class_B = torch.full((n,), number, device=device)
        with bf16:
            code_BN = sampler(class_B, seeds, sampling)
            x_BCHW = tokenizer.decode(quantizer.lookup(code_BN))
        rows.append(data.to_uint8(x_BCHW).cpu())
    return rows


@torch.inference_mode()
def _reconstructions(
    run_dir: RunDir, classes: Sequence[int] | None, n: int, device: torch.device
) -> list[Tensor]:
    """Two rows for each class: `n` validation images, and their reconstructions."""
    described: DataConfig = stored_config.read(run_dir).config.data
    images = data.open_images(described, read_settings(run_dir), "val")
    tokenizer, quantizer, _ = load_tokenizer(run_dir, device)
    rows = []
    for number in _chosen(classes, described.num_classes):
        indices = (images.labels == number).nonzero()[:n, 0]
        if len(indices) < n:
            raise ValueError(
                f"--n: {n} is too many; class {number} has {len(indices)} validation images"
            )
        originals = images.center(indices)
        x_BCHW = data.to_float(originals.to(device))
        y_BCHW = tokenizer.decode(quantizer(tokenizer.encode(x_BCHW), 0).z_q_BND)
        rows += [originals, data.to_uint8(y_BCHW).cpu()]
    return rows
