"""One token of a batch of samples, with everything that depends on its position on the device.

So the step is the same at every position, and a GPU can replay a recording of it. Where kernels
cannot run, plain operations do what they do; tests compare both with `sampling.sample`, which says
what is drawn.

Shape suffixes: B samples, R rows (one sequence each), L tokens per image, D width, H heads, E head
size, P outputs of a projection, V codebook size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accounting.config import SamplingConfig
from ..kernels import usable
from ..models.llama import Attention, Block, Generator, RMSNorm
from ..models.operations import Cache, KernelOperations, Operations
from .draw import NO_KERNELS, draw


class _Past(NamedTuple):
    """The position, and of each layer the cache, with the units of an int8 one."""

    position_1: Tensor
    caches: dict[Attention, tuple[Cache, Tensor | None]]


class _Plain(Operations):
    """Plain operations on one token of each row."""

    def __init__(self, x_RD: Tensor, table_LE2: Tensor | None, past: _Past) -> None:
        super().__init__(x_RD, table_LE2)
        self._past = past

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        position_1, (cache, _) = self._past.position_1, self._past.caches[attention]
        table = self.table_TE2
        row_1E2 = None if table is None else table.index_select(0, position_1)
        q, k, v = attention.split(qkv[:, None], row_1E2)
        cache.k.index_copy_(2, position_1, k)
        cache.v.index_copy_(2, position_1, v)
        known_L = torch.arange(cache.k.shape[2], device=k.device) <= position_1
        attended_RH1E = F.scaled_dot_product_attention(q, cache.k, cache.v, known_L[None])
        return attended_RH1E.transpose(1, 2).flatten(1)


class _Kernels(KernelOperations):
    """Kernels on one token of each row."""

    def __init__(self, x_RD: Tensor, table_LE2: Tensor | None, past: _Past) -> None:
        super().__init__(x_RD, table_LE2)
        self._past = past

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        return self._attend(attention, qkv, None, 0.0)

    def _attend(
        self, attention: Attention, qkv: Tensor, stream_RD: Tensor | None, stream_eps: float
    ) -> Tensor:
        from ..kernels.cached_attention import attend_cached

        cache, units_2RHL = self._past.caches[attention]
        gains, eps = None, 0.0
        if isinstance(attention.q_norm, nn.LayerNorm) and isinstance(
            attention.k_norm, nn.LayerNorm
        ):
            gains, eps = (attention.q_norm.weight, attention.k_norm.weight), attention.q_norm.eps
        return attend_cached(
            qkv, cache.k, cache.v, self._past.position_1, gains, eps, self.table_TE2, units_2RHL,
            stream_RD, stream_eps,
        )  # fmt: skip


class _WithoutNorms(_Kernels):
    """A norm before a product is a factor of each row, which the kernel after the product makes
    from the row again; and a product adds what it makes to the stream by itself. At a few hundred
    rows each kernel less is two microseconds less.

    So products of `matrices` lack that factor, and only `attend` and `swiglu` can take them up;
    those of other layers are whole.
    """

    def __init__(
        self,
        x_RD: Tensor,
        table_LE2: Tensor | None,
        past: _Past,
        matrices: dict[nn.Linear, Tensor],
    ) -> None:
        super().__init__(x_RD.clone(), table_LE2, past)
        self._matrices, self._eps = matrices, 0.0

    def project(
        self, norm: RMSNorm, linear: nn.Linear, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        if linear not in self._matrices:
            return super().project(norm, linear, gamma, beta)
        self._eps = norm.eps
        return self.x @ self._matrices[linear].T

    def attend(self, attention: Attention, qkv: Tensor) -> Tensor:
        return self._attend(attention, qkv, self.x, self._eps)

    def swiglu(self, both: Tensor) -> Tensor:
        from ..kernels.swiglu import normed_swiglu

        return normed_swiglu(both, self.x, self._eps)

    def add(self, update: Tensor, dropout: nn.Dropout, alpha: Tensor | None) -> None:
        assert alpha is None
        self.x.add_(update)

    def add_product(
        self, linear: nn.Linear, y: Tensor, dropout: nn.Dropout, alpha: Tensor | None
    ) -> None:
        if linear not in self._matrices:
            return super().add_product(linear, y, dropout, alpha)
        assert alpha is None
        self.x.addmm_(y, self._matrices[linear].T)


def _matrices(block: Block, dtype: torch.dtype) -> dict[nn.Linear, Tensor]:
    """A block's weights in the dtype of products; in `wqkv` and `w13` with the gain of the norm
    before them, so that what is left of it is a factor of each row.
    """
    attention, ffn = block.attention, block.ffn
    return {
        attention.wqkv: (attention.wqkv.weight.float() * block.attention_norm.weight).to(dtype),
        attention.wo: attention.wo.weight.to(dtype),
        ffn.w13: (ffn.w13.weight.float() * block.ffn_norm.weight).to(dtype),
        ffn.w2: ffn.w2.weight.to(dtype),
    }


class TokenStep:
    """Draws the codes of a batch, one position at a call, after `begin`."""

    def __init__(
        self,
        generator: Generator,
        batch: int,
        guided: bool,
        sampling: SamplingConfig,
        codebook_sizes: Sequence[int] | None = None,
    ) -> None:
        assert not generator.training
        embedding = generator.code_embedding.weight
        device, length = embedding.device, generator.tokens_per_image
        self._dtype = embedding.dtype
        if torch.is_autocast_enabled(device.type):
            self._dtype = torch.get_autocast_dtype(device.type)
        self._kernels = usable(embedding)
        in_bytes = sampling.kv_cache == "int8"
        if in_bytes and not self._kernels:
            raise ValueError(NO_KERNELS.format(sampling.kv_cache))
        self._generator, self._guided, self._sampling = generator, guided, sampling
        self._position_1 = torch.zeros(1, dtype=torch.long, device=device)
        self._class_B = torch.zeros(batch, dtype=torch.long, device=device)
        self._uniform_BL = torch.zeros(batch, length, dtype=torch.float64, device=device)
        self._scale_L = torch.ones(length, device=device)
        self._size_L = None
        if codebook_sizes is not None:
            self._size_L = torch.tensor(codebook_sizes, device=device)
        self._temperature_1 = self._uniform_BL.new_tensor([sampling.temperature])
        self.code_BL = torch.zeros(batch, length, dtype=torch.long, device=device)
        # Draws without top-k and top-p have a kernel.
        self._quick_draw = self._kernels and sampling.top_k == 0 and sampling.top_p == 1.0
        rows = 2 * batch if guided else batch
        # A learned position is added before anything is rounded.
        learned = generator.config.position == "learned"
        self._input_RD = embedding.new_zeros(
            rows, embedding.shape[1], dtype=embedding.dtype if learned else self._dtype
        )
        units_2RHL = None
        caches: dict[Attention, tuple[Cache, Tensor | None]] = {}
        self._matrices: dict[nn.Linear, Tensor] = {}  # none: norms have kernels of their own
        new = generator.new_cache(rows, device, torch.int8 if in_bytes else self._dtype)
        for block, cache in zip(generator.blocks, new, strict=True):
            assert isinstance(block, Block)
            # Plain attention reads, with no weight, what is not yet set.
            cache.k.zero_()
            cache.v.zero_()
            if in_bytes:
                units_2RHL = torch.zeros(2, *cache.k.shape[:3], device=device)
            caches[block.attention] = cache, units_2RHL
            if self._kernels and not generator.config.adaln:
                self._matrices |= _matrices(block, self._dtype)
        self._past = _Past(self._position_1, caches)
        # AdaLN's modulations depend on the class alone: computed once, not at every token.
        self._layers = generator.adalns
        self._modulations_RP = [
            None
            if layer is None
            else embedding.new_zeros(rows, layer.out_features, dtype=self._dtype)
            for layer in self._layers
        ]

    def begin(self, class_B: Tensor, uniform_BL: Tensor, scales: Sequence[float]) -> None:
        """Goes to position 0. Of fewer samples than the batch the rest is drawn for nothing."""
        count = len(class_B)
        self._class_B[:count] = class_B
        self._uniform_BL[:count] = uniform_BL
        self._scale_L.copy_(torch.tensor(scales))
        classes = self._class_B
        if self._guided:
            null_B = torch.full_like(self._class_B, self._generator.num_classes)
            classes = torch.cat([self._class_B, null_B])
        class_RD = self._generator.class_embedding(classes)
        self._input_RD.copy_(class_RD)  # the class comes first
        for layer, modulation_RP in zip(self._layers, self._modulations_RP, strict=True):
            if layer is not None and modulation_RP is not None:
                modulation_RP.copy_(layer(F.silu(class_RD)))
        self._position_1.zero_()

    def __call__(self) -> None:
        """Draws the codes of the position, and moves to the next."""
        logits_RV = self._logits()
        if self._quick_draw:
            from ..kernels.draw_code import draw_code

            draw_code(
                logits_RV,
                self._uniform_BL,
                self._scale_L,
                self._size_L,
                self._temperature_1,
                self._position_1,
                self.code_BL,
                self._generator.code_embedding.weight,
                self._input_RD,
            )
        else:
            drawn_B = self._draw(logits_RV.float())
            self.code_BL.index_copy_(1, self._position_1, drawn_B[:, None])
            embedded_BD = self._generator.code_embedding(drawn_B)
            self._input_RD.unflatten(0, (-1, len(drawn_B))).copy_(embedded_BD)
        self._position_1 += 1

    def _draw(self, logits_RV: Tensor) -> Tensor:
        if self._guided:
            conditional_BV, unconditional_BV = logits_RV.chunk(2)
            scale_1 = self._scale_L.index_select(0, self._position_1)
            logits_RV = unconditional_BV + scale_1 * (conditional_BV - unconditional_BV)
        size_1 = None
        if self._size_L is not None:
            size_1 = self._size_L.index_select(0, self._position_1)
        uniform_B = self._uniform_BL.index_select(1, self._position_1)[:, 0]
        return draw(logits_RV, uniform_B, self._sampling, size_1)

    def _logits(self) -> Tensor:
        """As `Generator.step`, whose comments apply; [R, V]."""
        generator = self._generator
        x_RD, table = self._input_RD, None
        if generator.config.position == "learned":
            x_RD = x_RD + generator.positions.index_select(0, self._position_1)
            x_RD = x_RD.to(self._dtype)
        else:
            table = generator.rope
        ops: Operations
        if self._matrices:
            ops = _WithoutNorms(x_RD, table, self._past, self._matrices)
        elif self._kernels:
            ops = _Kernels(x_RD, table, self._past)
        else:
            ops = _Plain(x_RD, table, self._past)
        logits: Tensor = generator.head(generator.through(ops, self._modulations_RP))
        return logits
