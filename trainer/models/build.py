"""Build networks from configs, and load those of finished runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...results_db.record import RunDir
from .. import parts
from ..accounting import stored_config
from ..accounting.config import GeneratorConfig, TokenizerConfig
from ..fast_start.undrawn import undrawn
from ..kernels import float8
from ..loop import checkpoints
from ..loop.code_sets import Codes
from ..loop.optim import derive_seed
from .llama import Generator

if TYPE_CHECKING:
    from ..quantizers import Quantizer
    from ..tokenizers import Tokenizer


def build_tokenizer(config: TokenizerConfig, device: torch.device) -> tuple[Tokenizer, Quantizer]:
    """Tokenizer and quantizer that `config` names, with the seed's initial weights."""
    torch.manual_seed(derive_seed("stage1 init", config.seed))
    dim = config.quantizer.config.dim
    tokenizer_part = parts.load("tokenizers", config.tokenizer.name)
    quantizer_part = parts.load("quantizers", config.quantizer.name)
    tokenizer: Tokenizer = tokenizer_part.Tokenizer(
        config.tokenizer.config, dim, config.data.resolution
    )
    quantizer: Quantizer = quantizer_part.Quantizer(config.quantizer.config)
    return tokenizer.to(device), quantizer.to(device)


def load_tokenizer(
    run_dir: RunDir, device: torch.device
) -> tuple[Tokenizer, Quantizer, TokenizerConfig]:
    """Tokenizer and quantizer of a finished run, in eval mode, and their config."""
    config = stored_config.read(run_dir).config
    with undrawn():
        tokenizer, quantizer = build_tokenizer(config, device)
    modules = torch.nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer})
    checkpoints.load_weights(run_dir, {"autoencoder": modules})
    modules.eval().requires_grad_(False)
    return tokenizer, quantizer, config


def build_generator(
    config: GeneratorConfig, codes: Codes, device: torch.device, initial: bool = True
) -> Generator:
    """The generator for the code set, with the seed's initial weights or with none."""
    num_classes = codes.num_classes if config.label_mode == "class" else 1
    torch.manual_seed(derive_seed("stage2 init", config.seed))
    # Weights are drawn on the CPU, so that they do not depend on the device.
    with torch.device("cpu" if initial else device):
        generator = Generator(config.model, codes.codebook_size, num_classes, codes.grid, initial)
    if config.float8_ffn:
        float8.check(device)
        generator.use_float8()
    return generator.to(device)


def load_generator(run_dir: RunDir, device: torch.device) -> tuple[Generator, GeneratorConfig]:
    """The generator of a finished run, in eval mode, and its config."""
    config, parents = stored_config.read(run_dir)
    codes = Codes(RunDir.of(run_dir.home, "codes", parents["codes"]))
    generator = build_generator(config, codes, device, initial=False)
    checkpoints.load_weights(run_dir, {"generator": generator})
    return generator.eval().requires_grad_(False), config


def legal_sizes(run_dir: RunDir, tokens_per_image: int) -> list[int] | None:
    """K_t of every position for quantizers whose codebook grows along the sequence, else None.

    `run_dir` is that of the tokenizer.
    """
    config = stored_config.read(run_dir).config
    sizes = config.quantizer.config.codebook_sizes(tokens_per_image)
    return None if sizes is None else list(sizes)
