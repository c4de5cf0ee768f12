"""What a run costs before it runs: parameters, FLOPs, and device hours with the source of the
throughput.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..results_db.provenance import ask_gpus, cpu_name
from ..trainer.accounting import flops
from ..trainer.accounting.config import (
    TRAINED_KINDS,
    CodesConfig,
    EvaluationConfig,
    ExtractorConfig,
    GeneratorConfig,
    TokenizerConfig,
)
from ..trainer.accounting.passes import images_per_pass, is_guided, passes

# Dense peaks in FLOP/s from the makers' data sheets, (bf16 or fp16 tensor cores, fp32). The first
# name found in the device's name counts, so longer names stand first.
PEAKS: dict[str, tuple[float, float]] = {
    "GB200": (2500e12, 80e12),
    "GH200": (989e12, 67e12),
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "H20": (148e12, 44e12),
    "A100": (312e12, 19.5e12),
    "A800": (312e12, 19.5e12),
    "V100": (125e12, 15.7e12),
    "L40S": (362e12, 91.6e12),
    "L40": (181e12, 90.5e12),
    "L4": (121e12, 30.3e12),
    "A40": (150e12, 37.4e12),
    "A10": (125e12, 31.2e12),
    "A6000": (155e12, 38.7e12),
    "RTX 4090": (165e12, 82.6e12),
    "RTX 3090": (71e12, 35.6e12),
    "T4": (65e12, 8.1e12),
    "MI300X": (1307e12, 163e12),
    "MI250X": (383e12, 47.9e12),
}
# Share of the peak that is assumed where nothing was measured: what public code reaches at the
# papers' sizes.
ASSUMED_SHARE = {
    "extractor": 0.10,
    "tokenizer": 0.20,
    "codes": 0.20,
    "generator": 0.40,
    "evaluation": 0.15,
}
DEFAULT_DEVICE = "A100"  # assumed where the device is unknown
# One thread in fp32 with the other cores busy: the quick start's kinds of run reached 0.6 to 1.9
# times this on a Xeon.
CPU_FLOPS = 2e10
STEP_SECONDS = 0.01  # no optimiser step is faster: kernel launches and data, whatever the size


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is known of a run before it starts."""

    params: int | None  # trained parameters that are kept; None where nothing is trained
    params_non_embedding: int | None
    flops_train: int  # train FLOPs of the run and its trunk; 0 where nothing is trained
    flops_shared: int = 0  # of these, done before the run takes over a trunk
    flops_paper: int | None  # generators: 6 N x images, the axis of the CRT paper
    flops_compute: int  # all FLOPs of the run: what hours are estimated from
    steps: int  # optimiser steps or batches
    precision: str  # fp32 or bf16
    shape: tuple[Any, ...]  # runs of equal shape have equal throughput


@cache
def _part_cost(config: Any, resolution: int, dim: int) -> tuple[flops.Cost, flops.Cost]:
    """Encoder and decoder of a tokenizer part: thousands of evaluations ask for the same."""
    costs: tuple[flops.Cost, flops.Cost] = config.cost(resolution, dim)
    return costs


@cache
def _part_tokens(config: Any, resolution: int) -> int:
    return int(config.tokens_per_image(resolution))


def extractor_work(config: ExtractorConfig) -> Work:
    total = flops.extractor_flops_train(config)
    return Work(
        params=flops.extractor_cost(config).params,
        params_non_embedding=None,
        flops_train=total,
        flops_paper=None,
        flops_compute=total,
        steps=config.iterations,
        precision=config.numerics.precision,
        shape=("extractor", config.width, config.batch_size, config.data.resolution),
    )


def first_step(config: TokenizerConfig | GeneratorConfig) -> int:
    """The iteration at which a run begins: later than 0 when it takes over a trunk."""
    return 0 if config.trunk is None else config.trunk.start


def tokenizer_work(config: TokenizerConfig) -> Work:
    total = flops.tokenizer_flops_train(config)
    shared = flops.tokenizer_flops_shared(config)
    params = flops.tokenizer_cost(config).params
    tokens = config.tokenizer.config.tokens_per_image(config.data.resolution)
    return Work(
        params=params,
        params_non_embedding=None,
        flops_train=total,
        flops_shared=shared,
        flops_paper=None,
        flops_compute=total - shared,
        steps=config.iterations - first_step(config),
        precision=config.numerics.precision,
        shape=("tokenizer", params, tokens, config.batch_size),
    )


