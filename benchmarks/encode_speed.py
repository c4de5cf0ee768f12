"""Speed of tokenising images that are on the GPU, of decoding, and of the quantizers alone.

    python benchmarks/encode_speed.py [--batches 64 256] [--codes 16384] [--tiny]
    python benchmarks/encode_speed.py --quantizers [--tiny]
    python benchmarks/encode_speed.py --kernels [--tiny]

A VQ-16 of random weights turns uint8 images of 256 px into codes by `trainer.kinds.codes.Coder`, as
a codes run does (bf16, channels last, by kernels), and codes into uint8 images; the share of the
matrix product measured in the same call counts the convolutions and attention of encoder or
decoder. Correctness, in the same run: in fp32 its codes are those of the plain eager modules but
for ties; in bf16 they lie as near to those of fp32 as the codes of the plain eager modules in bf16
do.

`--quantizers`: a forward and backward pass of the quantizers at 64 images x 256 tokens, their peak
memory, and what they add to a step of VQ-16 at three times LlamaGen's rate. Codes are compared with
the nearest in float64. `--kernels`: those that only encoding has, beside plain code. `--tiny` is
any of them at sizes for a CPU; kernels need TRITON_INTERPRET=1 there.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from generator_step import ended, list_kernels, passed
from torch import Tensor

from tokenlaw.trainer import kernels, parts
from tokenlaw.trainer.kinds.codes import Coder
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.quantizers import _lookup

SIDE = 256  # pixels
LLAMAGEN = {"encode": 715.0, "decode": 428.0}  # images/s on one H200, its own code
LLAMAGEN_CEILING = 759e12  # FLOP/s of the matrix product in the session of those figures (741-777)
STEP_SECONDS = 64 / (3 * 86)  # a tokenizer's training step of 64 images at 3 x LlamaGen's rate
SAME_FP32 = 0.995  # share of equal codes in fp32: other orders of sums decide ties
SLACK_BF16 = 0.02  # by which bf16 codes may be further from fp32 ones than plain bf16 codes are


def seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median time from the end of one call of `work` to that of the next, after two calls, the
    first of which compiles. Calls are queued, as those of a codes run are: on a GPU it is the
    device's time, or the host's if that takes longer to launch.
    """
    for _ in range(2):
        work()
    synchronize(device)
    ends = [ended(device)]
    for _ in range(repeats):
        work()
        ends.append(ended(device))
    synchronize(device)
    return statistics.median(itertools.starmap(passed, itertools.pairwise(ends)))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str) -> float:
    """FLOP/s of a square bf16 matrix product."""
    side = 8192 if device == "cuda" else 256
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, 10)


def forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


# ------------------------------------------------------------------------------ images and codes


