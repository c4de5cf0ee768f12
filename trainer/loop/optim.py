"""Optimisers from their settings, and the few lines around `step`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from ..accounting.config import OptimConfig
from ..accounting.learning_rate import learning_rate, weight_decay
from ..fast_start.adamw import AdamW


class Diverged(Exception):
    """A loss or gradient stopped being finite: the run ends here, recorded and excluded."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}")
        self.step = step


def derive_seed(*parts: object) -> int:
    """Derive a 63-bit seed from any values.

    Equal parts give equal seeds; neighbouring parts give unrelated seeds.
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_optimizer(module: nn.Module, optim: OptimConfig) -> AdamW:
    """Make Adam or AdamW over a module.

    Weight decay is on matrices, and with `decay_embeddings` on tables; never on gains and biases.
    """
    return optimizer_of(list(module.named_parameters()), optim)


def optimizer_of(named: list[tuple[str, nn.Parameter]], optim: OptimConfig) -> AdamW:
    """Make the optimiser of `make_optimizer` for a list of named parameters."""
    trainable = [(name, p) for name, p in named if p.requires_grad]
    matrices = [p for name, p in trainable if _is_decayed(name, p, optim)]
    others = [p for name, p in trainable if not _is_decayed(name, p, optim)]
    # Adam without decay is AdamW with decay 0.
    decay = optim.weight_decay if optim.name == "adamw" else 0.0
    groups = [
        {"params": matrices, "weight_decay": decay, "decayed": True},
        {"params": others, "weight_decay": 0.0, "decayed": False},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=optim.lr_peak, betas=(optim.beta1, optim.beta2), eps=1e-8)


def _is_decayed(name: str, parameter: nn.Parameter, optim: OptimConfig) -> bool:
    table = "embedding" in name or "codebook" in name or name.endswith("positions")
    return parameter.ndim >= 2 and (optim.decay_embeddings or not table)


def set_learning_rate(optimizer: AdamW, optim: OptimConfig, step: int, iterations: int) -> float:
    """Set and return the learning rate of iteration `step`; set a scheduled weight decay too."""
    lr = learning_rate(optim, step, iterations)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decayed"] and optim.weight_decay_end is not None:
            group["weight_decay"] = weight_decay(optim, step, iterations)
    return lr


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """Global gradient norm before clipping to `limit` (0: norm only)."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


class FiniteWatch:
    """Raises Diverged at the first loss or gradient norm that is not finite.

    On CPU at once, before the optimiser's step. On a GPU the flags are collected there and read by
    `flush`, which the loops call before every log line and checkpoint: no step waits for the
    device, and no checkpoint of a broken state is ever written.
    """

    def __init__(self, device: torch.device) -> None:
        self._deferred = device.type == "cuda"
        self._flags: list[tuple[int, str, torch.Tensor]] = []

    def check(self, step: int, what: str, value: torch.Tensor) -> None:
        """Check one scalar of iteration `step`."""
        flag = torch.isfinite(value.detach())
        if self._deferred:
            self._flags.append((step, what, flag))
        elif not flag:
            raise Diverged(step, what)

    def flush(self) -> None:
        """Read the flags collected on the device."""
        if self._flags:
            finite = torch.stack([flag for _, _, flag in self._flags]).tolist()
            for (step, what, _), good in zip(self._flags, finite, strict=True):
                if not good:
                    raise Diverged(step, what)
            self._flags.clear()


class MovingAverage:
    """Exponential moving average of a module's weights; buffers are copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        import copy

        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        for average, parameter in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(parameter.detach(), 1 - self.decay)
        for kept, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(buffer)
