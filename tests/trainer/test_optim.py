import dataclasses
import math

import pytest
import torch
from torch import nn

from tokenlaw.trainer.accounting.config import LlamaConfig, OptimConfig
from tokenlaw.trainer.accounting.learning_rate import (
    cosine_ramp,
    learning_rate,
    weight_decay,
    wsd_decay_start,
)
from tokenlaw.trainer.loop.optim import (
    Diverged,
    FiniteWatch,
    MovingAverage,
    clip_gradients,
    derive_seed,
    make_optimizer,
    set_learning_rate,
)
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.quantizers import vq


def optim(**changes):
    return dataclasses.replace(OptimConfig(lr_peak=1.0), **changes)


# ----------------------------------------------------------------------------------- weight decay


def decayed_names(module, config):
    optimizer = make_optimizer(module, config)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert set(decays) == {id(p) for p in module.parameters() if p.requires_grad}
    return {name for name, p in module.named_parameters() if decays.get(id(p), 0) > 0}


def test_weight_decay_is_on_matrices_only():
    model = LlamaConfig(width=16, layers=1, heads=2, hidden_multiple=8, adaln=True,
                        position="learned")  # fmt: skip
    generator = Generator(model, 8, 3, (2, 2))
    names = decayed_names(generator, optim(weight_decay=0.05))
    assert names == {
        "blocks.0.attention.wqkv.weight",
        "blocks.0.attention.wo.weight",
        "blocks.0.ffn.w13.weight",
        "blocks.0.ffn.w2.weight",
        "blocks.0.adaln.weight",
        "final_adaln.weight",
        "head.weight",
    }
    tables = {"code_embedding.weight", "class_embedding.weight", "positions"}
    every = optim(weight_decay=0.05, decay_embeddings=True)
    assert decayed_names(generator, every) == names | tables
    # Which are all parameters of two dimensions, as LlamaGen and SEED-Voken choose them.
    assert names | tables == {name for name, p in generator.named_parameters() if p.ndim >= 2}
    quantizer = vq.Quantizer(vq.Config(codebook_size=4, dim=2))
    assert decayed_names(quantizer, optim(weight_decay=0.1)) == set()
    assert decayed_names(quantizer, every) == {"codebook_KD"}


def test_scheduled_weight_decay_follows_a_half_cosine():
    config = optim(weight_decay=0.05, weight_decay_end=0.08, warmup_iterations=40)
    found = [weight_decay(config, step, 101) for step in range(101)]
    # VAR: end + (start - end) (1 + cos(pi step / (iterations - 1))) / 2, from the first iteration
    # on, and reached at the last.
    assert found == pytest.approx(
        [0.08 - 0.03 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(101)]
    )
    assert (found[0], found[50], found[100]) == pytest.approx((0.05, 0.065, 0.08))
    assert weight_decay(config, 0, 1) == 0.05
    assert {weight_decay(optim(weight_decay=0.1), step, 9) for step in range(9)} == {0.1}
    layer = nn.Linear(2, 2)
    optimizer = make_optimizer(layer, dataclasses.replace(config, warmup_iterations=0))
    set_learning_rate(optimizer, config, 50, 101)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(0.065), 0]
    # From none at all: the group is known by its parameters, not by its decay.
    rising = optim(weight_decay_end=0.1)
    optimizer = make_optimizer(layer, rising)
    set_learning_rate(optimizer, rising, 8, 9)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(0.1), 0]


@pytest.mark.parametrize(
    ("setting", "value"), [("weight_decay_end", 0.08), ("decay_embeddings", True)]
)
def test_a_decay_that_adam_does_not_have_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}: {value} needs name adamw, not adam$"):
        OptimConfig(name="adam", **{setting: value})


def test_adam_has_no_decay_and_adamw_decays_by_the_learning_rate():
    layer = nn.Linear(2, 2)
    assert decayed_names(layer, optim(name="adam", weight_decay=0.1)) == set()
    before = layer.weight.detach().clone()
    optimizer = make_optimizer(layer, optim(weight_decay=0.1, lr_peak=0.01))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, before * (1 - 0.01 * 0.1))


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    assert decayed_names(layer, optim(weight_decay=0.1)) == {"weight"}


# -------------------------------------------------------------------------------------- schedules