def measure_images(
    batches: list[int], num_codes: int, tiny: bool, ceiling: float, profiled: bool
) -> None:
    device = "cpu" if tiny else "cuda"
    side = 32 if tiny else SIDE
    tokenizer_part = parts.load("tokenizers", "vqgan")
    quantizer_part = parts.load("quantizers", "vq")
    how = tokenizer_part.Config(ch=8, ch_mult=(1, 1, 2)) if tiny else tokenizer_part.Config()
    lookup = quantizer_part.Config(codebook_size=num_codes)
    torch.manual_seed(0)
    tokenizer = tokenizer_part.Tokenizer(how, lookup.dim, side).to(device)
    quantizer = quantizer_part.Quantizer(lookup).to(device)
    for module in (tokenizer, quantizer):
        module.eval().requires_grad_(False)
    print(check_codes(tokenizer, quantizer, side, device, min(batches), compiled=not tiny))
    encoder, decoder = how.cost(side, lookup.dim)
    length = how.tokens_per_image(side)
    print(
        f"{'job':<22} {'batch':>6} {'images/s':>10} {'of ceiling':>11} {'x LlamaGen':>11}"
        f" {'GiB':>7} {'first, s':>9}"
    )
    for batch in batches:
        pixels = random_pixels(batch, side, device)
        coder = make_coder(tokenizer, quantizer, device, batch, bf16=True, compiled=not tiny)
        code_BN = torch.randint(num_codes, (batch, length), device=device)
        decode = decoder_of(tokenizer, quantizer, device, compiled=not tiny)
        jobs: list[tuple[str, Callable[[], Any], int]] = [
            ("encode", lambda c=coder, x=pixels: c.codes(x), encoder.macs),
            ("decode", lambda d=decode, x=code_BN: d(x), decoder.macs),
        ]
        for name, work, macs in jobs:
            forget_peak()
            clock = time.perf_counter()
            work()
            synchronize(device)
            first = time.perf_counter() - clock
            rate = batch / seconds(work, device, 10)
            ratio = rate / (LLAMAGEN[name] * ceiling / LLAMAGEN_CEILING)
            beside = "" if tiny else f"{ratio:.2f}"
            print(
                f"{name + ' VQ-16':<22} {batch:>6} {rate:>10,.1f}"
                f" {2 * macs * rate / ceiling:>11.3f} {beside:>11} {peak_gib():>7.1f}"
                f" {first:>9.1f}",
                flush=True,
            )
            if profiled:
                list_kernels(work, device)


def random_pixels(batch: int, side: int, device: str) -> Tensor:
    """Smooth random images, uint8 [B, 3, side, side]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, side // 8, side // 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (fine.clamp(0, 1) * 255).to(torch.uint8).to(device)


def make_coder(
    tokenizer: Any, quantizer: Any, device: str, batch: int, *, bf16: bool, compiled: bool
) -> Coder:
    where = torch.device(device)
    return Coder(tokenizer, quantizer, where, bf16=bf16, batch_size=batch, compiled=compiled)


def decoder_of(
    tokenizer: Any, quantizer: Any, device: str, compiled: bool
) -> Callable[[Tensor], Tensor]:
    """Codes to uint8 images, as evaluations do it."""
    decode = tokenizer.decode
    if compiled and not kernels.adopted_by(tokenizer, torch.device(device)):
        decode = torch.compile(decode)

    @torch.inference_mode()
    def images(code_BN: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return data.to_uint8(decode(quantizer.lookup(code_BN)))

    return images


def check_codes(
    tokenizer: Any, quantizer: Any, side: int, device: str, batch: int, compiled: bool
) -> str:
    """Compares the coder's codes with those of the plain modules; AssertionError if they differ."""
    batch = min(batch, 64)
    pixels = random_pixels(batch, side, device)
    found, plain = {}, {}
    for bf16 in (False, True):
        use_tf32(bf16)
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            # Before the coder turns the weights to channels last.
            z_BND = copy.deepcopy(tokenizer).encode(data.to_float(pixels))
            plain[bf16] = quantizer(z_BND, 0).code_BN
    for bf16 in (False, True):
        use_tf32(bf16)
        own = copy.deepcopy(tokenizer)
        coder = make_coder(own, quantizer, device, batch, bf16=bf16, compiled=compiled)
        found[bf16] = coder.codes(pixels)
    used = len(plain[False].unique())
    same = equal_share(found[False], plain[False])
    fast, slow = equal_share(found[True], plain[False]), equal_share(plain[True], plain[False])
    each_other = equal_share(found[True], plain[True])
    assert used > 10, f"only {used} codes are in use: the comparison says nothing"
    assert same >= SAME_FP32, f"fp32: only {same:.2%} of the codes equal those of plain modules"
    assert fast >= slow - SLACK_BF16, (
        f"bf16: {fast:.2%} of the codes equal those of fp32, of plain bf16 modules {slow:.2%}"
    )
    return (
        f"codes ({used} in use) equal to those of plain eager modules: fp32 {same:.2%} (at least "
        f"{SAME_FP32:.1%}); equal to fp32: bf16 {fast:.2%}, plain bf16 {slow:.2%} (at most "
        f"{SLACK_BF16:.0%} apart); bf16 to plain bf16 {each_other:.2%}"
    )


