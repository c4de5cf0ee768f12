"""Adversarial objectives, the gate of the adversarial weight, LeCAM, and the adaptive weight.

`real` and `fake` are the discriminator's outputs (logits), of shape [B, 1, h, w] for patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..loop.distributed import mean

Objective = Literal["hinge", "wgan_clip", "wgan_gp", "non_saturating"]


def discriminator_objective(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's objective, without the gradient penalty of wgan_gp."""
    if objective == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    if objective == "non_saturating":
        return F.softplus(-_per_image(real)).mean() + F.softplus(_per_image(fake)).mean()
    return fake.mean() - real.mean()


def generator_objective(objective: Objective | Literal["linear"], fake: Tensor) -> Tensor:
    """Compute the adversarial objective of the tokenizer.

    Hinge and Wasserstein share the linear one; only their critics differ.
    """
    if objective == "non_saturating":
        return F.softplus(-_per_image(fake)).mean()
    return -fake.mean()


def _per_image(logits: Tensor) -> Tensor:
    # IBQ and Open-MAGVIT2 take the mean over patches before the nonlinearity.
    return logits.flatten(1).mean(1)


def lecam(real: Tensor, fake: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
    """Compute LeCAM: mean relu(D(x) - ema_fake)^2 + mean relu(ema_real - D(y))^2."""
    return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()


def adaptive_weight(reconstruction_loss: Tensor, gan_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Compute taming's factor of the adversarial loss, at most 1e4; fp32, detached.

    It is the ratio of two gradients at the decoder's last weight: that of the reconstruction (with
    the perceptual term) over that of the adversarial loss.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (of_gan,) = torch.autograd.grad(gan_loss, last_layer, retain_graph=True)
    # Of the whole batch: each process has the gradients of its own share.
    of_reconstruction, of_gan = mean(of_reconstruction.float()), mean(of_gan.float())
    ratio: Tensor = of_reconstruction.norm() / (of_gan.norm() + 1e-4)
    return ratio.clamp(0.0, 1e4).detach()


def gradient_penalty(discriminator: nn.Module, real_BCHW: Tensor, fake_BCHW: Tensor) -> Tensor:
    """Mean (|d mean D / d image| - 1)^2 at random points between real and made images.

    The map of patches is summed up to one critic value an image, as a mean over patches.
    """
    share_B111 = torch.rand(len(real_BCHW), 1, 1, 1, device=real_BCHW.device)
    between_BCHW = torch.lerp(fake_BCHW.float(), real_BCHW.float(), share_B111).requires_grad_()
    value_B = _per_image(discriminator(between_BCHW).float())
    (slope_BCHW,) = torch.autograd.grad(value_B.sum(), between_BCHW, create_graph=True)
    # The small constant keeps the root differentiable where a slope vanishes.
    norm_B = (slope_BCHW.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm_B - 1).square().mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze a module for a block: a forward pass records gradients to its input only.

    The module's weights get none.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
