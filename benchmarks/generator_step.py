"""Where the time and memory of a generator's training step go, and what switching parts off saves.

    python benchmarks/generator_step.py [--generators 111M] [--only NAME ...] [--profile] [--tiny]

The model, loss, clipping and optimiser of `trainer.kinds.generator` on random codes, batch 256 x
256 tokens, V = 16384, bf16, QK-norm, dropout 0.1: as it is trained, and in variants that each
change one thing, all in one process. "torch.compile" has plain blocks and loss compiled in place of
our kernels. `--profile` lists the kernels of a step as it is trained, by time. The loss of every
variant is shown: those that only compute in another way must end at nearly the same one.
Correctness, in the same run: the gradients of a small batch are compared with those of plain code
in fp32, and may be no further from them than those of plain code in bf16 are (and a fifth more).
`--tiny` is the same at sizes for a CPU, where there are no kernels.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tokenlaw.trainer import kernels
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting.config import LlamaConfig, OptimConfig
from tokenlaw.trainer.fast_start import startup
from tokenlaw.trainer.loop import cross_entropy
from tokenlaw.trainer.loop.optim import clip_gradients, make_optimizer
from tokenlaw.trainer.models.llama import Generator

CLASSES, STEPS, WARMUP = 1000, 10, 3
SLACK = 1.2
DROPOUTS = ("token_dropout", "residual_dropout", "ffn_dropout")
# What each variant changes: fields of the model, or how its step is done.
VARIANTS: dict[str, dict[str, Any]] = {
    "as trained": {},
    "128 images at a time": {"micro_batch": 128},
    "64 images at a time": {"micro_batch": 64},
    "8-bit feed-forward": {"eight_bit": True},
    "no dropout": {"model": dict.fromkeys(DROPOUTS, 0.0)},
    "no QK-norm": {"model": {"qk_norm": False}},
    "loss chunks of 4096": {"chunk_tokens": 4096},
    "loss chunks of 16384": {"chunk_tokens": 16_384},
    "torch.compile": {"compiled": True},
}


@contextmanager
def no_kernels() -> Iterator[None]:
    """Plain code, as on a CPU."""
    with mock.patch.object(kernels, "HAS_TRITON", False):
        yield


def make_step(
    model: LlamaConfig,
    codes: int,
    code_BL: Tensor,
    class_B: Tensor,
    *,
    micro_batch: int | None = None,
    chunk_tokens: int = cross_entropy.CHUNK_TOKENS,
    compiled: bool = False,
    eight_bit: bool = False,
) -> Callable[[], Tensor]:
    """One iteration as a function that gives its cross-entropy."""
    device, side = code_BL.device, round(code_BL.shape[1] ** 0.5)
    torch.manual_seed(0)
    generator = Generator(model, codes, CLASSES, (side, side)).to(device)
    optimizer = make_optimizer(generator, OptimConfig(lr_peak=1e-4, weight_decay=0.05))
    if eight_bit:
        generator.use_float8()
    micro = micro_batch or len(code_BL)
    body = cross_entropy._body
    if compiled and device.type == "cuda":
        body = torch.compile(cross_entropy._body, dynamic=False)
        for block in generator.blocks:
            block.compile()

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for codes_part, classes_part in zip(
            code_BL.split(micro), class_B.split(micro), strict=True
        ):
            with torch.autocast(device.type, torch.bfloat16):
                hidden_BLD = generator.hidden(codes_part[:, :-1], classes_part)
            loss, nats = cross_entropy.chunked(
                hidden_BLD.flatten(0, 1),
                generator.head.weight,
                codes_part.flatten(),
                chunk_tokens=chunk_tokens,
            )
            (loss * (len(codes_part) / len(code_BL))).backward()
            total += nats * (len(codes_part) / len(code_BL))
        clip_gradients(generator.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    def plain_step() -> Tensor:
        with no_kernels(), mock.patch.object(cross_entropy, "_body", body):
            return step()

    return plain_step if compiled else step


def check(model: LlamaConfig, codes: int, code_BL: Tensor, class_B: Tensor) -> str:
    """Compares gradients with those of plain code; AssertionError if they are too far apart."""
    device, side = code_BL.device, round(code_BL.shape[1] ** 0.5)
    model = dataclasses.replace(model, class_dropout=0.0, **dict.fromkeys(DROPOUTS, 0.0))
    torch.manual_seed(0)
    generator = Generator(model, codes, CLASSES, (side, side)).to(device)
    torch.nn.init.normal_(generator.head.weight, std=0.05)

    def gradients(bf16: bool) -> Tensor:
        # TF32 products would blur what is compared.
        torch.set_float32_matmul_precision("high" if bf16 else "highest")
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hidden_BLD = generator.hidden(code_BL[:, :-1], class_B)
        weight, targets = generator.head.weight, code_BL.flatten()
        loss, _ = cross_entropy.chunked(hidden_BLD.flatten(0, 1), weight, targets)
        found = torch.autograd.grad(loss, list(generator.parameters()))
        return torch.cat([g.float().flatten() for g in found])

    with no_kernels():
        exact, plain = gradients(False), gradients(True)
    fast, exactly = gradients(True), gradients(False)
    torch.set_float32_matmul_precision("high")
    far_plain, far_fast, far_exact = (
        ((g - exact).norm() / exact.norm()).item() for g in (plain, fast, exactly)
    )
    assert far_fast <= SLACK * far_plain, (far_fast, far_plain)
    assert far_exact < 1e-4, far_exact
    return (
        f"gradients from those of plain fp32: bf16 {far_fast:.2e}, plain bf16 {far_plain:.2e}, "
        f"fp32 {far_exact:.2e}"
    )


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ended(device: str) -> Any:
    """A mark after what was asked of the device so far."""
    if device != "cuda":
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record()
    return mark


def passed(one: Any, other: Any) -> float:
    """Seconds between two marks."""
    return other - one if isinstance(one, float) else one.elapsed_time(other) / 1e3


def timed(step: Callable[[], Any], device: str) -> tuple[float, float, float, Any]:
    """Seconds of the first call, median seconds of later ones, peak GiB, what the last one gave."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter()
    step()
    wait(device)
    first, ends, given = time.perf_counter() - clock, [], None
    for _ in range(WARMUP + STEPS):  # one after another, as in training: nobody waits
        given = step()
        ends.append(ended(device))
    wait(device)
    times = [passed(one, other) for one, other in itertools.pairwise(ends[WARMUP - 1 :])]
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return first, statistics.median(times), memory, given


