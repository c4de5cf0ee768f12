"""The generator's own kernels, each alone: time, and its share of what its bytes would take.

    python benchmarks/kernel_speed.py [--width 768] [--heads 12] [--tune] [--tiny]

Forward and backward of 256 images x 256 tokens in bf16, beside plain torch. Bytes count every input
read once and every output written once, at the copy rate measured in the same call. Correctness, in
the same run: outputs and gradients are compared with plain code in fp32 on the same numbers; the
kernels may be no further from it than plain code in bf16 is (and half as much again). `--tune`
times other tile sizes. `--tiny` runs on a CPU by Triton's interpreter, which needs
TRITON_INTERPRET=1, in fp16 (it knows no products of bf16).
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenlaw.trainer.accounting.flops import llama_hidden
from tokenlaw.trainer.kernels import causal_attention as attention
from tokenlaw.trainer.kernels import residual_norm
from tokenlaw.trainer.kernels.swiglu import swiglu
from tokenlaw.trainer.kernels.token_loss import token_loss_and_gradient
from tokenlaw.trainer.loop import cross_entropy
from tokenlaw.trainer.models.llama import rope_table, rotate

EPS, SLACK = 1e-5, 1.5
ATTENTION_TILES = ((128, 32, 8), (64, 64, 4), (64, 32, 4), (64, 16, 4))  # inner tile, warps
NORM_TILES = ((8, 16), (8, 32), (16, 32), (4, 32), (32, 32))  # rows, numbers a thread
Function = Callable[..., Tensor | tuple[Tensor, ...]]


def milliseconds(work: Callable[[], Any], device: str) -> float:
    """Median time of a call, of several queued one after another: the host's launches lie behind
    the device's work.
    """
    work()
    if device == "cpu":
        return float("nan")
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # the first calls are launched meanwhile
        start.record()
        for _ in range(10):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 10)
    return statistics.median(times)


def copy_rate(device: str, numbers: int) -> float:
    """Bytes read and written per second by a copy on the device."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * numbers * 4 / (milliseconds(lambda: target.copy_(source), device) / 1e3)


