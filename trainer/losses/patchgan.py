"""PatchGAN discriminator (NLayerDiscriminator of pix2pix and taming) and its adversarial losses.

Shapes: B images, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .. import kernels
from ..accounting import flops
from ..accounting.config import (
    STRICT,
    CountInt,
    NonNegativeFloat,
    OptimConfig,
    PositiveFloat,
    PositiveInt,
    Share,
)
from ..accounting.flops import Cost
from ..accounting.learning_rate import cosine_ramp
from ..loop.allreduce import sum_over_processes
from ..loop.distributed import active, mean
from . import _diffaug, _gan

VERSION = 1
BETTER = {
    "train_logit_real": None,
    "train_logit_fake": None,
    "train_gradient_penalty": "lower",
    "train_lecam": "lower",
}
ROLE = "adversarial"

_SLOPE = 0.2  # of every LeakyReLU
_EPS = 1e-5  # of every norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Defaults are CRT's: Wasserstein, off for 20k iterations, then a cosine up to 0.5 over 2k."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 0.5  # of the generator's loss after the ramp
    start_iteration: CountInt = 20_000  # both sides are off before it
    ramp_iterations: CountInt = 2_000  # cosine from 0 to `weight`; 0: a hard gate (LlamaGen)
    objective: _gan.Objective = "wgan_clip"  # LlamaGen, IBQ: hinge
    # What the tokenizer minimises, where that is not what goes with `objective`: -mean D (linear)
    # or the mean of softplus(-D of an image), which IBQ pairs with hinge.
    generator_objective: Literal["linear", "non_saturating"] | None = field(
        default=None, metadata={"id_default": None}
    )
    # Changes of all images that the discriminator sees, in this order (DiffAugment; VCQ: all
    # three); (): none.
    diffaug: tuple[_diffaug.Name, ...] = field(default=(), metadata={"id_default": ()})
    clip_limit: PositiveFloat = 0.01  # wgan_clip: every weight is kept in [-limit, limit]
    gradient_penalty: NonNegativeFloat = 10.0  # wgan_gp: weight of the penalty
    ndf: PositiveInt = 64  # channels of the first layer
    n_layers: CountInt = 3  # strided layers; 1 or 2 fit images of 16 or 32 pixels
    lecam_weight: NonNegativeFloat = 0.0  # IBQ: 0.05
    lecam_decay: Share = 0.999  # moving averages of the mean outputs
    adaptive: bool = False  # multiply the generator's loss by taming's gradient ratio
    gate_discriminator: bool = True  # multiply the discriminator's loss by the gated weight too
    optim: OptimConfig | None = None  # of the discriminator; None: the tokenizer's settings

    def optim_for(self, tokenizer: OptimConfig) -> OptimConfig:
        """Return the settings of the discriminator's optimiser."""
        return self.optim or tokenizer

    def gate(self, step: int) -> float:
        """Return the factor of iteration `step`: 0 before the start, 1 after the ramp."""
        return cosine_ramp(step, self.start_iteration, self.ramp_iterations)

    @property
    def passes(self) -> int:
        """Forward passes' worth of arithmetic per image and iteration, both sides' losses.

        Forward and backward to the image for the generator (2); forward and full backward of a real
        and a made image (6); the gradient penalty's own forward, backward and backward of both (6).
        """
        return 14 if self.objective == "wgan_gp" else 8

    def patches(self, resolution: int) -> int:
        """Side of the map of outputs. ValueError when the image is too small."""
        side = resolution
        for stride in self._strides():
            # Kernel 4, padding 1.
            if side < 2:
                raise ValueError(
                    f"n_layers: {self.n_layers} is too many for {resolution} px; "
                    "use fewer strided layers"
                )
            side = (side + 2 - 4) // stride + 1
        if side < 1:
            raise ValueError(
                f"n_layers: {self.n_layers} is too many for {resolution} px; "
                "use fewer strided layers"
            )
        return side

    def _strides(self) -> list[int]:
        return [2] * max(1, self.n_layers) + [1, 1]

    def widths(self) -> list[int]:
        """Return the channels between the layers: image, hidden, one output."""
        hidden = [self.ndf * min(2**n, 8) for n in range(max(1, self.n_layers) + 1)]
        return [3, *hidden, 1]

    def cost(self, resolution: int) -> Cost:
        """Count the discriminator on one image."""
        self.patches(resolution)
        widths, side, cost = self.widths(), resolution, Cost()
        for index, stride in enumerate(self._strides()):
            side = (side + 2 - 4) // stride + 1
            normed = 0 < index < len(widths) - 2
            cost += flops.conv(widths[index], widths[index + 1], 4, side**2, bias=not normed)
            cost += flops.norm(widths[index + 1]) if normed else Cost()
        return cost


