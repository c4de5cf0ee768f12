"""What every tokenizer architecture promises (trainer/tokenizers). New files join by existing."""

import math
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting.config import decode

FOLDER = "tokenizers"
DIM = 8
CANDIDATES = (32, 48, 64, 96, 128, 256)  # pixels


@pytest.fixture(params=parts.names(FOLDER))
def module(request: pytest.FixtureRequest) -> ModuleType:
    torch.manual_seed(0)
    return parts.load(FOLDER, request.param)


def resolutions(module: ModuleType) -> list[int]:
    """The first three image sizes that the default config takes."""
    fitting = []
    for resolution in CANDIDATES:
        try:
            module.Config().tokens_per_image(resolution)
        except ValueError:
            continue
        fitting.append(resolution)
    assert len(fitting) >= 3
    return fitting[:3]


def test_defaults_decode_and_unknown_keys_are_refused(module: ModuleType) -> None:
    assert decode(module.Config, {}) == module.Config()
    with pytest.raises(ValueError, match="there is no such field"):
        decode(module.Config, {"no_such_field": 1}, where="tokenizer")
    assert isinstance(module.VERSION, int)


def test_a_size_that_does_not_fit_is_refused_by_name(module: ModuleType) -> None:
    with pytest.raises(ValueError, match="resolution: 31"):
        module.Config().tokens_per_image(31)


def test_shapes_are_the_configs_at_three_image_sizes(module: ModuleType) -> None:
    config = module.Config()
    for resolution in resolutions(module):
        with torch.device("meta"):
            model = module.Tokenizer(config, DIM, resolution)
            x_BCHW = torch.empty(2, 3, resolution, resolution)
            h_BNC = model.features(x_BCHW)
            z_BND = model.encode(x_BCHW)
            y_BCHW = model.decode(z_BND)
        tokens = config.tokens_per_image(resolution)
        assert z_BND.shape == (2, tokens, DIM)
        assert h_BNC.shape == (2, tokens, config.z_channels)
        assert model.project(h_BNC).shape == z_BND.shape
        assert y_BCHW.shape == x_BCHW.shape
        assert math.prod(config.grid_shape(resolution)) == tokens


def test_cost_is_what_the_module_holds_and_multiplies(module: ModuleType) -> None:
    config = module.Config()
    for resolution in resolutions(module):
        with torch.device("meta"):
            model = module.Tokenizer(config, DIM, resolution)
            with FlopCounterMode(display=False) as counter:
                z_BND = model.encode(torch.empty(1, 3, resolution, resolution))
                encoded = counter.get_total_flops()
                model.decode(z_BND)
        encoder, decoder = config.cost(resolution, DIM)
        assert encoder.params + decoder.params == sum(p.numel() for p in model.parameters())
        assert 2 * encoder.macs == encoded
        assert 2 * decoder.macs == counter.get_total_flops() - encoded


def test_values_gradients_and_state_survive_a_round_trip(module: ModuleType) -> None:
    resolution = resolutions(module)[0]
    model = module.Tokenizer(module.Config(), DIM, resolution)
    x_BCHW = torch.rand(1, 3, resolution, resolution) * 2 - 1
    h_BNC = model.features(x_BCHW)
    z_BND = model.encode(x_BCHW)
    assert torch.equal(model.project(h_BNC), z_BND), "encode is project after features"
    y_BCHW = model.decode(z_BND)
    assert torch.isfinite(y_BCHW).all()
    y_BCHW.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, "every weight takes part"
    assert model.last_layer.grad is not None and model.last_layer.grad.abs().max() > 0

    torch.manual_seed(1)
    other = module.Tokenizer(module.Config(), DIM, resolution)
    assert not torch.equal(other.encode(x_BCHW), z_BND), "the seed makes the weights"
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.encode(x_BCHW), z_BND)
        assert torch.equal(other.decode(z_BND), y_BCHW), "deterministic"
