import socket
import subprocess

import pytest
import tiny
import torch

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts
from tokenlaw.trainer.loop import checkpoints, distributed
from tokenlaw.trainer.loop.gradients import GradientAverager
from tokenlaw.trainer.models import build
from tokenlaw.trainer.models.build import load_generator

QUIET = {**tiny.NO_DROPOUT, "class_dropout": 0.0}
# What draws from per-process seeds is off (dropout, the gradient penalty's points); all that is
# summed over processes is on: batch statistics, LeCAM's means, the entropy penalty.
STAGE_1 = {
    "regularizer": tiny.CRT,
    "adversarial": tiny.PATCHGAN | {"lecam_weight": 0.1},
    "quantizer": tiny.part("vq", codebook_size=32, dim=4, entropy_weight=0.1),
    "optim": {"name": "adam", **tiny.ADAM, "clip": 1.0},
    "iterations": 6,
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def lay_out(home):
    """The runs of the comparison in the order in which they depend on each other."""
    tokenizer = tiny.lay_out(home, "tokenizer", tiny.tokenizer(**STAGE_1))
    codes = tiny.lay_out(home, "codes", tiny.codes(num_train=40), {"tokenizer": tokenizer})
    tree = tiny.generator(QUIET, iterations=6, z_loss=1e-3)
    generator = tiny.lay_out(
        home, "generator", tree, {"codes": codes}, checkpoint_steps=3, any_world_size=True
    )
    return tokenizer, codes, generator


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    runs = lay_out(tmp_path_factory.mktemp("alone"))
    for run_dir in runs:
        outcome = tiny.do(run_dir)
        assert outcome.outcome == "done", outcome
    return runs


@pytest.fixture(scope="module")
def together(tmp_path_factory, alone):
    """The same runs by two processes, then codes, which are not shared, then a run that cannot be.

    The generator's codes are those of one process, so that stage 2 has one input.
    """
    home = tmp_path_factory.mktemp("together")
    runs = lay_out(home)
    copy_finished(alone[1], home)
    # One process began the generator; two go on from its checkpoint.
    assert tiny.do(runs[2], tiny.StopAfter(4)).outcome == "preempted"
    more = tiny.lay_out(home, "codes", tiny.codes(num_train=16), {"tokenizer": runs[0]})
    odd = tiny.lay_out(home, "tokenizer", tiny.tokenizer(batch_size=9))
    after = tiny.lay_out(home, "tokenizer", tiny.tokenizer(seed=3))
    finished = tiny.torchrun([runs[0], runs[2], more, odd, after], 2, free_port())
    return (*runs, more, odd, after), finished


def copy_finished(run_dir: RunDir, home) -> None:
    target = RunDir.of(home, run_dir.kind, run_dir.id).path
    subprocess.run(["cp", "-r", f"{run_dir.path}/.", str(target)], check=True)


def test_two_processes_give_the_loss_curve_of_one(alone, together):
    runs, _ = together
    for place in (0, 2):
        expected, found = tiny.log_entries(alone[place]), tiny.log_entries(runs[place])
        assert [entry["step"] for entry in found] == list(range(6))
        # Rounding grows once a code falls the other way, so the first steps are held tighter.
        for first, second in zip(expected, found, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        for first, second in list(zip(expected, found, strict=True))[:4]:
            assert second["loss"] == pytest.approx(first["loss"], rel=3e-6)
            assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-3)
            for name in ("reconstruction", "crt", "codebook", "entropy", "discriminator", "lecam"):
                if name in first:
                    assert second[name] == pytest.approx(first[name], rel=2e-4, abs=1e-6), name
    # Rounding apart, not the same arithmetic: the processes really shared the batch.
    assert tiny.losses(runs[0]) != tiny.losses(alone[0])


def test_two_processes_give_the_weights_of_one(alone, together):
    runs, _ = together
    cpu = torch.device("cpu")
    for name, expected in build.load_tokenizer(alone[0], cpu)[0].state_dict().items():
        found = build.load_tokenizer(runs[0], cpu)[0].state_dict()[name]
        # Adam's first steps are signs: an entry whose gradient is rounding noise may turn.
        assert (found - expected).abs().mean() < 2e-4, name
    expected = load_generator(alone[2], cpu)[0].state_dict()
    for name, value in load_generator(runs[2], cpu)[0].state_dict().items():
        assert (value - expected[name]).abs().mean() < 2e-4, name
    losses = [read_endpoint(run_dir)["values"][0]["value"] for run_dir in (alone[2], runs[2])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_only_one_process_writes(together):
    runs, finished = together
    for run_dir, attempt in ((runs[0], 1), (runs[2], 2), (runs[3], 1)):
        assert run_dir.attempts()[-1] == read_endpoint(run_dir)["attempt"] == attempt
        assert not tiny.temporaries(run_dir.path)
        for _, _, path in checkpoints.checkpoints(run_dir):
            checkpoints.verify_folder(path)
    assert '"world_size":2' in runs[0].attempt_path(1).read_text()
    assert '"world_size":1' in runs[3].attempt_path(1).read_text()
    assert [len(worker.stdout.splitlines()) for worker in finished] == [4, 0]


def test_a_batch_that_the_processes_cannot_share_is_refused(together):
    (*_, odd, after), finished = together
    assert finished[0].returncode == 2 and finished[1].returncode in (2, -9)
    message = "batch_size: 9 cannot be shared by 2 processes; allowed are multiples of 2"
    assert message in finished[0].stderr
    assert not any(odd.checkpoints_path.iterdir()) and not odd.endpoint_path.exists()
    # Processes that may have parted ways go on to nothing.
    assert not after.attempts_path.exists()


@pytest.mark.parametrize(
    ("kind", "announced"), [("tokenizer", 1), ("tokenizer", 3), ("extractor", 3)]
)
def test_a_wrong_number_of_processes_is_refused(tmp_path, monkeypatch, kind, announced):
    run_dir = tiny.lay_out(tmp_path, kind, getattr(tiny, kind)())
    monkeypatch.setenv("TOKENLAW_PROCESSES", "2")
    monkeypatch.setenv("WORLD_SIZE", str(announced))
    message = f"WORLD_SIZE: {announced} is what the environment announces; allowed is what was"
    for rank in reversed(range(announced)):
        monkeypatch.setenv("RANK", str(rank))
        outcome = tiny.do(run_dir)  # it waits for nobody
        assert outcome.exit_code == 2 and message in outcome.error
    # Recorded once, and before the first step.
    assert run_dir.attempts() == [1] and not run_dir.endpoint_path.exists()
    end = read_attempts(run_dir)[0]["end"]
    assert (end["outcome"], end["error_class"], end["step"]) == ("failed", "ValueError", 0)
    assert not run_dir.log_path.exists()


# ------------------------------------------------------------------------------------ one process


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
    assert distributed.done_by_all(lambda: 3) == 3
    with pytest.raises(OSError, match="mine"):
        distributed.done_by_all(lambda: (_ for _ in ()).throw(OSError("mine")).__next__())
    monkeypatch.setattr(distributed, "any_true", lambda flag: True)
    with pytest.raises(RuntimeError, match="another process of the group failed"):
        distributed.done_by_all(lambda: 3)


def test_without_a_group_everything_is_the_identity():
    value = torch.tensor([1.0, 2.0])
    assert not distributed.active() and (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.mean(value) is value
    assert distributed.share(7) == slice(0, 7)
    assert distributed.any_true(True) and not distributed.any_true(False)
    assert distributed.any_of_each([True, False]) == [True, False]
    assert distributed.broadcast_int(5) == 5
    distributed.barrier()
    layer = torch.nn.Linear(2, 1)
    gradients = GradientAverager(layer.parameters())
    for last, times in ((False, 1), (True, 2)):
        gradients.backward(layer(value).sum(), last)
        assert torch.equal(layer.weight.grad, times * value[None])
    assert not layer.weight._post_accumulate_grad_hooks
