"""Whether what is fast trains the same: losses of the fast trainer beside those of plain code.

    python benchmarks/same_losses.py [--generator 111M] [--codes FOLDER] [--steps 200]
                                    [--precisions fp32 bf16] [--lr 1e-4]
    python benchmarks/same_losses.py --float8
    python benchmarks/same_losses.py --tokenizer [--steps 50]

Both train the same run with the same seeds. Generator: kernels of our own and the loss in chunks,
against eager blocks and the cross-entropy of all fp32 logits at once; dropout is off, since kernels
draw other masks. No two losses may be further apart than 1e-3 nats. Beside that stands, for each
precision, plain code with each batch in two parts, which only adds in another order: Adam makes of
the smallest rounding error a whole step where a gradient is about zero, and two plain runs part as
well. From that the fast losses may be no more than 1.5 times as far on average, which is said
first. In fp32 there are 64 images an iteration: it is slow. `--float8`: with 8-bit products against
without, both fast; the last quarter of the losses may differ by 0.02 nats on average. On a CPU
there are no kernels: there compiled blocks are compared with eager ones.
The codes are those of a codes run, `--codes HOME/codes/ID`, or a Markov chain of V = 16384.
Tokenizer: VQ-16 with GAN and a perceptual loss, fast (by kernels of our own) and eager, both in
bf16, and eager in fp32. The GAN makes small differences grow, so the yardstick is what bf16 does
to the eager one: the fast losses must on average lie no more than twice as far from the fp32 ones.
`--tiny` is either at sizes for a CPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from train_speed import CLASSES, finish, lay_out, tokenizer_tree

from tokenlaw.results_db.record import RunDir
from tokenlaw.trainer import calibrate, kernels
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting.config import part, to_tree
from tokenlaw.trainer.loop import cross_entropy
from tokenlaw.trainer.loop.code_sets import Codes
from tokenlaw.trainer.run import Stop
from tokenlaw.trainer.worker import execute

LARGEST_NATS = 1e-3  # difference of generator losses
TIMES_ORDER = 1.5  # of what another order of sums does to the plain generator, on average
FLOAT8_NATS = 0.02  # mean difference of the last quarter of them
TIMES_BF16 = 2.0  # of what bf16 does to the eager tokenizer
FP32_IMAGES = 64
DROPOUTS = ("token_dropout", "residual_dropout", "ffn_dropout")


def losses(run: RunDir) -> np.ndarray:
    """Trains a run in this process; the loss of every iteration."""
    outcome = execute(run.path, Stop())
    assert outcome.outcome == "done", outcome.error
    lines = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    return np.array([entry["loss"] for entry in lines if "loss" in entry])


def chain(folder: Path, codes: int) -> None:
    """Puts codes that can be learnt in place of random ones: each follows from the one before, but
    for a tenth of them.
    """
    random = np.random.default_rng(0)
    after = random.permutation(codes)
    for name in ("train", "val"):
        path = folder / "codes" / f"{name}-00000.npy"
        drawn = np.load(path)
        for position in range(1, drawn.shape[-1]):
            kept = random.random(drawn.shape[:-1]) < 0.1
            follows = after[drawn[..., position - 1]]
            drawn[..., position] = np.where(kept, drawn[..., position], follows)
        np.save(path, drawn)


def generator(home: Path, chosen: argparse.Namespace) -> None:
    steps, batch, size = chosen.steps or 200, 256, 256
    model: dict[str, Any] = to_tree(count.generators()[f"llama-{chosen.generator}"])
    tokenizer = {"tokenizer": part("vqgan"), "quantizer": part("vq", codebook_size=16_384)}
    if chosen.tiny:
        steps, batch, size = chosen.steps or 20, 8, 32
        model = {"width": 64, "layers": 2, "heads": 2}
        tokenizer = {
            "tokenizer": part("vqgan", ch=16, ch_mult=[1, 1, 2]),
            "quantizer": part("vq", codebook_size=256),
        }
    if chosen.codes is not None:
        stored = RunDir(chosen.codes)
        folder = home / "codes" / stored.id
        shutil.copytree(stored.path, folder)
        above = stored.config()["parents"]["tokenizer"]
        shutil.copytree(stored.home / "tokenizer" / above, home / "tokenizer" / above)
        codes = RunDir(folder)
    else:
        facts = calibrate.random_pictures(home / "pictures", size, 16) | {"resolution": size}
        above_tree = {"data": facts, **tokenizer, "iterations": 1, "batch_size": 1}
        asked = {"data": {**facts, "num_classes": CLASSES}}
        codes = calibrate.random_codes(home, asked, above_tree, 8 * batch)
        chain(codes.path, Codes(codes).codebook_size)
        finish(codes)
    tree = {
        "model": model | dict.fromkeys(DROPOUTS, 0.0),
        "iterations": steps,
        "optim": {"lr_peak": chosen.lr, "weight_decay": 0.05, "clip": 1.0},
    }

    def trained(name: str, precision: str) -> np.ndarray:
        place = home / f"{precision}-{name.replace(' ', '-')}"
        for kind in ("tokenizer", "codes"):
            shutil.copytree(home / kind, place / kind)
        images = batch if precision == "bf16" or chosen.tiny else FP32_IMAGES
        more = {
            "batch_size": images,
            "numerics": {"precision": precision},
            "float8_ffn": name == "float8",
        }
        run = lay_out(
            place,
            "generator",
            tree | more,
            {"codes": RunDir.of(place, "codes", codes.id)},
            log_every=1,
            compile=name == "fast",  # on a GPU kernels do it, whatever this says
            micro_batch=images // 2 if name == "plain in two parts" else None,
            device="cpu" if chosen.tiny else "cuda",
        )
        if not name.startswith("plain"):
            return losses(run)
        with (
            mock.patch.object(kernels, "HAS_TRITON", False),
            mock.patch.object(cross_entropy, "chunked", side_effect=at_once) as chunked,
        ):
            found = losses(run)
        assert chunked.called != chosen.tiny  # on a CPU the loss is never taken in chunks
        return found

    if chosen.float8:
        apart = compare("bf16, 8-bit products", trained("bf16", "bf16"), trained("float8", "bf16"))
        last = apart[-max(1, steps // 4) :].mean()
        print(f"over the last quarter: {last:.2e}")
        assert 0 < last <= FLOAT8_NATS, f"not within {FLOAT8_NATS:g}"
        return
    missed = []
    for precision in chosen.precisions:
        plain = trained("plain", precision)
        apart = compare(f"{precision}, fast", plain, trained("fast", precision))
        again = trained("plain in two parts", precision)
        order = compare(f"{precision}, another order of sums", plain, again)
        if apart.max() > LARGEST_NATS:
            allowed = TIMES_ORDER * order.mean()
            assert apart.mean() <= allowed, f"{precision}: more than {allowed:.1e} on average"
            missed.append(precision)
    assert not missed, f"more than {LARGEST_NATS:g} apart: {', '.join(missed)}"


def compare(name: str, plain: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How far the losses of an iteration are apart."""
    apart = np.abs(plain - other)
    beyond = np.flatnonzero(apart > LARGEST_NATS)
    first = (
        f"first above {LARGEST_NATS:g} at iteration {beyond[0]}"
        if len(beyond)
        else f"none above {LARGEST_NATS:g}"
    )
    print(
        f"{name}: over {len(plain)} iterations, from {plain[0]:.4f} to {plain[-1]:.4f} nats, mean "
        f"difference {apart.mean():.2e}, largest {apart.max():.2e}, {first}",
        flush=True,
    )
    return apart


