"""Gradients averaged over processes: sent while the backward pass computes others.

torch's DistributedDataParallel does this for a module that is called as a whole. The loops here
call parts of modules, some compiled, hand the head's weight to the loss, and have backward passes
over different parameters, so hooks on the parameters themselves are the simpler thing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn

from . import distributed

BUCKET_BYTES = 32 << 20  # large enough for the links' full rate, small enough to begin early
_ALIGNED = 32  # elements: kernels over many tensors read 16 bytes at once where these begin so


class GradientAverager:
    """Makes each gradient its mean over processes; one process just runs its backward passes.

    Gradients travel in flat messages. What is in each, and their order, comes from the list of
    parameters alone, backwards, as that is about when their gradients come: so all processes agree,
    whatever gradients they have, and a resumed run adds in the same order.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._buckets: list[_Bucket] = []
        self._sending = False
        if not distributed.active():
            return
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if not self._buckets or not self._buckets[-1].takes(parameter, bucket_bytes):
                self._buckets.append(_Bucket(parameter.dtype, parameter.device))
            bucket = self._buckets[-1]
            bucket.add(parameter)
            parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Run the backward pass of `loss`; the `last` one of a step averages the gradients."""
        if not last or not self._buckets:
            loss.backward()
            return
        self._waiting = list(reversed(self._buckets))
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        self._sending = True
        try:
            loss.backward()
        finally:
            self._sending = False
        for bucket in reversed(self._waiting):
            bucket.send()
        has = [mine for bucket in self._buckets for mine in bucket.has]
        # Most often nothing is missing anywhere, which takes a shorter message to know.
        anywhere = iter(distributed.any_of_each(has) if distributed.any_true(not all(has)) else has)
        for bucket in self._buckets:
            bucket.receive([next(anywhere) for _ in bucket.parameters])

    def _arrived(self, bucket: _Bucket, _: Tensor) -> None:
        if not self._sending:
            return
        bucket.missing -= 1
        # In the agreed order, even if a later one is complete already.
        while self._waiting and self._waiting[-1].missing == 0:
            self._waiting.pop().send()


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.parameters: list[nn.Parameter] = []
        self.missing = 0  # gradients that the present backward pass has not brought yet
        self.has: list[bool] = []  # which parameters have a gradient in this process
        self._offsets: list[int] = []
        self._size = 0
        self._flat: Tensor | None = None
        self._work: Any = None

    def takes(self, parameter: nn.Parameter, limit_bytes: int) -> bool:
        """Tell if a parameter may be added."""
        alike = (self.dtype, self.device) == (parameter.dtype, parameter.device)
        return alike and self._size * self.dtype.itemsize < limit_bytes

    def add(self, parameter: nn.Parameter) -> None:
        self.parameters.append(parameter)
        self._offsets.append(self._size)
        self._size += -(-parameter.numel() // _ALIGNED) * _ALIGNED

    @torch.no_grad()
    def send(self) -> None:
        """Move the gradients into one flat tensor, where they stay, and begin to average it."""
        self._flat = torch.empty(self._size, dtype=self.dtype, device=self.device)
        views, gradients = [], []
        self.has = [parameter.grad is not None for parameter in self.parameters]
        for parameter, view in zip(self.parameters, self._views(), strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                views.append(view)
                gradients.append(parameter.grad)
                parameter.grad = view
        if views:
            torch._foreach_copy_(views, gradients)
        # Gloo cannot average.
        how = td.ReduceOp.AVG if self.device.type == "cuda" else td.ReduceOp.SUM
        self._work = td.all_reduce(self._flat, op=how, async_op=True)

    @torch.no_grad()
    def receive(self, anywhere: list[bool]) -> None:
        """Wait for the means, on a GPU without stopping the host.

        A parameter without a gradient here gets one if any process has one.
        """
        assert self._flat is not None
        self._work.wait()
        if self.device.type != "cuda":
            self._flat /= distributed.world_size()
        for parameter, view, found in zip(self.parameters, self._views(), anywhere, strict=True):
            if found and parameter.grad is None:
                parameter.grad = view
        self._flat = self._work = None

    def _views(self) -> list[Tensor]:
        """Return the place of each gradient, in its parameter's order of dimensions."""
        assert self._flat is not None
        return [
            torch.as_strided(self._flat, p.shape, torch.empty_like(p, device="meta").stride(), at)
            for p, at in zip(self.parameters, self._offsets, strict=True)
        ]
