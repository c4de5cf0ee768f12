"""One of two gloo processes that average gradients; prints what came out as JSON.

Run by test_gradients.py as `python two_averagers.py RANK MEETING_FILE`.
"""

import json
import sys
from typing import Any
from unittest import mock

import torch
import torch.distributed as td
from torch import nn

from tokenlaw.trainer.loop.gradients import GradientAverager

BUCKET_BYTES = 256  # several messages


class Model(nn.Module):
    """Parameters of many kinds; called in parts, never as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Parameter(torch.ones(3))
        self.first_only = nn.Parameter(torch.ones(3))  # used by the first process
        self.conv = nn.Conv2d(2, 6, 3).to(memory_format=torch.channels_last)
        self.hidden = nn.Linear(6, 12)
        self.of_64_bits = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.last = nn.Linear(12, 1)

    def loss(self, x_BCHW: torch.Tensor, rank: int) -> torch.Tensor:
        hidden = self.hidden(self.conv(x_BCHW).mean((2, 3))).tanh()
        value = self.last(hidden).square().mean() + (hidden.double() @ self.of_64_bits).mean()
        return value + (self.first_only.sum() ** 2 if rank == 0 else 0.0)


def batches(rank: int) -> list[torch.Tensor]:
    """Two micro-batches of a process."""
    torch.manual_seed(10 + rank)
    return list(torch.randn(2, 4, 2, 5, 5))


def gradients_of(model: nn.Module) -> dict[str, Any]:
    return {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()}


def alone(rank: int) -> dict[str, Any]:
    """The gradients of one process's own batches."""
    torch.manual_seed(0)
    model = Model()
    for x_BCHW in batches(rank):
        model.loss(x_BCHW, rank).backward()
    return gradients_of(model)


def together(rank: int) -> dict[str, Any]:
    """Those of both, with how many messages had left when the backward pass came to the end of the
    model, and when it was over.
    """
    torch.manual_seed(0)
    model = Model()
    averager = GradientAverager(model.parameters(), BUCKET_BYTES)
    other = nn.Linear(3, 1)
    apart = GradientAverager(other.parameters())
    sent = []
    found: dict[str, Any] = {}
    with mock.patch.object(td, "all_reduce", wraps=td.all_reduce) as all_reduce:
        for step in range(2):  # the second time the same again
            first, second = batches(rank)
            averager.backward(model.loss(first, rank), last=False)
            torch.autograd.grad(model.loss(second, rank), model.last.weight)
            sent.append(all_reduce.call_count)
            x_BCHW = second.requires_grad_()
            x_BCHW.register_hook(lambda _: sent.append(all_reduce.call_count))
            averager.backward(model.loss(x_BCHW, rank))
            sent.append(all_reduce.call_count)
            apart.backward(other(torch.full((3,), rank + 1.0)).sum())
            found[f"step {step}"] = gradients_of(model)
            found["other"] = gradients_of(other)
            weight = model.conv.weight
            assert weight.grad is not None and weight.grad.stride() == weight.stride()
            model.zero_grad(set_to_none=True)
            other.zero_grad(set_to_none=True)
            all_reduce.reset_mock()
    return found | {"sent": sent}


if __name__ == "__main__":
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    td.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    print(json.dumps(together(rank)))
    td.destroy_process_group()
