"""Every durable call of one tiny run of each kind is a crash point, for SIGKILL and a full disk.

After the fault a second attempt finishes the run; its endpoint, files and logged losses are those
of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import tiny
import torch
from crash import Fault, points, problems, steady

from tokenlaw.trainer.loop import checkpoints

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

KINDS = ("extractor", "tokenizer", "codes", "generator", "evaluation")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder in memory, if there is one: a killed process loses nothing that it wrote, so real
    disks only take longer."""
    base = Path("/dev/shm")
    if not os.access(base, os.W_OK):
        yield tmp_path_factory.mktemp("scratch")
        return
    folder = Path(tempfile.mkdtemp(prefix="tokenlaw-", dir=base))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def finished(scratch):
    """One finished run of each kind. Doing them also warms this process, which is forked."""
    torch.set_num_threads(1)
    home = scratch / "calm"
    with steady(), tiny.fewer_digits(train=24, val=12):
        # Several checkpoints each, one of which is dropped again; all at the digits' own 8 px.
        small = {"data": tiny.data(8)}
        tree = tiny.extractor(iterations=3, batch_size=8, **small)
        extractor = tiny.done(home, "extractor", tree, checkpoint_steps=2)
        half = {**tiny.tokenizer()["tokenizer"], "ch_mult": [1, 1]}
        tree = tiny.crt(tokenizer=half, iterations=3, batch_size=4, **small)
        tokenizer = tiny.done(home, "tokenizer", tree, checkpoint_steps=1)
        tree = tiny.codes(num_train=None, **small)
        codes = tiny.done(home, "codes", tree, {"tokenizer": tokenizer})
        tree = tiny.generator(iterations=3)
        generator = tiny.done(home, "generator", tree, {"codes": codes}, checkpoint_steps=1)
        parents = {"tokenizer": tokenizer, "codes": codes, "generator": generator}
        parents["extractor"] = extractor
        tree = tiny.samples(num_samples=6, batch_size=3, **small)
        evaluation = tiny.done(home, "evaluation", tree, parents, checkpoint_steps=1)
        yield {run.kind: run for run in (extractor, tokenizer, codes, generator, evaluation)}


def children_seconds():
    """CPU time of all children so far."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_of_a_run(kind, finished, scratch, capsys):
    run_dir = finished[kind]
    calls = points(tiny.not_begun(run_dir, scratch / f"points-{kind}"))
    everywhere = range(1, len(calls) + 1)
    faults = [Fault("SIGKILL", at) for at in everywhere]
    # The disk is full for one call at odd points, and stays full from even ones on.
    faults += [Fault("ENOSPC", at, lasting=at % 2 == 0) for at in everywhere]
    before = children_seconds()
    found = problems(run_dir, scratch, faults)
    with capsys.disabled():
        spent = children_seconds() - before
        print(
            f"\n{kind}: {len(calls)} points, {len(faults)} cases, {len(found)} bad, {spent:.0f} s"
        )
    assert len(calls) > 80
    assert found == []


# -------------------------------------------------------------- the harness itself must find faults


def torn_save(run, step, modules, optimizers, extra=None):
    """Saves in place, as training scripts do: `torch.save(everything, path)`."""
    content = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "extra": dict(extra or {}),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with open(run.dir.checkpoints_path / "latest.pt", "wb") as file:
        file.write(buffer.getvalue())


def torn_load(run, modules, optimizers):
    path = run.dir.checkpoints_path / "latest.pt"
    if not path.exists():
        return None
    content = torch.load(path, weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(content["modules"][name])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(content["optimizers"][name])
    return content["step"], content["extra"]


def test_the_harness_finds_a_writer_that_saves_in_place(finished, scratch, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "save", torn_save)
    monkeypatch.setattr(checkpoints, "load", torn_load)
    run_dir = finished["generator"]
    calls = points(tiny.not_begun(run_dir, scratch / "points-bad"))
    faults = [Fault("SIGKILL", at) for at in range(1, len(calls) + 1)]
    found = problems(run_dir, scratch, faults)
    with capsys.disabled():
        print(f"\nsaving in place: {len(calls)} points, {len(found)} bad")
    # Between opening the file and the end of its writes, at each save.
    assert len(found) >= 4
    assert all("the second attempt ended with" in message for _, message in found)


def test_the_harness_finds_a_resume_that_is_not_exact(finished, scratch, monkeypatch):
    real = checkpoints.load

    def forgetful(run, modules, optimizers):
        found = real(run, modules, optimizers)
        if found is not None:
            for optimizer in optimizers.values():
                for values in optimizer.state.values():
                    values["exp_avg"].zero_()
        return found

    monkeypatch.setattr(checkpoints, "load", forgetful)
    run_dir = finished["generator"]
    calls = points(tiny.not_begun(run_dir, scratch / "points-forgetful"))
    faults = [Fault("SIGKILL", at) for at in range(10, len(calls), 15)]
    found = problems(run_dir, scratch, faults)
    assert len(found) >= 3
