"""Sampling speed with guidance, and decoding, beside the limit that reading the cache sets.

    python benchmarks/sample_speed.py [--generators 111M 343M] [--batches 256] [--images 0]
                                      [--variants default int8] [--attention] [--profile] [--tiny]

Generators of random weights draw 256 codes an image with a key-value cache and guidance 1.75 in
bf16, by `trainer.sampling.sampler.Sampler`, as evaluations do; "set-up" is what recording took, the
compilation of kernels not in Triton's cache included. The variant int8 is `kv_cache: int8`; "as
fp32" is how many codes of greatest probability are those of fp32 before one is not. The VQ-16
decoder turns codes into images, as in evaluations: of a large batch a piece at a time.
`--images N` draws and decodes N images with the first generator at the largest batch, set-up
included. The limit: every image reads 2 x layers x 2 x width bf16 numbers for each earlier position
of each of its two sequences, at the copy rate measured in the same call. Correctness, in the same
run: the fp32 codes of greatest probability equal those of the uncached forward pass, fp32 codes
drawn are those of `sample` but for ties, and a batch gives the same codes twice, and half of it the
same as well.

`--attention` times single calls of the attention kernel at three positions, beside the time that
their bytes take; `--profile` lists the kernels of a batch of the first generator. `--tiny` is the
same at sizes for a CPU.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenlaw.trainer import kernels, parts
from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.accounting.config import LlamaConfig, SamplingConfig
from tokenlaw.trainer.fast_start import startup
from tokenlaw.trainer.kinds.evaluation import in_pieces
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.sampling import draw
from tokenlaw.trainer.sampling.sampler import Sampler

VOCABULARY, CLASSES, GRID = 16_384, 1000, (16, 16)
LLAMAGEN = {("111M", 32): 138.0, ("111M", 256): 374.0, ("343M", 32): 64.0, ("343M", 256): 157.0}
GUIDED = SamplingConfig(cfg_scale=1.75)
DRAWN_OTHERWISE = 0.03  # share of fp32 draws that rounding may decide
VARIANTS = {"default": GUIDED, "int8": dataclasses.replace(GUIDED, kv_cache="int8")}


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
    found = Sampler(generator)(class_B, range(4), greedy)[:, :32]
    expected = uncached(generator, class_B, found.shape[1])
    same = (found == expected).float().mean().item()
    assert same == 1.0, f"only {same:.1%} of the codes equal the uncached ones"
    # One of 16,384 codes has a small share of the line, so that rounding decides now and then which
    # is drawn, and all after it follow. Draws count up to the first that differs.
    many_B = torch.arange(16, device=device)
    found = Sampler(generator)(many_B, range(16), GUIDED)
    alike_BL = (found == draw.sample(generator, many_B, range(16), GUIDED)).cumprod(1)
    differ = 16 - int(alike_BL[:, -1].sum())
    share = differ / (int(alike_BL.sum()) + differ)
    assert share <= DRAWN_OTHERWISE, f"{share:.1%} of the draws differ from those of plain code"


def cache_bytes(model: LlamaConfig, length: int) -> float:
    """Bytes of keys and values that one image's two sequences read."""
    return 2 * (length * (length + 1) / 2) * model.layers * 2 * model.width * 2


def time_attention(model: LlamaConfig, batch: int, length: int, rate: float) -> None:
    """Microseconds of one layer's call, in a graph of as many layers as caches fit the model."""
    from tokenlaw.trainer.kernels import cached_attention

    rows, heads, size = 2 * batch, model.heads, model.width // model.heads
    caches = torch.randn(model.layers, 2, rows, heads, length, size, device="cuda").bfloat16()
    units = torch.rand(model.layers, 2, rows, heads, length, device="cuda")
    qkv = torch.randn(rows, 3 * model.width, device="cuda").bfloat16()
    gain = torch.ones(size, device="cuda")
    table = torch.randn(length + 1, size, 2, device="cuda")
    at = torch.zeros(1, dtype=torch.long, device="cuda")
    kinds = {"bf16": (caches, 2.0), "int8": (caches.to(torch.int8), 1 + 4 / size)}
    for kind, (stored, width) in kinds.items():

        def layers(stored: Any = stored, kind: str = kind) -> None:
            for layer in range(model.layers):
                cached_attention.attend_cached(
                    qkv,
                    *stored[layer],
                    at,
                    (gain, gain),
                    table_TE2=table,
                    units_2BHL=units[layer] if kind == "int8" else None,
                )

        layers()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            layers()
        found = []
        for position in (64, 128, 255):
            at.fill_(position)
            spent = seconds(graph.replay, "cuda", 5) / model.layers
            least = 2 * rows * heads * size * position * width / rate
            found.append(f"{position}: {spent * 1e6:.1f} us ({least / spent:.2f})")
        print(f"attention, {kind}: {', '.join(found)}", flush=True)


def until_other(generator: Generator, cast: Generator, how: SamplingConfig) -> float:
    """Of 64 images, how many codes of greatest probability are those of fp32 before one is not."""
    class_B = torch.arange(64, device=generator.code_embedding.weight.device)
    greedy = dataclasses.replace(how, top_k=1)
    found = Sampler(cast)(class_B, range(64), greedy)
    with torch.autocast(class_B.device.type, enabled=False):
        exact = Sampler(generator)(class_B, range(64), dataclasses.replace(GUIDED, top_k=1))
    return (found == exact).cumprod(1).sum(1).float().mean().item()


