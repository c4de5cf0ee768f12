"""What every perceptual and adversarial loss promises (trainer/losses). New files join by
existing.
"""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting.config import OptimConfig, decode

FOLDER = "losses"
SIZES = (32, 48, 64)
LOADED = [(name, parts.load(FOLDER, name)) for name in parts.names(FOLDER)]
PERCEPTUAL = [name for name, module in LOADED if module.ROLE == "perceptual"]
ADVERSARIAL = [name for name, module in LOADED if module.ROLE == "adversarial"]
NEEDS_FILES = [name for name in PERCEPTUAL if parts.load(FOLDER, name).Config().weights()]
NEEDS_NOTHING = [name for name in PERCEPTUAL if name not in NEEDS_FILES]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> ModuleType:
    torch.manual_seed(0)
    return parts.load(FOLDER, request.param)


def images(size: int, seed: int) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("module", [name for name, _ in LOADED], indirect=True)
def test_defaults_decode_and_unknown_keys_are_refused(module: ModuleType) -> None:
    assert module.ROLE in ("perceptual", "adversarial")
    assert isinstance(module.VERSION, int)
    assert decode(module.Config, {}) == module.Config()
    assert module.Config().weight >= 0
    with pytest.raises(ValueError, match="there is no such field"):
        decode(module.Config, {"no_such_field": 1}, where="loss")


# --------------------------------------------------------------------------------------- perceptual


@pytest.mark.parametrize("module", NEEDS_FILES, indirect=True)
def test_without_its_files_the_error_names_them_and_a_way_out(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError) as error:
        module.Loss(module.Config(), {})
    text = str(error.value)
    assert any(name in text for name in module.Config().weights())
    assert str(tmp_path) in text and "works without" in text and "\n" not in text


@pytest.mark.parametrize("module", PERCEPTUAL, indirect=True)
def test_perceptual_costs_grow_with_the_image(module: ModuleType) -> None:
    costs = [module.Config().cost(size) for size in SIZES]
    assert costs[0].params == costs[2].params > 0
    assert costs[0].macs < costs[1].macs < costs[2].macs


@pytest.mark.parametrize("module", NEEDS_NOTHING, indirect=True)
def test_perceptual_values_gradients_cost_and_state(module: ModuleType) -> None:
    loss = module.Loss(module.Config(), {})
    loss.train()
    assert not any(part.training for part in loss.modules()), "always in eval mode"
    assert not any(p.requires_grad for p in loss.parameters()), "frozen"
    for size in SIZES:
        x, y = images(size, 0), images(size, 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            value = loss(x, y)
        assert value.ndim == 0 and value > 0 and torch.equal(value, loss(x, y))
        assert counter.get_total_flops() == 2 * 2 * 2 * module.Config().cost(size).macs
    assert loss(x, x) == 0
    assert module.Config().cost(32).params == sum(p.numel() for p in loss.parameters())
    y.requires_grad_()
    loss(x, y).backward()
    assert y.grad is not None and torch.isfinite(y.grad).all() and y.grad.abs().max() > 0
    other = module.Loss(module.Config(), {})
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(x, y), loss(x, y))


# -------------------------------------------------------------------------------------- adversarial


@pytest.mark.parametrize("module", ADVERSARIAL, indirect=True)
def test_weights_are_gated_and_settings_derive_from_the_tokenizers(module: ModuleType) -> None:
    config = module.Config()
    loss = module.Loss(config)
    before, after = config.start_iteration - 1, 10**9
    assert loss.weight(before) == loss.discriminator_weight(before) == 0
    assert loss.weight(after) == config.weight
    assert loss.discriminator_weight(after) > 0
    assert isinstance(config.optim_for(OptimConfig()), OptimConfig)
    assert config.passes > 0 and config.adaptive in (True, False)


@pytest.mark.parametrize("module", ADVERSARIAL, indirect=True)
def test_adversarial_sides_cost_and_state(module: ModuleType) -> None:
    loss = module.Loss(module.Config())
    for size in SIZES:
        real, fake = images(size, 0), images(size, 1).requires_grad_()
        value = loss.generator_loss(fake)
        value.backward()
        assert value.ndim == 0 and torch.isfinite(value)
        assert fake.grad is not None and fake.grad.abs().max() > 0
        assert all(p.grad is None for p in loss.parameters())
        cost = module.Config().cost(size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            loss.generator_loss(fake)
        assert counter.get_total_flops() == 2 * 2 * cost.macs
        assert cost.params == sum(p.numel() for p in loss.parameters())
    fake.grad = None
    value, stats = loss.discriminator_loss(real, fake)
    value.backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in loss.parameters())
    assert all(s.ndim == 0 and not s.requires_grad for s in stats.values())
    loss.after_step()
    torch.manual_seed(1)
    other = module.Loss(module.Config())
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.generator_loss(fake), loss.generator_loss(fake))
