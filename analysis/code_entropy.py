"""Entropies of a set of codes, with what noise of the same shape would show beside them.

CRT Figure 10: entropy of each position, pooled entropy, skew. VCQ Figure 2a: entropy of each code
given all before it. Both are plug-in estimates: with N images a position of K codes looks
(K_seen - 1) / (2 N ln 2) bits too certain (Miller and Madow), and the conditional curve falls to
zero as soon as prefixes are unique, for images and for noise alike. So two nulls come with every
answer: i.i.d. uniform codes, and the same codes shuffled across images at every position.

Legend: N images, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .notebook_repr import Brief
from .notices import Notice, notice

BIAS_SHARE = 0.05  # of an entropy: a Miller-Madow correction above it is a warning


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Positions(Brief):
    """Entropies of single positions, bits."""

    plug_in_L: np.ndarray
    corrected_L: np.ndarray  # with Miller and Madow's term, at most log2 of the codebook
    seen_L: np.ndarray  # different codes at each position
    pooled: float  # entropy of all positions' codes together, corrected
    mean: float  # of corrected_L
    skew: float  # 1 - mean over positions of 2^H_i / 2^pooled
    num_images: int
    warnings: tuple[Notice, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Conditional(Brief):
    """Entropy of each code given the whole prefix, in this sample, bits."""

    bits_L: np.ndarray
    prefix_bits_L: np.ndarray  # H(x_<=t)
    unique_share_L: np.ndarray  # share of images whose first t codes no other image has
    remaining_L: np.ndarray  # log2 N - H(x_<=t): what is left to tell images apart, exact
    bound_L: np.ndarray  # min(log2 K_t, log2 N - H(x_<t)): holds for any N samples
    printed_L: (
        np.ndarray
    )  # min(log2 K_t, log2 N - C_(t-1)) as in VCQ's Proposition 1; no upper bound
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Conditionals(Brief):
    """The measured curve and its nulls."""

    measured: Conditional
    uniform: Conditional  # i.i.d. uniform codes of the same sizes
    permuted: Conditional  # the same codes, shuffled across images at every position
    held_out_L: np.ndarray | None  # bits per position of a generator on images it has not seen
    warnings: tuple[Notice, ...]


def entropy_bits(counts: np.ndarray) -> float:
    """Compute the plug-in entropy of counts."""
    share = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))


def miller_madow(num_seen: float, num_samples: int) -> float:
    """Compute the bits by which a plug-in entropy of `num_samples` is too low, to first order."""
    return float((num_seen - 1) / (2 * num_samples * np.log(2)))


def positions(codes_NL: np.ndarray, codebook_size: int) -> Positions:
    """Estimate the entropies of the positions of `codes_NL` (integers below codebook_size)."""
    codes_NL = _checked(codes_NL, codebook_size)
    num_images, length = codes_NL.shape
    plug_in, seen = np.zeros(length), np.zeros(length, dtype=int)
    total = np.zeros(codebook_size)
    for at in range(length):
        counts = np.bincount(codes_NL[:, at], minlength=codebook_size)
        plug_in[at], seen[at] = entropy_bits(counts), int((counts > 0).sum())
        total += counts
    bias = np.array([miller_madow(int(one), num_images) for one in seen])
    corrected = np.minimum(plug_in + bias, np.log2(codebook_size))
    pooled = entropy_bits(total) + miller_madow(int((total > 0).sum()), num_images * length)
    pooled = min(pooled, float(np.log2(codebook_size)))
    warnings = []
    worst = float((bias / np.maximum(plug_in, 1e-12)).max())
    if worst > BIAS_SHARE:
        text = (
            f"the correction is up to {bias.max():.2f} bits ({worst:.0%}) with {num_images} images"
        )
        warnings.append(notice("W-BIAS", text))
    return Positions(
        plug_in_L=plug_in,
        corrected_L=corrected,
        seen_L=seen,
        pooled=pooled,
        mean=float(corrected.mean()),
        skew=1.0 - float(np.mean(2.0**corrected)) / 2.0**pooled,
        num_images=num_images,
        warnings=tuple(warnings),
    )


def conditional(codes_NL: np.ndarray, sizes: Sequence[int]) -> Conditional:
    """Estimate the conditional entropies of `codes_NL`, position t having `sizes[t]` codes."""
    codes_NL = _checked(codes_NL, max(sizes))
    num_images, length = codes_NL.shape
    if len(sizes) != length:
        raise ValueError(f"sizes: {len(sizes)} given for {length} positions")
    before, done = 0.0, False
    prefix = np.zeros(num_images, dtype=np.int64)
    joint, unique = np.zeros(length), np.ones(length)
    for at in range(length):
        if not done:
            # Prefixes are numbered afresh at every position: no hash, no collision.
            key = prefix * int(sizes[at]) + codes_NL[:, at]
            _, prefix, counts = np.unique(key, return_inverse=True, return_counts=True)
            before = entropy_bits(counts)
            unique[at] = (counts == 1).sum() / num_images
            done = len(counts) == num_images
        joint[at] = before
    bits = np.diff(joint, prepend=0.0)
    full = np.log2(num_images)
    capacity = np.cumsum(np.log2(np.asarray(sizes, dtype=float)))
    own = np.log2(np.asarray(sizes, dtype=float))
    earlier = np.concatenate([[0.0], joint[:-1]])
    return Conditional(
        bits_L=np.maximum(bits, 0.0),
        prefix_bits_L=joint,
        unique_share_L=unique,
        remaining_L=np.maximum(full - joint, 0.0),
        bound_L=np.minimum(own, np.maximum(full - earlier, 0.0)),
        printed_L=np.minimum(own, np.maximum(full - np.concatenate([[0.0], capacity[:-1]]), 0.0)),
        num_images=num_images,
    )


def uniform_null(num_images: int, sizes: Sequence[int], seed: int = 0) -> Conditional:
    """Estimate the conditional entropies of i.i.d. uniform codes.

    Drawing stops when all prefixes differ.
    """
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    prefix = np.zeros(num_images, dtype=np.int64)
    for size in sizes:
        column = rng.integers(size, size=num_images)
        drawn.append(column)
        _, prefix = np.unique(prefix * int(size) + column, return_inverse=True)
        if int(prefix.max()) + 1 == num_images:
            break
    # Behind the first position at which every prefix is unique nothing changes the entropies.
    codes = np.zeros((num_images, len(sizes)), dtype=np.int64)
    codes[:, : len(drawn)] = np.stack(drawn, axis=1)
    return conditional(codes, sizes)


def permuted_null(codes_NL: np.ndarray, sizes: Sequence[int], seed: int = 0) -> Conditional:
    """Estimate the conditional entropies after shuffling each position across images.

    The shuffle keeps the marginals.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.asarray(codes_NL), axis=0)
    return conditional(shuffled, sizes)


