"""Sampling speed with guidance, and decoding, beside the limit that reading the cache sets.

    python benchmarks/sample_speed.py [--generators 111M 343M] [--batches 32 256] [--images 0]
                                      [--tiny]

Generators of random weights draw 256 codes an image with a key-value cache and guidance 1.75 in
bf16, by `trainer.sampling.Sampler`, compiled, as evaluations of many images do; "set-up" is what
compiling and recording took. The VQ-16 decoder turns codes into images. `--images N` draws and
decodes N images with the first generator at the largest batch, set-up included. The limit: every
image reads 2 x layers x 2 x width bf16 numbers for each earlier position of each of its two
sequences, at the copy rate measured in the same call. Correctness, in the same run: the fp32 codes
of greatest probability equal those of the uncached forward pass, and a full batch with its seeds
gives the same codes twice. `--tiny` is the same at sizes for a CPU.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer import count, data, kernels, parts, sampling, startup
from trainer.config import LlamaConfig, SamplingConfig
from trainer.generator import Generator

VOCABULARY, CLASSES, GRID = 16_384, 1000, (16, 16)
LLAMAGEN = {("111M", 32): 138.0, ("111M", 256): 374.0, ("343M", 32): 64.0, ("343M", 256): 157.0}
GUIDED = SamplingConfig(cfg_scale=1.75)


def seconds(work: Callable[[], Any], device: str, repeats: int = 3) -> float:
    """Median wall time of `work` after a first call."""
    times = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - clock)
    return statistics.median(times[1:])


def copy_rate(device: str) -> float:
    """Bytes read and written per second by a copy on the device."""
    source = torch.randn(1 << (28 if device == "cuda" else 24), device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device, 10)


def made(model: LlamaConfig, codes: int, grid: tuple[int, int], device: str) -> Generator:
    """A generator whose head is not zero, so that it prefers some codes."""
    torch.manual_seed(0)
    generator = Generator(model, codes, CLASSES, grid).to(device)
    torch.nn.init.normal_(generator.head.weight, std=0.1)
    return generator.eval().requires_grad_(False)


@torch.inference_mode()
def uncached(generator: Generator, class_B: Tensor, length: int) -> Tensor:
    """The codes of greatest guided probability, by whole forward passes."""
    null_B = torch.full_like(class_B, generator.num_classes)
    code_BT = class_B.new_empty(len(class_B), 0)
    for _ in range(length):
        conditional = generator(code_BT, class_B)[:, -1].float()
        unconditional = generator(code_BT, null_B)[:, -1].float()
        logits = unconditional + GUIDED.cfg_scale * (conditional - unconditional)
        code_BT = torch.cat([code_BT, logits.argmax(1, keepdim=True)], 1)
    return code_BT


def check(generator: Generator, device: str) -> None:
    class_B = torch.arange(4, device=device)
    greedy = dataclasses.replace(GUIDED, top_k=1)
    found = sampling.Sampler(generator)(class_B, range(4), greedy)[:, :32]
    expected = uncached(generator, class_B, found.shape[1])
    same = (found == expected).float().mean().item()
    assert same == 1.0, f"only {same:.1%} of the codes equal the uncached ones"


def cache_bytes(model: LlamaConfig, length: int) -> float:
    """Bytes of keys and values that one image's two sequences read."""
    return 2 * (length * (length + 1) / 2) * model.layers * 2 * model.width * 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="*", default=["111M", "343M"])
    parser.add_argument("--batches", nargs="*", type=int, default=[32, 256])
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device, vocabulary, grid = "cuda", VOCABULARY, GRID
    named = {name.removeprefix("llama-"): model for name, model in count.generators().items()}
    if chosen.tiny:
        device, vocabulary, grid = "cpu", 256, (4, 4)
        named = {name: LlamaConfig(width=64, layers=3, heads=2) for name in named}
    startup.allow_many_shapes()
    torch.set_float32_matmul_precision("highest")
    length = grid[0] * grid[1]
    rate = copy_rate(device)
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    print(
        f"{datetime.date.today()}  {name}, torch {torch.__version__}: copy {rate / 1e12:.2f} TB/s"
    )
    print(
        f"{'job':<24} {'batch':>6} {'images/s':>10} {'of limit':>9} {'x LlamaGen':>11} {'GiB':>7}"
        f" {'set-up, s':>9}"
    )
    for size in chosen.generators:
        generator = made(named[size], vocabulary, grid, device)
        check(generator, device)
        limit = rate / cache_bytes(named[size], length)
        for batch in chosen.batches:
            class_B = torch.arange(batch, device=device) % CLASSES
            cast = copy.deepcopy(generator)  # compiling leaves its marks on a generator
            sampling.cast_matrices(cast, torch.bfloat16)
            with torch.autocast(device, torch.bfloat16):
                sampler = sampling.Sampler(cast, compiled=device == "cuda")
                clock = time.perf_counter()
                first = sampler(class_B, range(batch), GUIDED).cpu()
                set_up = time.perf_counter() - clock
                spent = seconds(lambda c=class_B, s=sampler: s(c, range(len(c)), GUIDED), device)
                assert torch.equal(sampler(class_B, range(batch), GUIDED).cpu(), first)
            ratio = "" if chosen.tiny else times_llamagen(size, batch, batch / spent)
            show(f"sample {size}", batch, batch / spent, batch / spent / limit, ratio, set_up)
    module = parts.load("trainer.tokenizers", "vqgan")
    config = module.Config(ch=16, ch_mult=[1, 1, 2]) if chosen.tiny else module.Config()
    side = 16 * grid[0] // (4 if chosen.tiny else 1)
    tokenizer = module.Tokenizer(config, 8, side).to(device).eval().requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # as evaluations have it, and by kernels
    kernels.adopted_by(tokenizer, torch.device(device))
    torch.backends.cudnn.benchmark = not chosen.tiny
    for batch in chosen.batches:
        z_BND = torch.randn(batch, length, 8, device=device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            spent = seconds(lambda z=z_BND: tokenizer.decode(z), device)
        show("decode VQ-16", batch, batch / spent, float("nan"), "", float("nan"))
    if chosen.images:
        size, batch = chosen.generators[0], max(chosen.batches)
        generator = made(named[size], vocabulary, grid, device)
        spent = draw_and_decode(generator, tokenizer, batch, chosen.images, device)
        print(f"{chosen.images} images of {size}, drawn and decoded: {spent:.1f} s")


@torch.inference_mode()
def draw_and_decode(
    generator: Generator, tokenizer: Any, batch: int, images: int, device: str
) -> float:
    """Seconds from weights to uint8 images on the device, compilation included."""
    clock = time.perf_counter()
    codebook = torch.randn(generator.codebook_size, 8, device=device)
    sampling.cast_matrices(generator, torch.bfloat16)
    done, kept = 0, torch.zeros((), device=device)
    with torch.autocast(device, torch.bfloat16):
        sampler = sampling.Sampler(generator, compiled=device == "cuda")
        while done < images:
            count = min(batch, images - done)
            class_B = (done + torch.arange(count, device=device)) % CLASSES
            code_BL = sampler(class_B, range(done, done + count), GUIDED)
            for piece in code_BL.split(128):
                kept += data.to_uint8(tokenizer.decode(codebook[piece])).sum()
            done += count
    assert kept.item() > 0
    return time.perf_counter() - clock


def times_llamagen(size: str, batch: int, rate: float) -> str:
    known = LLAMAGEN.get((size, batch))
    return "" if known is None else f"{rate / known:.2f}"


def show(job: str, batch: int, rate: float, share: float, ratio: str, set_up: float) -> None:
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    print(
        f"{job:<24} {batch:>6} {rate:>10,.1f} {share:>9.2f} {ratio:>11} {memory:>7.1f}"
        f" {set_up:>9.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
