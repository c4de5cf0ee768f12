"""The optimiser against torch's own, bit by bit, and what a run without compilation imports."""

import subprocess
import sys

import pytest
import tiny
import torch

from tokenlaw.trainer.fast_start.adamw import AdamW

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8}


def model():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(36, 3)]
    return torch.nn.Sequential(*layers, torch.nn.LayerNorm(3)).to(memory_format=torch.channels_last)


def groups(module):
    parameters = list(module.parameters())
    decayed = [p for p in parameters if p.ndim >= 2]
    others = [p for p in parameters if p.ndim < 2]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def train(module, optimizer, steps):
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        x_BCHW = torch.randn(5, 2, 5, 5, generator=torch.Generator().manual_seed(step))
        module(x_BCHW).square().sum().backward()
        if step == 2:
            module[0].bias.grad = None  # a parameter that is left alone once
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert all(p.grad is None for p in module.parameters())


def assert_equal(ours, theirs, our_module, their_module):
    for mine, other in zip(our_module.parameters(), their_module.parameters(), strict=True):
        assert torch.equal(mine, other)
    mine, other = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert mine.keys() == other.keys()
    for place, state in other.items():
        assert mine[place].keys() == state.keys()
        for name, value in state.items():
            found = mine[place][name]
            assert torch.equal(found, value) and found.dtype == value.dtype, name
            assert found.stride() == value.stride(), name


def test_steps_and_states_are_those_of_torch_to_the_bit():
    our_module, their_module = model(), model()
    ours = AdamW(groups(our_module), **SETTINGS)
    theirs = torch.optim.AdamW(groups(their_module), **SETTINGS)
    train(our_module, ours, range(5))
    train(their_module, theirs, range(5))
    assert_equal(ours, theirs, our_module, their_module)

    # Each goes on from the other's state.
    again, other = model(), model()
    again.load_state_dict(their_module.state_dict())
    other.load_state_dict(our_module.state_dict())
    swapped = AdamW(groups(again), **SETTINGS)
    swapped.load_state_dict(theirs.state_dict())
    back = torch.optim.AdamW(groups(other), **SETTINGS)
    shown = back.state_dict()["param_groups"]
    back.load_state_dict(ours.state_dict() | {"param_groups": shown})
    train(again, swapped, range(5, 8))
    train(other, back, range(5, 8))
    assert_equal(swapped, back, again, other)


def test_a_taken_over_state_is_a_copy():
    module = model()
    optimizer = AdamW(groups(module), **SETTINGS)
    train(module, optimizer, range(1))
    given = {0: {name: value.clone() for name, value in optimizer.state_dict()["state"][0].items()}}
    kept = {name: value.clone() for name, value in given[0].items()}
    optimizer.load_state_dict({"state": given})
    train(module, optimizer, range(1))
    assert all(torch.equal(given[0][name], value) for name, value in kept.items())


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_a_run_that_compiles_nothing_does_not_import_the_compiler(tmp_path, kind):
    if kind == "generator":
        _, codes = tiny.codes_chain(tmp_path)
        run_dir = tiny.lay_out(tmp_path, kind, tiny.generator(), {"codes": codes})
    else:
        run_dir = tiny.lay_out(tmp_path, kind, tiny.tokenizer())
    code = (
        "import sys; from tokenlaw.trainer.run import Stop; "
        "from tokenlaw.trainer.worker import execute; "
        f"print(execute({str(run_dir.path)!r}, Stop()).outcome, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=tiny.environment(),
    )
    assert done.stdout.split() == ["done", "False"]