def conditionals(
    codes_NL: np.ndarray,
    sizes: Sequence[int],
    *,
    held_out_nats: Sequence[float] | None = None,
    seed: int = 0,
) -> Conditionals:
    """Estimate the measured curve and both nulls.

    `held_out_nats` is a generator's loss by position.
    """
    measured = conditional(codes_NL, sizes)
    uniform = uniform_null(len(codes_NL), sizes, seed)
    permuted = permuted_null(codes_NL, sizes, seed)
    apart = float(np.abs(measured.bits_L - permuted.bits_L).max())
    warnings = []
    if apart < 0.05:
        text = f"the curve is within {apart:.3f} bits of that of shuffled codes at every position"
        warnings.append(notice("W-BIAS", text))
    held_out = None
    if held_out_nats is not None:
        held_out = np.asarray(held_out_nats, dtype=float) / np.log(2)
        if held_out.shape != measured.bits_L.shape:
            raise ValueError(
                f"held_out_nats: {len(held_out)} positions given, the codes have {len(sizes)}"
            )
    return Conditionals(
        measured=measured,
        uniform=uniform,
        permuted=permuted,
        held_out_L=held_out,
        warnings=tuple(warnings),
    )


def _checked(codes_NL: np.ndarray, codebook_size: int) -> np.ndarray:
    """Return the codes as [N, L] int64; ValueError if they are no codes of that codebook."""
    codes = np.asarray(codes_NL)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"codes: shape {codes.shape} is not [images, positions]")
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes: {codes.dtype} are no integers")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(f"codes: {codes.min()} to {codes.max()} outside 0 to {codebook_size - 1}")
    return codes.astype(np.int64)
