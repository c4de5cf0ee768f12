"""Stage 1: trains a visual tokenizer. Read top to bottom: setup, resume, step, save, finish.

Shape suffixes: B images, C = 3, H, W pixels, N tokens, D latent width.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .. import kernels, parts
from ..accounting import flops
from ..accounting.config import OptimConfig, Part, TokenizerConfig, is_segment
from ..accounting.flops import latent_width
from ..fast_start import startup
from ..loop import checkpoints, data, distributed
from ..loop.gradients import GradientAverager
from ..loop.optim import (
    FiniteWatch,
    MovingAverage,
    clip_gradients,
    derive_seed,
    make_optimizer,
    optimizer_of,
    set_learning_rate,
)
from ..metrics import Value
from ..models.build import build_tokenizer
from ..run import Preempted, Result, Run

if TYPE_CHECKING:
    from ..losses import Adversarial, Perceptual
    from ..regularizers import Regularizer

# Multiply-adds of a forward pass from which kernels of our own pay: below, a GPU waits for the
# host, which launches plain modules sooner. An estimate from the launches of VQ-16.
KERNELS_FROM_MACS = 1e12
# Of the values recorded below; those of quantizers, regularisers and losses are declared there.
BETTER = {
    "train_loss": "lower",
    "train_reconstruction": "lower",
    "train_perceptual": "lower",
    "train_generator": "lower",
    "train_discriminator": None,  # low where the discriminator wins, which is no quality
    "train_grad_norm": None,
    "train_adaptive_weight": None,
}
TIMED_AFTER = 20  # iterations of a process before it measures what share the regulariser takes


def build_loss(
    part: Part | None,
    role: str,
    config: TokenizerConfig,
    device: torch.device,
    weights: Mapping[str, str],
) -> nn.Module | None:
    """Build the perceptual or adversarial loss, or None."""
    if part is None:
        return None
    module = parts.load("losses", part.name)
    if role != module.ROLE:
        raise ValueError(
            f"tokenizer.{role}: {part.name!r} is a {module.ROLE} loss; allowed here: {role} losses"
        )
    torch.manual_seed(derive_seed("stage1", role, config.seed))
    given = (part.config, weights) if role == "perceptual" else (part.config,)
    loss: nn.Module = module.Loss(*given)
    return loss.to(device)


def regularizer_seconds(regularizer: Regularizer, z_BND: Tensor, step: int) -> float:
    """Time a forward and backward pass of the regulariser, in seconds.

    A copy runs, so that neither the regulariser's state nor a gradient changes.
    """
    regularizer, z_BND = copy.deepcopy(regularizer), z_BND.detach().requires_grad_()
    wanted = [z_BND, *regularizer.parameters()]
    seconds = 0.0
    for _ in range(2):  # the second is warm
        _wait_for(z_BND.device)
        began = time.monotonic()
        losses = regularizer(z_BND, step).losses
        total = torch.stack([weight * value.float() for weight, value in losses.values()]).sum()
        torch.autograd.grad(total, wanted, allow_unused=True)
        _wait_for(z_BND.device)
        seconds = time.monotonic() - began
    return seconds


def large(config: TokenizerConfig, images: int) -> bool:
    """Tell if a pass of so many images keeps a GPU busy."""
    cost = flops.tokenizer_cost(config)
    return images * (cost.encoder.macs + cost.decoder.macs) >= KERNELS_FROM_MACS


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(run: Run) -> Result:
    """Train to the last iteration and leave the weights in RUN/final/."""
    config: TokenizerConfig = run.config
    device = run.device

    # --------------------------------------------------------------------------------- setup
    images = data.open_images(config.data, run.settings, "train").to(device)
    tokenizer, quantizer = build_tokenizer(config, device)
    weights = run.settings.locations.get("weights", {})
    built = build_loss(config.perceptual, "perceptual", config, device, weights)
    perceptual = cast("Perceptual | None", built)
    built = build_loss(config.adversarial, "adversarial", config, device, weights)
    adversarial = cast("Adversarial | None", built)
    regularizer: Regularizer | None = None
    if config.regularizer is not None:
        module = parts.load("regularizers", config.regularizer.name)
        grid = config.tokenizer.config.grid_shape(config.data.resolution)
        torch.manual_seed(derive_seed("stage1 regularizer", config.seed))
        dim = latent_width(config)
        regularizer = module.Regularizer(config.regularizer.config, dim, grid).to(device)

    autoencoder = nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer})
    modules: dict[str, nn.Module] = {"autoencoder": autoencoder}
    optimizers = {"autoencoder": make_optimizer(autoencoder, config.optim)}
    settings_of: dict[str, OptimConfig] = {"autoencoder": config.optim}
    for name, extra, part in (
        ("regularizer", regularizer, config.regularizer),
        ("adversarial", adversarial, config.adversarial),
    ):
        if extra is None or part is None:
            continue
        modules[name] = extra
        settings_of[name] = part.config.optim_for(config.optim)
        if any(p.requires_grad for p in extra.parameters()):
            optimizers[name] = optimizer_of(list(extra.named_parameters()), settings_of[name])
    average = MovingAverage(autoencoder, config.ema_decay) if config.ema_decay else None
    if average is not None:
        modules["average"] = average.module

    # Kernels and compiled copies share the weights; the plain modules are what is saved.
    encode, features, decode = tokenizer.encode, tokenizer.features, tokenizer.decode
    likeness: Callable[[Tensor, Tensor], Tensor] | None = perceptual
    layout = torch.contiguous_format
    if device.type == "cuda":
        layout = torch.channels_last
        for module_ in (*modules.values(), *([perceptual] if perceptual is not None else [])):
            module_.to(memory_format=layout)
    share = distributed.share(config.batch_size)
    if run.compile and kernels.available(device) and large(config, share.stop - share.start):
        # Kernels do what a compiler would, without its minute.
        kernels.adopted_by(tokenizer, device, recompute=run.settings.activation_memory < 1)
        if adversarial is not None:
            kernels.adopted_by(adversarial, device)
        if perceptual is not None and not kernels.adopted_by(perceptual, device):
            likeness = startup.compiled(perceptual)
    elif run.settings.compile:
        encode, features, decode = (startup.compiled(f) for f in (encode, features, decode))
        likeness = startup.compiled(perceptual) if perceptual is not None else None
    unprojected = regularizer is not None and regularizer.config.latent == "unprojected"
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=config.numerics.precision == "bf16")

    # --------------------------------------------------------------------------------- resume
    found = checkpoints.load(run, modules, optimizers) or checkpoints.take_over(
        run, modules, optimizers
    )
    start, kept = found or (0, {})
    run.seconds_before = float(kept.get("seconds", 0.0))
    last: dict[str, float] = dict(kept.get("last", ()))  # of the last iteration, once it is done
    for module_ in modules.values():
        distributed.broadcast_module(module_)
    generator_side = [m for m in (autoencoder, regularizer) if m is not None]
    gradients = GradientAverager(p for module_ in generator_side for p in module_.parameters())
    if adversarial is not None:
        adversarial_gradients = GradientAverager(adversarial.parameters())
    checkpoints.truncate_log(run, start)
    overhead = flops.regularizer_overhead(config)
    if config.regularizer is not None and start == 0:
        # And the iterations that a run without it could have for the same FLOPs.
        plain = config.iterations * (1 + overhead)
        run.log({"step": 0, "regularizer_flops_overhead": overhead, "plain_iterations": plain})
    timed = False  # whether this process has measured the regulariser's share of the time

    def batch(step: int) -> Tensor:
        indices = data.batch_indices(len(images), config.batch_size, config.seed, step)
        seed = derive_seed("augment", config.seed, step)
        pixels = images.augmented(indices, seed, config.augment, config.crop_scale_min)
        return pixels[share]

    # --------------------------------------------------------------------------------- train
    watch = FiniteWatch(device)
    clock, clock_step = time.monotonic(), start
    for step, pixels in enumerate(data.ahead(batch, start, config.iterations), start):
        stopping = run.stopping()
        if stopping or (step > start and run.save_due(step)):
            watch.flush()
            checkpoints.save(run, step, modules, optimizers, {"seconds": run.seconds()})
        if stopping:
            raise Preempted(f"stopped before iteration {step}")
        torch.manual_seed(derive_seed("stage1 step", config.seed, step, distributed.rank()))
        lr = 0.0
        for name, optimizer in optimizers.items():
            lr = set_learning_rate(optimizer, settings_of[name], step, config.iterations)
        x_BCHW = data.to_float(data.send(pixels, device))
        x_BCHW = x_BCHW.contiguous(memory_format=layout)
        losses: dict[str, tuple[float, Tensor]] = {}
        stats: dict[str, Tensor] = {}

        # Generator side: autoencoder and regulariser.
        with bf16:
            z_BND = features(x_BCHW) if unprojected else encode(x_BCHW)
            if regularizer is not None:
                regularized = regularizer(z_BND, step)
                z_BND = regularized.z_BND
                losses |= regularized.losses
                stats |= regularized.stats
            if unprojected:
                z_BND = tokenizer.project(z_BND)
            quantized = quantizer(z_BND, step)
            losses |= quantized.losses
            stats |= quantized.stats
            y_BCHW = decode(quantized.z_q_BND)
        difference = y_BCHW.float() - x_BCHW
        pixel_loss = difference.square() if config.reconstruction == "l2" else difference.abs()
        losses["reconstruction"] = (config.reconstruction_weight, pixel_loss.mean())
        if perceptual is not None and likeness is not None:
            with bf16:
                value = likeness(x_BCHW, y_BCHW)
            losses["perceptual"] = (perceptual.config.weight, value)
        gan_weight = adversarial.weight(step) if adversarial is not None else 0.0
        if adversarial is not None and gan_weight > 0:
            with bf16:
                value = adversarial.generator_loss(y_BCHW)
            if adversarial.config.adaptive:
                own = losses["reconstruction"][0] * losses["reconstruction"][1]
                if perceptual is not None:
                    own = own + losses["perceptual"][0] * losses["perceptual"][1]
                factor = adversarial.adaptive_weight(own, value, tokenizer.last_layer)
                stats["adaptive_weight"] = factor
                value = factor * value
            losses["generator"] = (gan_weight, value)
        total = torch.stack([weight * value.float() for weight, value in losses.values()]).sum()
        gradients.backward(total)
        watch.check(step, "stage-1 loss", total)
        for name in ("regularizer", "autoencoder"):  # each clipped by its own setting
            if name in optimizers:
                norm = clip_gradients(modules[name].parameters(), settings_of[name].clip)
                watch.check(step, "gradient norm", norm)
                optimizers[name].step()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update(autoencoder)

        # Discriminator side.
        if adversarial is not None and gan_weight > 0:
            with bf16:
                value, seen = adversarial.discriminator_loss(x_BCHW, y_BCHW.detach())
            discriminator_loss = adversarial.discriminator_weight(step) * value.float()
            if discriminator_loss.requires_grad:
                adversarial_gradients.backward(discriminator_loss)
            watch.check(step, "discriminator loss", discriminator_loss)
            if "adversarial" in optimizers:
                clip_gradients(adversarial.parameters(), settings_of["adversarial"].clip)
                optimizers["adversarial"].step()
                optimizers["adversarial"].zero_grad(set_to_none=True)
            adversarial.after_step()
            losses["discriminator"] = (0.0, value)
            stats |= seen

        if (step + 1) % run.settings.log_every == 0 or step + 1 == config.iterations:
            watch.flush()
            rate = (step + 1 - clock_step) / max(1e-9, time.monotonic() - clock)
            clocked = {}
            if regularizer is not None and not timed and step + 1 - start >= TIMED_AFTER:
                timed = True
                with bf16:
                    seconds = regularizer_seconds(regularizer, regularized.z_BND, step)
                clocked["regularizer_seconds_share"] = seconds * rate  # of an iteration
            clock, clock_step = time.monotonic(), step + 1
            last = {"loss": distributed.mean(total.detach()).item(), "grad_norm": norm.item()}
            last |= {
                name: distributed.mean(value.detach()).item() for name, (_, value) in losses.items()
            }
            last |= {name: distributed.mean(value.float()).item() for name, value in stats.items()}
            run.log({"step": step, "lr": lr, **last, **clocked})
            run.progress(step + 1, config.iterations, "tokenizer", rate)

    # --------------------------------------------------------------------------------- finish
    if start < config.iterations and run.save_due(config.iterations):
        # As pairs: JSON here sorts keys, and the endpoint's values keep the order of the log.
        kept |= {"seconds": run.seconds(), "last": list(last.items())}
        checkpoints.save(run, config.iterations, modules, optimizers, kept)
    if is_segment(config):
        checkpoints.save_final(run, modules, config.iterations, optimizers)
        return Result(values=[])
    kept_weights = average.module if average is not None else autoencoder
    checkpoints.save_final(run, {"autoencoder": kept_weights}, config.iterations)
    values = [Value(metric=f"train_{name}", value=v, unit="1") for name, v in last.items()]
    if config.regularizer is not None:
        name = f"{config.regularizer.name}_flops_overhead"
        values.append(Value(metric=name, value=overhead, unit="share of the rest of an iteration"))
    return Result(values=values)