def use_tf32(wanted: bool) -> None:
    """As runs set it: fp32 means fp32."""
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted


def equal_share(first: Tensor, second: Tensor) -> float:
    return (first == second).float().mean().item()


# ------------------------------------------------------------------------------ quantizers alone


def measure_quantizers(tiny: bool) -> None:
    device = "cpu" if tiny else "cuda"
    images, tokens = (2, 16) if tiny else (64, 256)
    cases = [
        ("vq", {"codebook_size": 128 if tiny else 16_384}),
        ("vq", {"codebook_size": 1024 if tiny else 131_072}),
        ("ibq", {"codebook_size": 2048 if tiny else 262_144, "dim": 32 if tiny else 256}),
        ("ibq", {"codebook_size": 2048 if tiny else 262_144, "dim": 32 if tiny else 256}),
    ]
    cases[3][1]["entropy_weight"] = 0.0
    print(f"forward and backward of {images} images x {tokens} tokens, fp32 latents")
    print(
        f"{'quantizer':<10} {'codes':>8} {'width':>6} {'entropy':>8} {'forward ms':>11}"
        f" {'both ms':>9} {'of a step':>10} {'GiB':>7} {'same codes':>11}"
    )
    for name, fields in cases:
        module = parts.load("quantizers", name)
        config = module.Config(**fields)
        torch.manual_seed(0)
        quantizer = module.Quantizer(config).to(device)
        z_BND = torch.randn(images, tokens, config.dim, device=device, requires_grad=True)
        gradient = torch.randn_like(z_BND)

        def forward(q: Any = quantizer, z: Tensor = z_BND) -> Any:
            return q(z, 0)

        def both(q: Any = quantizer, z: Tensor = z_BND, g: Tensor = gradient) -> None:
            quantized = q(z, 0)
            total = sum(weight * value for weight, value in quantized.losses.values())
            torch.autograd.backward([quantized.z_q_BND, total], [g, torch.ones_like(total)])
            z.grad = q.codebook_KD.grad = None

        same = check_nearest(name, quantizer, z_BND.detach())
        first_pass = seconds(forward, device, 5)
        forget_peak()
        spent = seconds(both, device, 5)
        added = f"{spent / STEP_SECONDS:.1%}" if not tiny else ""
        print(
            f"{name:<10} {config.codebook_size:>8} {config.dim:>6} {config.entropy_weight:>8}"
            f" {first_pass * 1e3:>11.2f} {spent * 1e3:>9.2f} {added:>10} {peak_gib():>7.2f}"
            f" {same:>11.2%}",
            flush=True,
        )


@torch.no_grad()
# -------------------------------------------------------------------------------- kernels alone


