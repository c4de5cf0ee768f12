"""The stage-2 model: a Llama-style autoregressive generator over a tokenizer's codes.

Shape suffixes: B images, L tokens of an image (the sequence is [class, code_1 .. code_{L-1}], and
position t predicts code_{t+1}), D width, H heads, E head size, V codebook size, T positions in a
call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting.config import LlamaConfig
from ..accounting.flops import llama_hidden
from ..kernels import float8, usable
from ..loop.optim import derive_seed
from .operations import Cache, CachedOperations, KernelOperations, Operations

CPU = torch.device("cpu")


def rope_table(
    position: str, head_size: int, grid: tuple[int, int], base: float, cls_row: str
) -> Tensor:
    """What `rotate` takes, [1 + rows * columns, head_size, 2], for the class token and each code.

    Of every dimension the cosine, and the sine with the sign that the dimension's partner comes
    with. Made on the CPU and then put where tensors are being made.

    2D: the first half of a head's dimensions turns with the row, the second with the column
    (LlamaGen). The class token's row is all zeros (`zero`: its query and key vanish, as in the
    published LlamaGen weights) or a rotation by nothing (`identity`).
    """
    rows, columns = grid
    count = rows * columns
    if position == "rope_2d":
        half = head_size // 2
        frequency = base ** (-torch.arange(0, half, 2, dtype=torch.float64, device=CPU) / half)
        index = torch.arange(count, device=CPU)
        row = (index // columns).to(torch.float64)[:, None] * frequency
        column = (index % columns).to(torch.float64)[:, None] * frequency
        angle = torch.cat([row, column], dim=1)
    else:
        frequency = base ** (
            -torch.arange(0, head_size, 2, dtype=torch.float64, device=CPU) / head_size
        )
        angle = torch.arange(1, count + 1, dtype=torch.float64, device=CPU)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    even, odd = torch.stack([cos, -sin], dim=-1), torch.stack([cos, sin], dim=-1)
    table = torch.stack([even, odd], dim=-2).flatten(-3, -2)
    first = torch.zeros_like(table[:1])
    if cls_row == "identity":
        first[..., 0] = 1.0
    table = torch.cat([first, table]).to(torch.float32)
    return table.to(torch.get_default_device())


def rotate(x_BTHE: Tensor, table_TE2: Tensor) -> Tensor:
    """Turns neighbouring pairs of the last dimension by the angles of `rope_table`, in fp32."""
    x = x_BTHE.float()
    # Every number with its neighbour, in order: faster on a GPU than the two of a pair apart.
    cos_TE, sin_TE = table_TE2[None, :, None].unbind(-1)
    neighbour: Tensor = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x * cos_TE + neighbour * sin_TE).to(x_BTHE.dtype)


class Linear(nn.Linear):
    """A linear layer that draws no weights of its own: the model that holds it sets them."""

    def reset_parameters(self) -> None:
        pass


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain; statistics in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention with fused projections, optional QK-norm and rotary positions."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_size = config.width // config.heads
        self.wqkv = Linear(config.width, 3 * config.width, bias=False)
        self.wo = Linear(config.width, config.width, bias=False)
        # LayerNorm without bias on each head's queries and keys, before the rotation (ViT-22B).
        self.q_norm = nn.LayerNorm(self.head_size, bias=False) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_size, bias=False) if config.qk_norm else nn.Identity()

    def split(self, qkv_BTP: Tensor, table_TE2: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, E] from the projection."""
        q_BTHE, k_BTHE, v_BTHE = qkv_BTP.unflatten(-1, (3, self.heads, self.head_size)).unbind(2)
        q_BTHE, k_BTHE = self.q_norm(q_BTHE), self.k_norm(k_BTHE)
        if table_TE2 is not None:
            q_BTHE, k_BTHE = rotate(q_BTHE, table_TE2), rotate(k_BTHE, table_TE2)
        q, k, v = (t.transpose(1, 2).to(v_BTHE.dtype) for t in (q_BTHE, k_BTHE, v_BTHE))
        return q, k, v

    def gains(self) -> tuple[Tensor | None, Tensor | None]:
        """Gains of the norms of queries and keys; None without QK-norm."""
        if isinstance(self.q_norm, nn.LayerNorm) and isinstance(self.k_norm, nn.LayerNorm):
            return self.q_norm.weight, self.k_norm.weight
        return None, None


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), with w1 and w3 in one matrix.

    With `float8` its products are 8-bit ones while it trains (float8.py).
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.float8 = False
        hidden = llama_hidden(config.width, config.hidden_multiple)
        self.w13 = Linear(config.width, 2 * hidden, bias=False)
        self.w2 = Linear(hidden, config.width, bias=False)


