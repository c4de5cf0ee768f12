import json
import shutil

import pytest
import tiny
import torch
from torch import nn

from tokenlaw.results_db.durable import verify_folder
from tokenlaw.results_db.record import Fenced, claim
from tokenlaw.results_db.strict_json import DamagedError
from tokenlaw.trainer.accounting.config import OptimConfig
from tokenlaw.trainer.loop import checkpoints
from tokenlaw.trainer.loop.optim import make_optimizer
from tokenlaw.trainer.run import Run, Settings, Stop


@pytest.fixture
def run(home):
    """A claimed run that trains nothing."""
    return claimed(tiny.lay_out(home, "generator", tiny.generator()))


def claimed(run_dir):
    attempt = claim(run_dir, executor="local")
    return Run(run_dir, None, {}, Settings(), attempt, torch.device("cpu"), Stop())


def model(seed=0):
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return layer, make_optimizer(layer, OptimConfig(lr_peak=0.1, weight_decay=0.1))


def step(layer, optimizer, seed):
    torch.manual_seed(seed)
    layer(torch.randn(5, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def save(run, at, layer, optimizer, **extra):
    checkpoints.save(run, at, {"model": layer}, {"model": optimizer}, extra)


def load(run, layer, optimizer):
    return checkpoints.load(run, {"model": layer}, {"model": optimizer})


def names(run):
    return sorted(path.name for path in run.dir.checkpoints_path.iterdir())


# ---------------------------------------------------------------------------------- there and back


def test_training_goes_on_as_if_nothing_had_happened(run):
    layer, optimizer = model()
    for seed in range(3):
        step(layer, optimizer, seed)
    save(run, 3, layer, optimizer, last={"loss": 0.5}, seconds=7.0)
    other, other_optimizer = model(seed=9)
    assert load(run, other, other_optimizer) == (3, {"last": {"loss": 0.5}, "seconds": 7.0})
    for seed in range(3, 6):
        step(layer, optimizer, seed)
        step(other, other_optimizer, seed)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_an_optimiser_that_has_not_stepped(run):
    layer, optimizer = model()
    save(run, 0, layer, optimizer)
    other, other_optimizer = model(seed=9)
    assert load(run, other, other_optimizer) == (0, {})
    assert other_optimizer.state_dict()["state"] == {}
    step(other, other_optimizer, 0)
    step(layer, optimizer, 0)
    assert torch.equal(layer[0].weight, other[0].weight)


def test_nothing_to_load(run):
    assert load(run, *model()) is None


def test_data_is_never_code(run):
    # safetensors and JSON only: reading a checkpoint of somebody else runs nothing.
    save(run, 1, *model())
    (folder,) = run.dir.checkpoints_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "model.optimizer.safetensors", "model.safetensors", "state.json",
    ]  # fmt: skip


# ---------------------------------------------------------- which are kept


def test_the_last_two_are_kept(run):
    layer, optimizer = model()
    for at in (2, 4, 6, 8):
        save(run, at, layer, optimizer)
    assert names(run) == ["step-00000006-a001", "step-00000008-a001"]
    assert [at for at, _, _ in checkpoints.checkpoints(run.dir)] == [8, 6]
    assert not tiny.temporaries(run.dir.path)


def test_a_checkpoint_is_not_written_twice(run):
    layer, optimizer = model()
    save(run, 2, layer, optimizer)
    (folder,) = run.dir.checkpoints_path.iterdir()
    before = (folder / "manifest.json").stat().st_mtime_ns
    step(layer, optimizer, 0)
    save(run, 2, layer, optimizer)
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_of_two_attempts_at_one_step_the_newer_counts(run):
    layer, optimizer = model()
    save(run, 4, layer, optimizer, who="first")
    second = claimed(run.dir)
    save(second, 4, layer, optimizer, who="second")
    assert names(second) == ["step-00000004-a001", "step-00000004-a002"]
    assert load(second, layer, optimizer) == (4, {"who": "second"})


def test_a_replaced_attempt_writes_nothing(run):
    layer, optimizer = model()
    save(run, 2, layer, optimizer)
    claimed(run.dir)
    with pytest.raises(Fenced, match="attempt 1 was replaced by attempt 2"):
        save(run, 4, layer, optimizer)
    with pytest.raises(Fenced):
        checkpoints.save_final(run, {"model": layer}, 4)
    assert names(run) == ["step-00000002-a001"]
    assert not (run.dir.path / "final").exists()


def test_links_and_other_names_are_no_checkpoints(run, tmp_path):
    layer, optimizer = model()
    save(run, 2, layer, optimizer)
    (folder,) = run.dir.checkpoints_path.iterdir()
    shutil.copytree(folder, tmp_path / "foreign")
    (run.dir.checkpoints_path / "step-00000009-a001").symlink_to(tmp_path / "foreign")
    (run.dir.checkpoints_path / "step-9").mkdir()
    assert [at for at, _, _ in checkpoints.checkpoints(run.dir)] == [2]


# ------------------------------------------------------------------------------------------- damage


def truncate(length):
    def damage(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: length if length >= 0 else len(content) + length])

    return damage


