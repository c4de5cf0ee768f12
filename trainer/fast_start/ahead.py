"""What a generator's training step and validation loss launch, for the compiling process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..accounting.config import GeneratorConfig
from ..accounting.flops import llama_hidden
from ..kernels import available
from .compiler import Task, ask


def compile_generator(
    config: GeneratorConfig, codebook_size: int, length: int, device: torch.device
) -> Callable[[], str | None]:
    """Has the generator's kernels compiled, if it uses any; see `ask` for what is returned."""
    if not available(device) or config.model.adaln:
        return lambda: None
    return ask(partial(generator_tasks, config, codebook_size, length), device)


def generator_tasks(config: GeneratorConfig, codebook_size: int, length: int) -> list[Task]:
    """Each kernel with its gradient on one image."""
    from ..kernels.causal_attention import causal_attention
    from ..kernels.float8_rows import float8_rows
    from ..kernels.residual_norm import residual_norm
    from ..kernels.swiglu import swiglu, swiglu_float8, swiglu_float8_gradient
    from ..kernels.token_loss import token_loss_and_gradient

    model = config.model
    dtype = torch.bfloat16 if config.numerics.precision == "bf16" else torch.float32
    width, head_size = model.width, model.width // model.heads

    def made(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=of, requires_grad=of.is_floating_point)

    def gradient(output: Tensor, *grads: Tensor | None) -> None:
        """The function's own, without autograd's engine, which would look for GPUs."""
        node: Any = output.grad_fn
        with torch.no_grad():
            node.apply(*(grads or (torch.zeros_like(output),)))

    def gain(size: int) -> Tensor:
        return made(size, of=torch.float32)

    def attention() -> None:
        q_gain = gain(head_size) if model.qk_norm else None
        k_gain = gain(head_size) if model.qk_norm else None
        cos = sin = None
        if model.position != "learned":
            cos, sin = torch.zeros(2, length, head_size // 2)
        qkv = made(1, length, 3 * width)
        gradient(causal_attention(qkv, model.heads, q_gain, k_gain, cos, sin))

    def norm(drop: float, learns: bool = True) -> None:
        x, delta = made(1, length, width), made(1, length, width)
        total, normed = residual_norm(x, delta, gain(width), model.norm_eps, drop)
        if learns:
            gradient(normed, total.detach(), normed.detach())

    def first_norm() -> None:
        _, normed = residual_norm(made(1, length, width), None, gain(width), model.norm_eps)
        gradient(normed)

    def last_norm() -> None:
        x, delta = made(1, length, width), made(1, length, width)
        _, normed = residual_norm(x, delta, gain(width), model.norm_eps, model.ffn_dropout)
        gradient(normed, None, normed.detach())

    def gate() -> None:
        hidden = llama_hidden(width, model.hidden_multiple)
        gradient(swiglu(made(length, 2 * hidden)))
        if config.float8_ffn:
            both, grad = made(length, 2 * hidden).detach(), made(length, hidden).detach()
            swiglu_float8(both)
            swiglu_float8_gradient(both, grad)
            for size in (width, hidden, 2 * hidden):  # of activations the first, of weights all
                float8_rows(gain(size)[None])
            float8_rows(made(1, width))

    def loss(masked: bool = False) -> None:
        logits, target = made(length, codebook_size).detach(), made(length, of=torch.long)
        illegal = made(length, codebook_size, of=torch.bool) if masked else None
        token_loss_and_gradient(logits, target, illegal, config.z_loss, 1.0)

    drops = {model.residual_dropout > 0, model.ffn_dropout > 0}  # two kernels, whatever the rates
    tasks: list[Task] = [attention, first_norm, last_norm, gate, loss]
    tasks += [partial(norm, 0.5 if drop else 0.0) for drop in drops]
    if config.mask_illegal:
        tasks.append(partial(loss, masked=True))  # where the codebook grows along the sequence
    if False not in drops:
        tasks.append(partial(norm, 0.0, learns=False))  # of the validation loss
    return tasks
