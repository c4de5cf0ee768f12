"""Tiny runs of every kind on the bundled digits, for tests: their configs, their folders, what they
left. Seconds on one CPU core; every mechanism of a real study can be on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tokenlaw.results_db.durable import sha256_file, write_json
from tokenlaw.results_db.endpoint import same_result
from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.accounting import identity
from tokenlaw.trainer.accounting.config import part
from tokenlaw.trainer.datasets import digits
from tokenlaw.trainer.run import Stop
from tokenlaw.trainer.worker import Outcome, execute

ROOT = Path(__file__).resolve().parent.parent

ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}
NO_DROPOUT = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0}
MODEL = {"width": 32, "layers": 2, "heads": 2, "hidden_multiple": 16}

# Weights scale with nothing here, so gates are set by hand: the GAN starts at the second iteration.
PATCHGAN = part("patchgan", ndf=4, n_layers=1, start_iteration=1, ramp_iterations=1, weight=0.1)
CRT = part("crt", width=16, heads=2, hidden_multiple=16, layers=1, ramp_iterations=2)
VGG = part("random_vgg", weight=0.1)


# What a clock or a memory counter put into log lines.
CLOCKED = ("tokens_per_second", "time", "memory_gib", "regularizer_seconds_share")
# What only lines that say something once have.
SAID_ONCE = ("warning", "regularizer_flops_overhead")


# ---------------------------------------------------------------------------------------- configs


def data(resolution: int = 16) -> dict[str, Any]:
    """The digits, with the facts that a plan would fill in."""
    facts = digits.describe(digits.Config(), None)
    return {
        "dataset": part("digits"),
        "digest": facts.digest,
        "num_classes": facts.num_classes,
        "num_train": facts.num_train,
        "num_val": facts.num_val,
        "resolution": resolution,
    }


def extractor(**changes: Any) -> dict[str, Any]:
    tree = {"data": data(), "width": 8, "iterations": 4, "batch_size": 16}
    return tree | changes


def tokenizer(**changes: Any) -> dict[str, Any]:
    """VQ at 16 px, 16 tokens of 32 codes, with the GAN; without a perceptual network, whose 15M
    random weights take longer to draw than all else."""
    tree = {
        "data": data(),
        "tokenizer": part(
            "vqgan",
            ch=8,
            ch_mult=[1, 1, 1],
            num_res_blocks_encoder=1,
            num_res_blocks_decoder=1,
            z_channels=8,
        ),
        "quantizer": part("vq", codebook_size=32, dim=4),
        "adversarial": PATCHGAN,
        "augment": "crop",
        "iterations": 4,
        "batch_size": 8,
        "optim": {"name": "adam", **ADAM, "warmup_iterations": 1},
    }
    return tree | changes


def varied_tokenizer(**changes: Any) -> dict[str, Any]:
    """One whose codes are of many kinds after few iterations: an entropy penalty spreads them."""
    spread = {
        "quantizer": part("vq", codebook_size=32, dim=4, entropy_weight=1.0),
        "adversarial": None,
        "iterations": 6,
        "optim": {"name": "adam", **ADAM, "lr_peak": 3e-3},
    }
    return tokenizer(**(spread | changes))


def crt(**changes: Any) -> dict[str, Any]:
    return tokenizer(regularizer=CRT, **changes)


def codes(**changes: Any) -> dict[str, Any]:
    return {"data": data(), "crops": "five_crop", "crop_ratio": 1.25, "num_train": 64} | changes


def generator(model: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    tree = {
        "model": {**MODEL, **(model or {})},
        "iterations": 4,
        "batch_size": 8,
        "optim": {**ADAM, "schedule": "cosine", "weight_decay": 0.05, "clip": 1.0},
    }
    return tree | changes


def reconstructions(**changes: Any) -> dict[str, Any]:
    tree = {
        "subject": "tokenizer",
        "data": data(),
        "metrics": [part("fcd"), part("psnr"), part("ssim"), part("codebook_usage")],
        "num_samples": 48,
        "batch_size": 16,
    }
    return tree | changes


def samples(**changes: Any) -> dict[str, Any]:
    tree = {
        "subject": "generator",
        "data": data(),
        "metrics": [part("fcd")],
        "num_samples": 20,
        "batch_size": 10,
        "sample_seeds": [0, 1],
        "sampling": {"cfg_scale": 1.5},
    }
    return tree | changes


@contextmanager
def fewer_digits(train: int, val: int) -> Iterator[None]:
    """Inside, the data set is the first images of each half: less to read, and to overfit."""
    real_load, real_digest = digits._load, digits._digest

    def load(split_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        images_NHWC, labels_N, val_N = real_load(split_seed)
        chosen = np.concatenate([np.flatnonzero(~val_N)[:train], np.flatnonzero(val_N)[:val]])
        return images_NHWC[chosen], labels_N[chosen], val_N[chosen]

    digits._load = load  # type: ignore[assignment]
    # Not from the real digest: it would be computed of these images, and remembered.
    digits._digest = lambda split_seed: f"{train} and {val} of the digits, split {split_seed}"  # type: ignore[assignment]
    try:
        yield
    finally:
        digits._load, digits._digest = real_load, real_digest


# ---------------------------------------------------------------------------------------- folders


def lay_out(
    home: Path,
    kind: str,
    tree: Mapping[str, Any],
    parents: Mapping[str, RunDir] | None = None,
    **settings: Any,
) -> RunDir:
    """The folder of a run that nobody has begun."""
    config = configs.decode_run(kind, tree)
    ids = {role: parent.id for role, parent in (parents or {}).items()}
    run_dir = RunDir.of(home, kind, identity.run_id(kind, config, ids))
    run_dir.path.mkdir(parents=True, exist_ok=True)
    write_json(
        run_dir.config_path,
        {
            "scheme": identity.SCHEME,
            "id": run_dir.id,
            "kind": kind,
            "config": configs.to_tree(config),
            "parents": ids,
        },
    )
    settings = {"device": "cpu", "log_every": 1, "checkpoint_seconds": 1e6} | settings
    write_json(run_dir.settings_path, settings)
    return run_dir


def not_begun(calm: RunDir, home: Path) -> RunDir:
    """The run of `calm`, not begun, in a new home whose other runs are those of the calm one."""
    run_dir = RunDir.of(home, calm.kind, calm.id)
    run_dir.path.mkdir(parents=True)
    for path in calm.home.iterdir():
        if path.is_dir() and path.name not in (calm.kind, "spool"):
            (home / path.name).symlink_to(path)
    shutil.copy(calm.config_path, run_dir.config_path)
    shutil.copy(calm.settings_path, run_dir.settings_path)
    return run_dir


def do(run_dir: RunDir, stop: Stop | None = None) -> Outcome:
    """One attempt at a run, in this process."""
    return execute(run_dir.path, stop or Stop())


def done(
    home: Path,
    kind: str,
    tree: Mapping[str, Any],
    parents: Mapping[str, RunDir] | None = None,
    **settings: Any,
) -> RunDir:
    """A finished run; the test fails when it does not finish."""
    run_dir = lay_out(home, kind, tree, parents, **settings)
    outcome = do(run_dir)
    assert outcome.outcome == "done", outcome
    return run_dir


def codes_chain(
    home: Path, tree: Mapping[str, Any] | None = None, **codes_changes: Any
) -> tuple[RunDir, RunDir]:
    """A finished tokenizer and a finished codes run."""
    first = done(home, "tokenizer", tree or varied_tokenizer())
    return first, done(home, "codes", codes(**codes_changes), {"tokenizer": first})


class StopAfter(Stop):
    """Asks to stop at the n-th poll and from then on."""

    def __init__(self, polls: int) -> None:
        self._left = polls

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self._left -= 1
        return self._left < 0


class KillAfter(StopAfter):
    """SIGKILL to this process at the n-th poll after the first: it can save and tell nothing."""

    @property
    def requested(self) -> bool:  # type: ignore[override]
        if super().requested:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


# --------------------------------------------------------------------------------------- processes


def environment(**changes: str) -> dict[str, str]:
    """Environment of a child process: one thread, this code, no database of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLAW_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}


