"""Where the time and memory of a generator's training step go, and what switching parts off saves.

    python benchmarks/generator_step.py [--generators 111M] [--only NAME ...] [--profile] [--tiny]

The model, loss, clipping and optimiser of `trainer.stage2` on random codes, batch 256 x 256 tokens,
V = 16384, bf16, QK-norm, dropout 0.1: as it is trained, and in variants that each change one thing,
all in one process. `--profile` lists the kernels of a step as it is trained, by time. The loss of
every variant is shown: those that only compute in another way must end at nearly the same one.
`--tiny` is the same at sizes for a CPU, where nothing is compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trainer import count, cross_entropy, startup
from trainer.config import LlamaConfig, OptimConfig
from trainer.generator import Generator
from trainer.optim import clip_gradients, make_optimizer

CLASSES, STEPS, WARMUP = 1000, 10, 3
DROPOUTS = ("token_dropout", "residual_dropout", "ffn_dropout")
# What each variant changes: fields of the model, or how it is compiled.
VARIANTS: dict[str, dict[str, Any]] = {
    "as trained": {},
    "no dropout": {"model": dict.fromkeys(DROPOUTS, 0.0)},
    "no QK-norm": {"model": {"qk_norm": False}},
    "one graph": {"whole": True},
    "loss chunks of 16384": {"chunk_tokens": 16_384},
    "activation memory 0.7": {"activation_memory": 0.7},
    "activation memory 0.4": {"activation_memory": 0.4},
}


def make_step(
    model: LlamaConfig,
    codes: int,
    code_BL: Tensor,
    class_B: Tensor,
    *,
    whole: bool = False,
    chunk_tokens: int = cross_entropy.CHUNK_TOKENS,
    activation_memory: float = 1.0,
) -> Callable[[], Tensor]:
    """One iteration as a function that gives its cross-entropy."""
    device, side = code_BL.device, round(code_BL.shape[1] ** 0.5)
    torch.manual_seed(0)
    generator = Generator(model, codes, CLASSES, (side, side)).to(device)
    optimizer = make_optimizer(generator, OptimConfig(lr_peak=1e-4, weight_decay=0.05))
    hidden = generator.hidden
    compiled = device.type == "cuda"
    functorch.activation_memory_budget = activation_memory
    if compiled and whole:
        hidden = torch.compile(generator.hidden)
    elif compiled:
        for block in generator.blocks:
            block.compile()

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            hidden_BLD, _ = hidden(code_BL[:, :-1], class_B)
        loss, nats = cross_entropy.chunked(
            hidden_BLD.flatten(0, 1),
            generator.head.weight,
            code_BL.flatten(),
            compiled=compiled,
            chunk_tokens=chunk_tokens,
        )
        loss.backward()
        clip_gradients(generator.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return nats

    return step


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(name: str, step: Callable[[], Tensor], tokens: int, device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter()
    step()
    wait(device)
    first, times = time.perf_counter() - clock, []
    for index in range(WARMUP + STEPS):
        clock = time.perf_counter()
        loss = step()
        wait(device)
        if index >= WARMUP:
            times.append(time.perf_counter() - clock)
    spent = statistics.median(times)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    print(
        f"{name:<30} {tokens / spent:>10,.0f} {1e3 * spent:>8.1f} {memory:>7.1f} {first:>9.1f}"
        f" {loss.item():>9.4f}",
        flush=True,
    )


def kernels(step: Callable[[], Tensor], device: str) -> None:
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
        for variant in chosen.only:
            change = dict(VARIANTS[variant])
            model = dataclasses.replace(trained, **change.pop("model", {}))
            step = make_step(model, codes, code_BL, class_B, **change)
            measure(f"{size}, {variant}", step, batch * length, device)
            if chosen.profile and variant == "as trained":
                kernels(step, device)
            del step
            torch.compiler.reset()
            gc.collect()


if __name__ == "__main__":
    main()