def profile(sampler: Sampler, class_B: Tensor, how: SamplingConfig) -> None:
    """Kernels of one batch by their time."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        sampler(class_B, range(len(class_B)), how)
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_device_time_total", row_limit=25))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="*", default=["111M", "343M"])
    parser.add_argument("--batches", nargs="*", type=int, default=[256])
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=["default"])
    parser.add_argument("--images", type=int, default=0)
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--profile", action="store_true")
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
    if chosen.attention:
        time_attention(named[chosen.generators[0]], max(chosen.batches), length, rate)
    print(
        f"{'job':<16} {'batch':>6} {'images/s':>10} {'of limit':>9} {'x LlamaGen':>11} {'GiB':>7}"
        f" {'set-up, s':>9} {'as fp32':>8}"
    )
    for size in chosen.generators:
        generator = made(named[size], vocabulary, grid, device)
        check(generator, device)
        cast = copy.deepcopy(generator)
        draw.cast_matrices(cast, torch.bfloat16)
        limit = rate / cache_bytes(named[size], length)
        for batch, variant in itertools.product(chosen.batches, chosen.variants):
            class_B = torch.arange(batch, device=device) % CLASSES
            with torch.autocast(device, torch.bfloat16):
                how, alike = VARIANTS[variant], until_other(generator, cast, VARIANTS[variant])
                sampler = Sampler(cast)
                clock = time.perf_counter()
                first = sampler(class_B, range(batch), how).cpu()
                once = time.perf_counter() - clock
                spent = seconds(lambda s=sampler, c=class_B, h=how: s(c, range(len(c)), h), device)
                assert torch.equal(sampler(class_B, range(batch), how).cpu(), first)
                half = batch // 2
                assert torch.equal(sampler(class_B[:half], range(half), how).cpu(), first[:half])
                if chosen.profile and size == chosen.generators[0]:
                    profile(sampler, class_B, how)
            ratio = "" if chosen.tiny else times_llamagen(size, batch, batch / spent)
            show(
                f"{size} {variant}",
                batch,
                batch / spent,
                batch / spent / limit,
                ratio,
                once - spent,
                f"{alike:.1f}",
            )
            del sampler  # and its cache
    module = parts.load("tokenizers", "vqgan")
    config = module.Config(ch=16, ch_mult=[1, 1, 2]) if chosen.tiny else module.Config()
    side = 16 * grid[0] // (4 if chosen.tiny else 1)
    tokenizer = module.Tokenizer(config, 8, side).to(device).eval().requires_grad_(False)
    tokenizer.to(memory_format=torch.channels_last)  # as evaluations have it, and by kernels
    kernels.adopted_by(tokenizer, torch.device(device))
    torch.backends.cudnn.benchmark = not chosen.tiny
    for batch in chosen.batches:
        z_BND = torch.randn(batch, length, 8, device=device)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            clock = time.perf_counter()
            in_pieces(tokenizer.decode, z_BND, side)
            once = time.perf_counter() - clock
            spent = seconds(lambda z=z_BND: in_pieces(tokenizer.decode, z, side), device)
        show("decode VQ-16", batch, batch / spent, float("nan"), "", once - spent)
    if chosen.images:
        size, batch = chosen.generators[0], max(chosen.batches)
        generator = made(named[size], vocabulary, grid, device)
        decode = functools.partial(in_pieces, tokenizer.decode, side=side)
        spent = draw_and_decode(generator, decode, batch, chosen.images, device)
        print(f"{chosen.images} images of {size}, drawn and decoded: {spent:.1f} s")


@torch.inference_mode()
def draw_and_decode(
    generator: Generator,
    decode: Callable[[Tensor], Tensor],
    batch: int,
    images: int,
    device: str,
) -> float:
    """Seconds from weights to uint8 images on the device, set-up included.

    Decoding, which computes, runs beside the drawing of the next batch, which reads memory.
    """
    clock = time.perf_counter()
    codebook = torch.randn(generator.codebook_size, 8, device=device)
    draw.cast_matrices(generator, torch.bfloat16)
    kept = torch.zeros((), device=device)
    second = torch.cuda.Stream() if device == "cuda" else None
    with torch.autocast(device, torch.bfloat16):
        sampler = Sampler(generator)
        for done in range(0, images, batch):
            class_B = (done + torch.arange(batch, device=device)) % CLASSES
            code_BL = sampler(class_B, range(done, done + batch), GUIDED)
            if second is not None:
                # Not further ahead than one batch: the host is done long before the device.
                second.synchronize()
                second.wait_stream(torch.cuda.current_stream())
                code_BL.record_stream(second)
            with torch.cuda.stream(second):
                x_BCHW = decode(codebook[code_BL])[: images - done]
                kept += data.to_uint8(x_BCHW).sum()
    assert kept.item() > 0
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - clock


def times_llamagen(size: str, batch: int, rate: float) -> str:
    known = LLAMAGEN.get((size, batch))
    return "" if known is None else f"{rate / known:.2f}"


def show(
    job: str, batch: int, rate: float, share: float, ratio: str, set_up: float, alike: str = ""
) -> None:
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    print(
        f"{job:<16} {batch:>6} {rate:>10,.1f} {share:>9.2f} {ratio:>11} {memory:>7.1f}"
        f" {set_up:>9.1f} {alike:>8}",
        flush=True,
    )


if __name__ == "__main__":
    main()
