"""The models and losses of the papers as plain formulas over named weights.

Nothing here comes from the package: parity tests hold the package against it. `w` maps the names of
weights to tensors, `prefix` ends with a dot. Shapes: B images, L tokens, D width, H heads, E head
size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]

# ----------------------------------------------------------------------------------- autoencoder


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def group_norm(x: Tensor, w: Weights, prefix: str) -> Tensor:
    """Groups of four channels: what 32 groups are at 128 channels."""
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, channels // 4, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normed = centred / torch.sqrt(centred.pow(2).mean(2, keepdim=True) + 1e-6)
    shape = (1, channels, 1, 1)
    normed = normed.reshape(batch, channels, height, width)
    return normed * w[prefix + "weight"].reshape(shape) + w[prefix + "bias"].reshape(shape)


def conv(x: Tensor, w: Weights, prefix: str, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, w[prefix + "weight"], w.get(prefix + "bias"), stride, padding)


def residual(x: Tensor, w: Weights, prefix: str) -> Tensor:
    h = conv(swish(group_norm(x, w, prefix + "norm1.")), w, prefix + "conv1.", padding=1)
    h = conv(swish(group_norm(h, w, prefix + "norm2.")), w, prefix + "conv2.", padding=1)
    skip = conv(x, w, prefix + "skip.") if prefix + "skip.weight" in w else x
    return skip + h


def self_attention(x: Tensor, w: Weights, prefix: str) -> Tensor:
    batch, channels, height, width = x.shape
    normed = group_norm(x, w, prefix + "norm.")
    q, k, v = (
        conv(normed, w, prefix + name).reshape(batch, channels, -1)
        for name in ("query.", "key.", "value.")
    )
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(channels), dim=2)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(batch, channels, height, width)
    return x + conv(mixed, w, prefix + "out.")


def _names(prefix: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{prefix}{number}."
        number += 1


def encoder(x: Tensor, w: Weights, levels: int, blocks: int, prefix: str) -> Tensor:
    """conv; per level residual blocks, at the last with attention, else halved; middle; out."""
    name = _names(prefix)
    x = conv(x, w, next(name), padding=1)
    for level in range(levels):
        for _ in range(blocks):
            x = residual(x, w, next(name))
            if level == levels - 1:
                x = self_attention(x, w, next(name))
        if level < levels - 1:
            padded = torch.zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
            padded[:, :, :-1, :-1] = x
            x = conv(padded, w, next(name) + "conv.", stride=2)
    return _out(_middle(x, w, name), w, name)


def decoder(x: Tensor, w: Weights, levels: int, blocks: int, prefix: str) -> Tensor:
    name = _names(prefix)
    x = _middle(conv(x, w, next(name), padding=1), w, name)
    for level in reversed(range(levels)):
        for _ in range(blocks):
            x = residual(x, w, next(name))
            if level == levels - 1:
                x = self_attention(x, w, next(name))
        if level > 0:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(x, w, next(name) + "conv.", padding=1)
    return _out(x, w, name)


def _middle(x: Tensor, w: Weights, name: Iterator[str]) -> Tensor:
    x = residual(x, w, next(name))
    x = self_attention(x, w, next(name))
    return residual(x, w, next(name))


def _out(x: Tensor, w: Weights, name: Iterator[str]) -> Tensor:
    x = swish(group_norm(x, w, next(name)))
    next(name)  # the activation has no weights
    return conv(x, w, next(name), padding=1)


def latents(x: Tensor, w: Weights, levels: int, blocks: int, prefix: str = "tokenizer.") -> Tensor:
    """[B, L, D] in raster order."""
    h = encoder(x, w, levels, blocks, prefix + "encoder.")
    return conv(h, w, prefix + "project_in.").flatten(2).transpose(1, 2)


def images(z: Tensor, w: Weights, levels: int, blocks: int, prefix: str = "tokenizer.") -> Tensor:
    side = math.isqrt(z.shape[1])
    grid = z.transpose(1, 2).reshape(z.shape[0], -1, side, side)
    return decoder(conv(grid, w, prefix + "project_out."), w, levels, blocks, prefix + "decoder.")


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def vector_quantized(
    z: Tensor, codebook: Tensor, beta: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z_q with z's gradient, codes, and the losses of codebook and commitment, on the sphere."""
    z, codebook = unit(z), unit(codebook)
    squares = (z[..., None, :] - codebook).pow(2).sum(-1)
    code = squares.argmin(-1)
    e = codebook[code]
    moves_codes = (e - z.detach()).pow(2).mean()
    moves_latents = beta * (e.detach() - z).pow(2).mean()
    return z + (e - z).detach(), code, moves_codes, moves_latents


# ----------------------------------------------------------------------------- transformer blocks


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def layer_norm(x: Tensor, gain: Tensor, eps: float = 1e-5) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def turns(kind: str, head_size: int, grid: tuple[int, int], cls: str) -> Tensor:
    """Complex factor of each pair of dimensions at each position, the class first."""
    rows = []
    for index in range(grid[0] * grid[1]):
        if kind == "rope_2d":
            quarter = head_size // 4
            row, column = divmod(index, grid[1])
            rates = [10000 ** (-pair / quarter) for pair in range(quarter)]
            angles = [row * rate for rate in rates] + [column * rate for rate in rates]
        else:
            half = head_size // 2
            angles = [(index + 1) * 10000 ** (-pair / half) for pair in range(half)]
        rows.append([complex(math.cos(a), math.sin(a)) for a in angles])
    first = 0j if cls == "zero" else 1 + 0j
    return torch.tensor([[first] * len(rows[0]), *rows], dtype=torch.complex128)