def rates(config, iterations):
    return [learning_rate(config, step, iterations) for step in range(iterations + 1)]


def test_warmup_is_linear_from_its_start():
    config = optim(warmup_iterations=4, lr_warmup_start=0.2)
    assert rates(config, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1])


def test_cosine_ends_at_its_share():
    config = optim(schedule="cosine", warmup_iterations=2, lr_end_share=0.1)
    found = rates(config, 10)
    assert found[2] == 1.0
    assert found[6] == pytest.approx(0.55)
    assert found[10] == pytest.approx(0.1)
    assert found[4] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_linear_holds_then_falls():
    config = optim(schedule="linear", warmup_iterations=2, hold_share=0.25, lr_end_share=0.5)
    found = rates(config, 10)
    assert found[2:5] == [1.0, 1.0, 1.0]
    assert found[7] == pytest.approx(0.75)
    assert found[10] == pytest.approx(0.5)


def test_multistep_falls_at_its_milestones():
    config = optim(schedule="multistep", milestones=(0.5, 0.8), milestone_factor=0.1)
    assert rates(config, 10) == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 3)


@pytest.mark.parametrize("shape", ["1-sqrt", "linear"])
def test_wsd_is_flat_then_decays(shape):
    config = optim(schedule="wsd", decay_share=0.4, decay_shape=shape)
    found = rates(config, 10)
    assert wsd_decay_start(config, 10) == 6
    assert found[:7] == [1.0] * 7
    half = 1 - math.sqrt(0.5) if shape == "1-sqrt" else 0.5
    assert found[8] == pytest.approx(half)
    assert found[10] == pytest.approx(0.0)
    # A trunk and its branch agree up to the branch's decay.
    assert rates(config, 20)[:6] == found[:6]


def test_constant_without_warmup():
    assert rates(optim(), 3) == [1.0] * 4


def test_cosine_ramp():
    assert [cosine_ramp(step, 2, 4) for step in (0, 2, 4, 6, 9)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert cosine_ramp(2, 2, 0) == 1.0 and cosine_ramp(1, 2, 0) == 0.0


def test_the_rate_reaches_every_group():
    optimizer = make_optimizer(nn.Linear(2, 2), optim(weight_decay=0.1))
    config = optim(warmup_iterations=10)
    assert set_learning_rate(optimizer, config, 5, 20) == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


# ---------------------------------------------------------------------------------- seeds, clipping


def test_derived_seeds_are_frozen_and_differ():
    # The numbers are part of every run's result: they may never change.
    assert derive_seed("order", 0, 0) == 6842717984295184508
    seeds = {derive_seed("order", seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_clipping_is_by_the_global_norm():
    layer = nn.Linear(2, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert clip_gradients(layer.parameters(), 0.0).item() == 5.0
    assert layer.bias.grad.item() == 4.0
    assert clip_gradients(layer.parameters(), 1.0).item() == 5.0
    assert layer.bias.grad.item() == pytest.approx(0.8)
    assert clip_gradients(layer.parameters(), 10.0).item() == pytest.approx(1.0)
    assert layer.bias.grad.item() == pytest.approx(0.8)


# -------------------------------------------------------------------------- divergence and averages


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_watch_names_the_step_and_the_number(value):
    watch = FiniteWatch(torch.device("cpu"))
    watch.check(6, "training loss", torch.tensor(1.0))
    with pytest.raises(Diverged, match="gradient norm is not finite at step 7") as caught:
        watch.check(7, "gradient norm", torch.tensor(value))
    assert caught.value.step == 7


def test_deferred_watch_raises_at_the_flush():
    watch = FiniteWatch(torch.device("cpu"))
    watch._deferred = True  # as on a GPU
    for step, value in enumerate([1.0, 2.0, math.nan, math.nan]):
        watch.check(step, "training loss", torch.tensor(value))
    with pytest.raises(Diverged, match="at step 2"):
        watch.flush()


def test_moving_average_of_weights_and_copies_of_buffers():
    layer = nn.BatchNorm1d(1)
    average = MovingAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.running_mean.fill_(7.0)
    average.update(layer)
    assert average.module.weight.item() == pytest.approx(1.1)
    assert average.module.running_mean.item() == 7.0
    assert not average.module.weight.requires_grad and not average.module.training
