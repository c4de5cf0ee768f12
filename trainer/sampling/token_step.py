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
from ..models.llama import Attention, Block, Cache, Generator, Linear, RMSNorm, rotate
from .draw import NO_KERNELS, draw


class _Matrices(NamedTuple):
    """A block's weights in the dtype of products; in `wqkv` and `w13` with the gain of the norm
    before them, so that what is left of it is a factor of each row."""

    wqkv_PD: Tensor
    wo_DD: Tensor
    w13_PD: Tensor
    w2_DP: Tensor

    @classmethod
    def of(cls, block: nn.Module, dtype: torch.dtype) -> _Matrices:
        assert isinstance(block, Block)
        attention, ffn = block.attention, block.ffn
        return cls(
            (attention.wqkv.weight.float() * block.attention_norm.weight).to(dtype),
            attention.wo.weight.to(dtype),
            (ffn.w13.weight.float() * block.ffn_norm.weight).to(dtype),
            ffn.w2.weight.to(dtype),
        )


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
        self._caches = generator.new_cache(rows, device, torch.int8 if in_bytes else self._dtype)
        for cache in self._caches:  # plain attention reads, with no weight, what is not yet set
            cache.k.zero_()
            cache.v.zero_()
        self._units_2RHL: list[Tensor | None] = [None] * len(self._caches)  # of an int8 cache
        if in_bytes:
            shape = (2, *self._caches[0].k.shape[:3])
            self._units_2RHL = [torch.zeros(shape, device=device) for _ in self._caches]
        # AdaLN's modulations depend on the class alone: computed once, not at every token.
        self._layers: list[Linear | None] = []
        for block in generator.blocks:
            assert isinstance(block, Block)
            self._layers.append(block.adaln)
        self._layers.append(generator.final_adaln)
        self._matrices: list[_Matrices] = []  # none: norms have kernels of their own
        if self._kernels and not generator.config.adaln:
            self._matrices = [_Matrices.of(block, self._dtype) for block in generator.blocks]
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

    # ------------------------------------------------------------------------------- the layers

    def _logits(self) -> Tensor:
        """As `Generator.step`, whose comments apply; [R, V]."""
        generator = self._generator
        x_RD, delta_RD = self._input_RD, None
        if generator.config.position == "learned":
            x_RD = x_RD + generator.positions.index_select(0, self._position_1)
            x_RD = x_RD.to(self._dtype)
        if self._matrices:
            return generator.head(self._without_norms(x_RD))
        *modulations, final = self._modulations_RP
        layers = zip(generator.blocks, self._caches, self._units_2RHL, modulations, strict=True)
        for block, cache, units, modulation in layers:
            assert isinstance(block, Block)
            gamma1 = beta1 = alpha1 = gamma2 = beta2 = alpha2 = None
            if modulation is not None:
                gamma1, beta1, alpha1, gamma2, beta2, alpha2 = modulation.chunk(6, dim=-1)
            x_RD, normed_RD = self._add_norm(x_RD, delta_RD, block.attention_norm)
            qkv_RP = block.attention.wqkv(_modulated(normed_RD, gamma1, beta1))
            attended_RD = self._attend(qkv_RP, block.attention, cache, units)
            delta_RD = _scaled(block.attention.wo(attended_RD), alpha1)
            x_RD, normed_RD = self._add_norm(x_RD, delta_RD, block.ffn_norm)
            both_RP = block.ffn.w13(_modulated(normed_RD, gamma2, beta2))
            delta_RD = _scaled(block.ffn.w2(self._gate(both_RP)), alpha2)
        _, normed_RD = self._add_norm(x_RD, delta_RD, generator.norm)
        if final is not None:
            normed_RD = _modulated(normed_RD, *final.chunk(2, dim=-1))
        return generator.head(normed_RD)

    def _without_norms(self, x_RD: Tensor) -> Tensor:
        """The blocks, and the final norm. A norm before a product is a factor of each row, which
        the kernel after the product makes from the row again; and a product adds what it makes to
        the stream by itself. At a few hundred rows each kernel less is two microseconds less.
        """
        from ..kernels.swiglu import normed_swiglu

        generator, x_RD = self._generator, x_RD.clone()
        layers = zip(generator.blocks, self._matrices, self._caches, self._units_2RHL, strict=True)
        for block, weights, cache, units in layers:
            assert isinstance(block, Block)
            qkv_RP = x_RD @ weights.wqkv_PD.T
            norm = block.attention_norm
            attended_RD = self._attend(qkv_RP, block.attention, cache, units, x_RD, norm.eps)
            x_RD.addmm_(attended_RD, weights.wo_DD.T)
            both_RP = x_RD @ weights.w13_PD.T
            x_RD.addmm_(normed_swiglu(both_RP, x_RD, block.ffn_norm.eps), weights.w2_DP.T)
        return self._add_norm(x_RD, None, generator.norm)[1]

    def _add_norm(
        self, x_RD: Tensor, delta_RD: Tensor | None, norm: RMSNorm
    ) -> tuple[Tensor, Tensor]:
        if self._kernels:
            from ..kernels.residual_norm import residual_norm

            return residual_norm(x_RD, delta_RD, norm.weight, norm.eps)
        if delta_RD is not None:
            x_RD = x_RD + delta_RD
        return x_RD, norm(x_RD)

    def _gate(self, both_RP: Tensor) -> Tensor:
        if self._kernels:
            from ..kernels.swiglu import swiglu

            return swiglu(both_RP)
        gate, value = both_RP.chunk(2, dim=-1)
        return F.silu(gate) * value

    def _attend(
        self,
        qkv_RP: Tensor,
        attention: Attention,
        cache: Cache,
        units_2RHL: Tensor | None,
        stream_RD: Tensor | None = None,
        stream_eps: float = 0.0,
    ) -> Tensor:
        """What the heads find, joined: [R, D]. Its keys and values go into the cache first."""
        table = None if self._generator.config.position == "learned" else self._generator.rope
        norms = attention.q_norm, attention.k_norm
        if self._kernels:
            from ..kernels.cached_attention import attend_cached

            gains, eps = None, 0.0
            if isinstance(norms[0], nn.LayerNorm) and isinstance(norms[1], nn.LayerNorm):
                gains, eps = (norms[0].weight, norms[1].weight), norms[0].eps
            return attend_cached(
                qkv_RP, cache.k, cache.v, self._position_1, gains, eps, table, units_2RHL,
                stream_RD, stream_eps,
            )  # fmt: skip
        qkv = qkv_RP.unflatten(-1, (1, 3, attention.heads, attention.head_size))
        q_R1HE, k_R1HE, v_R1HE = qkv.unbind(2)
        q_R1HE, k_R1HE = norms[0](q_R1HE), norms[1](k_R1HE)
        if table is not None:
            row_1E2 = table.index_select(0, self._position_1)
            q_R1HE, k_R1HE = rotate(q_R1HE, row_1E2), rotate(k_R1HE, row_1E2)
        q, k, v = (t.transpose(1, 2).to(v_R1HE.dtype) for t in (q_R1HE, k_R1HE, v_R1HE))
        cache.k.index_copy_(2, self._position_1, k)
        cache.v.index_copy_(2, self._position_1, v)
        known_L = torch.arange(cache.k.shape[2], device=k.device) <= self._position_1
        found = F.scaled_dot_product_attention(q, cache.k, cache.v, known_L[None])
        return found.transpose(1, 2).flatten(1)


def _modulated(normed_RD: Tensor, gamma_RD: Tensor | None, beta_RD: Tensor | None) -> Tensor:
    if gamma_RD is None or beta_RD is None:
        return normed_RD
    return normed_RD * (1 + gamma_RD) + beta_RD


def _scaled(delta_RD: Tensor, alpha_RD: Tensor | None) -> Tensor:
    return delta_RD if alpha_RD is None else alpha_RD * delta_RD