def at_once(*arguments: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands in for the loss in chunks."""
    return cross_entropy.plain(*arguments, **more)


def tokenizer(home: Path, chosen: argparse.Namespace) -> None:
    side, batch, steps = 256, 16, chosen.steps or 50
    if chosen.tiny:
        side, batch, steps = 32, 4, chosen.steps or 6
    facts = calibrate.random_pictures(home / "pictures", side, 4 * batch) | {"resolution": side}
    tree = tokenizer_tree(facts, batch, steps)
    if chosen.tiny:
        tree["tokenizer"] = part("vqgan", ch=16, ch_mult=[1, 1, 2])
        tree["adversarial"] = part("patchgan", ndf=8, n_layers=2, start_iteration=0)
        tree["perceptual"] = None  # on a CPU autocast sums LPIPS in bf16: steps of half a percent
    found = {}
    for name, precision, compiled in (
        ("fp32", "fp32", False),
        ("eager", "bf16", False),
        ("fast", "bf16", True),
    ):
        run = lay_out(
            home / name,
            "tokenizer",
            {**tree, "numerics": {"precision": precision}},
            {},
            log_every=1,
            compile=compiled,
            device="cpu" if chosen.tiny else "cuda",
            locations={"data": str(home / "pictures")},
        )
        found[name] = losses(run)
    eager, fast = (np.abs(found[name] - found["fp32"]).mean() for name in ("eager", "fast"))
    for step in sorted({0, 1, steps // 2, steps - 1}):
        row = ", ".join(f"{name} {values[step]:.6f}" for name, values in found.items())
        print(f"iteration {step}: {row}")
    print(f"mean difference to it over {steps} iterations: eager {eager:.2e}, fast {fast:.2e}")
    assert fast <= TIMES_BF16 * eager, f"more than {TIMES_BF16:g} times as far"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", default="111M")
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--tokenizer", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    name = "CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(f"{datetime.date.today()}  {name}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="tokenlaw-bench-") as folder:
        (tokenizer if chosen.tokenizer else generator)(Path(folder), chosen)


if __name__ == "__main__":
    main()