def flip(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(bytes(content))

    return damage


def extend(folder):
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"x")


def foreign_manifest(folder):
    older = next(path for path in folder.parent.iterdir() if path != folder)
    shutil.copy(older / "manifest.json", folder / "manifest.json")


DAMAGES = {
    "empty": truncate(0),
    "one byte": truncate(1),
    "half": truncate(200),
    "all but one byte": truncate(-1),
    "one byte more": extend,
    "flipped bit in weights": flip("model.safetensors"),
    "flipped bit in the optimiser": flip("model.optimizer.safetensors"),
    "flipped bit in the state": flip("state.json"),
    "flipped bit in the manifest": flip("manifest.json"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "another folder's manifest": foreign_manifest,
    "nothing in it": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(damage, run, capsys):
    layer, optimizer = model()
    save(run, 2, layer, optimizer, place=2)
    good = {name: value.clone() for name, value in layer.state_dict().items()}
    step(layer, optimizer, 1)
    save(run, 4, layer, optimizer, place=4)
    DAMAGES[damage](run.dir.checkpoints_path / "step-00000004-a001")
    other, other_optimizer = model(seed=9)
    assert load(run, other, other_optimizer) == (2, {"place": 2})
    for name, value in other.state_dict().items():
        assert torch.equal(value, good[name])
    warning = json.loads(run.dir.log_path.read_text())["warning"]
    assert "step-00000004-a001 is damaged" in warning and "taking the one before" in warning
    assert warning in capsys.readouterr().err
    # With the older one damaged too it refuses; it never starts over in silence.
    (run.dir.checkpoints_path / "step-00000002-a001" / "manifest.json").unlink()
    with pytest.raises(DamagedError, match="all 2 checkpoints are damaged; remove the folder"):
        load(run, *model())


def test_swapped_folders_are_noticed(run):
    layer, optimizer = model()
    save(run, 2, layer, optimizer)
    step(layer, optimizer, 1)
    save(run, 4, layer, optimizer)
    old, new = sorted(run.dir.checkpoints_path.iterdir())
    new.rename(new.with_name("aside"))
    old.rename(new)
    new.with_name("aside").rename(old)
    with pytest.raises(DamagedError, match="all 2 checkpoints are damaged"):
        load(run, *model())


def test_another_model_is_no_damage_to_pass_over(run):
    save(run, 2, *model())
    other = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="Missing key|size mismatch|Unexpected key"):
        load(run, other, make_optimizer(other, OptimConfig()))
    with pytest.raises(DamagedError, match="does not hold extra.safetensors"):
        checkpoints.read_folder(
            run.dir.checkpoints_path / "step-00000002-a001", {"extra": other}, {}
        )


# ------------------------------------------------------------------------------------ final weights


def test_final_weights(run):
    layer, optimizer = model()
    step(layer, optimizer, 0)
    checkpoints.save_final(run, {"model": layer}, 5)
    verify_folder(run.dir.path / "final")
    other, _ = model(seed=9)
    checkpoints.load_weights(run.dir, {"model": other})
    assert torch.equal(other[0].weight, layer[0].weight)
    # Written once; a damaged one is written again.
    before = (run.dir.path / "final" / "manifest.json").stat().st_mtime_ns
    checkpoints.save_final(run, {"model": layer}, 5)
    assert (run.dir.path / "final" / "manifest.json").stat().st_mtime_ns == before
    flip("model.safetensors")(run.dir.path / "final")
    with pytest.raises(DamagedError, match="model.safetensors"):
        checkpoints.load_weights(run.dir, {"model": other})
    checkpoints.save_final(run, {"model": layer}, 5)
    checkpoints.load_weights(run.dir, {"model": other})


# --------------------------------------------------------------------------------------------- log


def test_log_lines_of_steps_to_be_repeated_are_dropped(run):
    for at in range(5):
        run.log({"step": at, "loss": at / 2})
    run.log({"warning": "kept"})
    with open(run.dir.log_path, "a") as file:
        file.write('{"step": 5, "lo')  # torn by a crash
    checkpoints.truncate_log(run, 3)
    entries = [json.loads(line) for line in run.dir.log_path.read_text().splitlines()]
    assert [entry.get("step") for entry in entries] == [0, 1, 2, None]
    run.log({"step": 3})
    assert json.loads(run.dir.log_path.read_text().splitlines()[-1])["step"] == 3


def test_no_log_to_truncate(run):
    checkpoints.truncate_log(run, 0)
    assert not run.dir.log_path.exists()


def test_a_replaced_attempt_logs_nothing(run):
    run.log({"step": 1})
    claimed(run.dir).log({"step": 2})
    before = run.dir.log_path.read_bytes()
    for write in (lambda: run.log({"step": 3}), lambda: run.warn("late")):
        with pytest.raises(Fenced, match="attempt 1 was replaced by attempt 2"):
            write()
    assert run.dir.log_path.read_bytes() == before