@torch.inference_mode()
def measure_kernels(tiny: bool) -> None:
    """The kernels that only encoding has, at the shapes of 128 images of 256 px, beside plain code;
    both are compared with float64.
    """
    from tokenlaw.trainer.kernels.few_channels import few_channels
    from tokenlaw.trainer.kernels.nearest import nearest
    from tokenlaw.trainer.kernels.wide_attention import wide_attention

    device, half = ("cpu", torch.float16) if tiny else ("cuda", torch.bfloat16)
    images, side, channels = (1, 16, 16) if tiny else (128, 256, 128)
    tokens, codes, cells = (300, 500, 16) if tiny else (32_768, 16_384, 256)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    z_TD, codebook_KD = torch.randn(tokens, 8, device=device), torch.randn(codes, 8, device=device)
    layout = {"device": device, "memory_format": torch.channels_last}
    x_BCHW = torch.randn(images, 3, side, side).to(**layout)
    weight = torch.randn(channels, 3, 3, 3).to(**layout)
    qkv_BNC = torch.randn(images, cells, 12 * channels, device=device).to(half)
    few, alike = min(images, 4), 1024

    def plain_search() -> Tensor:
        with mock.patch.object(kernels, "HAS_TRITON", False):
            return _lookup.nearest(z_TD, codebook_KD)

    def plain_convolution() -> Tensor:
        return F.conv2d(x_BCHW.to(half), weight.to(half), padding=1)

    def plain_attention() -> Tensor:
        return F.scaled_dot_product_attention(*qkv_BNC.chunk(3, -1))

    distance_TK = torch.cdist(z_TD[:alike].double(), codebook_KD.double())
    factors = x_BCHW[:few].to(half).double(), weight.to(half).double()
    jobs: list[tuple[str, Callable[[], Tensor], Callable[[], Tensor], Tensor]] = [
        (
            f"nearest of {codes:,} codes of dim 8",
            plain_search,
            lambda: nearest(z_TD, codebook_KD),
            distance_TK.argmin(1),
        ),
        (
            "first convolution",
            plain_convolution,
            lambda: few_channels(x_BCHW, weight, half),
            F.conv2d(*factors, padding=1),
        ),
        (
            f"attention of {cells} cells",
            plain_attention,
            lambda: wide_attention(qkv_BNC),
            F.scaled_dot_product_attention(*qkv_BNC[:few].double().chunk(3, -1)),
        ),
    ]
    for name, plain, own, exact in jobs:
        away = [far(work()[: len(exact)], exact) for work in (plain, own)]
        assert away[1] <= 1.5 * away[0] + 1e-3, (name, away)
        spent = [1e3 * seconds(work, device, 10) for work in (plain, own)]
        print(
            f"{name:<34} plain {spent[0]:.3f} ms, kernel {spent[1]:.3f} ms; "
            f"off by {away[0]:.1e}, {away[1]:.1e}",
            flush=True,
        )


def far(found: Tensor, exact: Tensor) -> float:
    """Distance as a share; of codes the share that differ."""
    if exact.dtype == torch.int64:
        return 1 - equal_share(found, exact)
    return ((found.double() - exact).norm() / exact.norm()).item()


def check_nearest(name: str, quantizer: Any, z_BND: Tensor) -> float:
    """Share of the first tokens' codes that are the nearest in float64; AssertionError if few."""
    found = quantizer(z_BND, 0).code_BN.flatten()[:256]
    z_TD, codebook_KD = z_BND.flatten(0, 1)[:256].double(), quantizer.codebook_KD.double()
    if name == "vq":
        z_TD = torch.nn.functional.normalize(z_TD, dim=-1)
        codebook_KD = torch.nn.functional.normalize(codebook_KD, dim=-1)
    same = equal_share(found, (z_TD @ codebook_KD.T).argmax(1))
    assert same > 0.98, f"{name}: only {same:.1%} of the codes are the nearest in float64"
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="*", type=int, default=None, help="64 256")
    parser.add_argument("--codes", type=int, default=None, help="codebook size, 16384")
    parser.add_argument("--quantizers", action="store_true", help="the quantizers alone")
    parser.add_argument("--kernels", action="store_true", help="its own kernels alone")
    parser.add_argument("--profile", action="store_true", help="time by kernel")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device = "cpu" if chosen.tiny else "cuda"
    torch.backends.cudnn.benchmark = not chosen.tiny  # as runs on a GPU have it
    ceiling = matrix_rate(device)
    name = "CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(
        f"{datetime.date.today()}  {name}, torch {torch.__version__}: bf16 matrix product "
        f"{ceiling / 1e12:.3g} TFLOP/s"
    )
    if chosen.kernels:
        measure_kernels(chosen.tiny)
    elif chosen.quantizers:
        measure_quantizers(chosen.tiny)
    else:
        batches = chosen.batches or ([2, 4] if chosen.tiny else [64, 256])
        num_codes = chosen.codes or (512 if chosen.tiny else 16_384)
        measure_images(batches, num_codes, chosen.tiny, ceiling, chosen.profile)


if __name__ == "__main__":
    main()
