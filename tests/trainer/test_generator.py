import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import LlamaConfig
from tokenlaw.trainer.models.llama import Generator, rope_table, rotate
from tokenlaw.trainer.models.operations import Cache

SHAPES = {
    "plain": {},
    "deep": {"layers": 5, "heads": 4},
    "no qk-norm": {"qk_norm": False},
    "learned": {"position": "learned"},
    "1d": {"position": "rope_1d"},
    "identity row": {"rope_cls": "identity"},
    "adaln": {"adaln": True},
    "adaln, learned": {"adaln": True, "position": "learned", "qk_norm": False},
    "odd hidden": {"hidden_multiple": 7},
}
VOCABULARY, CLASSES, GRID = 24, 5, (3, 4)


def config(**changes):
    base = LlamaConfig(width=32, layers=2, heads=2, hidden_multiple=16)
    return dataclasses.replace(base, **changes)


def build(seed=0, shuffled=True, grid=GRID, **changes):
    """A generator in eval mode; `shuffled` gives the zero head and the norms real values."""
    torch.manual_seed(seed)
    generator = Generator(config(**changes), VOCABULARY, CLASSES, grid)
    if shuffled:
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return generator.eval()


def codes_and_classes(batch=3, grid=GRID):
    draws = torch.Generator().manual_seed(1)
    code_BL = torch.randint(VOCABULARY, (batch, grid[0] * grid[1]), generator=draws)
    return code_BL, torch.randint(CLASSES, (batch,), generator=draws)