def outputs(function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found = function(*inputs)
    return (found,) if isinstance(found, Tensor) else found


def far(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


def compare(name: str, own: Function, plain: Function, inputs: list[Tensor]) -> None:
    """Outputs and gradients against plain code in fp32 on the same numbers."""
    results = []
    torch.manual_seed(1)
    with torch.no_grad():
        shapes = [out.shape for out in outputs(plain, inputs)]
    grads = [torch.randn(shape, device=inputs[0].device) for shape in shapes]
    for function, dtype in ((plain, torch.float32), (plain, None), (own, None)):
        leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
        out = outputs(function, leaves)
        own_grads = [g.to(o.dtype) for g, o in zip(grads, out, strict=True)]
        results.append([*out, *torch.autograd.grad(out, leaves, own_grads)])
    for index, (exact, rounded, found) in enumerate(zip(*results, strict=True)):
        allowed = SLACK * far(rounded, exact) + 1e-5
        assert far(found, exact) <= allowed, (name, index, far(found, exact), allowed)


def measure(
    name: str,
    functions: dict[str, Function],
    inputs: list[Tensor],
    byte_counts: tuple[float, float],
    rate: float,
    device: str,
) -> None:
    for label, function in functions.items():
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = outputs(function, leaves)
        grads = [torch.randn_like(o) for o in out]

        def backward(o: Any = out, x: Any = leaves, g: Any = grads) -> None:
            torch.autograd.grad(o, x, g, retain_graph=True)

        passes = (lambda f=function, x=leaves: f(*x), backward)
        for label2, work, count in zip(("forward", "backward"), passes, byte_counts, strict=True):
            spent = milliseconds(work, device)
            share = count / rate / (spent / 1e3)
            print(f"{name + ', ' + label:<44} {label2:<9} {spent:>8.3f} ms {share:>6.2f}")


def plain_attention(heads: int, table: Tensor) -> Function:
    def function(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).unbind(2)
        size = (q.shape[-1],)
        q = rotate(F.layer_norm(q.float(), size, q_gain.float(), None, EPS), table)
        k = rotate(F.layer_norm(k.float(), size, k_gain.float(), None, EPS), table)
        q, k, v = (t.transpose(1, 2).to(v.dtype) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    return function


def plain_norm(x: Tensor, delta: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    total = x + delta
    return total, F.rms_norm(total.float(), gain.shape, gain.float(), EPS).to(x.dtype)


def plain_swiglu(both: Tensor) -> Tensor:
    gate, value = both.chunk(2, -1)
    return F.silu(gate) * value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device, images, side, codes = "cuda", 256, 16, 16_384
    width, heads, dtype = chosen.width, chosen.heads, torch.bfloat16
    if chosen.tiny:
        device, images, side, codes = "cpu", 1, 4, 300
        width, heads, dtype = 32, 2, torch.float16
    length = side * side
    rate = copy_rate(device, 1 << (14 if chosen.tiny else 28))
    where = "CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(
        f"{datetime.date.today()}  {where}, torch {torch.__version__}: copy {rate / 1e12:.2f} TB/s"
    )
    torch.manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def gain(size: int) -> Tensor:
        return 1 + 0.3 * torch.randn(size, device=device)

    few = min(images, 4)
    table = rope_table("rope_2d", width // heads, (side, side), 1e4, "zero")[:length].to(device)
    cos, sin = table[:, ::2, 0].contiguous(), table[:, 1::2, 1].contiguous()
    unit = images * length * width * 2.0  # bytes of one bf16 number for each token and width

    def own_attention(qkv: Tensor, q_gain: Tensor, k_gain: Tensor) -> Tensor:
        return attention.causal_attention(qkv, heads, q_gain, k_gain, cos, sin, EPS)

    functions = {"own": own_attention, "plain": plain_attention(heads, table)}
    gains = [gain(width // heads), gain(width // heads)]
    compare("attention", *functions.values(), [drawn(few, length, 3 * width), *gains])
    inputs = [drawn(images, length, 3 * width), *gains]
    measure("attention", functions, inputs, (6 * unit, 12 * unit), rate, device)
    if chosen.tune:
        before = attention.FORWARD, attention.BACKWARD
        for (tile, inner, warps), stages, registers in itertools.product(
            ATTENTION_TILES, (1, 2), (128, 255)
        ):
            how = {"TILE": tile, "INNER": inner, "num_warps": warps, "num_stages": stages}
            how["maxnreg"] = registers
            attention.FORWARD, attention.BACKWARD = how | {"PREPARED": tile}, how
            name = f"attention {tile} x {inner}, {warps} warps, {stages}, {registers}"
            measure(name, {"own": own_attention}, inputs, (6 * unit, 12 * unit), rate, device)
        attention.FORWARD, attention.BACKWARD = before
    del inputs

    for drop in (0.0, 0.1):

        def own_norm(x: Tensor, delta: Tensor, gain: Tensor, drop: float = drop) -> Any:
            return residual_norm.residual_norm(x, delta, gain, EPS, drop, 3)

        functions = {f"own, dropout {drop}": own_norm}
        if drop == 0:
            compare("norm", own_norm, plain_norm, [*(drawn(few, length, width),) * 2, gain(width)])
            functions["plain"] = plain_norm
        inputs = [drawn(images, length, width), drawn(images, length, width), gain(width)]
        counts = (4 * unit, (5 if drop else 4) * unit)
        measure("residual and norm", functions, inputs, counts, rate, device)
        before = residual_norm.ROWS, residual_norm.NUMBERS
        for rows, numbers in NORM_TILES if chosen.tune else ():
            residual_norm.ROWS, residual_norm.NUMBERS = rows, numbers
            name = f"norm, {rows} rows, {numbers} a thread, dropout {drop}"
            measure(name, {"own": own_norm}, inputs, counts, rate, device)
        residual_norm.ROWS, residual_norm.NUMBERS = before

    hidden = llama_hidden(width)
    both = {"own": swiglu, "plain": plain_swiglu}
    compare("SwiGLU", swiglu, plain_swiglu, [drawn(few, length, 2 * hidden)])
    inputs = [drawn(images, length, 2 * hidden)]
    part = unit * hidden / width
    measure("SwiGLU", both, inputs, (3 * part, 5 * part), rate, device)

    tokens = 8192 if device == "cuda" else 8
    logits, answer = drawn(tokens, codes), torch.randint(codes, (tokens,), device=device)
    _, _, expected = cross_entropy._body(logits.float(), answer, None, 0.0, 1.0)
    loss, _ = token_loss_and_gradient(copied := logits.clone(), answer, None, 0.0, 1.0)
    assert far(copied, expected) < 4e-3, far(copied, expected)
    exact = F.cross_entropy(logits.double(), answer, reduction="none").float()
    assert far(loss, exact) < 1e-5, far(loss, exact)
    spent = milliseconds(lambda: token_loss_and_gradient(copied, answer, None, 0.0, 1.0), device)
    share = 2 * copied.numel() * 2 / rate / (spent / 1e3)
    print(f"{'loss of 8192 tokens, own':<44} {'both':<9} {spent:>8.3f} ms {share:>6.2f}")
    print("outputs and gradients agree with fp32 as plain code in this precision does")


if __name__ == "__main__":
    main()
