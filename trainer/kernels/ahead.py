"""Compiles a generator's kernels before its first step, several at once: the step would meet, and
compile, one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from ..config import GeneratorConfig
from ..flops import llama_hidden


def compile_generator(
    config: GeneratorConfig, codebook_size: int, length: int, device: torch.device
) -> None:
    """Each kernel with its gradient on one image, each in a thread. With a warm cache of Triton's
    this takes no time.
    """
    dtype = torch.bfloat16 if config.numerics.precision == "bf16" else torch.float32
    tasks = _tasks(config, codebook_size, length, dtype, device)

    def run(task: Callable[[], None]) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a thread of its own begins with the first
        task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for _ in pool.map(run, tasks):
            pass


def _tasks(
    config: GeneratorConfig,
    codebook_size: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Callable[[], None]]:
    from .causal_attention import causal_attention
    from .residual_norm import residual_norm
    from .swiglu import swiglu, swiglu_float8, swiglu_float8_gradient
    from .token_loss import token_loss_and_gradient

    model = config.model
    width, head_size = model.width, model.width // model.heads

    def made(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=of, device=device, requires_grad=of.is_floating_point)

    def gain(size: int) -> Tensor:
        return made(size, of=torch.float32)

    def attention() -> None:
        q_gain = gain(head_size) if model.qk_norm else None
        k_gain = gain(head_size) if model.qk_norm else None
        cos = sin = None
        if model.position != "learned":
            cos, sin = torch.zeros(2, length, head_size // 2, device=device)
        qkv = made(1, length, 3 * width)
        causal_attention(qkv, model.heads, q_gain, k_gain, cos, sin).sum().backward()

    def norm(drop: float, learns: bool = True) -> None:
        x, delta = made(1, length, width), made(1, length, width)
        total, normed = residual_norm(x, delta, gain(width), model.norm_eps, drop)
        if learns:
            (total.sum() + normed.sum()).backward()

    def first_norm() -> None:
        _, normed = residual_norm(made(1, length, width), None, gain(width), model.norm_eps)
        normed.sum().backward()

    def last_norm() -> None:
        x, delta = made(1, length, width), made(1, length, width)
        _, normed = residual_norm(x, delta, gain(width), model.norm_eps, model.ffn_dropout)
        normed.sum().backward()

    def gate() -> None:
        hidden = llama_hidden(width, model.hidden_multiple)
        swiglu(made(length, 2 * hidden)).sum().backward()
        if config.float8_ffn:
            both, grad = made(length, 2 * hidden).detach(), made(length, hidden).detach()
            swiglu_float8(both)
            swiglu_float8_gradient(both, grad)

    def loss() -> None:
        logits, target = made(length, codebook_size).detach(), made(length, of=torch.long)
        token_loss_and_gradient(logits, target, None, config.z_loss, 1.0)

    drops = {model.residual_dropout > 0, model.ffn_dropout > 0}  # two kernels, whatever the rates
    tasks = [attention, first_norm, last_norm, gate, loss]
    tasks += [partial(norm, 0.5 if drop else 0.0) for drop in drops]
    if False not in drops:
        tasks.append(partial(norm, 0.0, learns=False))  # of the validation loss
    return tasks
