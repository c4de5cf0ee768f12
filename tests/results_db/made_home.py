"""Builds run folders, endpoints and plans as the other stages leave them, without training."""

import hashlib
import json
import os
from pathlib import Path

from tokenlaw.results_db import durable, record


def make_run(home, kind, run_id, *, parents=None, config=None):
    """The folder of a launched run."""
    run = record.RunDir.of(home, kind, run_id)
    os.makedirs(run.path, exist_ok=True)
    durable.write_json(
        run.config_path,
        {
            "scheme": 1,
            "id": run_id,
            "kind": kind,
            "config": config or {},
            "parents": parents or {},
        },
    )
    return run


def value(metric, number, unit=None, **provenance):
    return {"metric": metric, "value": number, "unit": unit, "provenance": provenance}


def finish(run, values, *, status="done", columns=None, artifacts=None, reason=None):
    """One attempt that ends with an endpoint."""
    attempt = record.claim(run, executor="local", info={"hardware": "cpu"})
    attempt.write_endpoint(
        {
            "status": status,
            "reason": reason,
            "values": values,
            "columns": columns or {},
            "artifacts": artifacts or [],
        }
    )
    attempt.finish(status)
    return attempt


def planned(run_id, kind, members, *, parents=None, **facts):
    """A run's entry in a plan file; members are (arm, axes) or (arm, axes, primary)."""
    return {
        "id": run_id,
        "kind": kind,
        "parents": parents or {},
        "members": [
            {"arm": member[0], "axes": member[1], "primary": member[2] if member[2:] else True}
            for member in members
        ],
        **facts,
    }


def write_plan(home, study, runs):
    """The study's plan file and the pointer to it; returns the hash."""
    digest = hashlib.sha256(json.dumps([study, runs], sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(home) / "studies" / study
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(
        folder / f"plan-{digest}.json",
        {
            "scheme": 1,
            "study": study,
            "hash": digest,
            "created_at": "2026-01-01T00:00:00.000+00:00",
            "runs": runs,
        },
    )
    durable.write_json(folder / "current.json", {"plan": f"plan-{digest}.json"})
    return digest


def make_study(home, name="toy"):
    """Two arms over two tokenizers; three generators each, of which one diverged and one waits."""
    data = {"data": {"dataset": {"name": "digits", "version": 1}}}
    runs = []
    for arm, psnr in (("vq", 20.0), ("crt", 19.0)):
        tokenizer, codes = f"tok-{arm}", f"codes-{arm}"
        run = make_run(home, "tokenizer", tokenizer, config=data)
        finish(
            run,
            [value("val_reconstruction", 0.1)],
            columns={"params": 1000, "flops_train": 1e9, "codebook_size": 64},
        )
        run = make_run(home, "codes", codes, parents={"tokenizer": tokenizer}, config=data)
        finish(run, [value("code_entropy", 5.5, "bits")], columns={"tokens_per_image": 16})
        of_tokenizer = f"evt-{arm}"
        run = make_run(
            home, "evaluation", of_tokenizer, parents={"tokenizer": tokenizer}, config=data
        )
        finish(
            run,
            [
                value("psnr", psnr, "dB"),
                value("rfcd", 0.5, extractor="digits-clf-1", num_samples=300, floor=0.01),
                value("codebook_usage", 0.9),
            ],
        )
        runs += [
            planned(tokenizer, "tokenizer", [(arm, {})], params=1000),
            planned(codes, "codes", [(arm, {})], parents={"tokenizer": tokenizer}),
            planned(of_tokenizer, "evaluation", [(arm, {})], parents={"tokenizer": tokenizer}),
        ]
        for size, state in (("S", "done"), ("M", "diverged"), ("L", "planned")):
            generator = f"gen-{arm}-{size}"
            axes = {"size": size, "iterations": 100}
            runs.append(
                planned(
                    generator,
                    "generator",
                    [(arm, axes)],
                    parents={"codes": codes},
                    params=7,
                    flops_train=5e9,
                )
            )
            if state == "planned":
                continue
            run = make_run(home, "generator", generator, parents={"codes": codes})
            if state == "diverged":
                finish(run, [], status="diverged", reason="diverged at step 7")
                continue
            finish(
                run,
                [value("val_loss", 2.5, "nats/token")],
                columns={"params": 7, "flops_train": 4e9, "iterations": 100, "train_seed": 0},
            )
            for label, primary, distance in (("main", True, 3.0), ("extra", False, 99.0)):
                evaluation = f"evg-{arm}-{size}-{label}"
                parents = {"generator": generator, "tokenizer": tokenizer}
                run = make_run(home, "evaluation", evaluation, parents=parents)
                finish(
                    run,
                    [
                        value(
                            "gfcd",
                            distance + seed,
                            extractor="digits-clf-1",
                            num_samples=500,
                            seed=seed,
                            floor=0.02,
                            extractor_accuracy=0.9,
                            caution="too few",
                        )
                        for seed in (0, 1)
                    ],
                )
                runs.append(
                    planned(evaluation, "evaluation", [(arm, axes, primary)], parents=parents)
                )
    write_plan(home, name, runs)
    return runs
