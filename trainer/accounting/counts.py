"""The named architectures of the papers and their exact counts: `tokenlaw count`.

At 256 px, 256 tokens and 1000 classes; generators for 16384 codes. Counts come from each part's own
`cost` and from `flops`, without building a model.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import flops
from .config import LlamaConfig, Part, decode_part, part

RESOLUTION, TOKENS, CLASSES, VOCABULARY = 256, 256, 1000, 16384


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedTokenizer:
    """A tokenizer with its quantizer."""

    tokenizer: Part
    quantizer: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """One row of the table."""

    params: int
    params_non_embedding: int | None  # generators only: less in and out embeddings and class table
    macs_forward: int  # of one image: convolutions, linears, attention products


def _vqgan(quantizer: str, size: int, **options: int) -> NamedTokenizer:
    return NamedTokenizer(
        tokenizer=decode_part("tokenizers", part("vqgan", **options)),
        quantizer=decode_part("quantizers", part(quantizer, codebook_size=size)),
    )


def tokenizers() -> dict[str, NamedTokenizer]:
    """Return tokenizers by name: VQ-16 of LlamaGen and CRT, and IBQ's, four blocks per level."""
    named = {f"vqgan-f16-k{size}": _vqgan("vq", size) for size in (16384, 1024, 131072)}
    for size in (16384, 262144):
        named[f"ibq-k{size}"] = _vqgan(
            "ibq", size, num_res_blocks_encoder=4, num_res_blocks_decoder=5
        )
    return named


def discriminators() -> dict[str, Part]:
    """Return discriminators by name."""
    return {"patchgan": decode_part("losses", "patchgan")}


# name -> width, layers, heads: CRT Table 4, and LlamaGen's XXL and 3B.
_LLAMA = {
    "52M": (640, 6, 10),
    "81M": (704, 9, 11),
    "111M": (768, 12, 12),
    "212M": (896, 18, 14),
    "343M": (1024, 24, 16),
    "517M": (1152, 30, 18),
    "775M": (1280, 36, 20),
    "1.4B": (1536, 48, 24),
    "3.1B": (3200, 24, 32),
}
# name -> depth; width is 64 x depth, heads are as many as layers (IBQ, after VAR).
_ADALN = {"342M": 16, "649M": 20, "1.1B": 24, "2.1B": 30}


def generators() -> dict[str, LlamaConfig]:
    """Return generators by name."""
    named = {
        f"llama-{name}": LlamaConfig(width=width, layers=layers, heads=heads)
        for name, (width, layers, heads) in _LLAMA.items()
    }
    for name, depth in _ADALN.items():
        named[f"adaln-{name}"] = LlamaConfig(
            width=64 * depth, layers=depth, heads=depth, adaln=True
        )
    return named


def count_tokenizer(named: NamedTokenizer) -> Count:
    """Encoder, decoder, projections and codebook; the search in the codebook is no layer."""
    config = named.quantizer.config
    encoder, decoder = named.tokenizer.config.cost(RESOLUTION, config.dim)
    tokens = named.tokenizer.config.tokens_per_image(RESOLUTION)
    return Count(
        params=encoder.params + decoder.params + config.cost(tokens).params,
        params_non_embedding=None,
        macs_forward=encoder.macs + decoder.macs,
    )


def count_generator(model: LlamaConfig) -> Count:
    """Count a generator by the papers' rule, without QK-norm gains; attention in full."""
    cost = flops.generator_cost(model, VOCABULARY, CLASSES, TOKENS)
    return Count(
        params=cost.params,
        params_non_embedding=cost.params_non_embedding,
        macs_forward=cost.macs_forward,
    )


def counts() -> dict[str, Count]:
    """Count every named architecture, as `role/name`."""
    table = {f"tokenizer/{name}": count_tokenizer(t) for name, t in tokenizers().items()}
    for name, discriminator in discriminators().items():
        cost = discriminator.config.cost(RESOLUTION)
        table[f"discriminator/{name}"] = Count(
            params=cost.params, params_non_embedding=None, macs_forward=cost.macs
        )
    return table | {f"generator/{name}": count_generator(m) for name, m in generators().items()}


def to_json() -> dict[str, dict[str, int | None]]:
    """Return the document that `tokenlaw count --json` prints."""
    return {
        name: {
            "params": count.params,
            "params_non_embedding": count.params_non_embedding,
            "macs_forward": count.macs_forward,
        }
        for name, count in counts().items()
    }
