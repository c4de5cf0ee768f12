"""Nearest neighbours in a codebook, the straight-through gradient, and the statistics of a batch's
codes.

Shapes: B images, N tokens an image, T = B*N tokens, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .. import kernels
from ..loop.allreduce import sum_over_processes

# Of what batches record of their codes, for every quantizer.
BETTER = {"train_usage": "higher", "train_perplexity": "higher"}
# Entries of one tokens x codes tile, 64 MiB in fp32. A constant, so that results do not depend on
# the memory at hand.
TILE = 2**24


@contextmanager
def exact_fp32(device: torch.device) -> Iterator[None]:
    """Full fp32 products inside: no autocast and no TF32, whose 10-bit mantissa flips codes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def token_chunks(num_tokens: int, num_codes: int) -> list[slice]:
    """Cut tokens into slices such that a tokens x codes tile has at most TILE entries."""
    step = max(1, TILE // num_codes)
    return [slice(start, start + step) for start in range(0, num_tokens, step)]


def _by_kernel(z: Tensor, num_codes: int) -> bool:
    """Tell if the kernel finds the codes of such latents, [.., D].

    It does where plain code needs more than a tile.
    """
    if z[..., 0].numel() * num_codes <= TILE or not kernels.usable(z):
        return False
    from ..kernels.nearest import WIDEST

    return z.shape[-1] <= WIDEST


@torch.no_grad()
def nearest(z_TD: Tensor, codebook_KD: Tensor) -> Tensor:
    """Find code_T: the row with the smallest Euclidean distance, the lowest one on ties.

    Distances are fp32, in tiles, so that tokens x K never exists as a whole. |z|^2 is the same for
    all codes and left out. Where there is a kernel it does the search; it sums products in another
    order.
    """
    if _by_kernel(z_TD, len(codebook_KD)):
        from ..kernels.nearest import nearest as search

        return search(z_TD.float(), codebook_KD.float())
    with exact_fp32(z_TD.device):
        z_TD, codebook_KD = z_TD.float(), codebook_KD.float()
        square_K = codebook_KD.square().sum(1)
        codes = [
            torch.addmm(square_K, z_TD[rows], codebook_KD.T, alpha=-2.0).argmin(1)
            for rows in token_chunks(len(z_TD), len(codebook_KD))
        ]
    return torch.cat(codes)


@torch.no_grad()
def nearest_prefix(z_BND: Tensor, codebook_KD: Tensor, sizes: Sequence[int]) -> Tensor:
    """Find code_BN: as `nearest`, but position t takes only from the first `sizes[t]` codes.

    Sizes must not fall along the sequence. Positions go through in order, so that each tile only
    spans the codes that its last position may take.
    """
    num_images, num_tokens, _ = z_BND.shape
    z_NBD = z_BND.transpose(0, 1).float()
    if _by_kernel(z_BND, len(codebook_KD)):
        from ..kernels.nearest import nearest as search

        size_N = torch.tensor(list(sizes), dtype=torch.int32, device=z_BND.device)
        size_T = size_N.repeat_interleave(num_images)
        code_T = search(z_NBD.flatten(0, 1), codebook_KD.float(), size_T)
        return code_T.view(num_tokens, num_images).T.contiguous()
    code_NB = torch.empty(num_tokens, num_images, dtype=torch.long, device=z_BND.device)
    size_N1 = torch.tensor(list(sizes), device=z_BND.device)[:, None]
    with exact_fp32(z_BND.device):
        codebook_KD = codebook_KD.float()
        square_K = codebook_KD.square().sum(1)
        first = 0
        while first < num_tokens:
            last = first + 1
            # Neighbours share a tile while it fits and at most half of it would be masked.
            while (
                last < num_tokens
                and (last + 1 - first) * num_images * sizes[last] <= TILE
                and sizes[last] <= 2 * sizes[first]
            ):
                last += 1
            largest = sizes[last - 1]
            beyond_PK = torch.arange(largest, device=z_BND.device) >= size_N1[first:last]
            # Images too many for one tile are split as well.
            step = max(1, TILE // (largest * (last - first)))
            for start in range(0, num_images, step):
                z_PbD = z_NBD[first:last, start : start + step]
                distance_PbK = square_K[:largest] - 2.0 * (z_PbD @ codebook_KD[:largest].T)
                distance_PbK.masked_fill_(beyond_PK[:, None], torch.inf)
                code_NB[first:last, start : start + step] = distance_PbK.argmin(-1)
            first = last
    return code_NB.T.contiguous()


def straight_through(z_BND: Tensor, z_q_BND: Tensor) -> Tensor:
    """Return the values of z_q, exactly, with the gradient of z."""
    return z_q_BND.detach() + (z_BND - z_BND.detach())


@torch.no_grad()
def count_codes(code_BN: Tensor, num_codes: int) -> Tensor:
    """Count the occurrences of each code over all processes; int64 [K].

    bincount would do, but waits for the GPU to learn the largest code.
    """
    flat = code_BN.flatten()
    counts_K = torch.zeros(num_codes, dtype=torch.long, device=flat.device)
    return sum_over_processes(counts_K.scatter_add_(0, flat, torch.ones_like(flat)))


@torch.no_grad()
def code_stats(code_BN: Tensor, num_codes: int) -> dict[str, Tensor]:
    """Share of codes in use and perplexity 2^H of the codes of this batch, over all processes."""
    counts_K = count_codes(code_BN, num_codes).double()
    share_K = counts_K / counts_K.sum()
    entropy = -torch.xlogy(share_K, share_K).sum()
    return {
        "usage": (counts_K > 0).float().mean(),
        "perplexity": entropy.exp().float(),
    }


@torch.no_grad()
def mean_norm(z_BND: Tensor) -> Tensor:
    """Mean Euclidean length of the latents."""
    norm_BN: Tensor = z_BND.float().norm(dim=-1)
    return norm_BN.mean()
