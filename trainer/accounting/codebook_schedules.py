"""Variable codebook sizes (VCQ): K_t along the sequence, and what follows from it. No torch.

Positions are t = 1 .. L; lists hold them from index 0. Logarithms have base 2: bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

Schedule = Literal["constant", "linear", "cosine", "power"]
NAMES: tuple[Schedule, ...] = ("constant", "linear", "cosine", "power")


def codebook_sizes(
    schedule: str, size_min: int, size_max: int, length: int, power: float = 2.5
) -> tuple[int, ...]:
    """Return the codebook size K_t of each position t = 1 .. length (VCQ, Eq. 3).

    K_t = round(K_min + (K_max - K_min) f(u)), u = (t-1)/(L-1).

    f = 1 (constant), u (linear), 1 - cos(pi u / 2) (cosine), u^power (power).
    """
    if schedule not in NAMES:
        raise ValueError(f"schedule: {schedule!r} is unknown; allowed: {', '.join(NAMES)}")
    if not 1 <= size_min <= size_max:
        raise ValueError(
            f"codebook_size_min: {size_min} is not allowed; must be from 1 to the largest size, "
            f"{size_max}"
        )
    if length < 1:
        raise ValueError(f"length: {length} is not allowed; must be at least 1")
    if power <= 0:
        raise ValueError(f"power: {power} is not allowed; must be above 0")
    sizes = []
    for index in range(length):
        u = index / (length - 1) if length > 1 else 1.0
        if schedule == "constant":
            share = 1.0
        elif schedule == "linear":
            share = u
        elif schedule == "cosine":
            share = 1 - math.cos(math.pi * u / 2)
        else:
            share = u**power
        sizes.append(round(size_min + (size_max - size_min) * share))
    return tuple(sizes)


def size_mean(sizes: Sequence[int]) -> float:
    """Return K-bar, the mean codebook size."""
    return sum(sizes) / len(sizes)


def capacity_bits(sizes: Sequence[int]) -> list[float]:
    """Return C_t = sum over i <= t of log2 K_i: the bits that the first t codes can hold."""
    total, bits = 0.0, []
    for size in sizes:
        total += math.log2(size)
        bits.append(total)
    return bits


def bits_per_pixel(sizes: Sequence[int], resolution: int) -> float:
    """Return C_L over the pixels of a square image."""
    return capacity_bits(sizes)[-1] / resolution**2


def t_star(sizes: Sequence[int], num_images: int) -> int | None:
    """Return the first t with C_t >= log2 N (VCQ, Eq. 2); None if the sequence does not reach it.

    From there on the codes could give every image of the set a prefix of its own.
    """
    needed = math.log2(num_images)
    return next((t for t, bits in enumerate(capacity_bits(sizes), 1) if bits >= needed), None)


def remaining_bits(sizes: Sequence[int], num_images: int) -> list[float]:
    """Return max(0, log2 N - C_t) after each position, the budget that the paper plots.

    It is no upper bound on H(x_t | x_<t): see `null_conditional_bits` and docs/vcq.md.
    """
    needed = math.log2(num_images)
    return [max(0.0, needed - bits) for bits in capacity_bits(sizes)]


def null_conditional_bits(
    sizes: Sequence[int], num_images: int, positions: int | None = None
) -> list[float]:
    """Return the mean plug-in estimate of H(x_t | x_<t) for codes that are pure noise.

    With N images of independent uniform codes the prefixes of length t fall evenly on
    M = K_1 .. K_t cells, so E H(x_<=t) = log2 N - E log2(1 + m), m ~ Binomial(N - 1, 1/M), exactly.
    A curve measured on real codes says something only where it leaves this one.
    """
    entropy_before, curve, cells = 0.0, [], 1
    for size in sizes[:positions]:
        cells *= size
        entropy = math.log2(num_images) - _mean_log_occupancy(num_images - 1, cells)
        curve.append(max(0.0, entropy - entropy_before))
        entropy_before = entropy
    return curve


def _mean_log_occupancy(trials: int, cells: int) -> float:
    """Return E log2(1 + m), m ~ Binomial(trials, 1/cells), summed over all m that can matter."""
    if cells == 1:
        return math.log2(1 + trials)
    mean = trials / cells
    reach = 12 * math.sqrt(mean) + 40
    first, last = max(0, int(mean - reach)), min(trials, int(mean + reach))
    log_p, log_not = -math.log(cells), math.log1p(-1 / cells)
    total = 0.0
    for m in range(max(1, first), last + 1):
        log_mass = (
            math.lgamma(trials + 1)
            - math.lgamma(m + 1)
            - math.lgamma(trials - m + 1)
            + m * log_p
            + (trials - m) * log_not
        )
        total += math.exp(log_mass) * math.log2(1 + m)
    return total


def describe(
    schedule: str,
    size_min: int,
    size_max: int,
    length: int,
    num_images: int,
    resolution: int = 256,
    power: float = 2.5,
) -> dict[str, Any]:
    """Describe one schedule as `tokenlaw schedule --json` prints it: all of the above."""
    if num_images < 1:
        raise ValueError(f"images: {num_images} is not allowed; must be at least 1")
    if resolution < 1:
        raise ValueError(f"resolution: {resolution} is not allowed; must be at least 1")
    sizes = codebook_sizes(schedule, size_min, size_max, length, power)
    return {
        "k": list(sizes),
        "k_mean": size_mean(sizes),
        "bits_total": capacity_bits(sizes)[-1],
        "bpp": bits_per_pixel(sizes, resolution),
        "t_star": t_star(sizes, num_images),
        "remaining_bits": remaining_bits(sizes, num_images),
    }
