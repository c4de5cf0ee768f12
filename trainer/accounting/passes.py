"""Passes of an evaluation over its images, as the trainer makes them and a plan counts them."""

from __future__ import annotations

from dataclasses import dataclass

from .config import EvaluationConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One walk over all images."""

    seed: int | None  # sample seed; None for a tokenizer
    cfg_scale: float | None  # None: the best of the scales tried, or a tokenizer's
    selecting: bool = False  # the scale is being tried


def passes(config: EvaluationConfig) -> list[Pass]:
    """List the passes in their order: one of a tokenizer, one for each scale tried and seed."""
    if config.subject == "tokenizer":
        return [Pass(seed=None, cfg_scale=None)]
    seeds = config.sample_seeds
    if config.cfg_selection == "fixed":
        return [Pass(seed=seed, cfg_scale=config.sampling.cfg_scale) for seed in seeds]
    # The best scale's samples of the first seed are scored as they are tried; only the other
    # seeds are drawn afterwards.
    tried = [Pass(seed=seeds[0], cfg_scale=scale, selecting=True) for scale in config.cfg_grid]
    return tried + [Pass(seed=seed, cfg_scale=None) for seed in seeds[1:]]


def images_per_pass(config: EvaluationConfig) -> int:
    """Count the images of a pass; without `num_samples` the whole validation set."""
    return config.num_samples or config.data.num_val


def is_guided(config: EvaluationConfig) -> bool:
    """Tell if samples take the unconditional pass of guidance as well."""
    return any(scale != 1.0 for scale in config.cfg_grid or (config.sampling.cfg_scale,))
