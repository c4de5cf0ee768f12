"""The first twenty losses of tiny runs, as they were when the formulas had been checked.

Another processor or torch rounds differently, so there they are compared with a tolerance; on the
kind of machine that made them they are compared exactly. To accept new numbers after a change that
is meant to move them: `python tests/golden/test_golden_losses.py`, and raise the VERSION of the
part.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.trainer.calibrate import random_codes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tiny  # noqa: E402

FILE = Path(__file__).parent / "losses.json"
ITERATIONS = 20
TOLERANCE = 2e-3  # relative, between machines


def machine() -> str:
    """What decides how sums round: processor, its instructions, torch and the code it was made by.

    Processors in clouds share names, so their instruction sets are in it.
    """
    import torch

    facts = [torch.__version__, torch.__config__.show()]
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                facts.append(" ".join(sorted(line.split())))
    except OSError:
        pass
    return hashlib.sha256("\n".join(sorted(set(facts))).encode()).hexdigest()[:16]


def made(home: Path) -> dict[str, list[float]]:
    """The losses of one tokenizer of each arm and of a generator."""
    changes = {"iterations": ITERATIONS, "perceptual": tiny.VGG, "batch_size": 4}
    vq = tiny.done(home, "tokenizer", tiny.tokenizer(**changes))
    crt = tiny.done(home, "tokenizer", tiny.crt(**changes))
    codes = fixed_codes(home)
    generator = tiny.done(
        home, "generator", tiny.generator(iterations=ITERATIONS), {"codes": codes}
    )
    runs = {"vq": vq, "crt": crt, "generator": generator}
    return {name: tiny.losses(run_dir) for name, run_dir in runs.items()}


def fixed_codes(home: Path) -> RunDir:
    """Codes that follow from one another, but for one bit, made without a tokenizer: a trained one
    gives other codes where another machine rounds otherwise.
    """
    run_dir = random_codes(home, tiny.codes(), tiny.varied_tokenizer(), 64)
    for path in sorted((run_dir.path / "codes").glob("*-00000.npy")):
        codes_NCL = np.load(path)
        for position in range(1, codes_NCL.shape[-1]):
            before, bit = codes_NCL[..., position - 1], codes_NCL[..., position] % 2
            codes_NCL[..., position] = (5 * before + bit) % 32
        np.save(path, codes_NCL)
    attempt = claim(run_dir, executor="test")
    attempt.write_endpoint({"status": "done", "values": [], "columns": {"flops_train": 0.0}})
    attempt.finish("done")
    return run_dir


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return made(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("name", ["vq", "crt", "generator"])
def test_losses_are_the_golden_ones(name, found):
    golden = json.loads(FILE.read_text())
    expected = golden["losses"][name]
    assert len(found[name]) == len(expected) == ITERATIONS
    if golden["machine"] == machine():
        assert found[name] == expected
    else:
        assert found[name] == pytest.approx(expected, rel=TOLERANCE)


def test_arms_differ_by_more_than_the_tolerance(found):
    # Else a run of the wrong arm would pass as the right one.
    differences = [abs(a / b - 1) for a, b in zip(found["vq"], found["crt"], strict=True)]
    assert max(differences) > 10 * TOLERANCE


def test_two_runs_on_one_machine_are_equal(tmp_path, found):
    tree = tiny.tokenizer(iterations=ITERATIONS, perceptual=tiny.VGG, batch_size=4)
    again = tiny.done(tmp_path, "tokenizer", tree)
    assert tiny.losses(again) == found["vq"]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        content = {"machine": machine(), "losses": made(Path(folder))}
    FILE.write_text(json.dumps(content, indent=1) + "\n")
    print(FILE)
