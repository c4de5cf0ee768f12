"""Learning rates, weight decays and loss weights as pure functions of the step. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import OptimConfig


def learning_rate(optim: OptimConfig, step: int, iterations: int) -> float:
    """Learning rate of iteration `step` (0-based) of `iterations`.

    A linear warm-up from `lr_warmup_start` reaches the peak at step `warmup_iterations`; the
    schedule covers the rest. Decaying schedules reach their end value at step `iterations`, one
    past the last, so that no update is wasted.
    """
    if step < optim.warmup_iterations:
        share = step / optim.warmup_iterations
        return optim.lr_warmup_start + (optim.lr_peak - optim.lr_warmup_start) * share
    rest = max(1, iterations - optim.warmup_iterations)
    progress = min(1.0, (step - optim.warmup_iterations) / rest)
    end = optim.lr_peak * optim.lr_end_share
    if optim.schedule == "constant":
        return optim.lr_peak
    if optim.schedule == "cosine":
        return end + (optim.lr_peak - end) * 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "linear":
        if progress <= optim.hold_share:
            return optim.lr_peak
        return optim.lr_peak + (end - optim.lr_peak) * (progress - optim.hold_share) / (
            1 - optim.hold_share
        )
    if optim.schedule == "multistep":
        passed = sum(step >= milestone * iterations for milestone in optim.milestones)
        return optim.lr_peak * optim.milestone_factor**passed
    if optim.schedule == "wsd":
        start = wsd_decay_start(optim, iterations)
        if step < start:
            return optim.lr_peak
        share = (step - start) / max(1, iterations - start)
        shape = 1 - math.sqrt(share) if optim.decay_shape == "1-sqrt" else 1 - share
        return end + (optim.lr_peak - end) * shape
    raise ValueError(f"optim.schedule: {optim.schedule!r} is unknown")


def weight_decay(optim: OptimConfig, step: int, iterations: int) -> float:
    """Return the weight decay of iteration `step` (0-based) of `iterations`.

    With `weight_decay_end` half a cosine leads there from `weight_decay`, and the last iteration
    has it, also where the learning rate warms up (VAR).
    """
    if optim.weight_decay_end is None:
        return optim.weight_decay
    share = 0.5 + 0.5 * math.cos(math.pi * step / max(1, iterations - 1))
    return optim.weight_decay_end + (optim.weight_decay - optim.weight_decay_end) * share


def wsd_decay_start(optim: OptimConfig, iterations: int) -> int:
    """First iteration of the decay of a warm-up, stable, decay schedule."""
    return iterations - round(optim.decay_share * iterations)


def cosine_ramp(step: int, start: int, length: int) -> float:
    """Return 0 before `start`, a half cosine up to 1 over `length` iterations, then 1."""
    if step < start:
        return 0.0
    if length <= 0 or step >= start + length:
        return 1.0
    return 0.5 * (1 - math.cos(math.pi * (step - start) / length))


def epochs(iterations: int, batch_size: int, num_images: int) -> float:
    """Return the passes over a data set; one crop of each image is a pass, also when ten are
    stored.
    """
    return iterations * batch_size / num_images
