"""Run folders for tests: tiny runs on the digits, done in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from results_db.durable import write_json
from results_db.record import RunDir
from trainer import config as configs
from trainer.config import part
from trainer.datasets import digits
from trainer.run import Outcome, Stop, execute

TOKENIZER = part(
    "vqgan",
    ch=8,
    ch_mult=[1, 1, 1],
    num_res_blocks_encoder=1,
    num_res_blocks_decoder=1,
    z_channels=8,
)


def digits_data(resolution: int = 16) -> dict[str, Any]:
    facts = digits.describe(digits.Config(), None)
    return {
        "dataset": part("digits"),
        "digest": facts.digest,
        "num_classes": facts.num_classes,
        "num_train": facts.num_train,
        "num_val": facts.num_val,
        "resolution": resolution,
    }


def plan(
    home: Path,
    kind: str,
    tree: dict[str, Any],
    parents: dict[str, str] | None = None,
    **settings: Any,
) -> RunDir:
    """A run folder with its config and settings, not yet done."""
    config = configs.decode_run(kind, tree)
    run_id = configs.run_id(kind, config, parents or {})
    run_dir = RunDir.of(home, kind, run_id)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    content = {"scheme": configs.SCHEME, "id": run_id, "kind": kind}
    content |= {"config": configs.to_tree(config), "parents": parents or {}}
    write_json(run_dir.config_path, content)
    write_json(run_dir.settings_path, {"device": "cpu", **settings})
    return run_dir


def do(run_dir: RunDir, stop: Stop | None = None) -> Outcome:
    """One attempt at a run."""
    return execute(run_dir.path, stop or Stop())


def done(
    home: Path,
    kind: str,
    tree: dict[str, Any],
    parents: dict[str, str] | None = None,
    **settings: Any,
) -> RunDir:
    """A finished run; the test fails when it does not finish."""
    run_dir = plan(home, kind, tree, parents, **settings)
    outcome = do(run_dir)
    assert outcome.outcome == "done", outcome
    return run_dir


def endpoint(run_dir: RunDir) -> dict[str, Any]:
    return json.loads(run_dir.endpoint_path.read_text())


def values(run_dir: RunDir, metric: str) -> list[dict[str, Any]]:
    return [value for value in endpoint(run_dir)["values"] if value["metric"] == metric]


class StopAfter(Stop):
    """Asks to stop at the n-th poll."""

    def __init__(self, polls: int) -> None:
        self.left = polls

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0


def extractor(home: Path, resolution: int = 16, iterations: int = 60, **options: Any) -> RunDir:
    tree = {"data": digits_data(resolution), "iterations": iterations, "width": 32, **options}
    return done(home, "extractor", tree)


def tokenizer(home: Path, resolution: int = 16, iterations: int = 3, **options: Any) -> RunDir:
    tree = {
        "data": digits_data(resolution),
        "tokenizer": TOKENIZER,
        "quantizer": part("vq", codebook_size=16, dim=4),
        "iterations": iterations,
        "batch_size": 8,
        **options,
    }
    return done(home, "tokenizer", tree)


def codes(home: Path, tokenizer_id: str, resolution: int = 16) -> RunDir:
    tree = {"data": digits_data(resolution), "crops": "center", "num_train": 64}
    return done(home, "codes", tree, {"tokenizer": tokenizer_id})


def generator(home: Path, codes_id: str, **options: Any) -> RunDir:
    tree = {
        "model": {"width": 16, "layers": 1, "heads": 2, "hidden_multiple": 8},
        "iterations": 3,
        "batch_size": 8,
        **options,
    }
    return done(home, "generator", tree, {"codes": codes_id})