def command(*run_dirs: RunDir) -> list[str]:
    return [sys.executable, "-m", "tokenlaw.trainer", *(str(run_dir.path) for run_dir in run_dirs)]


def run_command(
    *run_dirs: RunDir, timeout: float = 120, **changes: str
) -> subprocess.CompletedProcess[str]:
    """`python -m tokenlaw.trainer RUN_DIR...`, waited for."""
    return subprocess.run(
        command(*run_dirs),
        cwd=ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def torchrun(
    run_dirs: list[RunDir], world_size: int, port: int, timeout: float = 240
) -> list[subprocess.CompletedProcess[str]]:
    """The same command in every process of a group, as torchrun would start it. All are ended when
    one fails, as torchrun does."""
    workers = []
    for rank in range(world_size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        worker = subprocess.Popen(
            command(*run_dirs),
            cwd=ROOT,
            env=environment(**place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        workers.append(worker)
    finished = []
    for worker in workers:
        try:
            out, err = worker.communicate(timeout=timeout)
        finally:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
        if worker.returncode:
            for other in workers:
                if other.poll() is None:
                    other.kill()
        finished.append(subprocess.CompletedProcess(worker.args, worker.returncode, out, err))
    return finished


# ------------------------------------------------------------------------------------ what was left


def log_entries(run_dir: RunDir) -> list[dict[str, Any]]:
    """log.jsonl without what is said once and without what a clock measured."""
    entries = [json.loads(line) for line in run_dir.log_path.read_text().splitlines()]
    return [
        {name: value for name, value in entry.items() if name not in CLOCKED}
        for entry in entries
        if not any(name in entry for name in SAID_ONCE)
    ]


def losses(run_dir: RunDir) -> list[float]:
    """The logged training losses, one for each logged iteration."""
    return [entry["loss"] for entry in log_entries(run_dir) if "loss" in entry]


def outputs(run_dir: RunDir) -> dict[str, str]:
    """sha256 of every file that other runs and readers take from a finished run."""
    found = {}
    for folder in ("final", "codes", "artifacts"):
        for path in sorted((run_dir.path / folder).glob("*")):
            if path.name != "manifest.json" or folder != "final":
                found[f"{folder}/{path.name}"] = sha256_file(path)
    return found


def assert_same(found: RunDir, expected: RunDir) -> None:
    """Two runs ended with the same endpoint, files and log lines, bit for bit."""
    first, second = read_endpoint(found), read_endpoint(expected)
    assert first is not None, f"{found.path}: no endpoint"
    assert second is not None, f"{expected.path}: no endpoint"
    assert same_result(first, second), f"{first}\n{second}"
    # Tables list values in the endpoint's order.
    order, expected_order = ([v["metric"] for v in e["values"]] for e in (first, second))
    assert order == expected_order, f"values in another order: {order} {expected_order}"
    files, expected_files = outputs(found), outputs(expected)
    assert files == expected_files, (
        f"files differ: {set(files.items()) ^ set(expected_files.items())}"
    )
    if expected.log_path.exists():
        lines, expected_lines = log_entries(found), log_entries(expected)
        assert lines == expected_lines, f"log lines differ: {lines} {expected_lines}"


def temporaries(folder: Path) -> list[Path]:
    """Everything below `folder` that a writer left half-done."""
    return list(_temporaries(folder))


def _temporaries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if ".tmp-" in path.name:
            yield path
