"""The generator's own kernels, run by Triton's interpreter on the CPU, against plain code."""

import dataclasses
import sys
from unittest import mock

import interpreted
import pytest
import torch
import torch.nn.functional as F

from tokenlaw.trainer.accounting.config import LlamaConfig
from tokenlaw.trainer.loop import cross_entropy
from tokenlaw.trainer.models.llama import Generator, rope_table, rotate

# The interpreter knows no products of bf16.
EXACT, ROUNDED = torch.float32, torch.float16


@pytest.mark.parametrize("cases", ["attention swiglu", "norm dropout loss", "generator"])
def test_does_what_plain_code_does(cases):
    assert interpreted.output(__file__, *cases.split()) == f"compared: {cases}\n"


def compare(own, plain, inputs, tolerance):
    """Outputs and the gradients of all inputs, under random gradients of the outputs."""
    results = []
    for function in (plain, own):
        leaves = [x.clone().requires_grad_() for x in inputs]
        found = function(*leaves)
        outputs = (found,) if isinstance(found, torch.Tensor) else found
        torch.manual_seed(1)
        gradients = [torch.randn_like(output) for output in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, gradients)])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        apart = (found.float() - expected.float()).norm() / expected.float().norm()
        assert apart < tolerance, apart


def attention():
    from tokenlaw.trainer.kernels.causal_attention import causal_attention

    # Lengths beside the tiles, heads that are no power of two, each of norm and rotation alone.
    for length, heads, size, norm, turn, dtype in (
        (150, 1, 16, True, True, EXACT),
        (40, 2, 20, True, False, EXACT),
        (17, 3, 12, False, True, EXACT),
        (70, 1, 64, False, False, EXACT),
        (100, 1, 64, True, True, ROUNDED),
    ):
        table = rope_table("rope_1d", size, (length - 1, 1), 1e4, "zero") if turn else None
        angles = (table[:, ::2, 0].contiguous(), table[:, 1::2, 1].contiguous()) if turn else ()

        def own(qkv, *gains, heads=heads, angles=angles):
            return causal_attention(qkv, heads, *(gains or (None, None)), *angles)

        def plain(qkv, *gains, heads=heads, size=size, table=table):
            q, k, v = qkv.unflatten(-1, (3, heads, size)).unbind(2)
            if gains:
                q, k = (
                    F.layer_norm(x.float(), (size,), gain)
                    for x, gain in zip((q, k), gains, strict=True)
                )
            if table is not None:
                q, k = rotate(q, table), rotate(k, table)
            q, k, v = (x.transpose(1, 2).to(v.dtype) for x in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return out.transpose(1, 2).flatten(2)

        inputs = [torch.randn(2, length, 3 * heads * size).to(dtype)]
        if norm:
            inputs += [1 + 0.3 * torch.randn(size), 1 + 0.3 * torch.randn(size)]
        compare(own, plain, inputs, 2e-6 if dtype == EXACT else 2e-3)


def norm():
    from tokenlaw.trainer.kernels.residual_norm import residual_norm

    def plain(x, delta, gain):
        total = x + delta
        return total, F.rms_norm(total.float(), gain.shape, gain, 1e-5).to(x.dtype)

    # One piece, two pieces, a second piece that is not full, more than one warp a row.
    for width, dtype in ((16, EXACT), (48, EXACT), (84, EXACT), (2050, EXACT), (96, ROUNDED)):
        x, delta = torch.randn(2, 3, 4, width).to(dtype)
        gain = 1 + 0.3 * torch.randn(width)
        tolerance = 1e-6 if dtype == EXACT else 1e-3
        compare(lambda x, d, g: residual_norm(x, d, g, 1e-5), plain, [x, delta, gain], tolerance)
        compare(
            lambda x, g: residual_norm(x, None, g, 1e-5)[1],
            lambda x, g: F.rms_norm(x.float(), g.shape, g, 1e-5).to(x.dtype),
            [x, gain],
            tolerance,
        )


def dropout():
    from tokenlaw.trainer.kernels.residual_norm import residual_norm

    width, rate = 768, 0.1
    x, delta, gain = torch.zeros(24, width), torch.ones(24, width), torch.ones(width)
    total, _ = residual_norm(x, delta, gain, 1e-5, rate, 5)
    kept = total != 0
    # Five standard deviations of that many coins.
    assert abs(kept.float().mean() - (1 - rate)) < 5 * (rate * (1 - rate) / kept.numel()) ** 0.5
    assert torch.allclose(total[kept], torch.tensor(1 / (1 - rate)), rtol=2e-4)
    rows, columns = kept.float().mean(1), kept.float().mean(0)
    assert rows.min() > 0.8 and columns.min() > 0.4, "a row or column is dropped more than others"
    again, _ = residual_norm(x, delta, gain, 1e-5, rate, 5)
    other, _ = residual_norm(x, delta, gain, 1e-5, rate, 6)
    assert torch.equal(again, total) and 0.1 < (other != total).float().mean() < 0.3

    # The gradient drops what the forward pass has dropped.
    mask = kept[:2].float() / (1 - rate)

    def plain(x, delta, gain):
        total = x + delta * mask
        return total, F.rms_norm(total, gain.shape, gain, 1e-5)

    inputs = [torch.randn(2, width), torch.randn(2, width), torch.rand(width)]
    compare(lambda x, d, g: residual_norm(x, d, g, 1e-5, rate, 5), plain, inputs, 1e-4)


def swiglu():
    from tokenlaw.trainer.kernels.swiglu import swiglu

    def plain(both):
        gate, value = both.chunk(2, -1)
        return F.silu(gate) * value

    compare(swiglu, plain, [torch.randn(2, 3, 2 * 1100)], 1e-6)
    compare(swiglu, plain, [torch.randn(2, 3, 64).to(ROUNDED)], 2e-3)


def loss():
    from tokenlaw.trainer.kernels.token_loss import token_loss_and_gradient

    for codes, masked, z_weight in ((300, False, 0.0), (5000, True, 1e-2), (300, True, 0.0)):
        logits, target = 3 * torch.randn(9, codes), torch.randint(20, (9,))
        sizes = 20 + 7 * torch.arange(9)[:, None]
        illegal = torch.arange(codes)[None] >= sizes if masked else None
        expected = cross_entropy._body(logits, target, illegal, z_weight, 1 / 9)
        gradient = logits.clone()
        nats, lse = token_loss_and_gradient(gradient, target, illegal, z_weight, 1 / 9)
        for found, wanted in zip((nats.sum(), lse.square().sum(), gradient), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def generator():
    """The whole model, with its loss."""
    plain = LlamaConfig(width=24, layers=2, heads=2, class_dropout=0.0)
    for config in (plain, dataclasses.replace(plain, position="learned", qk_norm=False)):
        torch.manual_seed(0)
        model = Generator(config, 50, 5, (2, 3)).eval()
        torch.nn.init.normal_(model.head.weight, std=0.1)
        code_BL, class_B = torch.randint(50, (2, 6)), torch.arange(2)

        def run(model=model, code_BL=code_BL, class_B=class_B):
            hidden = model.hidden(code_BL[:, :-1], class_B).flatten(0, 1)
            weight, target = model.head.weight, code_BL.flatten()
            nats, _ = cross_entropy.chunked(hidden, weight, target, chunk_tokens=8)
            return [hidden, nats, *torch.autograd.grad(nats, list(model.parameters()))]

        expected = run()
        with (
            mock.patch("tokenlaw.trainer.models.llama.usable", return_value=True),
            mock.patch("tokenlaw.trainer.loop.cross_entropy.usable", return_value=True),
        ):
            found = run()
            model.train()
            dropped = run()
        for wanted, value in zip(expected, found, strict=True):
            torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-4)
        # The rates of the config reach the kernels.
        assert not torch.allclose(dropped[0], found[0], atol=1e-2)


if __name__ == "__main__":
    for case in sys.argv[1:]:
        torch.manual_seed(0)
        globals()[case]()
    print("compared:", *sys.argv[1:])
