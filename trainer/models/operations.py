"""Do what a block does to the residual stream: by plain code, or by kernels of our own.

`Block.body` is one text in these operations, for training and for sampling. Forms differ in what
they do at once: a kernel adds, drops and norms in one pass, and sampling.token_step leaves a norm
to the kernel after the product. So a block asks for products of the normed stream by `project`.

Shape suffixes as in llama.py; P outputs of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .llama import Attention, RMSNorm


class Operations:
    """Plain operations on whole sequences; `x` is the stream."""

    def __init__(self, x: Tensor, table_TE2: Tensor | None = None) -> None:
        self.x, self.table_TE2 = x, table_TE2

    def norm(
        self, norm: RMSNorm, gamma: Tensor | None = None, beta: Tensor | None = None
    ) -> Tensor:
        """Return the normed stream, with AdaLN scaled by 1 + gamma and shifted by beta."""
        return _modulated(norm(self.x), gamma, beta)

    def project(
        self, norm: RMSNorm, linear: nn.Linear, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        """Return a layer's product of the normed stream."""
        product: Tensor = linear(self.norm(norm, gamma, beta))
        return product

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        """Return what the heads find, joined, from the projection to queries, keys and values."""
        q, k, v = attention.split(qkv, self.table_TE2)
        attended_BHTE = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return attended_BHTE.transpose(1, 2).flatten(2)

    def swiglu(self, both: Tensor) -> Tensor:
        """Return silu(gate) * value, from both in one tensor."""
        gate, value = both.chunk(2, dim=-1)
        return F.silu(gate) * value

    def add(self, update: Tensor, dropout: nn.Dropout, alpha: Tensor | None) -> None:
        """Add alpha * dropout(update) to the stream; no alpha without AdaLN."""
        self.x = self.x + _scaled(dropout(update), alpha)

    def add_product(
        self, linear: nn.Linear, y: Tensor, dropout: nn.Dropout, alpha: Tensor | None
    ) -> None:
        """Add a layer's product to the stream, as `add` does."""
        self.add(linear(y), dropout, alpha)


class KernelOperations(Operations):
    """Kernels on whole sequences. An addition waits for the norm after it: both are one kernel.

    `seed` decides what dropout drops; the n-th addition has seed + n. Training by kernels has no
    AdaLN.
    """

    def __init__(self, x: Tensor, table_TE2: Tensor | None = None, seed: int = 0) -> None:
        super().__init__(x, table_TE2)
        self._delta: Tensor | None = None
        self._drop, self._seed = 0.0, seed

    @cached_property
    def _angles(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Cosine and sine of each pair of dimensions."""
        if self.table_TE2 is None:
            return None, None
        return self.table_TE2[:, ::2, 0].contiguous(), self.table_TE2[:, 1::2, 1].contiguous()

    def norm(
        self, norm: RMSNorm, gamma: Tensor | None = None, beta: Tensor | None = None
    ) -> Tensor:
        from ..kernels.residual_norm import residual_norm

        self.x, normed = residual_norm(
            self.x, self._delta, norm.weight, norm.eps, self._drop, self._seed
        )
        self._delta = None
        return _modulated(normed, gamma, beta)

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        from ..kernels.causal_attention import causal_attention

        return causal_attention(qkv, attention.heads, *attention.gains(), *self._angles)

    def swiglu(self, both: Tensor) -> Tensor:
        from ..kernels.swiglu import swiglu

        return swiglu(both)

    def add(self, update: Tensor, dropout: nn.Dropout, alpha: Tensor | None) -> None:
        if self._delta is not None:  # two additions without a norm between them
            self.x = self.x + F.dropout(self._delta, self._drop)
        self._drop = dropout.p if dropout.training else 0.0
        assert alpha is None or self._drop == 0.0
        self._delta = _scaled(update, alpha)
        self._seed += 1


class Cache:
    """Keys and values of one layer, allocated once: [B, H, L, E] each."""

    def __init__(
        self, shape_BHLE: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.k = torch.empty(shape_BHLE, device=device, dtype=dtype)
        self.v = torch.empty(shape_BHLE, device=device, dtype=dtype)

    def attend(self, q_BH1E: Tensor, k_BH1E: Tensor, v_BH1E: Tensor, position: int) -> Tensor:
        """Store the keys and values of `position` and return the attention of its queries."""
        self.k[:, :, position] = k_BH1E[:, :, 0]
        self.v[:, :, position] = v_BH1E[:, :, 0]
        k, v = self.k[:, :, : position + 1], self.v[:, :, : position + 1]
        return F.scaled_dot_product_attention(q_BH1E, k, v)


class CachedOperations(Operations):
    """Plain operations on one token of each sequence, at `position`."""

    def __init__(
        self,
        x_B1D: Tensor,
        table_1E2: Tensor | None,
        caches: Mapping[Attention, Cache],
        position: int,
    ) -> None:
        super().__init__(x_B1D, table_1E2)
        self._caches, self._position = caches, position

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        q, k, v = attention.split(qkv, self.table_TE2)
        attended_BH1E = self._caches[attention].attend(q, k, v, self._position)
        return attended_BH1E.transpose(1, 2).flatten(2)


def _modulated(normed: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    return normed if gamma is None or beta is None else normed * (1 + gamma) + beta


def _scaled(update: Tensor, alpha: Tensor | None) -> Tensor:
    return update if alpha is None else alpha * update
