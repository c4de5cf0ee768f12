"""Made-up wide tables for the tests of the figures and the report. Seeded, realistic in shape,
never results.

Each `study` has the columns of a real one: `main` (two regularised arms against a baseline over
sizes and durations, two training seeds for the smallest size, one diverged run), `codebook`,
`tokens`, `ablation`, `data_size`, `cfg`, `tokenizers`, `ibq`, `system`, `vcq`, `lsun`.
`vectors()` gives arrays for their runs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

EXTRACTOR = "digits-clf-1a2b3c4d"
SIZES = {"s": 1.2e6, "m": 4.8e6, "l": 1.9e7}
ITERATIONS = (500, 1500, 5000, 15000)
BATCH = 64


def run_id(*words: Any) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]


def _row(
    rng: np.random.Generator,
    study: str,
    arm: str,
    *,
    size: str = "m",
    iterations: int = 5000,
    seed: int = 0,
    ease: float = 1.0,  # below 1: tokens that are easier to model
    floor: float = 4.0,  # what the tokenizer alone costs in distance
    rfcd: float = 6.0,
    codebook_size: int = 1024,
    tokens: int = 64,
    **more: Any,
) -> dict[str, Any]:
    params = SIZES[size] + 2 * codebook_size * 128
    images = iterations * BATCH
    seen = images * tokens
    flops = 6.0 * params * seen * 1.03
    hardness = math.log(codebook_size) / math.log(1024)
    loss = (1.6 + ease * (95.0 * params**-0.31 + 160.0 * seen**-0.32)) * hardness
    loss *= math.exp(rng.normal(0.0, 0.002))
    gfcd = floor + ease * 2.2e4 * flops**-0.255
    values = gfcd * np.exp(rng.normal(0.0, 0.02, 3)) * math.exp(rng.normal(0.0, 0.015))
    tokenizer_id = run_id("tokenizer", study, arm, codebook_size, tokens)
    row = {
        "study": study,
        "arm": arm,
        "run_id": run_id(
            study, arm, size, iterations, seed, codebook_size, tokens, sorted(more.items())
        ),
        "tokenizer_id": tokenizer_id,
        "codes_id": run_id("codes", tokenizer_id),
        "status": "done",
        "size": size,
        "iterations": iterations,
        "dataset": "digits",
        "val_loss": loss,
        "val_bits_per_image": loss * tokens / math.log(2),
        "gfcd": float(values.mean()),
        "gfcd_std": float(values.std(ddof=1)),
        "gfcd_seeds": 3,
        "gfcd_extractor": EXTRACTOR,
        "gfcd_num_samples": 1797,
        "gfcd_floor": 0.9,
        "rfcd": rfcd,
        "rfcd_floor": 0.9,
        "psnr": 21.0 - 0.4 * rfcd,
        "ssim": 0.92 - 0.02 * rfcd,
        "codebook_usage": min(1.0, 900.0 / codebook_size + 0.35),
        "codebook_perplexity": 0.4 * codebook_size**0.9,
        "params": int(params),
        "params_non_embedding": int(SIZES[size]),
        "params_head": int(codebook_size * 128),
        "flops_train": flops,
        "flops_total": flops + 4.0e13,
        "flops_paper": 6.0 * params * images,
        "flops_sample": 2.0 * params * tokens * 2 + 3.0e9,
        "tokens_train": seen,
        "images_train": images,
        "tokens_per_image": tokens,
        "codebook_size": codebook_size,
        "train_seed": seed,
        "trunk_id": run_id("trunk", study, arm, size, seed),
        "gpu_hours": flops / 2.0e13 / 3600.0,
        "attempts": 1,
        "commit": "0123456789abcdef0123456789abcdef01234567",
    }
    row.update(more)
    return row


def _main(rng: np.random.Generator) -> list[dict[str, Any]]:
    arms = {
        "vq": {"ease": 1.0, "floor": 4.0, "rfcd": 6.0},
        "crt": {"ease": 0.93, "floor": 4.2, "rfcd": 6.6},
        "fsq": {"ease": 1.05, "floor": 4.6, "rfcd": 7.4},
    }
    rows = []
    for (arm, traits), size, iterations in product(arms.items(), SIZES, ITERATIONS):
        for seed in (0, 1) if size == "s" else (0,):
            rows.append(
                _row(rng, "main", arm, size=size, iterations=iterations, seed=seed, **traits)
            )
    lost = rows[-1]
    lost.update(status="diverged", reason="loss is not finite at step 8120")
    for column in ("val_loss", "val_bits_per_image", "gfcd", "gfcd_std"):
        lost[column] = math.nan
    return rows


def _codebook(rng: np.random.Generator) -> list[dict[str, Any]]:
    traits = {
        1024: {"ease": 0.85, "floor": 5.6, "rfcd": 8.0},
        16384: {"ease": 1.0, "floor": 4.0, "rfcd": 6.0},
        131072: {"ease": 1.35, "floor": 3.3, "rfcd": 5.2},
    }
    return [
        _row(rng, "codebook", f"vq-{codebook_size // 1024}k", size=size, iterations=iterations,
             codebook_size=codebook_size, **more)
        for (codebook_size, more), size, iterations in product(traits.items(), SIZES, ITERATIONS)
    ]  # fmt: skip


def _tokens(rng: np.random.Generator) -> list[dict[str, Any]]:
    traits = {
        256: {"ease": 1.0, "floor": 5.0, "rfcd": 6.0},
        400: {"ease": 1.15, "floor": 3.9, "rfcd": 4.4},
        576: {"ease": 1.3, "floor": 3.2, "rfcd": 3.6},
    }
    return [
        _row(
            rng, "tokens", f"vq-{tokens}t", size=size, iterations=iterations, tokens=tokens, **more
        )
        for (tokens, more), size, iterations in product(traits.items(), SIZES, ITERATIONS)
    ]


def _ablation(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for layers, size in product((0, 2, 4, 6), SIZES):
        ease = 1.0 if layers == 0 else 0.93 + 0.012 * (layers - 2)
        rows.append(
            _row(
                rng,
                "ablation",
                "layers",
                size=size,
                ease=ease,
                rfcd=6.0 + 0.2 * layers,
                crt_layers=layers,
                crt_weight=4.0 if layers else 0.0,
            )
        )
    for weight, size in product((0.5, 1.0, 2.0, 8.0, 16.0), SIZES):
        ease = 0.93 + 0.02 * abs(math.log2(weight / 4.0))
        rows.append(
            _row(
                rng,
                "ablation",
                "weight",
                size=size,
                ease=ease,
                rfcd=6.0 + 0.12 * weight,
                crt_layers=2,
                crt_weight=weight,
            )
        )
    return rows


def _data_size(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for arm, share, size in product(("vq", "crt"), (0.1, 0.25, 0.5, 1.0), SIZES):
        penalty = 1.0 + 0.25 * (1.0 - share) ** 2 * (SIZES[size] / 4.8e6) ** 0.4
        ease = (1.0 if arm == "vq" else 0.93) * penalty
        rows.append(
            _row(
                rng,
                "data_size",
                arm,
                size=size,
                ease=ease,
                iterations=15000,
                num_train=int(50000 * share),
            )
        )
    return rows


def _cfg(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for arm, scale, size in product(("vq", "crt"), (1.0, 1.5, 1.75, 2.0, 2.25, 3.0), ("s", "l")):
        ease = (1.0 if arm == "vq" else 0.93) * (1.0 + 0.35 * (math.log(scale / 1.9)) ** 2)
        rows.append(
            _row(
                rng,
                "cfg",
                arm,
                size=size,
                ease=ease,
                cfg_scale=scale,
                precision=0.66 + 0.07 * math.log(scale) + (0.02 if size == "l" else 0.0),
                recall=0.63 - 0.11 * math.log(scale) + (0.02 if arm == "crt" else 0.0),
            )
        )
    return rows


def _tokenizers(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for index, (label, params) in enumerate(
        (("ss", 1.36e6), ("sb", 2.32e6), ("bl", 6.22e6), ("xl", 2.9e7))
    ):
        for semantic, size in product((0.0, 0.5), ("s", "m")):
            harder = 1.0 + (0.1 * index if semantic == 0.0 else -0.04 * index)
            rows.append(
                _row(
                    rng,
                    "tokenizers",
                    f"{'sem' if semantic else 'plain'}-{label}",
                    size=size,
                    ease=harder,
                    rfcd=7.0 - 1.1 * index,
                    tokenizer_params=int(params),
                    semantic_weight=semantic,
                    lpips=0.24 - 0.02 * index,
                )
            )
    return rows


def _ibq(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    base = {"codebook_size": 16384, "codebook_dim": 256, "encoder_blocks": 2}
    sweeps: dict[str, tuple[int, ...]] = {
        "codebook_size": (1024, 8192, 16384, 262144),
        "codebook_dim": (32, 64, 128, 256),
        "encoder_blocks": (1, 2, 4),
    }
    for quantizer, (column, values) in product(("ibq", "vq"), sweeps.items()):
        for index, value in enumerate(values):
            shape = base | {column: value}
            rfcd = (
                7.0 - 0.8 * index
                if quantizer == "ibq"
                else 7.4 - 0.2 * index + (1.2 if index > 2 else 0.0)
            )
            row = _row(
                rng,
                "ibq",
                f"{quantizer}-{column}-{value}",
                rfcd=rfcd,
                quantizer=quantizer,
                lpips=0.05 + 0.03 * rfcd,
                **shape,
            )
            row["codebook_usage"] = 0.96 if quantizer == "ibq" else max(0.05, 0.9 - 0.28 * index)
            rows.append(row)
    return rows


def _system(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for arm, size in product(("vq", "crt"), SIZES):
        row = _row(rng, "system", arm, size=size, iterations=15000)
        row.update(
            gfid=row.pop("gfcd"),
            gfid_std=row.pop("gfcd_std"),
            inception_score=180.0 + 20.0 * (size == "l"),
            precision=0.8,
            recall=0.55,
            rfid=row.pop("rfcd"),
            gfid_num_samples=50000,
        )
        rows.append(row)
    return rows


def _vcq(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for arm, ease in (("constant", 1.0), ("linear", 0.95), ("cosine", 0.9), ("power", 0.92)):
        for size in ("s", "m"):
            rows.append(
                _row(
                    rng,
                    "vcq",
                    arm,
                    size=size,
                    ease=ease,
                    codebook_size=1024,
                    tokens=64,
                    vcq_schedule=arm,
                    k_min=2,
                    k_max=1024,
                    num_train=1797,
                )
            )
    return rows


def _lsun(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for dataset, arm, size in product(("cat", "horse", "bedroom"), ("vq", "crt"), ("s", "l")):
        row = _row(rng, "lsun", arm, size=size, ease=1.0 if arm == "vq" else 0.93)
        row.update(
            dataset=dataset,
            run_id=run_id("lsun", dataset, arm, size),
            gfid=row["gfcd"] * 0.8,
            gfid_clip=row["gfcd"] * 0.5,
        )
        rows.append(row)
    return rows


STUDIES: dict[str, Callable[[np.random.Generator], list[dict[str, Any]]]] = {
    "main": _main,
    "codebook": _codebook,
    "tokens": _tokens,
    "ablation": _ablation,
    "data_size": _data_size,
    "cfg": _cfg,
    "tokenizers": _tokenizers,
    "ibq": _ibq,
    "system": _system,
    "vcq": _vcq,
    "lsun": _lsun,
}


# The made-up study that has a figure's columns; a figure that is not listed draws from `main`.
STUDY_OF = {
    "ablation": "ablation",
    "cfg_sweep": "cfg",
    "codebook_size": "codebook",
    "conditional_entropy": "vcq",
    "data_set_size": "data_size",
    "quantizer_scaling": "ibq",
    "reconstruction_vs_generation": "tokenizers",
    "remaining_bits": "vcq",
    "system_table": "system",
    "tokenizer_scaling": "tokenizers",
    "tokens_per_image": "tokens",
    "vcq_schedules": "vcq",
}


def table(study: str = "main", seed: int = 0) -> pd.DataFrame:
    """The wide table of a made-up study, one row per generator."""
    return pd.DataFrame(STUDIES[study](np.random.default_rng(seed)))


def _code_statistics(codes_NL: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Entropies of a made-up code set, plug-in, in bits: the arrays a codes run leaves behind."""
    conditional, unique = _given_prefix(codes_NL)
    permuted, _ = _given_prefix(rng.permuted(codes_NL, axis=0))
    counts = [np.unique(column, return_counts=True)[1] for column in codes_NL.T]
    return {
        "entropy_bits": np.array([_bits(one) for one in counts]),
        "num_seen": np.array([len(one) for one in counts]),
        "conditional_entropy_bits": conditional,
        "conditional_entropy_permuted_bits": permuted,
        "unique_prefix_share": unique,
        "entropy_pooled_bits": np.asarray(_bits(np.unique(codes_NL, return_counts=True)[1])),
        "num_sequences": np.asarray(len(codes_NL)),
    }


