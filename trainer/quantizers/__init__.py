"""Quantizers, one file each.

A part exposes `VERSION`, a frozen `Config` with `dim` and `num_codes` (fields or properties),
`cost(tokens) -> Cost` (products with the codebook count), `codebook_sizes(tokens)` (None, or how
many of the codes each position may take), and a final `Quantizer(nn.Module)`:

    Quantizer(config)
    forward(z_BND, step) -> Quantized
    lookup(code_BN) -> z_q_BND                            codes to what the decoder takes

A part whose decoder takes something else while it trains says so: `SOFT_WHILE_TRAINING = True`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    class Quantizer(nn.Module):
        """A quantizer as loops call it; for type checkers only, since parts need no base class."""

        def __call__(self, z_BND: Tensor, step: int) -> Quantized: ...
        def lookup(self, code_BN: Tensor) -> Tensor: ...


class Quantized(NamedTuple):
    """Output of every quantizer.

    The loop sums `weight * loss` and logs both dicts without knowing names.
    """

    z_q_BND: Tensor  # with a straight-through (or other) gradient to z
    code_BN: Tensor  # int64 in [0, num_codes)
    losses: dict[str, tuple[float, Tensor]]  # name -> (weight, scalar)
    stats: dict[str, Tensor]  # name -> scalar, detached
