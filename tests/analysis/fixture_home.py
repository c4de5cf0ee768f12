"""The made-up study `main` as run folders, endpoints and a plan, as a real study leaves them."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import fixture_table
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results_db"))

from made_home import finish, make_run, planned, value, write_plan

_COLUMNS = (
    *("params", "params_non_embedding", "params_head", "flops_train", "flops_total", "flops_paper"),
    *("flops_sample", "tokens_train", "images_train", "iterations", "tokens_per_image"),
    *("codebook_size", "train_seed", "trunk_id", "gpu_hours"),
)


def make_home(home: Path, name: str = "made") -> pd.DataFrame:
    """Fills `home` with the generators of two arms and all they stand on; returns their rows."""
    df = fixture_table.table()
    df = df[df["arm"].isin(["vq", "crt"]) & (df["train_seed"] == 0)].reset_index(drop=True)
    vectors = fixture_table.vectors(df, images=300)
    data = {"data": {"dataset": {"name": "digits", "version": 1}}}
    runs: list[dict[str, Any]] = []
    for _, mine in df.groupby("arm"):
        first = mine.iloc[0]
        arm, tokenizer, codes = first["arm"], first["tokenizer_id"], first["codes_id"]
        run = make_run(home, "tokenizer", tokenizer, config=data)
        finish(run, [], columns={"params": 5000, "codebook_size": int(first["codebook_size"])})
        run = make_run(home, "codes", codes, parents={"tokenizer": tokenizer}, config=data)
        entry = _artifact(run, "entropy.npz", vectors(codes, "entropy.npz"))
        columns = {"tokens_per_image": int(first["tokens_per_image"])}
        finish(run, [], columns=columns, artifacts=[entry])
        evaluation = fixture_table.run_id("evaluation", tokenizer)
        run = make_run(
            home, "evaluation", evaluation, parents={"tokenizer": tokenizer}, config=data
        )
        rfcd = value(
            "rfcd", float(first["rfcd"]), extractor=fixture_table.EXTRACTOR, num_samples=90
        )
        finish(run, [rfcd, value("psnr", float(first["psnr"]), "dB")])
        runs += [
            planned(tokenizer, "tokenizer", [(arm, {})]),
            planned(codes, "codes", [(arm, {})], parents={"tokenizer": tokenizer}),
            planned(evaluation, "evaluation", [(arm, {})], parents={"tokenizer": tokenizer}),
        ]
        for _, row in mine.iterrows():
            runs += _generator(home, row, vectors, data)
    write_plan(home, name, runs)
    return df


def _generator(home: Path, row: pd.Series, vectors: Any, data: Any) -> list[dict[str, Any]]:
    generator, parents = row["run_id"], {"codes": row["codes_id"]}
    run = make_run(home, "generator", generator, parents=parents, config=data)
    name = "val_loss_per_position.npy"
    entry = _artifact(run, name, vectors(generator, name))
    columns = {c: row[c].item() if hasattr(row[c], "item") else row[c] for c in _COLUMNS}
    finish(
        run,
        [
            value("val_loss", float(row["val_loss"]), "nats/token"),
            value("val_bits_per_image", float(row["val_bits_per_image"]), "bits/image"),
        ],
        columns=columns,
        artifacts=[entry],
    )
    evaluation = fixture_table.run_id("evaluation", generator)
    above = {"generator": generator, "tokenizer": row["tokenizer_id"]}
    run = make_run(home, "evaluation", evaluation, parents=above, config=data)
    # Two sample seeds of which mean and standard deviation are the row's.
    half = float(row["gfcd_std"]) / np.sqrt(2)
    made_by = {"extractor": fixture_table.EXTRACTOR, "num_samples": 1797, "floor": 0.9}
    finish(
        run,
        [
            value("gfcd", float(row["gfcd"]) + sign * half, seed=seed, **made_by)
            for seed, sign in enumerate((1, -1))
        ],
    )
    axes = {"size": row["size"], "iterations": int(row["iterations"])}
    return [
        planned(generator, "generator", [(row["arm"], axes)], parents=parents),
        planned(evaluation, "evaluation", [(row["arm"], axes)], parents=above),
    ]


def _artifact(run: Any, name: str, content: Any) -> dict[str, Any]:
    """Writes an array (or several) into the run's artifacts; its entry in the endpoint."""
    buffer = io.BytesIO()
    if isinstance(content, dict):
        np.savez(buffer, **content)
    else:
        np.save(buffer, content)
    run.artifacts_path.mkdir(parents=True, exist_ok=True)
    (run.artifacts_path / name).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return {"name": name, "file": name, "sha256": digest, "bytes": len(buffer.getvalue())}
