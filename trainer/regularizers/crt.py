"""CRT's causal regulariser: a small causal transformer must predict each next latent.

The model minimises the raw error; an identity on the latents scales the gradient that goes on to
the encoder by lambda(t). So the model never sees lambda, and at lambda = 0 the tokenizer trains as
if alone. Shapes: B images, N tokens, D width of a latent, W width of the model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting import flops
from ..accounting.config import (
    STRICT,
    CountInt,
    LlamaConfig,
    NonNegativeFloat,
    OptimConfig,
    PositiveInt,
)
from ..accounting.flops import Cost
from ..accounting.learning_rate import cosine_ramp
from ..models.llama import Block, RMSNorm, rope_table
from . import Regularized

VERSION = 1
BETTER = {
    "train_crt": "lower",
    "train_crt_r2_mean": "higher",
    "train_crt_r2_previous": "higher",
    "train_crt_z_norm": None,
    "train_crt_weight": None,
    "crt_flops_overhead": "lower",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Values the paper states are the defaults; what it leaves open is a switch."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 4.0  # lambda after the ramp
    ramp_iterations: CountInt = 1000  # length of lambda's rise from 0
    ramp_shape: Literal["cosine", "linear"] = "cosine"  # open; the paper's GAN weight is a cosine
    layers: PositiveInt = 2  # blocks of the causal model, those of stage 2
    width: PositiveInt = 1024  # open; the stated 5% overhead fits 1024 to 1280
    heads: PositiveInt = 16
    hidden_multiple: PositiveInt = 256  # of the SwiGLU hidden size, as in stage 2
    qk_norm: bool = True  # as in stage 2
    position: Literal["rope_2d", "rope_1d", "learned", "none"] = "rope_2d"  # as in stage 2
    latent: Literal["projected", "unprojected"] = "projected"  # open: after or before the 1x1 layer
    l2_normalize: bool = True  # open; without it a shrinking |z| lowers the loss for nothing
    detach_target: bool = False  # open; True: only the context learns to predict
    start_token: bool = False  # open; True: a learned token predicts the first latent too
    head: Literal["linear", "tied"] = "linear"  # open; tied: the input layer, transposed
    reduction: Literal["mean", "sum"] = "mean"  # open; sum: over D, which makes lambda D times it
    optim: OptimConfig | None = None  # None: AdamW at the tokenizer's rate, with the decay below
    weight_decay: NonNegativeFloat = 0.1  # of that AdamW

    def __post_init__(self) -> None:
        self.model()  # refuses a width that the heads do not divide

    def model(self) -> LlamaConfig:
        """Return the blocks of the causal model as stage 2's config of a model."""
        position = "learned" if self.position == "none" else self.position
        return LlamaConfig(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            hidden_multiple=self.hidden_multiple,
            position=position,
            qk_norm=self.qk_norm,
            token_dropout=0.0,
            residual_dropout=0.0,
            ffn_dropout=0.0,
            class_dropout=0.0,
        )

    def optim_for(self, tokenizer: OptimConfig) -> OptimConfig:
        """Return the model's own optimiser.

        By default it has the tokenizer's rate and betas at every step, as AdamW.
        """
        if self.optim is not None:
            return self.optim
        return dataclasses.replace(
            tokenizer, name="adamw", weight_decay=self.weight_decay, weight_decay_end=None
        )

    def weight_at(self, step: int) -> float:
        """Return lambda of iteration `step`."""
        if self.ramp_shape == "cosine":
            return self.weight * cosine_ramp(step, 0, self.ramp_iterations)
        return self.weight * min(1.0, step / max(1, self.ramp_iterations))

    def cost(self, tokens: int, dim: int) -> Cost:
        """Count the causal model on one image's latents: all but the last are context."""
        length = tokens - 1 + self.start_token
        width = self.width
        hidden = flops.llama_hidden(width, self.hidden_multiple)
        block = flops.linear(width, 4 * width, length) + flops.linear(width, 3 * hidden, length)
        block += flops.attention(length, length, width) + 2 * flops.norm(width, bias=False)
        if self.qk_norm:
            block += 2 * flops.norm(width // self.heads, bias=False)
        # The linear layer in has one output less to make when a start token takes a place.
        cost = flops.linear(dim, width, tokens - 1, bias=True)
        cost += self.layers * block + flops.norm(width, bias=False)
        cost += flops.linear(width, dim, length, bias=True)
        if self.head == "tied":
            cost += Cost(-width * dim)
        if self.start_token:
            cost += Cost(width)
        if self.position == "learned":
            cost += Cost(length * width)
        return cost


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None


def scale_gradient(z: Tensor, scale: float) -> Tensor:
    """Return `z`, whose gradient is multiplied by `scale` on the way back."""
    scaled: Tensor = _ScaleGradient.apply(z, scale)
    return scaled


class Regularizer(nn.Module):
    """Adds the loss `crt`, the error of the next latent, weight 1 (lambda acts on gradients).

    Latents go through unchanged. Collapse guards in the stats: mean |z| before any normalisation,
    and R^2 of the prediction against always saying the mean latent and against repeating the last
    one. An R^2 against the latter near or below 0 means that the model knows only smoothness.
    """

    def __init__(self, config: Config, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        model, width = config.model(), config.width
        self.length = grid[0] * grid[1] - 1 + config.start_token
        self.project_in = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Block(model) for _ in range(config.layers))
        self.norm = RMSNorm(width, model.norm_eps)
        self.head_bias = nn.Parameter(torch.zeros(dim))
        if config.head == "linear":
            self.head_weight = nn.Parameter(torch.empty(dim, width))
        if config.start_token:
            self.start = nn.Parameter(torch.empty(width))
        if config.position == "learned":
            self.positions = nn.Parameter(torch.empty(self.length, width))
        elif config.position != "none":
            table = rope_table(
                config.position, width // config.heads, grid, model.rope_base, model.rope_cls
            )
            # Row 0 belongs to the start token; the last latent is never context.
            first = 0 if config.start_token else 1
            self.register_buffer("rope", table[first : first + self.length], persistent=False)
        self.reset_parameters(model.init_std)

    def reset_parameters(self, std: float) -> None:
        """Initialise by N(0, std) for matrices and tables, ones for gains, zeros for biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=std)

    def predict(self, z_BND: Tensor) -> Tensor:
        """Predict every latent from those before it: N of them, or N - 1 without a start token."""
        x_BNW = self.project_in(z_BND[:, :-1])
        if self.config.start_token:
            x_BNW = torch.cat([self.start.to(x_BNW).expand(len(x_BNW), 1, -1), x_BNW], dim=1)
        table = None
        if self.config.position == "learned":
            x_BNW = x_BNW + self.positions
        elif self.config.position != "none":
            table = self.rope
        for block in self.blocks:
            x_BNW = block(x_BNW, table)
        weight = self.head_weight if self.config.head == "linear" else self.project_in.weight.T
        return F.linear(self.norm(x_BNW), weight, self.head_bias)

    def forward(self, z_BND: Tensor, step: int) -> Regularized:
        weight = self.config.weight_at(step)
        seen_BND = scale_gradient(z_BND, weight).float()
        if self.config.l2_normalize:
            seen_BND = F.normalize(seen_BND, dim=-1)
        target_BND = seen_BND if self.config.start_token else seen_BND[:, 1:]
        if self.config.detach_target:
            target_BND = target_BND.detach()
        error_BND = self.predict(seen_BND).float() - target_BND
        loss = error_BND.square().mean()
        if self.config.reduction == "sum":
            loss = loss * z_BND.shape[-1]
        stats = self._stats(z_BND, seen_BND, error_BND)
        stats["crt_weight"] = torch.full((), weight, device=z_BND.device)
        return Regularized(z_BND, {"crt": (1.0, loss)}, stats)

    @torch.no_grad()
    def _stats(self, z_BND: Tensor, seen_BND: Tensor, error_BND: Tensor) -> dict[str, Tensor]:
        after_BND = seen_BND[:, 1:]
        error = error_BND[:, -after_BND.shape[1] :].square().mean()
        spread = (after_BND - after_BND.mean((0, 1))).square().mean()
        change = (after_BND - seen_BND[:, :-1]).square().mean()
        return {
            "crt_z_norm": z_BND.float().norm(dim=-1).mean(),
            "crt_r2_mean": 1 - error / spread.clamp(min=1e-12),
            "crt_r2_previous": 1 - error / change.clamp(min=1e-12),
        }
