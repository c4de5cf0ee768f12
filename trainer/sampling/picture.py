"""`tokenlaw sample`: a picture of what a trained run makes, one row per class.

Shape suffixes: B images, C = 3, H, W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...results_db.durable import write_bytes
from ...results_db.record import RunDir, read_endpoint
from ...results_db.strict_json import read_json
from ..accounting import stored_config
from ..accounting.config import DataConfig, EvaluationConfig, SamplingConfig
from ..loop import data
from ..loop.optim import derive_seed
from ..models.build import legal_sizes, load_generator, load_tokenizer
from ..worker import pick_device, read_settings
from .mosaic import picture
from .sampler import Sampler

DEFAULT_N = 8  # images of each class


def sample(
    run_dir: RunDir,
    *,
    out: Path,
    classes: Sequence[int] | None = None,
    n: int | None = None,
    cfg: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Write a PNG: `n` samples per class of a generator, or originals over reconstructions of a
    tokenizer.

    Without `classes` the first eight are drawn, without `n` eight images of each, or the validation
    images that there are; without `cfg` a generator draws as its evaluations do. ValueError for a
    run that is not finished, is of another kind, or has no such class.
    """
    run_dir = RunDir(run_dir)
    endpoint = read_endpoint(run_dir)
    if endpoint is None or endpoint["status"] != "done":
        raise ValueError(
            f"run: {run_dir.kind} {run_dir.id} is not finished; allowed: finished runs"
        )
    where = pick_device(device)
    if run_dir.kind == "generator":
        rows = _samples(run_dir, classes, n or DEFAULT_N, cfg, seed, where)
    elif run_dir.kind == "tokenizer":
        if cfg is not None:
            raise ValueError(f"--cfg: {cfg} means nothing for a tokenizer; allowed: no --cfg")
        rows = _reconstructions(run_dir, classes, n, where)
    else:
        raise ValueError(
            f"run: {run_dir.id} is of kind {run_dir.kind}; allowed: a generator or a tokenizer"
        )
    if not rows:
        raise ValueError("--classes: no class among the first eight has validation images")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, picture(rows))


def study_sampling(run_dir: RunDir, cfg: float | None = None) -> SamplingConfig:
    """Return how the evaluations of a generator's samples draw, at the scale `cfg` if it is given.

    A scale that was chosen among several is the chosen one. Without evaluations in this home, and
    for a given `cfg` where they draw in several ways: plain sampling. ValueError when no `cfg` is
    given and their scales differ or none is chosen yet.
    """
    found: dict[SamplingConfig, str] = {}
    for path in sorted((run_dir.home / "evaluation").glob("*/config.json")):
        if read_json(path)["parents"].get("generator") != run_dir.id:
            continue
        evaluation = RunDir(path.parent)
        config: EvaluationConfig = stored_config.read(evaluation).config
        scale = _chosen_scale(evaluation, config) if cfg is None else cfg
        found[dataclasses.replace(config.sampling, cfg_scale=scale)] = evaluation.id
    if len(found) > 1 and cfg is None:
        scales = ", ".join(f"{how.cfg_scale:g} ({run})" for how, run in found.items())
        raise ValueError(f"--cfg: is required; evaluations of this run differ: {scales}")
    plain = SamplingConfig() if cfg is None else SamplingConfig(cfg_scale=cfg)
    return next(iter(found)) if len(found) == 1 else plain


def _chosen_scale(evaluation: RunDir, config: EvaluationConfig) -> float:
    if config.cfg_selection == "fixed":
        return config.sampling.cfg_scale
    endpoint = read_endpoint(evaluation)
    values = [] if endpoint is None else endpoint["values"]
    scales = {value["provenance"].get("cfg_scale") for value in values} - {None}
    if len(scales) != 1:
        raise ValueError(f"--cfg: is required; evaluation {evaluation.id} has not chosen a scale")
    return float(scales.pop())


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
    sampling = study_sampling(run_dir, cfg)
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
    run_dir: RunDir, classes: Sequence[int] | None, n: int | None, device: torch.device
) -> list[Tensor]:
    """Two rows for each class: `n` validation images, and their reconstructions.

    Without `n`: as many as there are, at most DEFAULT_N; a class without any is asked for by name
    or left out.
    """
    described: DataConfig = stored_config.read(run_dir).config.data
    images = data.open_images(described, read_settings(run_dir), "val")
    tokenizer, quantizer, _ = load_tokenizer(run_dir, device)
    rows = []
    for number in _chosen(classes, described.num_classes):
        indices = (images.labels == number).nonzero()[: n or DEFAULT_N, 0]
        if len(indices) < (n or 1):
            if n is None and classes is None:
                continue
            raise ValueError(
                f"--n: {n or 1} is too many; class {number} has {len(indices)} validation images"
            )
        originals = images.center(indices)
        x_BCHW = data.to_float(originals.to(device))
        y_BCHW = tokenizer.decode(quantizer(tokenizer.encode(x_BCHW), 0).z_q_BND)
        rows += [originals, data.to_uint8(y_BCHW).cpu()]
    return rows
