"""AdamW by torch's own arithmetic, without the import of torch's compiler.

Making any `torch.optim.Optimizer` imports torch._dynamo, which takes seconds, and a run that
compiles nothing has no other use for it. States have the layout of `torch.optim.AdamW`, which
takes the steps when the fast start is off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import switch


class AdamW:
    """Steps of AdamW over groups of parameters, each with its `lr` and `weight_decay`.

    On a GPU one fused pass over the parameters. A parameter without a gradient is left alone.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        self.param_groups = [{"lr": lr, "betas": betas, "eps": eps, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        # Private: torch.optim.adam.adam, the function behind torch's class (torch 2.11, 2.15).
        self._adam = switch.adam()
        self._torch: torch.optim.AdamW | None = None
        if self._adam is None:
            on_gpu = self._parameters()[0].device.type == "cuda"
            plain = torch.optim.AdamW(self.param_groups, foreach=False, fused=on_gpu)
            self.param_groups, self.state, self._torch = plain.param_groups, plain.state, plain

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        if self._torch is not None:
            self._torch.step()
            return
        assert self._adam is not None
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            for p in with_gradient:
                if p not in self.state:
                    self.state[p] = {
                        "step": _counter(torch.zeros(()), p),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
            states = [self.state[p] for p in with_gradient]
            if not states:
                continue
            self._adam(
                params=with_gradient,
                grads=[p.grad for p in with_gradient],
                exp_avgs=[state["exp_avg"] for state in states],
                exp_avg_sqs=[state["exp_avg_sq"] for state in states],
                max_exp_avg_sqs=[],
                state_steps=[state["step"] for state in states],
                foreach=False,
                fused=with_gradient[0].device.type == "cuda",
                decoupled_weight_decay=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self._parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.detach_().zero_()

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter by its place in all groups together."""
        places = enumerate(self._parameters())
        return {"state": {place: self.state[p] for place, p in places if p in self.state}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over states as `state_dict` gives them, from any device."""
        parameters = self._parameters()
        self.state.clear()
        for place, state in state_dict["state"].items():
            p = parameters[place]
            self.state[p] = {
                name: _counter(value, p)
                if name == "step"
                else torch.empty_like(p, requires_grad=False).copy_(value)
                for name, value in state.items()
            }


def _counter(value: Tensor, parameter: Tensor) -> Tensor:
    """A count of steps where torch wants it: for its fused kernel on the device."""
    on_device = parameter.device if parameter.device.type == "cuda" else "cpu"
    return value.to(on_device, torch.float32, copy=True)
