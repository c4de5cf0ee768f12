"""What every regulariser of the latents promises (trainer/regularizers). New files join by
existing.
"""

from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting.config import OptimConfig, decode

FOLDER = "regularizers"
LATE = 10**9  # a step at which every ramp is over


@pytest.fixture(params=parts.names(FOLDER))
def module(request: pytest.FixtureRequest) -> ModuleType:
    torch.manual_seed(0)
    return parts.load(FOLDER, request.param)


def test_defaults_decode_and_unknown_keys_are_refused(module: ModuleType) -> None:
    assert decode(module.Config, {}) == module.Config()
    with pytest.raises(ValueError, match="there is no such field"):
        decode(module.Config, {"no_such_field": 1}, where="regularizer")
    assert isinstance(module.VERSION, int)
    assert isinstance(module.Config().optim_for(OptimConfig()), OptimConfig)
    assert module.Config().latent in ("projected", "unprojected")


@pytest.mark.parametrize(("dim", "grid"), [(8, (4, 4)), (5, (2, 3)), (8, (1, 6))])
def test_latents_go_on_and_losses_reach_them(
    module: ModuleType, dim: int, grid: tuple[int, int]
) -> None:
    model = module.Regularizer(module.Config(), dim, grid)
    z_BND = torch.randn(2, grid[0] * grid[1], dim, requires_grad=True)
    out = model(z_BND, LATE)
    assert out.z_BND.shape == z_BND.shape
    assert out.losses
    for weight, value in out.losses.values():
        assert weight >= 0 and value.ndim == 0 and torch.isfinite(value)
    for value in out.stats.values():
        assert value.ndim == 0 and not value.requires_grad and torch.isfinite(value)
    torch.stack([weight * value for weight, value in out.losses.values()]).sum().backward()
    assert z_BND.grad is not None and torch.isfinite(z_BND.grad).all()
    assert z_BND.grad.abs().max() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_cost_is_what_the_module_holds_and_multiplies(module: ModuleType) -> None:
    config = module.Config()
    for grid in ((4, 4), (8, 8)):
        tokens = grid[0] * grid[1]
        with torch.device("meta"):
            model = module.Regularizer(config, 8, grid)
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, tokens, 8), 0)
        assert config.cost(tokens, 8).params == sum(p.numel() for p in model.parameters())
        assert 2 * config.cost(tokens, 8).macs == counter.get_total_flops()


def test_state_and_determinism(module: ModuleType) -> None:
    first = module.Regularizer(module.Config(), 8, (3, 3))
    torch.manual_seed(1)
    second = module.Regularizer(module.Config(), 8, (3, 3))
    z_BND = torch.randn(2, 9, 8)
    before = [m(z_BND, LATE).losses for m in (first, second)]
    assert any(before[0][name][1] != before[1][name][1] for name in before[0])
    second.load_state_dict(first.state_dict())
    after = [m(z_BND, LATE) for m in (first, second)]
    assert torch.equal(after[0].z_BND, after[1].z_BND)
    for name, (weight, value) in after[0].losses.items():
        assert after[1].losses[name][0] == weight
        assert torch.equal(after[1].losses[name][1], value)