class Block(nn.Module):
    """Pre-norm transformer block; with AdaLN the class modulates both norms (IBQ, after VAR)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = SwiGLU(config)
        self.residual_dropout = nn.Dropout(config.residual_dropout)
        self.ffn_dropout = nn.Dropout(config.ffn_dropout)
        self.adaln = Linear(config.width, 6 * config.width) if config.adaln else None

    def forward(
        self,
        x_BTD: Tensor,
        table_TE2: Tensor | None = None,
        class_BD: Tensor | None = None,
    ) -> Tensor:
        """Whole sequences by plain operations, as in training: what torch compiles."""
        modulation = None
        if self.adaln is not None:
            assert class_BD is not None
            modulation = self.adaln(F.silu(class_BD))[:, None]
        ops = Operations(x_BTD, table_TE2)
        self.body(ops, modulation)
        return ops.x

    def body(self, ops: Operations, modulation: Tensor | None = None) -> None:
        """Add attention, then the feed-forward layer, to the stream of `ops`.

        The one text of a block, in training and in sampling. `modulation` [..., 6 D] is AdaLN's.
        """
        gamma1 = beta1 = alpha1 = gamma2 = beta2 = alpha2 = None
        if modulation is not None:
            gamma1, beta1, alpha1, gamma2, beta2, alpha2 = modulation.chunk(6, dim=-1)
        attention, ffn = self.attention, self.ffn
        qkv = ops.project(self.attention_norm, attention.wqkv, gamma1, beta1)
        attended = ops.attend(attention, qkv)
        ops.add_product(attention.wo, attended, self.residual_dropout, alpha1)
        if ffn.float8 and ffn.training:
            normed = ops.norm(self.ffn_norm, gamma2, beta2)
            update = float8.feed_forward(normed, ffn.w13.weight, ffn.w2.weight)
            ops.add(update, self.ffn_dropout, alpha2)
        else:
            hidden = ops.swiglu(ops.project(self.ffn_norm, ffn.w13, gamma2, beta2))
            ops.add_product(ffn.w2, hidden, self.ffn_dropout, alpha2)


def _table(entries: int, width: int) -> nn.Embedding:
    """An embedding whose own initialisation, which is not ours, is left out."""
    table: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(entries, width), freeze=False)
    return table


class Generator(nn.Module):
    """Logits of the next code given the class and the codes so far."""

    rope: Tensor

    def __init__(
        self,
        config: LlamaConfig,
        codebook_size: int,
        num_classes: int,
        grid: tuple[int, int],
        initial: bool = True,  # False: weights are left unset, for those of a finished run
    ) -> None:
        super().__init__()
        self.config = config
        self.codebook_size = codebook_size
        # id of the null class; real classes are 0 .. num_classes - 1
        self.num_classes = num_classes
        self.grid = grid
        self.tokens_per_image = grid[0] * grid[1]
        self.code_embedding = _table(codebook_size, config.width)
        self.class_embedding = _table(num_classes + 1, config.width)
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.final_adaln = Linear(config.width, 2 * config.width) if config.adaln else None
        self.head = Linear(config.width, codebook_size, bias=False)
        if config.position == "learned":
            self.positions = nn.Parameter(torch.empty(self.tokens_per_image + 1, config.width))
        else:
            head_size = config.width // config.heads
            table = rope_table(config.position, head_size, grid, config.rope_base, config.rope_cls)
            self.register_buffer("rope", table, persistent=False)
        if initial and not self.head.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, init_std) everywhere but a zero head, so that the first loss is ln V exactly.

        A function of torch's seed and each tensor's name: tensors are filled by several threads,
        since a billion numbers take one thread ten seconds.
        """
        seed = torch.initial_seed()

        def fill(name: str, parameter: nn.Parameter) -> None:
            if name == "head.weight" or name.endswith("adaln.bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            else:
                gain = self.config.adaln_gain_init if name.endswith("adaln.weight") else 1.0
                draws = torch.Generator(parameter.device).manual_seed(derive_seed(seed, name))
                nn.init.normal_(parameter, std=self.config.init_std * gain, generator=draws)

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for _ in pool.map(fill, *zip(*self.named_parameters(), strict=True)):
                pass
        if self.config.adaln_scale_init is not None:
            self._rescale_adaln(self.config.adaln_scale_init / self.config.adaln_gain_init)

    @torch.no_grad()
    def _rescale_adaln(self, factor: float) -> None:
        """Multiply all that AdaLN makes of a class, except the two gates of a block."""
        *of_blocks, final = self.adalns
        for layer in of_blocks:
            assert layer is not None
            layer.weight.unflatten(0, (2, 3, -1))[:, :2].mul_(factor)  # scale, shift, gate
        assert final is not None
        final.weight.mul_(factor)

    def use_float8(self) -> None:
        """From now on feed-forward layers train by 8-bit products."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.ffn.float8 = True

    def drop_classes(self, class_B: Tensor) -> Tensor:
        """In training a share `class_dropout` of the classes becomes the null class."""
        if not self.training or self.config.class_dropout == 0:
            return class_B
        dropped = torch.rand(class_B.shape, device=class_B.device) < self.config.class_dropout
        return torch.where(dropped, self.num_classes, class_B)

    def forward(self, code_BT: Tensor, class_B: Tensor) -> Tensor:
        """Logits [B, T + 1, V] in the autocast dtype for codes 1 .. T + 1, from codes 1 .. T.

        Training passes the first L - 1 codes of an image and gets the logits of all L.
        """
        logits_BTK: Tensor = self.head(self.hidden(code_BT, class_B))
        return logits_BTK

    def hidden(self, code_BT: Tensor, class_B: Tensor) -> Tensor:
        """Final normalised activations [B, T + 1, D]."""
        class_BD = self.class_embedding(self.drop_classes(class_B))
        x_BTD = torch.cat([class_BD[:, None], self.code_embedding(code_BT)], dim=1)
        length = x_BTD.shape[1]
        table = None
        if self.config.position == "learned":
            x_BTD = x_BTD + self.positions[:length]
        else:
            table = self.rope[:length]
        # The meta device, on which models are counted, knows no autocast.
        if x_BTD.device.type != "meta" and torch.is_autocast_enabled(x_BTD.device.type):
            # The residual stream too: half the bytes of what every block reads and writes.
            x_BTD = x_BTD.to(torch.get_autocast_dtype(x_BTD.device.type))
        x_BTD = self.token_dropout(x_BTD)
        if self.uses_kernels:
            # One number a call from the generator that the step has seeded, on the CPU: nothing
            # waits.
            seed = int(torch.randint(1 << 30, ())) if self.training else 0
            return self.through(KernelOperations(x_BTD, table, seed), [None] * len(self.adalns))
        for block in self.blocks:
            x_BTD = block(x_BTD, table, class_BD)
        return self.final_norm(Operations(x_BTD), self.modulation(self.final_adaln, class_BD))

    @property
    def uses_kernels(self) -> bool:
        """Whether blocks run by kernels of our own, which leave nothing for torch.compile."""
        return usable(self.head.weight) and not self.config.adaln

    @property
    def adalns(self) -> list[Linear | None]:
        """Layers of AdaLN: of each block, and of the final norm."""
        return [*(block.adaln for block in self.blocks), self.final_adaln]  # type: ignore[list-item]

    @staticmethod
    def modulation(layer: Linear | None, class_BD: Tensor) -> Tensor | None:
        """What AdaLN makes of the class, the same for all positions."""
        return None if layer is None else layer(F.silu(class_BD))[:, None]

    def through(self, ops: Operations, modulations: Sequence[Tensor | None]) -> Tensor:
        """Final normalised activations from the stream of `ops`; modulations as `adalns`."""
        for block, modulation in zip(self.blocks, modulations[:-1], strict=True):
            assert isinstance(block, Block)
            block.body(ops, modulation)
        return self.final_norm(ops, modulations[-1])

    def final_norm(self, ops: Operations, modulation: Tensor | None) -> Tensor:
        scale, shift = (None, None) if modulation is None else modulation.chunk(2, dim=-1)
        return ops.norm(self.norm, scale, shift)

    # -------------------------------------------------------------------------- one token at a time

    def new_cache(self, batch: int, device: torch.device, dtype: torch.dtype) -> list[Cache]:
        """Empty key-value caches of all layers."""
        heads, head_size = self.config.heads, self.config.width // self.config.heads
        shape = (batch, heads, self.tokens_per_image, head_size)
        return [Cache(shape, device, dtype) for _ in self.blocks]

    def step(
        self, code_B: Tensor | None, class_BD: Tensor, caches: list[Cache], position: int
    ) -> Tensor:
        """fp32 logits [B, V] of code `position + 1` from the code before it (None: the class)."""
        x_BTD = class_BD[:, None] if code_B is None else self.code_embedding(code_B)[:, None]
        table = None
        if self.config.position == "learned":
            x_BTD = x_BTD + self.positions[position : position + 1]
        else:
            table = self.rope[position : position + 1]
        if torch.is_autocast_enabled(x_BTD.device.type):
            x_BTD = x_BTD.to(torch.get_autocast_dtype(x_BTD.device.type))  # as in `hidden`
        owners: list[Any] = [block.attention for block in self.blocks]
        ops = CachedOperations(x_BTD, table, dict(zip(owners, caches, strict=True)), position)
        modulations = [self.modulation(layer, class_BD) for layer in self.adalns]
        logits_BK: Tensor = self.head(self.through(ops, modulations))[:, 0].float()
        return logits_BK
