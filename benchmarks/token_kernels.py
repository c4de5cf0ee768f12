"""The kernels of one token's step while sampling, each alone and as a chain of layers.

    python benchmarks/token_kernels.py [--generators 111M 343M] [--rows 512] [--tiny]

Microseconds of a call in bf16, in a CUDA graph of some 50 calls over weights (or caches) that
together do not fit L2. Products: torch's with the norm, SwiGLU or addition as kernels beside it,
and fused ones (trainer/kernels/few_rows.py) with other tiles, as rows x columns x bytes of a row,
warps, stages; the best comes to the chains. Attention: other tiles at two positions, with the share
of the copy rate of the same call. Chains: microseconds of a layer, at position 128. Correctness, in
the same run: what each gives may be no further from plain code in fp32 than plain code in bf16 is
(and half as much again). `--tiny` runs on a CPU by Triton's interpreter, which needs
TRITON_INTERPRET=1, in fp16.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from trainer import count
from trainer.config import LlamaConfig
from trainer.flops import llama_hidden
from trainer.generator import rotate
from trainer.kernels import cached_attention, few_rows
from trainer.kernels.few_rows import Tile
from trainer.kernels.residual_norm import residual_norm
from trainer.kernels.swiglu import swiglu

EPS, SLACK, CALLS, COLD = 1e-5, 1.5, 48, 128 << 20
TILES = {
    "normed": (
        Tile(64, 128),
        Tile(64, 128, stages=3),
        Tile(64, 128, 256, stages=2),
        Tile(128, 64),
        Tile(128, 128, warps=8),
        Tile(64, 64, stages=5),
        Tile(64, 256, warps=8, stages=3),
    ),
    "gated": (
        Tile(128, 64, warps=8),
        Tile(128, 64, warps=8, stages=3),
        Tile(128, 32),
        Tile(64, 64),
        Tile(64, 128, warps=8, stages=3),
        Tile(128, 128, warps=8, stages=3),
    ),
    "added": (
        Tile(64, 64),
        Tile(64, 64, stages=6),
        Tile(64, 64, 256, stages=3),
        Tile(64, 32, stages=6),
        Tile(64, 64, stages=8),
        Tile(128, 64, warps=8, stages=5),
        Tile(32, 64, stages=6),
        Tile(128, 32, stages=5),
    ),
}
ATTENTION_TILES = (32, 64, 128)


def microseconds(call: Callable[[int], Any], distinct: int, device: str) -> float:
    """Median time of `call(i)`, i from 0 on below `distinct`."""
    call(0)
    if device == "cpu":
        return float("nan")
    torch.cuda.synchronize()
    calls = max(CALLS, distinct)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(calls):
            call(index % distinct)
    times = []
    for _ in range(6):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / calls * 1e3)
    return statistics.median(times[1:])


def copy_rate(device: str, numbers: int) -> float:
    """Bytes read and written per second by a copy on the device."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * numbers * 4 / (microseconds(lambda _: target.copy_(source), 1, device) / 1e6)


