"""Draws batch after batch of codes; on a GPU one token's step is recorded and replayed.

Shape suffixes: B samples, L tokens per image.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..accounting.config import SamplingConfig
from ..models.llama import Generator
from .draw import guidance_scales, sample, sample_uniforms
from .token_step import TokenStep

_TOKENS = 8  # recorded at most
_GUIDANCE = ("cfg_scale", "cfg_schedule", "cfg_step_share", "cfg_power", "cfg_codebook")


class Sampler:
    """Draws what `sample` draws.

    On a GPU a token's step is recorded, as a CUDA graph, and replayed for all tokens: the
    host takes longer to launch its kernels than the GPU to run them. `cache_dtype` is that of
    `TokenStep`, and does nothing elsewhere.
    """

    def __init__(
        self,
        generator: Generator,
        codebook_sizes: Sequence[int] | None = None,
    ) -> None:
        self._generator, self._sizes = generator, codebook_sizes
        self._recorded: _Recorded | None = None  # the newest: each holds a whole cache

    def __call__(
        self,
        class_B: Tensor,
        seeds_B: Sequence[int],
        sampling: SamplingConfig,
        stopping: Callable[[], bool] | None = None,
    ) -> Tensor:
        """Codes [B, L]; raises InterruptedError when `stopping()` turns true between tokens (on a
        GPU: while tokens are queued, which is ahead of their being drawn)."""
        if not class_B.is_cuda:
            return sample(self._generator, class_B, seeds_B, sampling, self._sizes, stopping)
        scales = guidance_scales(sampling, self._generator.tokens_per_image, self._sizes)
        guided = any(scale != 1.0 for scale in scales)
        recorded = self._recorded
        if recorded is None or not recorded.serves(len(class_B), guided, sampling):
            self._recorded = recorded = None  # its memory is free before the next one takes some
            recorded = self._record(len(class_B), guided, sampling)
            self._recorded = recorded
        return recorded(class_B, seeds_B, scales, stopping)

    @torch.inference_mode()
    def _record(self, batch: int, guided: bool, sampling: SamplingConfig) -> _Recorded:
        # A graph must not read casts of weights that autocast keeps no longer than its context.
        dtype = torch.get_autocast_dtype("cuda")
        enabled = torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
            step = TokenStep(self._generator, batch, guided, sampling, self._sizes)
            return _Recorded(step, batch, guided, sampling)


class _Recorded:
    """A CUDA graph of the step of one batch size, for a few tokens: between two replays the GPU
    waits."""

    def __init__(self, step: TokenStep, batch: int, guided: bool, sampling: SamplingConfig) -> None:
        self._step, self._batch, self._guided, self._sampling = step, batch, guided, sampling
        device = step.code_BL.device
        # What libraries set up at their first call cannot be recorded.
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream(device).wait_stream(side)
        self._tokens = math.gcd(step.code_BL.shape[1], _TOKENS)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may prepare data for the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            for _ in range(self._tokens):
                step()

    def serves(self, batch: int, guided: bool, sampling: SamplingConfig) -> bool:
        """Whether these samples can be drawn: a smaller batch, another guidance scale can."""
        same = dataclasses.replace(
            sampling,
            **{name: getattr(self._sampling, name) for name in _GUIDANCE},
        )
        return batch <= self._batch and guided == self._guided and same == self._sampling

    @torch.inference_mode()
    def __call__(
        self,
        class_B: Tensor,
        seeds_B: Sequence[int],
        scales: Sequence[float],
        stopping: Callable[[], bool] | None,
    ) -> Tensor:
        uniform_BL = sample_uniforms(seeds_B, len(scales)).to(class_B.device)
        self._step.begin(class_B, uniform_BL, scales)
        for _ in range(0, len(scales), self._tokens):
            if stopping is not None and stopping():
                raise InterruptedError("stopped while sampling")
            self._graph.replay()
        return self._step.code_BL[: len(class_B)].clone()