class BatchNorm(nn.Module):
    """Batch normalisation with the statistics of this batch over all processes, always.

    torch's SyncBatchNorm refuses CPU tensors; per-process statistics, as elsewhere, make results
    depend on the number of devices. No running averages: a discriminator is never used frozen.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).normal_(1.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x32_BCHW = x_BCHW.float()
        count = x32_BCHW.new_full((1,), x32_BCHW.numel() / x32_BCHW.shape[1])
        total = sum_over_processes(torch.cat([x32_BCHW.sum((0, 2, 3)), count]))
        centred_BCHW = x32_BCHW - (total[:-1] / total[-1])[:, None, None]
        squares = sum_over_processes(centred_BCHW.square().sum((0, 2, 3)))
        scale_C = self.weight * torch.rsqrt(squares / total[-1] + _EPS)
        out_BCHW = centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]
        return out_BCHW.to(x_BCHW.dtype)

    def leaky_by_kernels(self, x_BCHW: Tensor) -> Tensor:
        """Apply the norm and the LeakyReLU behind it.

        A GroupNorm does that: all pixels of a batch are one image, with a channel a group.
        """
        from ..kernels.group_norm import group_norm

        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        x_1CP1 = x_BHWC.reshape(1, -1, 1, x_BHWC.shape[3]).permute(0, 3, 1, 2)
        out_1CP1 = group_norm(
            *(x_1CP1, self.weight, self.bias, len(self.weight), _EPS),
            activation="leaky_relu",
            over_processes=active(),
        ).out_BCHW
        return out_1CP1.permute(0, 2, 3, 1).reshape(x_BHWC.shape).permute(0, 3, 1, 2)


def _conv(channels_in: int, channels_out: int, stride: int, bias: bool) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 4, stride=stride, padding=1, bias=bias)
    nn.init.normal_(layer.weight, 0.0, 0.02)
    return layer


class Loss(nn.Module):
    """The discriminator and both sides' losses."""

    ema_real: Tensor  # LeCAM's moving averages of the mean outputs
    ema_fake: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.widths(), list[nn.Module]()
        for index, stride in enumerate(config._strides()):
            normed = 0 < index < len(widths) - 2
            layers.append(_conv(widths[index], widths[index + 1], stride, bias=not normed))
            if normed:
                layers.append(BatchNorm(widths[index + 1]))
            if index < len(widths) - 2:
                layers.append(nn.LeakyReLU(_SLOPE))
        self.layers = nn.Sequential(*layers)
        self._by_kernels = False
        self.register_buffer("ema_real", torch.zeros(()))
        self.register_buffer("ema_fake", torch.zeros(()))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return outputs [B, 1, h, w] for images in [-1, 1]: high for real ones."""
        # The gradient penalty takes gradients of gradients, which kernels do not have.
        penalised = self.config.objective == "wgan_gp"
        if not self._by_kernels or penalised or not kernels.usable(x_BCHW):
            logits_B1HW: Tensor = self.layers(x_BCHW)
            return logits_B1HW
        layers = list(self.layers)
        for index, layer in enumerate(layers):
            if isinstance(layer, BatchNorm):
                x_BCHW = layer.leaky_by_kernels(x_BCHW)
            elif index == 0 or not isinstance(layers[index - 1], BatchNorm):
                x_BCHW = layer(x_BCHW)
        return x_BCHW

    def use_kernels(self, recompute: bool) -> None:
        """Run norms by kernels of our own where there is a GPU."""
        self._by_kernels = True

    def weight(self, step: int) -> float:
        """Weight of the generator's loss at this step."""
        return self.config.weight * self.config.gate(step)

    def discriminator_weight(self, step: int) -> float:
        """Weight of the discriminator's loss: the generator's gated weight (LlamaGen, CRT), or 1
        from the start iteration on.
        """
        if self.config.gate_discriminator:
            return self.weight(step)
        return float(step >= self.config.start_iteration)

    def generator_loss(self, fake_BCHW: Tensor) -> Tensor:
        """Compute the tokenizer's adversarial loss; leave no gradient on the discriminator."""
        with _gan.frozen(self):
            logits = self(self._shown(fake_BCHW)).float()
        return _gan.generator_objective(
            self.config.generator_objective or self.config.objective, logits
        )

    def _shown(self, image_BCHW: Tensor) -> Tensor:
        return _diffaug.augment(image_BCHW, self.config.diffaug)

    def adaptive_weight(
        self, reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor
    ) -> Tensor:
        """Further factor of the generator's loss; 1 unless `adaptive`."""
        if not self.config.adaptive:
            return torch.ones((), device=generator_loss.device)
        return _gan.adaptive_weight(reconstruction_loss, generator_loss, last_layer)

    def discriminator_loss(
        self, real_BCHW: Tensor, fake_BCHW: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the discriminator's loss on detached images, and the values to log."""
        config = self.config
        real_BCHW, fake_BCHW = self._shown(real_BCHW.detach()), self._shown(fake_BCHW.detach())
        real, fake = self(real_BCHW).float(), self(fake_BCHW).float()
        loss = _gan.discriminator_objective(config.objective, real, fake)
        stats = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        if config.objective == "wgan_gp":
            penalty = _gan.gradient_penalty(self, real_BCHW, fake_BCHW)
            loss = loss + config.gradient_penalty * penalty
            stats["gradient_penalty"] = penalty.detach()
        if config.lecam_weight > 0:
            with torch.no_grad():
                self.ema_real.lerp_(mean(stats["logit_real"]), 1 - config.lecam_decay)
                self.ema_fake.lerp_(mean(stats["logit_fake"]), 1 - config.lecam_decay)
            penalty = _gan.lecam(real, fake, self.ema_real, self.ema_fake)
            loss = loss + config.lecam_weight * penalty
            stats["lecam"] = penalty.detach()
        return loss, stats

    @torch.no_grad()
    def after_step(self) -> None:
        """Call after the optimiser: the weight clipping of wgan_clip."""
        if self.config.objective == "wgan_clip":
            for parameter in self.parameters():
                parameter.clamp_(-self.config.clip_limit, self.config.clip_limit)
