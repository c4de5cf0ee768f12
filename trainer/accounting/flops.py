"""Parameters and FLOPs of every model from its config, in pure Python: the one accounting of
planner and trainer.

One multiply-add is two FLOPs. `macs` are multiply-adds of one image through convolutions, linears
and attention products; norms, activations and look-ups are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import CodesConfig, ExtractorConfig, GeneratorConfig, LlamaConfig, TokenizerConfig


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters and multiply-adds of one image of a module; costs add up with `+` and repeat with
    `*`.
    """

    params: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.params * times, self.macs * times)

    __rmul__ = __mul__


def conv(
    channels_in: int, channels_out: int, kernel: int, pixels_out: int, bias: bool = True
) -> Cost:
    """Count a square convolution with `pixels_out` output positions."""
    weights = channels_in * channels_out * kernel * kernel
    return Cost(weights + (channels_out if bias else 0), weights * pixels_out)


def linear(width_in: int, width_out: int, positions: int, bias: bool = False) -> Cost:
    """Count a linear layer applied at `positions` positions."""
    weights = width_in * width_out
    return Cost(weights + (width_out if bias else 0), weights * positions)


def norm(channels: int, bias: bool = True) -> Cost:
    """Affine parameters of a group, layer or RMS norm."""
    return Cost(channels * (2 if bias else 1), 0)


def attention(length_query: int, length_key: int, width: int) -> Cost:
    """Count the two products of attention, scores and values, without the projections."""
    return Cost(0, 2 * length_query * length_key * width)


# ------------------------------------------------------------------------------------ the generator


@dataclass(frozen=True, slots=True)
class GeneratorCost:
    """Counts of a generator; `params` follows the one counting rule of CRT, GigaTok and
    LlamaGen."""

    params: int
    params_non_embedding: int  # params - 2*V*d - class table
    params_head: int  # V*d of the output layer
    params_matmul: int  # weights that multiply activations, with the head: the N of 6ND
    macs_forward: int  # one image: linears, head and causal attention counted in full (L x L)


