"""A run that is deleted and done again by mended code: the tables have its new numbers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import tiny

STUDY = """
from tokenlaw import Axis, Grid, part

ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}


def study() -> Grid:
    return Grid(
        data={"dataset": part("digits"), "resolution": 16},
        tokenizer={
            "tokenizer": part(
                "vqgan", ch=8, ch_mult=[1, 1, 1], num_res_blocks_encoder=1,
                num_res_blocks_decoder=1, z_channels=8,
            ),
            "quantizer": part("vq", codebook_size=32, dim=4),
            "iterations": 2, "batch_size": 8, "optim": {"name": "adam", **ADAM},
        },
        codes={"crops": "center", "num_train": 50},
        generator={
            "model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
            "iterations": 2, "batch_size": 16, "optim": {**ADAM, "schedule": "cosine"},
        },
        axes=(Axis("seed", (0, 1), path="generator.seed"),),
    )
"""

# Python runs a module of this name when it starts, here and in the workers.
MENDED = """
import importlib.util
import sys


class Mended:
    def find_spec(self, name, path=None, target=None):
        if name != "tokenlaw.results_db.record":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def mended(module):
            execute(module)
            write = module.Attempt.write_endpoint

            def write_endpoint(self, endpoint):
                for value in endpoint["values"]:
                    value["value"] += 1.0
                return write(self, endpoint)

            module.Attempt.write_endpoint = write_endpoint

        spec.loader.exec_module = mended
        return spec


sys.meta_path.insert(0, Mended())
"""


def losses(text: str) -> dict[str, float]:
    return {row["run_id"]: row["value"] for row in json.loads(text) if row["metric"] == "val_loss"}


def test_results_show_the_numbers_of_a_run_done_again(home: Path, tmp_path: Path) -> None:
    study = tmp_path / "again.py"
    study.write_text(STUDY)
    (tmp_path / "mended").mkdir()
    (tmp_path / "mended" / "sitecustomize.py").write_text(MENDED)

    def run(*words: str, mended: bool = False) -> subprocess.CompletedProcess[str]:
        folders = [str(tiny.ROOT)] + ([str(tmp_path / "mended")] if mended else [])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
        command = [sys.executable, "-m", "tokenlaw", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    run("launch", str(study), "--yes", "--wait")
    before = losses(run("results", "again", "--json").stdout)
    first, second = sorted(before)
    shutil.rmtree(home / "generator" / first)
    launched = run("launch", str(study), "--yes", "--wait", mended=True)
    assert f"replaced: {first}: val_loss {before[first]!r} -> {before[first] + 1!r}" in (
        launched.stderr
    )
    expected = {first: before[first] + 1, second: before[second]}
    assert losses(run("results", "again", "--json").stdout) == expected

    # Edited on another machine and copied here: no marker tells of it.
    endpoint = home / "generator" / second / "endpoint.json"
    content = endpoint.read_text()
    endpoint.write_text(content.replace(repr(before[second]), "9.25"))
    assert losses(run("results", "again", "--json").stdout) == expected
    synced = run("sync")
    assert f"replaced: {second}: val_loss {before[second]!r} -> 9.25\n" in synced.stdout
    assert losses(run("results", "again", "--json").stdout) == expected | {second: 9.25}

    # Damaged: every reader says so, on stderr.
    endpoint.write_text(content[:99])
    failed = subprocess.run(
        [sys.executable, "-m", "tokenlaw", "sync"], capture_output=True, text=True, cwd=tiny.ROOT
    )
    assert failed.returncode == 1 and f"problem: generator-{second}: " in failed.stdout
    shown = run("results", "again", "--json")
    assert losses(shown.stdout) == {first: expected[first]}
    assert shown.stderr.startswith(
        "1 run in quarantine, so values may be missing or old; the first is "
    )
    assert shown.stderr.count("\n") == 1 and f"generator-{second}: {endpoint}" in shown.stderr
