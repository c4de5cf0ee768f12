"""The kernels around convolutions, run by Triton's interpreter on the CPU: the norm with its sums
and activation, the sums that are laid out anew, and a whole tokenizer made of them.
"""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

# dtype, images, channels, groups, side: odd channels, several tiles of channels, several chunks.
SHAPES = {
    "whole tiles": (torch.float32, 2, 32, 8, 16),
    "odd": (torch.float32, 2, 181, 1, 5),
    "wide": (torch.float32, 1, 160, 32, 13),
    "bf16": (torch.bfloat16, 2, 96, 24, 12),
}


@pytest.mark.parametrize("part", ["norms", "layouts"])
def test_kernels_are_the_plain_operations(part):
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch for GPUs)")
    # Triton decides at its import whether it interprets.
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__, part]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{part} agree" in done.stdout


def near(found, expected, dtype, what):
    """Both compared in float64, by their distance as a share of the expected one."""
    assert (found is None) == (expected is None), what
    if found is not None:
        limit = 2e-5 if dtype == torch.float32 else 1e-2
        away = (found.double() - expected.double()).norm() / (1e-12 + expected.double().norm())
        assert away < limit, f"{what}: {away:.2e}"


def inputs(dtype, batch, channels, side, large_mean):
    def made(*shape):
        return torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)

    x, addend = made(2 * batch, channels, side, side).chunk(2)
    x = x + (100 if large_mean else 1)  # a mean that is large beside the spread
    bias, weight, shift = torch.randn(3, channels).unbind()
    return [t.detach().requires_grad_() for t in (x, addend, bias, weight, shift)]


def norms():
    from trainer.kernels.group_norm import SLOPE, group_norm

    acts = {"none": lambda z: z, "silu": F.silu, "leaky_relu": lambda z: F.leaky_relu(z, SLOPE)}
    cases = [("silu", True, True), ("silu", False, False), ("none", True, False)]
    cases.append(("leaky_relu", False, True))
    for name, (dtype, batch, channels, groups, side) in SHAPES.items():
        for act, added, also_sum in cases:
            torch.manual_seed(0)
            wanted = inputs(dtype, batch, channels, side, dtype == torch.float32 and not added)
            exact = [t.detach().double().requires_grad_() for t in wanted]
            results = []
            for x, addend, bias, weight, shift in (wanted, exact):
                plain = x.dtype == torch.float64
                if plain:
                    total = (x + addend if added else x) + bias[:, None, None]
                    out = acts[act](F.group_norm(total, groups, weight, shift, 1e-6))
                else:
                    out, total, again = group_norm(
                        x, weight, shift, groups, 1e-6, addend_BCHW=addend if added else None,
                        bias_C=bias, activation=act, also_sum=also_sum,
                    )  # fmt: skip
                    assert torch.equal(again(), out)
                    assert out.dtype == dtype and out.is_contiguous(
                        memory_format=torch.channels_last
                    )
                torch.manual_seed(1)
                d_out, d_total = torch.randn(2, *out.shape, dtype=torch.float64).to(dtype)
                ends, slopes = ([out, total], [d_out, d_total]) if also_sum else ([out], [d_out])
                slopes = [slope.to(end.dtype) for slope, end in zip(slopes, ends, strict=True)]
                torch.autograd.backward(ends, slopes)
                results.append((*ends, *(t.grad for t in (x, addend, bias, weight, shift))))
            for number, (found, expected) in enumerate(zip(*results, strict=True)):
                near(found, expected, dtype, f"{name}, {act}, {number}")


def layouts():
    from trainer.kernels.spread import spread

    for name, (dtype, batch, channels, _, side) in SHAPES.items():
        for layout, added in (("doubled", True), ("padded", True), ("padded", False)):
            torch.manual_seed(0)
            wanted = inputs(dtype, batch, channels, side, False)[:3]
            exact = [t.detach().double().requires_grad_() for t in wanted]
            results = []
            for x, addend, bias in (wanted, exact):
                if x.dtype == torch.float64:
                    total = (x + addend if added else x) + bias[:, None, None]
                    out = (
                        F.interpolate(total, scale_factor=2.0)
                        if layout == "doubled"
                        else F.pad(total, (0, 1, 0, 1))
                    )
                else:
                    out = spread(x, bias, layout, addend if added else None)
                torch.manual_seed(1)
                out.backward(torch.randn(out.shape, dtype=torch.float64).to(dtype).to(out.dtype))
                results.append((out, x.grad, addend.grad, bias.grad))
            for number, (found, expected) in enumerate(zip(*results, strict=True)):
                near(found, expected, dtype, f"{name}, {layout}, {number}")


if __name__ == "__main__":
    {"norms": norms, "layouts": layouts}[sys.argv[1]]()
    print(f"{sys.argv[1]} agree")