def _given_prefix(codes_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, length = codes_NL.shape
    keys, before = np.zeros(images, dtype=np.int64), 0.0
    conditional, unique = np.zeros(length), np.ones(length)
    for position in range(length):
        column = codes_NL[:, position].astype(np.int64)
        _, keys, sizes = np.unique(keys * 1000003 + column, return_inverse=True, return_counts=True)
        conditional[position], before = _bits(sizes) - before, _bits(sizes)
        unique[position] = float((sizes == 1).sum()) / images
        if len(sizes) == images:
            break
    return conditional, unique


def _bits(counts: np.ndarray) -> float:
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def vectors(df: pd.DataFrame, images: int = 1500) -> Callable[[str, str], Any]:
    """Arrays for the runs of a table, made up from their rows: entropies and losses by position."""
    by_codes = {str(row["codes_id"]): row for _, row in df.iterrows()}
    by_run = {str(row["run_id"]): row for _, row in df.iterrows()}

    def get(identity: str, name: str) -> Any:
        rng = np.random.default_rng(int(identity[:8], 16))
        if name == "val_loss_per_position.npy":
            row = by_run[identity]
            place = np.arange(int(row["tokens_per_image"]))
            shape = 1 + 0.5 * np.exp(-place / 10) + 0.04 * np.cos(2 * np.pi * place / 8)
            noisy = shape + rng.normal(0, 0.006, len(place))
            late = 0.03 * place / len(place) if row["arm"] == "crt" else 0.0
            return float(row["val_loss"]) * (noisy / noisy.mean() - late)
        if name == "entropy.npz":
            row = by_codes[identity]
            return _code_statistics(_codes(rng, row, images), rng)
        raise ValueError(f"vectors: no array {name!r}")

    return get


def _codes(rng: np.random.Generator, row: pd.Series, images: int) -> np.ndarray:
    """Codes [images, L] of which neighbours are alike and some are rare, within each K_t."""
    length, top = int(row["tokens_per_image"]), int(row["codebook_size"])
    share = np.arange(length) / (length - 1)
    shapes = {
        "linear": share,
        "cosine": 1 - np.cos(np.pi * share / 2),
        "power": share**2.5,
    }
    sizes = np.round(2 + (top - 2) * shapes.get(str(row.get("vcq_schedule")), np.ones(length)))
    noise = rng.normal(0, 1, (images, length))
    for t in range(1, length):
        noise[:, t] = 0.75 * noise[:, t - 1] + math.sqrt(1 - 0.75**2) * noise[:, t]
    place = 1 / (1 + np.exp(-1.7 * noise))
    tilt = 1.25 + 0.5 * np.cos(2 * np.pi * np.arange(length) / 8)
    return np.minimum(np.floor(place**tilt * sizes), sizes - 1).astype(np.int64)