def turned(x_BLHE: Tensor, turn_LP: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_BLHE.double().reshape(*x_BLHE.shape[:3], -1, 2).contiguous())
    return torch.view_as_real(pairs * turn_LP[None, :, None]).flatten(3).to(x_BLHE.dtype)


def attention(x: Tensor, w: Weights, prefix: str, heads: int, turn_LP: Tensor | None) -> Tensor:
    batch, length, width = x.shape
    qkv = (x @ w[prefix + "wqkv.weight"].T).reshape(batch, length, 3, heads, width // heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    if prefix + "q_norm.weight" in w:
        q = layer_norm(q, w[prefix + "q_norm.weight"])
        k = layer_norm(k, w[prefix + "k_norm.weight"])
    if turn_LP is not None:
        q, k = turned(q, turn_LP[:length]), turned(k, turn_LP[:length])
    score = torch.einsum("bihe,bjhe->bhij", q, k) / math.sqrt(width // heads)
    later = torch.ones(length, length).triu(1).bool()
    weights = torch.softmax(score.masked_fill(later, -math.inf), dim=-1)
    mixed = torch.einsum("bhij,bjhe->bihe", weights, v).reshape(batch, length, width)
    return mixed @ w[prefix + "wo.weight"].T


def feed_forward(x: Tensor, w: Weights, prefix: str) -> Tensor:
    gate, value = (x @ w[prefix + "w13.weight"].T).chunk(2, dim=-1)
    return (swish(gate) * value) @ w[prefix + "w2.weight"].T


def block(
    x: Tensor,
    w: Weights,
    prefix: str,
    heads: int,
    turn_LP: Tensor | None,
    class_BD: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    parts = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]  # scale, shift and gate of attention, then of the rest
    if prefix + "adaln.weight" in w:
        assert class_BD is not None
        affine = swish(class_BD) @ w[prefix + "adaln.weight"].T + w[prefix + "adaln.bias"]
        parts = list(affine[:, None].chunk(6, dim=-1))
    h = rms_norm(x, w[prefix + "attention_norm.weight"]) * (1 + parts[0]) + parts[1]
    h = attention(h, w, prefix + "attention.", heads, turn_LP)
    x = x + parts[2] * F.dropout(h, dropout)
    h = rms_norm(x, w[prefix + "ffn_norm.weight"]) * (1 + parts[3]) + parts[4]
    return x + parts[5] * F.dropout(feed_forward(h, w, prefix + "ffn."), dropout)


def generator(
    code_BL: Tensor,
    class_B: Tensor,
    w: Weights,
    *,
    layers: int,
    heads: int,
    turn_LP: Tensor | None,
    dropout: float = 0.0,
) -> Tensor:
    """Logits of the code after the class and after each code, [B, L + 1, V]."""
    class_BD = w["class_embedding.weight"][class_B]
    x = torch.cat([class_BD[:, None], w["code_embedding.weight"][code_BL]], dim=1)
    if "positions" in w:
        x = x + w["positions"][: x.shape[1]]
    x = F.dropout(x, dropout)
    for number in range(layers):
        x = block(x, w, f"blocks.{number}.", heads, turn_LP, class_BD, dropout)
    x = rms_norm(x, w["norm.weight"])
    if "final_adaln.weight" in w:
        affine = swish(class_BD) @ w["final_adaln.weight"].T + w["final_adaln.bias"]
        scale, shift = affine[:, None].chunk(2, dim=-1)
        x = x * (1 + scale) + shift
    return x @ w["head.weight"].T


# ------------------------------------------------------------------------------- losses of stage 1


def patchgan(x: Tensor, w: Weights, strided: int, prefix: str = "layers.") -> Tensor:
    """4x4 convolutions; LeakyReLU 0.2; batch statistics in all layers but the ends."""
    place = 0
    for number in range(strided + 2):
        x = conv(x, w, f"{prefix}{place}.", 2 if number < strided else 1, 1)
        place += 1
        if 0 < number < strided + 1:
            centred = x - x.mean((0, 2, 3), keepdim=True)
            x = centred / torch.sqrt(centred.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5)
            gain, bias = (w[f"{prefix}{place}.{name}"] for name in ("weight", "bias"))
            x = x * gain[:, None, None] + bias[:, None, None]
            place += 1
        if number < strided + 1:
            x = torch.where(x > 0, x, 0.2 * x)
            place += 1
    return x


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()) / 2


def lecam(real: Tensor, fake: Tensor, mean_real: float, mean_fake: float) -> Tensor:
    against_fake = (real - mean_fake).clamp(min=0).pow(2).mean()
    return against_fake + (mean_real - fake).clamp(min=0).pow(2).mean()


def adaptive(own: Tensor, gan: Tensor, last: Tensor) -> float:
    (a,) = torch.autograd.grad(own, last, retain_graph=True)
    (b,) = torch.autograd.grad(gan, last, retain_graph=True)
    return min(1e4, a.norm().item() / (b.norm().item() + 1e-4))


def causal_loss(z: Tensor, w: Weights, layers: int, heads: int, turn_LP: Tensor) -> Tensor:
    """Mean squared error of the next unit latent (CRT); no start token, so no class row."""
    z = unit(z)
    x = z[:, :-1] @ w["project_in.weight"].T + w["project_in.bias"]
    for number in range(layers):
        x = block(x, w, f"blocks.{number}.", heads, turn_LP[1:])
    guess = rms_norm(x, w["norm.weight"]) @ w["head_weight"].T + w["head_bias"]
    return (guess - z[:, 1:]).pow(2).mean()
