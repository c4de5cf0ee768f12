"""kill -9 in every stage: the next attempt ends with the files, numbers and log lines of a run that
nobody disturbed, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path

import killed_runs
import pytest
import tiny

from tokenlaw.trainer.loop import checkpoints

# kind -> polls after which the process dies: before anything was saved, and further on.
POLLS = {
    "extractor": (0, 2, 3),
    "tokenizer": (0, 2, 4),
    "codes": (0, 4, 7),
    "generator": (0, 2, 5),
    "evaluation": (0, 20, 40),
}
SAVED = {"checkpoint_steps": 1}


@pytest.fixture(scope="module", autouse=True)
def small_sets():
    with killed_runs.small_sets():
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """One undisturbed run of each kind."""
    home = tmp_path_factory.mktemp("calm")
    small = {"data": tiny.data(8)}
    shape = {**tiny.tokenizer()["tokenizer"], "ch_mult": [1, 1]}
    extractor = tiny.done(home, "extractor", tiny.extractor(**small), **SAVED)
    # All that has a state of its own: two discriminator averages, the causal model, the weights'.
    tree = tiny.crt(
        tokenizer=shape,
        adversarial=tiny.PATCHGAN | {"lecam_weight": 0.1},
        ema_decay=0.9,
        iterations=5,
        **small,
    )
    tokenizer = tiny.done(home, "tokenizer", tree, **SAVED)
    parents = {"tokenizer": tokenizer}
    parents["codes"] = tiny.done(
        home, "codes", tiny.codes(num_train=None, batch_size=16, **small), parents, **SAVED
    )
    tree = tiny.generator(iterations=6)
    parents["generator"] = tiny.done(home, "generator", tree, {"codes": parents["codes"]}, **SAVED)
    everyone = parents | {"extractor": extractor}
    tree = tiny.samples(num_samples=6, batch_size=3, **small)
    evaluation = tiny.done(home, "evaluation", tree, everyone, **SAVED)
    return parents | {"extractor": extractor, "evaluation": evaluation}


@pytest.fixture(scope="module")
def killed(calm, tmp_path_factory):
    """The killed attempts, by kind and polls; each in a home of its own."""
    runs, arguments = {}, []
    for kind, places in POLLS.items():
        for polls in places:
            home = tmp_path_factory.mktemp(f"{kind}-{polls}-")
            runs[kind, polls] = tiny.not_begun(calm[kind], home)
            arguments += [str(runs[kind, polls].path), str(polls)]
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_runs.py")), *arguments],
        cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    codes = [int(line) for line in process.stdout.splitlines()]
    assert codes == [-signal.SIGKILL] * len(runs), process.stderr
    return runs


@pytest.mark.parametrize("kind", POLLS)
def test_a_killed_run_goes_on_to_the_same_end(kind, calm, killed):
    for polls in POLLS[kind]:
        run_dir = killed[kind, polls]
        assert not run_dir.endpoint_path.exists() and not run_dir.attempt_end_path(1).exists()
        saved = checkpoints.checkpoints(run_dir) or list((run_dir.path / "codes").glob("*.npy"))
        assert bool(saved) is (polls > 0), "it died before or after something was saved"
        outcome = tiny.do(run_dir)
        assert outcome.outcome == "done", outcome
        assert len(run_dir.attempts()) == 2
        tiny.assert_same(run_dir, calm[kind])
        assert not tiny.temporaries(run_dir.home)