def codes_work(config: CodesConfig, tokenizer: TokenizerConfig) -> Work:
    """Nothing is trained, but the encoder's passes are FLOPs that the generators rest on."""
    total = flops.codes_flops_train(config, tokenizer)
    tokens = tokenizer.tokenizer.config.tokens_per_image(config.data.resolution)
    images = (config.num_train or config.data.num_train) * flops.CROPS[config.crops]
    images += config.data.num_val
    return Work(
        params=None,
        params_non_embedding=None,
        flops_train=total,
        flops_paper=None,
        flops_compute=total,
        steps=-(-images // config.batch_size),
        precision=config.numerics.precision,
        shape=("codes", total // images, tokens, config.batch_size),
    )


def num_classes(generator: GeneratorConfig, codes: CodesConfig) -> int:
    """Classes that a generator is conditioned on; one where labels are not used."""
    return codes.data.num_classes if generator.label_mode == "class" else 1


def generator_work(config: GeneratorConfig, codes: CodesConfig, tokenizer: TokenizerConfig) -> Work:
    tokens = _part_tokens(tokenizer.tokenizer.config, codes.data.resolution)
    size = tokenizer.quantizer.config.num_codes
    classes = num_classes(config, codes)
    counts = flops.generator_cost(config.model, size, classes, tokens)
    total = flops.generator_flops_train(config, size, tokens)
    shared = flops.generator_flops_shared(config, size, tokens)
    return Work(
        params=counts.params,
        params_non_embedding=counts.params_non_embedding,
        flops_train=total,
        flops_shared=shared,
        flops_paper=flops.generator_flops_paper(config, size, classes, tokens),
        flops_compute=total - shared,
        steps=config.iterations - first_step(config),
        precision=config.numerics.precision,
        shape=("generator", counts.params, counts.params_non_embedding, tokens, config.batch_size),
    )


def evaluation_work(
    config: EvaluationConfig,
    tokenizer: TokenizerConfig,
    codes: CodesConfig | None = None,
    generator: GeneratorConfig | None = None,
) -> Work:
    """Encoder and decoder over the validation images, or sampling and decoder over all samples; the
    metrics' own networks are not counted.
    """
    dim = tokenizer.quantizer.config.dim
    part = tokenizer.tokenizer.config
    if generator is None or codes is None:
        resolution = config.model_resolution or config.data.resolution
        encoder, decoder = _part_cost(part, resolution, dim)
        images = images_per_pass(config)
        macs = encoder.macs + decoder.macs
        total = 2 * macs * images
        shape: tuple[Any, ...] = ("reconstruct", encoder.params, macs, config.batch_size)
        steps = -(-images // config.batch_size)
    else:
        resolution = codes.data.resolution
        _, decoder = _part_cost(part, resolution, dim)
        tokens = _part_tokens(part, resolution)
        size = tokenizer.quantizer.config.num_codes
        classes = num_classes(generator, codes)
        sample = flops.generator_flops_sample(
            generator.model, size, classes, tokens, guided=is_guided(config)
        )
        images = images_per_pass(config) * len(passes(config))
        total = (sample + 2 * decoder.macs) * images
        shape = ("sample", sample, decoder.macs, config.batch_size)
        steps = -(-images // config.batch_size) * tokens
    return Work(
        params=None,
        params_non_embedding=None,
        flops_train=0,
        flops_paper=None,
        flops_compute=total,
        steps=steps,
        precision=config.numerics.precision,
        shape=(*shape, config.numerics.precision),
    )


# ------------------------------------------------------------------------------------- device hours


@dataclass(frozen=True, slots=True)
class Hours:
    """Device hours and where the throughput came from."""

    value: float
    source: str  # measured, table or default
    # At the fastest and the slowest that was measured; None where there is no spread.
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """FLOP/s of a few iterations of one shape, timed by `plan --calibrate`."""

    hardware: str
    shape: tuple[Any, ...]
    precision: str
    rate: float  # median of the timed pieces
    low: float  # slowest piece
    high: float  # fastest piece


@dataclass(frozen=True, slots=True)
class _Timed:
    """A finished run: what it computed, and the device hours that took."""

    flops: float
    hours: float

    @property
    def rate(self) -> float:
        return self.flops / (self.hours * 3600)


@dataclass(slots=True)
class Rates:
    """FLOP/s by shape of run, measured where a run of that shape has ended on this hardware or was
    timed by `plan --calibrate`; the former counts for more.

    Without a name of the hardware, the one on which most runs have ended counts, or was timed last.
    """

    hardware: str | None = None  # name of the device that will be used; None: not known
    _timed: dict[str, dict[tuple[Any, ...], list[_Timed]]] = field(default_factory=dict)
    _rates: dict[tuple[Any, ...], tuple[float, ...]] = field(default_factory=dict)
    _speeds: list[Speed] = field(default_factory=list)

    def add_speeds(self, speeds: Iterable[Speed]) -> None:
        """What was timed, the newest last."""
        self._speeds += speeds
        self._rates.clear()

    def add(self, shape: tuple[Any, ...], flops_compute: float, columns: Mapping[str, Any]) -> None:
        """A finished run: its shape, the FLOPs it computed, and its endpoint's columns."""
        hours = columns.get("gpu_hours")
        if hours and flops_compute > 0:
            shapes = self._timed.setdefault(str(columns.get("hardware")), defaultdict(list))
            shapes[shape].append(_Timed(flops_compute, hours))
            self._rates.clear()

    def hours(self, kind: str, work: Work) -> Hours:
        """Device hours of a run that is not done."""
        rates = self._timed_rates(work.shape, lambda shape: shape == work.shape)
        if rates:
            spread = (max(rates), min(rates)) if len(rates) > 1 else None
            return _measured(work, statistics.median(rates), spread)
        for speed in reversed(self._speeds_here()):
            if (speed.shape, speed.precision) == (work.shape, work.precision):
                return _measured(work, speed.rate, (speed.high, speed.low))
        # Other shapes of the same family are a better guess than a data sheet, but no measurement.
        family = work.shape[0]
        rates = self._timed_rates((family,), lambda shape: shape[0] == family)
        rates = rates or tuple(s.rate for s in self._speeds_here() if s.shape[0] == family)
        if rates:
            rate, source = statistics.median(rates), "default"
        else:
            rate, source = self._assumed(kind, work.precision)
        return Hours(max(work.flops_compute / rate, work.steps * STEP_SECONDS) / 3600, source)

    def device(self) -> tuple[str, bool]:
        """The device that hours are for, and whether its speed is known: measured or in a table."""
        name = self._device()
        if name is None:
            return DEFAULT_DEVICE, False
        listed = name.upper().startswith("CPU") or any(part in name for part in PEAKS)
        measured = name in self._timed or bool(self._speeds_here())
        return name, listed or measured

    def _timed_rates(
        self, key: tuple[Any, ...], fits: Callable[[tuple[Any, ...]], bool]
    ) -> tuple[float, ...]:
        """FLOP/s of the longer half of the runs that fit: short ones are mostly setup."""
        if key not in self._rates:
            shapes = self._timed.get(self._device() or "", {})
            timed = [one for shape, found in shapes.items() if fits(shape) for one in found]
            longest = max((one.flops for one in timed), default=0.0)
            self._rates[key] = tuple(one.rate for one in timed if one.flops >= longest / 2)
        return self._rates[key]

    def _speeds_here(self) -> list[Speed]:
        device = self._device()
        return [speed for speed in self._speeds if speed.hardware == device]

    def _device(self) -> str | None:
        if self.hardware is not None:
            return self.hardware
        if not self._timed:
            return self._speeds[-1].hardware if self._speeds else None
        numbers = {name: sum(map(len, shapes.values())) for name, shapes in self._timed.items()}
        return max(numbers, key=lambda name: numbers[name])

    def _assumed(self, kind: str, precision: str) -> tuple[float, str]:
        column = 0 if precision == "bf16" else 1
        share = ASSUMED_SHARE[kind]
        device = self._device()
        if device is None:
            return PEAKS[DEFAULT_DEVICE][column] * share, "default"
        for name, peaks in PEAKS.items():
            if name in device:
                return peaks[column] * share, "table"
        if device.upper().startswith("CPU"):
            return CPU_FLOPS, "default"
        return PEAKS[DEFAULT_DEVICE][column] * share, "default"


def _measured(work: Work, rate: float, spread: tuple[float, float] | None) -> Hours:
    """Hours at a measured FLOP/s; `spread` is the fastest and the slowest."""
    hours = work.flops_compute / 3600
    if spread is None:
        return Hours(hours / rate, "measured")
    return Hours(hours / rate, "measured", (hours / spread[0], hours / spread[1]))


def local_device(device: str = "auto") -> str | None:
    """Name of the hardware that local runs with `--device` use; None if it is not known."""
    if device.startswith("cuda"):
        return local_gpu()
    return cpu_name() if device == "cpu" else local_gpu() or cpu_name()


def local_gpu() -> str | None:
    """Name of this machine's first GPU, asked from the driver; None without one."""
    names = ask_gpus("name")
    return names[0] if names else None


def endpoint_shape(kind: Any, columns: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The shape of a finished run, as `Work.shape`, from its columns; None where they do not
    tell.
    """
    names = ("params", "tokens_per_image", "images_train", "iterations", "flops_train")
    if kind not in TRAINED_KINDS or any(not columns.get(name) for name in names):
        return None
    batch_size = round(columns["images_train"] / columns["iterations"])
    if kind == "tokenizer":
        return (kind, columns["params"], columns["tokens_per_image"], batch_size)
    non_embedding = columns.get("params_non_embedding")
    return (kind, columns["params"], non_embedding, columns["tokens_per_image"], batch_size)


def totals(runs: Iterable[Any]) -> dict[str, Any]:
    """Sums over planned runs, each counted once: runs, FLOPs, device hours, and the same by kind.

    `flops_train` is what all of them compute together; `flops_train_without_sharing` what the
    results would cost if no two had a trunk in common. `gpu_hours_low` and `gpu_hours_high` take
    the ends of the intervals of runs that have one. `gpu_hours_left` and `flops_left` leave out
    what is done.
    """
    by_kind: dict[str, dict[str, Any]] = {}
    for run in runs:
        entry = by_kind.setdefault(run.kind, dict.fromkeys(_SUMS, 0))
        done = run.state in ("done", "diverged")
        entry["runs"] += 1
        entry["done"] += done
        entry["segments"] += run.is_segment
        entry["flops_train"] += run.flops_marginal
        entry["flops_train_without_sharing"] += 0 if run.is_segment else run.flops_train
        entry["gpu_hours"] += run.gpu_hours
        low, high = run.gpu_hours_interval or (run.gpu_hours, run.gpu_hours)
        entry["gpu_hours_low"] += low
        entry["gpu_hours_high"] += high
        entry["flops_left"] += 0 if done else run.flops_marginal
        entry["gpu_hours_left"] += 0 if done else run.gpu_hours
    total = {name: sum(entry[name] for entry in by_kind.values()) for name in _SUMS}
    return {**total, "by_kind": by_kind}


_SUMS = (
    *("runs", "done", "segments", "flops_train", "flops_train_without_sharing"),
    *("gpu_hours", "gpu_hours_low", "gpu_hours_high", "flops_left", "gpu_hours_left"),
)


def check_budget(
    total: Mapping[str, Any], max_gpu_hours: float | None, max_flops: float | None
) -> None:
    """ValueError when what is left to do costs more than allowed."""
    for name, unit, limit, flag in (
        ("gpu_hours_left", "GPU-hours", max_gpu_hours, "--max-gpu-hours"),
        ("flops_left", "train FLOPs", max_flops, "--max-flops"),
    ):
        if limit is not None and not limit >= 0:
            raise ValueError(f"{flag}: {limit!r} is not allowed; a number >= 0")
        if limit is not None and total[name] > limit:
            raise ValueError(
                f"{flag}: the plan needs {total[name]:.4g} {unit} more; allowed: {limit:.4g}"
            )