def measure(name: str, step: Callable[[], Tensor], tokens: int, device: str) -> None:
    first, spent, memory, loss = timed(step, device)
    print(
        f"{name:<30} {tokens / spent:>10,.0f} {1e3 * spent:>8.1f} {memory:>7.1f} {first:>9.1f}"
        f" {loss.item():>9.4f}",
        flush=True,
    )


def list_kernels(step: Callable[[], Any], device: str) -> None:
    """Time on the device by kernel, of one step."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        step()
        wait(device)
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = [(getattr(event, field) / 1e3, event.count, event.key) for event in seen.key_averages()]
    rows = sorted((row for row in rows if row[0] > 0), reverse=True)
    print(f"{'ms':>9} {'calls':>6}  kernel")
    print(f"{sum(row[0] for row in rows):>9.2f} {sum(row[1] for row in rows):>6}  all")
    for spent, calls, name in rows[:40]:
        print(f"{spent:>9.2f} {calls:>6}  {name[:110]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="*", default=["111M"])
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device, batch, length, codes = "cuda", 256, 256, 16_384
    named = {name.removeprefix("llama-"): model for name, model in count.generators().items()}
    if chosen.tiny:
        device, batch, length, codes = "cpu", 8, 16, 256
        named = {name: LlamaConfig(width=64, layers=3, heads=2) for name in named}
    startup.allow_many_shapes()
    torch.set_float32_matmul_precision("high")
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    print(f"{datetime.date.today()}  {name}, torch {torch.__version__}")
    print(f"{'variant':<30} {'tokens/s':>10} {'ms/step':>8} {'GiB':>7} {'first, s':>9} {'loss':>9}")
    draws = torch.Generator().manual_seed(0)
    code_BL = torch.randint(codes, (batch, length), generator=draws).to(device)
    class_B = torch.randint(CLASSES, (batch,), generator=draws).to(device)
    for size in chosen.generators:
        trained = dataclasses.replace(named[size], **dict.fromkeys(DROPOUTS, 0.1))
        few = 4
        print(check(dataclasses.replace(trained, layers=2), codes, code_BL[:few], class_B[:few]))
        for variant in chosen.only:
            change = dict(VARIANTS[variant])
            model = dataclasses.replace(trained, **change.pop("model", {}))
            step = make_step(model, codes, code_BL, class_B, **change)
            measure(f"{size}, {variant}", step, batch * length, device)
            if chosen.profile and variant == "as trained":
                list_kernels(step, device)
            del step
            torch.compiler.reset()
            gc.collect()


if __name__ == "__main__":
    main()