def far(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()


class Products:
    """The four products of a block, plain and fused."""

    def __init__(self, model: LlamaConfig, rows: int, device: str, dtype: torch.dtype) -> None:
        self.device, self.model, width = device, model, model.width
        self.hidden = llama_hidden(width, model.hidden_multiple)
        shapes = {
            "wqkv": (3 * width, width),
            "wo": (width, width),
            "w13": (2 * self.hidden, width),
            "w2": (width, self.hidden),
        }
        self.weights, itemsize = {}, dtype.itemsize
        for name, shape in shapes.items():
            distinct = 1 if device == "cpu" else math.ceil(COLD / (math.prod(shape) * itemsize))
            many = torch.randn(distinct, *shape, device=device) * shape[1] ** -0.5
            self.weights[name] = many.to(dtype)
        self.x = torch.randn(rows, width, device=device).to(dtype)
        self.delta = torch.randn(rows, width, device=device).to(dtype)
        self.wide = torch.randn(rows, self.hidden, device=device).to(dtype)
        self.both = torch.randn(rows, 2 * self.hidden, device=device).to(dtype)
        self.gain = torch.ones(width, device=device)
        parts = math.ceil(width / few_rows.ADDED.columns)
        self.squares = (few_rows.squares_of(self.x) / parts).repeat(1, parts)

    def fused(self, name: str, index: int, tile: Tile) -> Tensor:
        x, weight = self.x, self.weights[name][index]
        if name == "wqkv":
            return few_rows.normed_product(x, self.squares, weight, EPS, tile)
        if name == "w13":
            return few_rows.normed_swiglu(x, self.squares, weight, EPS, tile)
        a = self.wide if name == "w2" else self.delta
        return few_rows.product_added(x, a, weight, tile)[0]

    def plain(self, name: str, dtype: torch.dtype) -> Tensor:
        x, weight = self.x.to(dtype), self.weights[name][0].to(dtype)
        normed = F.rms_norm(x.float(), (x.shape[1],), None, EPS).to(dtype)
        if name == "wqkv":
            return F.linear(normed, weight)
        if name == "w13":
            gate, value = F.linear(normed, weight).chunk(2, 1)
            return F.silu(gate) * value
        return x + F.linear((self.wide if name == "w2" else self.delta).to(dtype), weight)

    def measure(self) -> dict[str, Tile]:
        """Prints all, and returns the tiles of the least total time by the kind of product."""
        x, device = self.x, self.device
        show("norm with addition", microseconds(lambda _: self._norm(), 1, device))
        show("SwiGLU", microseconds(lambda _: swiglu(self.both), 1, device))
        spent: dict[str, dict[Tile, float]] = {kind: {} for kind in TILES}
        for name, kind in (("wqkv", "normed"), ("wo", "added"), ("w13", "gated"), ("w2", "added")):
            weights = self.weights[name]
            distinct, a = len(weights), self.wide if name == "w2" else x
            operations = 2 * len(x) * weights[0].numel()

            def torchs(index: int, a: Tensor = a, weights: Tensor = weights) -> Tensor:
                return F.linear(a, weights[index])

            show(
                f"{name}, torch's product alone", microseconds(torchs, distinct, device), operations
            )
            exact = self.plain(name, torch.float32)
            allowed = SLACK * far(self.plain(name, x.dtype), exact) + 1e-5
            for tile in TILES[kind]:

                def fused(index: int, name: str = name, tile: Tile = tile) -> Tensor:
                    return self.fused(name, index, tile)

                label = f"{name}, fused, {tile.rows} x {tile.columns} x {tile.inner}"
                label += f", {tile.warps}, {tile.stages}"
                try:
                    error = far(self.fused(name, 0, tile), exact)
                    found = microseconds(fused, distinct, device)
                except (OutOfResources, PTXASError) as problem:
                    print(f"{label:<44} {type(problem).__name__}: {problem}")
                    continue
                assert error <= allowed, (label, error, allowed)
                show(label, found, operations)
                spent[kind][tile] = spent[kind].get(tile, 0.0) + found
        return {kind: min(tiles, key=tiles.__getitem__) for kind, tiles in spent.items()}

    def _norm(self) -> Tensor:
        return residual_norm(self.x, self.delta, self.gain, EPS)[1]


class Caches:
    """Caches of several layers, and a query with its key and value."""

    def __init__(
        self, model: LlamaConfig, rows: int, length: int, device: str, dtype: torch.dtype
    ) -> None:
        self.heads, self.size = model.heads, model.width // model.heads
        self.layers = 1 if device == "cpu" else 6
        shape = (self.layers, 2, rows, self.heads, length, self.size)
        self.whole = torch.randn(shape, device=device, dtype=dtype)
        self.units = 0.02 + 0.01 * torch.rand(shape[:-1], device=device)
        self.bytes = torch.randint(-127, 128, shape, device=device, dtype=torch.int8)
        self.qkv = torch.randn(rows, 3 * model.width, device=device).to(dtype)
        self.gain = torch.ones(self.size, device=device)
        self.table = torch.randn(length + 1, self.size, 2, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)

    def attend(self, kind: str, layer: int, qkv: Tensor) -> Tensor:
        units = self.units[layer] if kind == "int8" else None
        stored = self.bytes[layer] if kind == "int8" else self.whole[layer]
        return cached_attention.attend_cached(
            qkv, *stored, self.position, (self.gain,) * 2, EPS, self.table, units
        )

    def plain(self, kind: str, position: int) -> Tensor:
        """Of a few sequences, in fp32."""
        q, k, v = self.qkv[:4].view(-1, 1, 3, self.heads, self.size).unbind(2)
        table = self.table[position : position + 1]
        q, k = (F.layer_norm(x.float(), (self.size,), self.gain, None, EPS) for x in (q, k))
        q, k = (rotate(x, table).to(v.dtype) for x in (q, k))
        q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
        keys, values = self.whole[0, :, :4, :, :position].float()
        if kind == "int8":
            stored = self.bytes[0, :, :4, :, :position].view(torch.uint8).float() - 128
            keys, values = stored * self.units[0, :, :4, :, :position, None]
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        return F.scaled_dot_product_attention(q, keys, values).flatten(1)

    def measure(self, positions: tuple[int, ...], rate: float, device: str) -> None:
        for kind in ("whole", "int8"):
            name = "BYTES_TILE" if kind == "int8" else "TILE"
            before = getattr(cached_attention, name)
            a_number = 1 + 4 / self.size if kind == "int8" else self.whole.element_size()
            for tile in ATTENTION_TILES:
                setattr(cached_attention, name, tile)
                for position in positions:
                    self.position.fill_(position)
                    found = self.attend(kind, 0, self.qkv)[:4]
                    error = far(found, self.plain(kind, position))
                    assert error < 6e-3, (kind, tile, position, error)

                    def attend(layer: int, kind: str = kind) -> Tensor:
                        return self.attend(kind, layer, self.qkv)

                    found_us = microseconds(attend, self.layers, device)
                    least = 2 * len(self.qkv) * self.heads * self.size * position * a_number / rate
                    label = f"attention, {kind}, tile {tile}, at {position}"
                    share = least / (found_us / 1e6)
                    print(f"{label:<44} {found_us:>8.2f} us {share:>6.2f} of the copy rate")
            setattr(cached_attention, name, before)


def measure_chains(products: Products, caches: Caches, device: str) -> None:
    """A layer after another, whose results do not matter."""
    weights = {name: many[:12] for name, many in products.weights.items()}
    layers = min(map(len, weights.values()))
    gain = products.gain

    def by_torch(index: int, kind: str) -> None:
        nonlocal x, delta
        x, normed = residual_norm(x, delta, gain, EPS)
        qkv = F.linear(normed, weights["wqkv"][index])
        attended = products.delta
        if kind != "none":
            attended = caches.attend(kind, index % caches.layers, qkv)
        x, normed = residual_norm(x, F.linear(attended, weights["wo"][index]), gain, EPS)
        delta = F.linear(swiglu(F.linear(normed, weights["w13"][index])), weights["w2"][index])

    def fused(index: int, kind: str) -> None:
        nonlocal x, squares
        qkv = few_rows.normed_product(x, squares, weights["wqkv"][index], EPS)
        attended = products.delta
        if kind != "none":
            attended = caches.attend(kind, index % caches.layers, qkv)
        x, squares = few_rows.product_added(x, attended, weights["wo"][index])
        hidden = few_rows.normed_swiglu(x, squares, weights["w13"][index], EPS)
        x, squares = few_rows.product_added(x, hidden, weights["w2"][index])

    for kind in ("none", "whole", "int8"):
        for label, chain, early in (
            ("torch's products", by_torch, 0),
            ("fused", fused, 0),
            ("fused, early", fused, 1),
            ("fused, early with weights", fused, 2),
        ):
            if early and device == "cpu":
                continue
            x, delta, squares = products.x, products.delta, products.squares
            few_rows.EARLY = cached_attention.EARLY = early
            spent = microseconds(lambda index, c=chain, k=kind: c(index, k), layers, device)
            few_rows.EARLY = cached_attention.EARLY = 0
            show(f"layer, attention {kind}, {label}", spent)


def show(label: str, spent: float, operations: float | None = None) -> None:
    rate = "" if operations is None else f"{operations / spent / 1e6:>8.0f} TFLOP/s"
    print(f"{label:<44} {spent:>8.2f} us {rate}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generators", nargs="*", default=["111M", "343M"])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device, dtype, rows, length, positions = "cuda", torch.bfloat16, chosen.rows, 256, (128, 255)
    named = {name.removeprefix("llama-"): model for name, model in count.generators().items()}
    if chosen.tiny:
        device, dtype, rows, length, positions = "cpu", torch.float16, 6, 10, (3, 9)
        named = {"111M": LlamaConfig(width=64, layers=1, heads=2, hidden_multiple=16)}
        chosen.generators = ["111M"]
    rate = copy_rate(device, 1 << (14 if chosen.tiny else 28))
    where = "CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(
        f"{datetime.date.today()}  {where}, torch {torch.__version__}: copy {rate / 1e12:.2f} TB/s"
    )
    torch.manual_seed(0)
    for name in chosen.generators:
        print(f"{name}, {rows} rows")
        products = Products(named[name], rows, device, dtype)
        best = products.measure()
        print(f"best: {best}")
        few_rows.NORMED, few_rows.GATED, few_rows.ADDED = (
            best[kind] for kind in ("normed", "gated", "added")
        )
        caches = Caches(named[name], rows, length, device, dtype)
        caches.measure(positions, rate, device)
        caches.position.fill_(positions[0])
        measure_chains(products, caches, device)


if __name__ == "__main__":
    main()
