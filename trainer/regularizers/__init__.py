"""Regularisers of the latents, one file each. They act before the quantizer.

A part exposes `VERSION`, a frozen `Config` with

    cost(tokens, dim) -> Cost
    optim_for(optim: OptimConfig) -> OptimConfig          its optimiser, given the tokenizer's
    latent: "projected" | "unprojected"                   Tokenizer.encode's latents or .features

and a final `Regularizer(nn.Module)`:

    Regularizer(config, dim, grid)                        dim: quantizer's, or z_channels if
                                                          unprojected; grid: (rows, columns)
    forward(z_BND, step) -> Regularized
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    class Regularizer(nn.Module):
        """A regulariser as loops call it; for type checkers only."""

        config: Any

        def __call__(self, z_BND: Tensor, step: int) -> Regularized: ...


class Regularized(NamedTuple):
    """Output of every regulariser."""

    z_BND: Tensor  # goes on to the quantizer
    losses: dict[str, tuple[float, Tensor]]  # name -> (weight, scalar)
    stats: dict[str, Tensor]  # name -> scalar, detached
