"""Draws codes from a generator: key-value cache, classifier-free guidance, one seed per sample.

Shape suffixes: B samples, L tokens per image, V codebook size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting.config import SamplingConfig
from ..models.llama import Generator

DRAW_BLOCK = 128  # codes of a block, when a code is drawn
NO_KERNELS = "sampling.kv_cache: {!r} needs a GPU with Triton; allowed here: full"


def guidance_scales(
    sampling: SamplingConfig, tokens_per_image: int, codebook_sizes: Sequence[int] | None
) -> list[float]:
    """Guidance scale s_t of every position, l = l_u + s_t (l_c - l_u).

    constant; step: 1 for the first share of the tokens, then the full scale (GigaTok);
    cosine_power: 1 + (s-1) (1 - cos(pi (t/L)^p)) / 2, t = 0 .. L-1 (RAR; p = 0 is constant).

    `cfg_codebook` multiplies s_t - 1 by a factor r_t of the size K_t of the position's codebook
    (VCQ, Eq. 4): log, log(K_t/K_min) / log(K_max/K_min); linear, (K_t - K_min) / (K_max - K_min);
    1 where all K_t are equal. ValueError when the codebook does not vary by position.
    """
    scale, length = sampling.cfg_scale, tokens_per_image
    scales = [scale] * length
    if sampling.cfg_schedule == "step":
        # The share is of the sequence that follows the first token, as published (i + 1) / (L - 1).
        first = math.ceil(sampling.cfg_step_share * (length - 1))
        scales = [1.0 if index < first else scale for index in range(length)]
    elif sampling.cfg_schedule == "cosine_power" and sampling.cfg_power > 0:
        power = sampling.cfg_power
        ramp = [(1 - math.cos(math.pi * (t / length) ** power)) / 2 for t in range(length)]
        scales = [1 + (scale - 1) * share for share in ramp]
    if sampling.cfg_codebook == "none":
        return scales
    if codebook_sizes is None:
        raise ValueError(
            f"sampling.cfg_codebook: {sampling.cfg_codebook!r} needs a quantizer whose codebook "
            "size varies along the sequence; allowed here: none"
        )
    factors = codebook_factors(sampling.cfg_codebook, codebook_sizes)
    return [1 + (s - 1) * r for s, r in zip(scales, factors, strict=True)]


def codebook_factors(factor: str, codebook_sizes: Sequence[int]) -> list[float]:
    """VCQ's r_t of every position: how far between the smallest and the largest codebook it is, in
    log size or in size."""
    smallest, largest = min(codebook_sizes), max(codebook_sizes)
    if smallest == largest:
        return [1.0] * len(codebook_sizes)
    if factor == "linear":
        return [(size - smallest) / (largest - smallest) for size in codebook_sizes]
    span = math.log(largest / smallest)
    return [math.log(size / smallest) / span for size in codebook_sizes]


def sample_uniforms(seeds_B: Sequence[int], tokens_per_image: int) -> Tensor:
    """Uniform numbers [B, L] in [0, 1), a function of each sample's own seed alone.

    So a sample does not depend on the batch it is drawn in, nor on the device.
    """
    rows = []
    for seed in seeds_B:
        generator = torch.Generator().manual_seed(int(seed))
        rows.append(torch.rand(tokens_per_image, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def draw(
    logits_BV: Tensor,
    uniform_B: Tensor,
    sampling: SamplingConfig,
    codebook_size: int | Tensor | None,
) -> Tensor:
    """Codes [B] by inversion of the distribution function, in float64.

    Order: legal codes (below `codebook_size`, which may lie on the device), temperature, top-k,
    top-p.
    """
    logits = logits_BV.double()
    if isinstance(codebook_size, Tensor):
        code_V = torch.arange(logits.shape[1], device=logits.device)
        logits = logits.masked_fill(code_V >= codebook_size, -math.inf)
    elif codebook_size is not None and codebook_size < logits.shape[1]:
        logits = logits[:, :codebook_size]
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[1]:
        limit = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < limit, -math.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(dim=1, descending=True)
        before = ordered.softmax(1).cumsum(1) - ordered.softmax(1)
        cut = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(cut, -math.inf)
    return invert((logits - logits.amax(1, keepdim=True)).exp(), uniform_B)


def invert(weight_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Where the running sum of each row's weights passes the share `uniform_B` of their total.

    In two levels, blocks and then the codes of one block, so that only the sums of blocks are read
    twice. A code of no weight is never chosen, whatever the rounding.
    """
    batch, codes = weight_BV.shape
    size = min(codes, DRAW_BLOCK)
    blocks = F.pad(weight_BV, (0, -codes % size)).view(batch, -1, size)
    passed = blocks.sum(2).cumsum(1)
    target_B1 = uniform_B.to(passed)[:, None] * passed[:, -1:]
    block_B1 = _first_above(passed, target_B1)
    before_B1 = F.pad(passed, (1, 0)).gather(1, block_B1)
    inside = blocks.gather(1, block_B1[:, :, None].expand(-1, 1, size))[:, 0].cumsum(1)
    return (block_B1 * size + _first_above(inside, target_B1 - before_B1))[:, 0]


def _first_above(rising_BN: Tensor, value_B1: Tensor) -> Tensor:
    """Index [B, 1] of the first entry above the value, at most that of the last rise."""
    found = torch.searchsorted(rising_BN, value_B1, right=True)
    return found.minimum(torch.searchsorted(rising_BN, rising_BN[:, -1:].contiguous()))


def cast_matrices(generator: Generator, dtype: torch.dtype) -> None:
    """Makes the linear layers what autocast would make of them at every single token.

    The codes drawn under autocast to `dtype` are the same; the casts are saved.
    """
    for module in generator.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)


@torch.inference_mode()
def sample(
    generator: Generator,
    class_B: Tensor,
    seeds_B: Sequence[int],
    sampling: SamplingConfig,
    codebook_sizes: Sequence[int] | None = None,
    stopping: Callable[[], bool] | None = None,
) -> Tensor:
    """Codes [B, L] of one image per entry of `class_B`; the generator must be in eval mode.

    `codebook_sizes` are K_t of every position (vcq): codes from K_t on cannot be drawn.
    Raises InterruptedError when `stopping()` turns true between tokens.
    """
    assert not generator.training
    if sampling.kv_cache != "full":
        raise ValueError(NO_KERNELS.format(sampling.kv_cache))
    device, batch, length = class_B.device, class_B.shape[0], generator.tokens_per_image
    uniform_BL = sample_uniforms(seeds_B, length).to(device)
    scales = guidance_scales(sampling, length, codebook_sizes)
    guided = any(scale != 1.0 for scale in scales)
    scale_L = torch.tensor(scales, device=device)
    classes = class_B
    if guided:
        classes = torch.cat([class_B, torch.full_like(class_B, generator.num_classes)])
    class_BD = generator.class_embedding(classes)
    dtype = (
        torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    )
    caches = generator.new_cache(classes.shape[0], device, dtype or class_BD.dtype)
    codes = torch.empty(batch, length, dtype=torch.long, device=device)
    code_B: Tensor | None = None
    for position in range(length):
        if stopping is not None and stopping():
            raise InterruptedError("stopped while sampling")
        logits = generator.step(code_B, class_BD, caches, position)
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + scale_L[position] * (conditional - unconditional)
        limit = None if codebook_sizes is None else codebook_sizes[position]
        drawn = draw(logits, uniform_BL[:, position], sampling, limit)
        codes[:, position] = drawn
        code_B = torch.cat([drawn, drawn]) if guided else drawn
    return codes