def llama_hidden(width: int, multiple: int = 256) -> int:
    """Return the SwiGLU hidden size: multiple * ceil(int(8d/3) / multiple)."""
    return multiple * -(-int(8 * width / 3) // multiple)


def generator_cost(
    model: LlamaConfig, codebook_size: int, num_classes: int, tokens_per_image: int
) -> GeneratorCost:
    """Count a generator of this vocabulary, class count and sequence length.

    The class table has one row more than there are classes, the null class. QK-norm gains are left
    out of `params`, as in the papers' counts (they are 4 x head size per layer).
    """
    d, n, v = model.width, model.layers, codebook_size
    hidden = llama_hidden(d, model.hidden_multiple)
    matmul_block = 4 * d * d + 3 * d * hidden
    matmul = n * matmul_block + v * d
    gains = n * 2 * d + d
    embeddings = v * d + (num_classes + 1) * d
    # The norms keep their own gains beside the modulation, whose layers have biases.
    adaln = n * (6 * d * d + 6 * d) + 2 * d * d + 2 * d if model.adaln else 0
    positions = (tokens_per_image + 1) * d if model.position == "learned" else 0
    params = matmul + gains + embeddings + adaln + positions
    non_embedding = params - 2 * v * d - (num_classes + 1) * d
    macs = matmul * tokens_per_image + n * 2 * tokens_per_image * tokens_per_image * d
    if model.adaln:
        macs += n * 6 * d * d + 2 * d * d
    return GeneratorCost(params, non_embedding, v * d, matmul, macs)


def generator_flops_per_token(model: LlamaConfig, codebook_size: int, tokens_per_image: int) -> int:
    """Train FLOPs per token: 6 N for the matmul weights with the head, plus attention 6 x layers x
    width x length.
    """
    d, n = model.width, model.layers
    matmul = n * (4 * d * d + 3 * d * llama_hidden(d, model.hidden_multiple)) + codebook_size * d
    return 6 * matmul + 6 * n * d * tokens_per_image


def generator_flops_train(
    config: GeneratorConfig, codebook_size: int, tokens_per_image: int
) -> int:
    """Train FLOPs of a generator run, from its first iteration, also if it took over a trunk."""
    tokens = config.iterations * config.batch_size * tokens_per_image
    return tokens * generator_flops_per_token(config.model, codebook_size, tokens_per_image)


def generator_flops_shared(
    config: GeneratorConfig, codebook_size: int, tokens_per_image: int
) -> int:
    """Return the part of `generator_flops_train` done before the run took over its trunk."""
    start = 0 if config.trunk is None else config.trunk.start
    tokens = start * config.batch_size * tokens_per_image
    return tokens * generator_flops_per_token(config.model, codebook_size, tokens_per_image)


def generator_flops_paper(
    config: GeneratorConfig, codebook_size: int, num_classes: int, tokens_per_image: int
) -> int:
    """Return the horizontal axis of the CRT paper: 6 N x images.

    It leaves out the factor tokens per image.
    """
    params = generator_cost(config.model, codebook_size, num_classes, tokens_per_image).params
    return 6 * params * config.iterations * config.batch_size


def generator_flops_sample(
    model: LlamaConfig, codebook_size: int, num_classes: int, tokens_per_image: int, guided: bool
) -> int:
    """Return the FLOPs of drawing one image with a key-value cache; x2 if guided.

    Each token goes through once, with attention over the cached ones.
    """
    d, n = model.width, model.layers
    matmul = n * (4 * d * d + 3 * d * llama_hidden(d, model.hidden_multiple)) + codebook_size * d
    cached = tokens_per_image * (tokens_per_image + 1) // 2
    macs = tokens_per_image * matmul + n * 2 * d * cached
    return 2 * macs * (2 if guided else 1)


# ------------------------------------------------------------------------------------ the tokenizer


@dataclass(frozen=True, slots=True)
class TokenizerCost:
    """Counts of a stage-1 run, per part and per image."""

    encoder: Cost
    decoder: Cost
    quantizer: Cost
    regularizer: Cost
    perceptual: Cost
    discriminator: Cost

    @property
    def params(self) -> int:
        """Encoder, decoder and quantizer: what is kept after training."""
        return self.encoder.params + self.decoder.params + self.quantizer.params

    @property
    def macs_forward(self) -> int:
        """Return the multiply-adds of one image through encoder and decoder.

        The quantizer's are apart.
        """
        return self.encoder.macs + self.decoder.macs


def latent_width(config: TokenizerConfig) -> int:
    """Width of the latents that the regulariser acts on: after or before the projection."""
    unprojected = config.regularizer and config.regularizer.config.latent == "unprojected"
    width: int = config.tokenizer.config.z_channels if unprojected else config.quantizer.config.dim
    return width


def tokenizer_cost(config: TokenizerConfig) -> TokenizerCost:
    """Count all that a stage-1 run computes, from its parts' own `cost`."""
    resolution = config.data.resolution
    dim = config.quantizer.config.dim
    tokens = config.tokenizer.config.tokens_per_image(resolution)
    encoder, decoder = config.tokenizer.config.cost(resolution, dim)
    return TokenizerCost(
        encoder=encoder,
        decoder=decoder,
        quantizer=config.quantizer.config.cost(tokens),
        regularizer=config.regularizer.config.cost(tokens, latent_width(config))
        if config.regularizer
        else Cost(),
        perceptual=config.perceptual.config.cost(resolution) if config.perceptual else Cost(),
        discriminator=config.adversarial.config.cost(resolution) if config.adversarial else Cost(),
    )


def tokenizer_flops_train(config: TokenizerConfig) -> int:
    """Train FLOPs of a stage-1 run, from its first iteration, also if it took over a trunk.

    Trained modules cost three forward passes a step (forward, and backward to inputs and to
    weights); so are products with the codebook counted, though a mere search has no backward. The
    perceptual network runs on image and reconstruction and backward to the reconstruction: three.
    The discriminator says itself how many passes it makes of an image, from its start on.
    """
    return _tokenizer_flops_until(config, config.iterations)


def tokenizer_flops_shared(config: TokenizerConfig) -> int:
    """Return the part of `tokenizer_flops_train` done before the run took over its trunk."""
    return 0 if config.trunk is None else _tokenizer_flops_until(config, config.trunk.start)


def _tokenizer_flops_until(config: TokenizerConfig, iterations: int) -> int:
    early, late = _step_macs(config, adversarial=False), _step_macs(config, adversarial=True)
    start = config.adversarial.config.start_iteration if config.adversarial else iterations
    active = max(0, iterations - start)
    return 2 * config.batch_size * ((iterations - active) * early + active * late)


def _step_macs(config: TokenizerConfig, adversarial: bool) -> int:
    """Count one image in one iteration, before or after the discriminator starts."""
    cost = tokenizer_cost(config)
    trained = cost.macs_forward + cost.quantizer.macs + cost.regularizer.macs
    total = 3 * trained + 3 * cost.perceptual.macs
    if adversarial and config.adversarial is not None:
        total += config.adversarial.config.passes * cost.discriminator.macs
    return total


def regularizer_overhead(config: TokenizerConfig) -> float:
    """Return the regulariser's FLOPs over all others of an iteration; 0.0 without one.

    Everything is on in that iteration. CRT states 5% and so trains for 1/1.05 of the iterations.
    """
    both = _step_macs(config, adversarial=True)
    own = 3 * tokenizer_cost(config).regularizer.macs
    return own / (both - own)


# --------------------------------------------------------------- codes and the small classifier

CROPS = {"center": 1, "five_crop": 5, "ten_crop": 10}  # crops of a training image


def codes_flops_train(config: CodesConfig, tokenizer: TokenizerConfig) -> int:
    """Return the FLOPs of a codes run.

    Each crop of the training images and each validation image goes through the encoder once.
    """
    dim = tokenizer.quantizer.config.dim
    encoder, _ = tokenizer.tokenizer.config.cost(config.data.resolution, dim)
    images = (config.num_train or config.data.num_train) * CROPS[config.crops] + config.data.num_val
    return 2 * int(encoder.macs) * images


EXTRACTOR_SIDE_MAX = 64  # pixels; larger images are reduced to this side first


def extractor_cost(config: ExtractorConfig) -> Cost:
    """Count the classifier of extractor.py on one image.

    It has three strided convolutions, the features, the classes. Its learned factor of the features
    is one parameter.
    """
    narrow = max(1, config.width // 4)
    side = min(config.data.resolution, EXTRACTOR_SIDE_MAX)
    cost = Cost(params=1)
    width_in, kernel = 3, 5
    for width_out in (narrow, 2 * narrow, 4 * narrow):
        side = (side + 1) // 2
        cost += conv(width_in, width_out, kernel, side**2)
        width_in, kernel = width_out, 3
    cost += linear(width_in * 4 * 4, config.width, 1, bias=True)
    return cost + linear(config.width, config.data.num_classes, 1, bias=True)


def extractor_flops_train(config: ExtractorConfig) -> int:
    """Train FLOPs of an extractor run: three forward passes a step."""
    return 6 * extractor_cost(config).macs * config.iterations * config.batch_size
