"""Perceptual and adversarial losses, one file each; `ROLE` says which.

A perceptual part (`ROLE = "perceptual"`) exposes `Config` with `weight` and `cost(resolution) ->
Cost` (one image through the network once) and `Loss(nn.Module)`, frozen and always in eval mode:
`forward(x_BCHW, y_BCHW) -> scalar`, both in [-1, 1]. `Config.weights() -> dict[str, str]` names the
files it must load (empty: none) with the first digits of their sha256; `Loss(config, weights)`
takes the paths that the settings give for them (`pretrained.py`).

An adversarial part (`ROLE = "adversarial"`) exposes `Config` with `weight`, `start_iteration`,
`adaptive`, `cost(resolution)`, `passes` (forward passes' worth of both sides per image),
`optim_for(optim)` (its optimiser's settings, given the tokenizer's) and `Loss(nn.Module)`, whose
parameters are the discriminator's:

    weight(step) -> float                    gated weight of the generator's loss
    discriminator_weight(step) -> float      of the discriminator's
    generator_loss(fake_BCHW) -> scalar      leaves no gradient on the discriminator's weights
    adaptive_weight(reconstruction_loss, generator_loss, last_layer) -> scalar
                                             a further factor of the generator's; 1 when off
    discriminator_loss(real_BCHW, fake_BCHW) -> (scalar, stats)
    after_step()                             e.g. weight clipping

Optional for both: `use_kernels(recompute)`, to run by `trainer.kernels` on GPUs from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    # As the loop calls them; for type checkers only, since parts need no base class.
    class Perceptual(nn.Module):
        config: Any

        def __call__(self, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor: ...

    class Adversarial(nn.Module):
        config: Any

        def weight(self, step: int) -> float: ...
        def discriminator_weight(self, step: int) -> float: ...
        def generator_loss(self, fake_BCHW: Tensor) -> Tensor: ...
        def adaptive_weight(self, own: Tensor, adversarial: Tensor, last: Tensor) -> Tensor: ...
        def discriminator_loss(
            self, real_BCHW: Tensor, fake_BCHW: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]: ...
        def after_step(self) -> None: ...
