"""The option of 8-bit products, by the plain operations that a CPU has for them."""

import interpreted
import pytest
import tiny
import torch
import torch.nn.functional as F

from tokenlaw.trainer.accounting.config import LlamaConfig, decode_run
from tokenlaw.trainer.kernels import float8
from tokenlaw.trainer.models.llama import Generator

TREE = {"model": {"width": 32, "layers": 2, "heads": 2}, "iterations": 3}
BF16 = {"numerics": {"precision": "bf16"}}


def plain(x, w13_PD, w2_DF):
    gate, value = (x @ w13_PD.t()).chunk(2, -1)
    return (F.silu(gate) * value) @ w2_DF.t()


def test_outputs_and_gradients_are_those_of_exact_products_but_for_rounding():
    torch.manual_seed(0)
    x = torch.randn(2, 20, 64).bfloat16().requires_grad_()
    w13_PD = (0.1 * torch.randn(192, 64)).requires_grad_()
    w2_DF = (0.1 * torch.randn(64, 96)).requires_grad_()
    # Gradients are small: their units are what keeps them from vanishing.
    gradient = 1e-6 * torch.randn(2, 20, 64)
    leaves = [x, w13_PD, w2_DF]
    exact = plain(x.float(), w13_PD, w2_DF)
    found = float8.feed_forward(x, w13_PD, w2_DF)
    expected = [exact, *torch.autograd.grad(exact, leaves, gradient)]
    given = [found, *torch.autograd.grad(found, leaves, gradient.bfloat16())]
    for wanted, value in zip(expected, given, strict=True):
        apart = ((value.float() - wanted.float()).norm() / wanted.float().norm()).item()
        assert 0.01 < apart < 0.1, apart  # numbers of 4 significant bits


def test_rows_keep_their_largest_number_and_zeros():
    x = torch.tensor([[0.0, 0.0], [1e-20, -3e-20], [5e10, 1e10]])
    number, unit = float8.rows(x)
    assert number.dtype == torch.float8_e4m3fn and unit.shape == (3, 1)
    back = number.float() * unit
    assert torch.equal(back[0], x[0])
    torch.testing.assert_close(back, x, rtol=0.07, atol=0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "float8_ffn: true needs numerics.precision bf16, not fp32"),
        (
            BF16 | {"model": {"width": 24, "layers": 1, "heads": 2}},
            "float8_ffn: true needs a width that is a multiple of 16, not 24",
        ),
        (
            BF16 | {"model": TREE["model"] | {"adaln": True}},
            "float8_ffn: true is not allowed with model.adaln",
        ),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        decode_run("generator", TREE | change | {"float8_ffn": True})


def test_only_training_uses_it():
    torch.manual_seed(0)
    generator = Generator(LlamaConfig(**TREE["model"]), 20, 3, (2, 2)).bfloat16()
    torch.nn.init.normal_(generator.head.weight)
    code_BT, class_B = torch.randint(20, (2, 3)), torch.arange(2)
    generator.eval()
    before = generator(code_BT, class_B)
    generator.use_float8()
    assert torch.equal(generator(code_BT, class_B), before)
    generator.train()
    for module in generator.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert not torch.equal(generator(code_BT, class_B), before)


def test_a_run_with_it_learns_and_has_an_id_of_its_own(tmp_path):
    codes_dir = tiny.codes_chain(tmp_path)[1]
    found = {}
    for wanted in (False, True):
        tree = tiny.generator(iterations=20, float8_ffn=wanted) | BF16
        run_dir = tiny.done(tmp_path, "generator", tree, {"codes": codes_dir})
        found[run_dir.id] = tiny.losses(run_dir)
    assert len(found) == 2
    exact, eight = found.values()
    assert exact != eight and eight == pytest.approx(exact, abs=0.05)
    assert eight[-1] < eight[0] - 0.2


def test_kernels_do_it_too():
    assert interpreted.output(__file__) == "compared\n"


def kernels():
    from tokenlaw.trainer.kernels.float8_rows import float8_rows
    from tokenlaw.trainer.kernels.swiglu import swiglu_float8, swiglu_float8_gradient

    torch.manual_seed(0)

    # The interpreter knows no numbers below 2^-6, and what rounds up to a power of two it halves.
    def near(eight, unit, exact):
        away = (eight.float() * unit - exact).abs()
        mantissa, _ = torch.frexp(exact / unit)
        right = (away <= 0.064 * exact.abs() + unit * 2**-6) | (mantissa.abs() > 31 / 32)
        assert right.all() and (away > 0).any()
        expected = (exact.abs().amax(1, keepdim=True) / 448).clamp(min=1e-30)
        torch.testing.assert_close(unit, expected, rtol=1e-5, atol=0.0)

    x_RC = torch.randn(5, 100) * torch.tensor([1e-9, 1.0, 1e9, 0.0, 3.0])[:, None]
    near(*float8_rows(x_RC), x_RC)
    both = torch.randn(3, 2 * 70).requires_grad_()
    gate, value = both.chunk(2, -1)
    expected, grad = F.silu(gate) * value, torch.randn(3, 70)
    exact, eight, unit = swiglu_float8(both.detach())
    torch.testing.assert_close(exact, expected.detach(), rtol=1e-5, atol=1e-6)
    near(eight, unit, expected.detach())
    exact, eight, unit = swiglu_float8_gradient(both.detach(), grad)
    (expected,) = torch.autograd.grad(expected, both, grad)
    torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-6)
    near(eight, unit, expected)


if __name__ == "__main__":
    kernels()
    print("compared")
