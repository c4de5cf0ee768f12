"""What every quantizer promises (trainer/quantizers). New files join by existing."""

import math
from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting.config import decode
from tokenlaw.trainer.quantizers import Quantized

FOLDER = "quantizers"


@pytest.fixture(params=parts.names(FOLDER))
def module(request: pytest.FixtureRequest) -> ModuleType:
    torch.manual_seed(0)
    return parts.load(FOLDER, request.param)


def total(out: Quantized) -> torch.Tensor:
    values = [weight * value for weight, value in out.losses.values()]
    return torch.stack([out.z_q_BND.square().mean(), *values]).sum()


def test_defaults_decode_and_unknown_keys_are_refused(module: ModuleType) -> None:
    assert decode(module.Config, {}) == module.Config()
    with pytest.raises(ValueError, match="there is no such field"):
        decode(module.Config, {"no_such_field": 1}, where="quantizer")
    assert isinstance(module.VERSION, int)


@pytest.mark.parametrize("shape", [(1, 4), (3, 16), (2, 9)])
def test_shapes_types_and_code_range(module: ModuleType, shape: tuple[int, int]) -> None:
    config = module.Config()
    out = module.Quantizer(config)(torch.randn(*shape, config.dim), 0)
    assert out.z_q_BND.shape == (*shape, config.dim) and out.z_q_BND.dtype == torch.float32
    assert out.code_BN.shape == shape and out.code_BN.dtype == torch.int64
    sizes = config.codebook_sizes(shape[1])
    limit = torch.tensor(sizes if sizes is not None else [config.num_codes] * shape[1])
    assert len(limit) == shape[1] and limit.max() <= config.num_codes
    assert (out.code_BN >= 0).all() and (out.code_BN < limit).all()
    for weight, value in out.losses.values():
        assert weight >= 0 and value.ndim == 0 and torch.isfinite(value)
    for value in out.stats.values():
        assert value.ndim == 0 and not value.requires_grad and torch.isfinite(value)
    assert {"usage", "perplexity", "z_norm"} <= set(out.stats)
    assert 0 < out.stats["usage"] <= 1
    assert 1 <= out.stats["perplexity"] <= math.prod(shape)


def test_looking_codes_up_gives_what_the_decoder_took(module: ModuleType) -> None:
    config = module.Config()
    quantizer = module.Quantizer(config)
    z_BND = torch.randn(2, 16, config.dim)
    for training in (True, False):
        out = quantizer.train(training)(z_BND, 0)
        soft = training and getattr(module, "SOFT_WHILE_TRAINING", False)
        assert torch.equal(quantizer.lookup(out.code_BN), out.z_q_BND) != soft
        assert len(out.code_BN.unique()) > 1


def test_the_gradient_reaches_the_latents(module: ModuleType) -> None:
    config = module.Config()
    quantizer = module.Quantizer(config)
    z_BND = torch.randn(2, 16, config.dim, requires_grad=True)
    (through,) = torch.autograd.grad(quantizer(z_BND, 0).z_q_BND.square().sum(), z_BND)
    assert torch.isfinite(through).all() and (through.abs().sum(-1) > 0).all()
    total(quantizer(z_BND, 0)).backward()
    assert z_BND.grad is not None and torch.isfinite(z_BND.grad).all()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_cost_counts_the_parameters(module: ModuleType) -> None:
    config = module.Config()
    with torch.device("meta"):
        held = sum(p.numel() for p in module.Quantizer(config).parameters())
    assert config.cost(16).params == held
    assert config.cost(32).macs >= config.cost(16).macs


def test_cost_counts_the_products_with_the_codebook(module: ModuleType) -> None:
    config = module.Config()
    quantizer = module.Quantizer(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        quantizer(torch.randn(1, 16, config.dim), 0)
    # The cost is of a third of a training step: a forward pass may do less (a penalty or a soft
    # assignment has most of its products in the backward pass) or more (a search of whole tiles).
    counted = 2 * config.cost(16).macs
    assert counted / 2 <= counter.get_total_flops() <= 2 * counted


def test_state_and_determinism(module: ModuleType) -> None:
    config = module.Config()
    first = module.Quantizer(config)
    torch.manual_seed(1)
    second = module.Quantizer(config)
    second.load_state_dict(first.state_dict())
    z_BND = torch.randn(2, 16, config.dim)
    outs = [q(z.requires_grad_(), 3) for q, z in ((first, z_BND), (second, z_BND.clone()))]
    assert torch.equal(outs[0].code_BN, outs[1].code_BN)
    assert torch.equal(outs[0].z_q_BND, outs[1].z_q_BND)
    for out in outs:
        total(out).backward()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_codes_do_not_depend_on_autocast(module: ModuleType) -> None:
    config = module.Config()
    quantizer = module.Quantizer(config)
    z_BND = torch.randn(2, 64, config.dim)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z_BND, 0)
    assert torch.equal(cast.code_BN, quantizer(z_BND, 0).code_BN)
    assert cast.z_q_BND.dtype == torch.float32