# ------------------------------------------------------------------------------------------ counts


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("width", [16, 96])
def test_parameter_count_is_the_planners(name, width):
    shape = config(width=width, **SHAPES[name])
    with torch.device("meta"):
        generator = Generator(shape, VOCABULARY, CLASSES, GRID)
    cost = flops.generator_cost(shape, VOCABULARY, CLASSES, GRID[0] * GRID[1])
    count = sum(p.numel() for p in generator.parameters())
    # The papers' counts leave out the gains of QK-norm.
    qk_gains = sum(p.numel() for n, p in generator.named_parameters() if "q_norm" in n)
    qk_gains += sum(p.numel() for n, p in generator.named_parameters() if "k_norm" in n)
    assert qk_gains == (2 * shape.layers * width // shape.heads if shape.qk_norm else 0)
    assert cost.params == count - qk_gains
    tables = generator.code_embedding.weight.numel() + generator.class_embedding.weight.numel()
    assert cost.params_head == generator.head.weight.numel()
    assert cost.params_non_embedding == count - qk_gains - tables - cost.params_head
    matmul = sum(
        p.numel()
        for n, p in generator.named_parameters()
        if p.ndim == 2 and "embedding" not in n and "adaln" not in n and n != "positions"
    )
    assert cost.params_matmul == matmul


def test_planned_multiply_adds_are_the_modules():
    # What the planner calls MACs is what torch counts: FLOPs / 2 of all matrix products.
    from torch.utils.flop_counter import FlopCounterMode

    for changes in ({}, {"adaln": True}, {"layers": 3, "width": 64, "position": "learned"}):
        shape = config(**changes)
        with torch.device("meta"):
            generator = Generator(shape, VOCABULARY, CLASSES, (4, 4)).eval()
            code_BT = torch.zeros(1, 15, dtype=torch.long)
            with FlopCounterMode(display=False) as counter:
                generator(code_BT, torch.zeros(1, dtype=torch.long))
        cost = flops.generator_cost(shape, VOCABULARY, CLASSES, 16)
        assert counter.get_total_flops() == 2 * cost.macs_forward


# -------------------------------------------------------------------------------------- first loss


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("vocabulary", [16, 1024])
def test_first_loss_is_the_uniform_one(name, vocabulary):
    torch.manual_seed(0)
    generator = Generator(config(**SHAPES[name]), vocabulary, CLASSES, GRID)
    code_BL, class_B = codes_and_classes()
    code_BL = code_BL * (vocabulary // VOCABULARY + 1) % vocabulary
    logits_BLV = generator(code_BL[:, :-1], class_B)
    assert logits_BLV.shape == (*code_BL.shape, vocabulary)
    loss = F.cross_entropy(logits_BLV.flatten(0, 1), code_BL.flatten())
    assert loss.item() == pytest.approx(math.log(vocabulary), abs=1e-4)


def test_initial_weights_follow_the_recipe():
    generator = build(shuffled=False, width=96, adaln=True, adaln_gain_init=0.1)
    for name, parameter in generator.named_parameters():
        spread = parameter.std().item() if parameter.numel() > 1 else 0.0
        if name == "head.weight" or name.endswith("adaln.bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif "adaln" in name:
            assert spread == pytest.approx(0.002, rel=0.1), name
        else:
            assert spread == pytest.approx(0.02, rel=0.2), name


def test_initial_gates_may_be_smaller_than_scales_and_shifts():
    # SEED-Voken: both gates x alng, all other rows and the final AdaLN x 0.5.
    generator = build(
        shuffled=False, width=96, adaln=True, adaln_gain_init=1e-3, adaln_scale_init=0.5
    )
    spreads = [block.adaln.weight.unflatten(0, (6, -1)).std((1, 2)) for block in generator.blocks]
    scale1, shift1, gate1, scale2, shift2, gate2 = torch.stack(spreads).mean(0).tolist()
    assert [scale1, shift1, scale2, shift2] == pytest.approx([0.01] * 4, rel=0.05)
    assert [gate1, gate2] == pytest.approx([2e-5] * 2, rel=0.05)
    assert generator.final_adaln.weight.std().item() == pytest.approx(0.01, rel=0.05)
    # The rows that are called gates are those that shut a block.
    with torch.no_grad():
        for block in generator.blocks:
            block.adaln.weight.unflatten(0, (2, 3, -1))[:, 2].zero_()
    x_BTD = torch.randn(2, 5, 96)
    block = generator.blocks[0].eval()
    assert torch.equal(block(x_BTD, generator.rope[:5], torch.randn(2, 96)), x_BTD)
    # As it was: one scale for all, the same draws.
    before, equal = (
        build(shuffled=False, width=96, adaln=True, adaln_gain_init=0.25, **changes)
        for changes in ({}, {"adaln_scale_init": 0.25})
    )
    assert all(map(torch.equal, before.parameters(), equal.parameters()))
    with pytest.raises(ValueError, match=r"^adaln_scale_init: 0.5 needs adaln true$"):
        build(adaln_scale_init=0.5)


# --------------------------------------------------------------------------------------- causality


@pytest.mark.parametrize("name", SHAPES)
def test_a_later_code_moves_no_earlier_logit(name):
    generator = build(**SHAPES[name])
    code_BL, class_B = codes_and_classes()
    before_BLV = generator(code_BL[:, :-1], class_B)
    for place in (0, 4, code_BL.shape[1] - 2):
        changed_BL = code_BL.clone()
        changed_BL[:, place] = (changed_BL[:, place] + 1) % VOCABULARY
        after_BLV = generator(changed_BL[:, :-1], class_B)
        # Position t reads codes before t: the changed one is first seen one position later.
        assert torch.equal(after_BLV[:, : place + 1], before_BLV[:, : place + 1])
        assert not torch.allclose(after_BLV[:, place + 1], before_BLV[:, place + 1], atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "learned", "adaln", "identity row"])
def test_the_class_reaches_every_position(name):
    generator = build(**SHAPES[name])
    code_BL, class_B = codes_and_classes()
    first_BLV = generator(code_BL[:, :-1], class_B)
    second_BLV = generator(code_BL[:, :-1], (class_B + 1) % CLASSES)
    moved_L = (first_BLV - second_BLV).abs().amax((0, 2))
    assert (moved_L > 1e-5).all()


# ---------------------------------------------------------------------------------------- KV cache


@pytest.mark.parametrize("name", SHAPES)
def test_cached_logits_are_those_of_the_whole_sequence(name):
    generator = build(**SHAPES[name])
    code_BL, class_B = codes_and_classes()
    whole_BLV = generator(code_BL[:, :-1], class_B)
    class_BD = generator.class_embedding(class_B)
    caches = generator.new_cache(len(class_B), class_B.device, torch.float32)
    for position in range(code_BL.shape[1]):
        code_B = code_BL[:, position - 1] if position else None
        step_BV = generator.step(code_B, class_BD, caches, position)
        assert step_BV.dtype == torch.float32
        torch.testing.assert_close(step_BV, whole_BLV[:, position], atol=1e-4, rtol=0)


def test_cache_keeps_what_is_given():
    torch.manual_seed(0)
    cache = Cache((1, 1, 4, 2), torch.device("cpu"), torch.float32)
    q, k, v = torch.randn(3, 1, 1, 3, 2)
    for position in range(3):
        one = slice(position, position + 1)
        found = cache.attend(q[:, :, one], k[:, :, one], v[:, :, one], position)
    assert torch.equal(cache.k[:, :, :3], k) and torch.equal(cache.v[:, :, :3], v)
    weight = (q[0, 0, 2] @ k[0, 0].T / 2**0.5).softmax(0)
    torch.testing.assert_close(found[0, 0, 0], weight @ v[0, 0])


# ------------------------------------------------------------------------------------------- RoPE


def test_zero_class_row_makes_query_and_key_vanish():
    x_BTHE = torch.randn(2, 1 + 12, 2, 16)
    zero = rotate(x_BTHE, rope_table("rope_2d", 16, GRID, 10000.0, "zero"))
    identity = rotate(x_BTHE, rope_table("rope_2d", 16, GRID, 10000.0, "identity"))
    assert not zero[:, 0].any()
    torch.testing.assert_close(identity[:, 0], x_BTHE[:, 0])
    torch.testing.assert_close(zero[:, 1:], identity[:, 1:], rtol=0, atol=0)
    # Everywhere else it is a rotation: lengths stay.
    torch.testing.assert_close(zero[:, 1:].norm(dim=-1), x_BTHE[:, 1:].norm(dim=-1))


def test_the_two_class_rows_are_different_models():
    code_BL, class_B = codes_and_classes()
    logits = [build(rope_cls=row)(code_BL[:, :-1], class_B) for row in ("zero", "identity")]
    assert not torch.allclose(*logits, atol=1e-3)


def test_rope_2d_depends_on_row_and_column_differences():
    rows, columns, size = 4, 5, 16
    table = rope_table("rope_2d", size, (rows, columns), 10000.0, "zero")[1:]
    q, k = torch.randn(2, size)
    turned_q = rotate(q.expand(1, rows * columns, 1, size), table)[0, :, 0]
    turned_k = rotate(k.expand(1, rows * columns, 1, size), table)[0, :, 0]
    scores = turned_q @ turned_k.T

    def at(row, column):
        return row * columns + column

    # Same offset (1 row down, 2 columns right), different places.
    pairs = [((0, 0), (1, 2)), ((2, 1), (3, 3)), ((1, 2), (2, 4))]
    same = torch.stack([scores[at(*a), at(*b)] for a, b in pairs])
    torch.testing.assert_close(same, same[:1].expand(3), atol=1e-5, rtol=1e-5)
    assert abs(scores[at(0, 0), at(1, 2)] - scores[at(0, 0), at(2, 1)]) > 1e-3
    # The first half of the dimensions knows the row alone.
    torch.testing.assert_close(table[at(2, 0), : size // 2], table[at(2, 4), : size // 2])
    torch.testing.assert_close(table[at(0, 3), size // 2 :], table[at(3, 3), size // 2 :])


def test_rope_1d_starts_after_the_class():
    table = rope_table("rope_1d", 8, (1, 6), 100.0, "identity")
    for position in range(7):
        expected = position * 100.0 ** (-torch.arange(0, 8, 2) / 8)
        even, odd = table[position, ::2], table[position, 1::2]
        for cos in (even[:, 0], odd[:, 0]):
            torch.testing.assert_close(cos, expected.cos(), atol=1e-6, rtol=0)
        for sin in (-even[:, 1], odd[:, 1]):
            torch.testing.assert_close(sin, expected.sin(), atol=1e-6, rtol=0)


def test_rotation_is_that_of_complex_numbers():
    torch.manual_seed(0)
    x_BTHE = torch.randn(2, 7, 3, 8)
    angle = torch.arange(7)[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    turned = torch.view_as_complex(x_BTHE.unflatten(-1, (-1, 2)))
    turned = turned * torch.polar(torch.ones_like(angle), angle)[None, :, None]
    found = rotate(x_BTHE, rope_table("rope_1d", 8, (1, 6), 100.0, "identity"))
    torch.testing.assert_close(found, torch.view_as_real(turned).flatten(-2), atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------- class dropout


def test_class_dropout_makes_the_null_class_at_its_rate():
    generator = build(class_dropout=0.25)
    class_B = torch.arange(20_000) % CLASSES
    assert torch.equal(generator.drop_classes(class_B), class_B)  # eval mode
    generator.train()
    torch.manual_seed(0)
    dropped_B = generator.drop_classes(class_B)
    changed = dropped_B != class_B
    assert (dropped_B[changed] == CLASSES).all()
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_training_without_dropout_draws_nothing():
    off = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0, "class_dropout": 0.0}
    generator = build(**off).train()
    code_BL, class_B = codes_and_classes()
    torch.manual_seed(3)
    first = generator(code_BL[:, :-1], class_B)
    assert torch.equal(generator(code_BL[:, :-1], class_B), first)
    torch.testing.assert_close(first, generator.eval()(code_BL[:, :-1], class_B))


@pytest.mark.parametrize("which", ["token_dropout", "residual_dropout", "ffn_dropout"])
def test_each_dropout_acts_in_training_only(which):
    off = {"token_dropout": 0.0, "residual_dropout": 0.0, "ffn_dropout": 0.0, "class_dropout": 0.0}
    generator = build(**(off | {which: 0.5}))
    code_BL, class_B = codes_and_classes()
    quiet = generator(code_BL[:, :-1], class_B)
    assert torch.equal(generator(code_BL[:, :-1], class_B), quiet)
    generator.train()
    assert not torch.allclose(generator(code_BL[:, :-1], class_B), quiet, atol=1e-4)
