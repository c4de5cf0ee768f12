"""Stage 2: trains the Llama generator on codes. Read top to bottom: setup, resume, step, evaluate,
save, finish.

Shape suffixes: B images, L tokens per image, V codebook size.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...results_db.record import RunDir
from ..accounting import flops, stored_config
from ..accounting.config import GeneratorConfig, is_segment
from ..fast_start import startup
from ..fast_start.ahead import compile_generator
from ..loop import checkpoints, cross_entropy, data, distributed
from ..loop.code_sets import Codes, train_subset
from ..loop.gradients import GradientAverager
from ..loop.optim import FiniteWatch, clip_gradients, derive_seed, make_optimizer, set_learning_rate
from ..metrics import Value
from ..models.build import build_generator, legal_sizes
from ..models.llama import Generator
from ..run import Preempted, Result, Run, Settings

BETTER = {"val_loss": "lower", "val_bits_per_image": "lower", "train_loss": "lower"}
COMPILE_FROM = 10_000  # validation images from which compiling their forward pass pays


def token_loss(logits_BLV: Tensor, code_BL: Tensor) -> Tensor:
    """Cross-entropy in nats of every token, [B, L], fp32."""
    flat = F.cross_entropy(logits_BLV.flatten(0, 1).float(), code_BL.flatten(), reduction="none")
    return flat.view(code_BL.shape)


def illegal_rows(illegal_LV: Tensor | None, images: int) -> Tensor | None:
    """Repeat the mask of illegal codes for every token of a batch, [images * L, V]."""
    if illegal_LV is None:
        return None
    return illegal_LV.repeat(images, 1)


def images_at_once(settings: Settings, local_batch: int) -> int:
    """Return the number of images of a backward pass, which bounds the activations held.

    ValueError when `micro_batch` does not divide the batch of a process.
    """
    if settings.micro_batch is not None:
        micro = min(settings.micro_batch, local_batch)
        if local_batch % micro:
            raise ValueError(
                f"micro_batch: {micro} does not divide the {local_batch} images of each process"
            )
        return micro
    most = max(1, int(local_batch * settings.activation_memory))
    return next(size for size in range(most, 0, -1) if local_batch % size == 0)


def main(run: Run) -> Result:
    """Train to the last iteration, measure the validation loss, leave weights in RUN/final/."""
    config: GeneratorConfig = run.config
    device = run.device

    # --------------------------------------------------------------------------------- setup
    # Each process reads the files, so each verifies them.
    codes = distributed.done_by_all(lambda: Codes(run.parents["codes"]).verify(run.warn))
    kernels_ready = compile_generator(config, codes.codebook_size, codes.tokens_per_image, device)
    train_codes, train_labels = codes.split("train")
    chosen = train_subset(len(train_labels), config.num_train)
    codes_on_device = train_codes.nbytes <= run.settings.cache_codes_bytes
    if codes_on_device:
        resident = torch.from_numpy(train_codes[chosen.numpy()].astype(np.int32)).to(device)
    labels = torch.from_numpy(train_labels[chosen.numpy()].astype(np.int64)).to(device)
    if config.label_mode == "none":
        labels = torch.zeros_like(labels)
    num_images, num_crops = len(chosen), train_codes.shape[1]
    generator = build_generator(config, codes, device)
    generator.train()
    optimizer = make_optimizer(generator, config.optim)
    modules, optimizers = {"generator": generator}, {"generator": optimizer}
    if run.compile and not generator.uses_kernels:
        startup.allow_many_shapes()
        # One compiled block serves all layers: they share their code and shapes.
        for block in generator.blocks:
            block.compile()
    illegal = None
    if config.mask_illegal:
        tokenizer_id = stored_config.read(run.parents["codes"]).parents["tokenizer"]
        tokenizer_dir = RunDir.of(run.dir.home, "tokenizer", tokenizer_id)
        sizes = legal_sizes(tokenizer_dir, codes.tokens_per_image)
        if sizes is not None:
            vocabulary = torch.arange(codes.codebook_size, device=device)
            illegal = vocabulary[None] >= torch.tensor(sizes, device=device)[:, None]
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=config.numerics.precision == "bf16")
    output_loss = cross_entropy.plain
    if device.type == "cuda":
        output_loss = cross_entropy.chunked
    share = distributed.share(config.batch_size)
    local_batch = share.stop - share.start
    micro = images_at_once(run.settings, local_batch)

    # --------------------------------------------------------------------------------- resume
    found = checkpoints.load(run, modules, optimizers) or checkpoints.take_over(
        run, modules, optimizers
    )
    start, kept = found or (0, {})
    run.seconds_before = float(kept.get("seconds", 0.0))
    train_loss: float | None = kept.get("train_loss")
    distributed.broadcast_module(generator)
    gradients = GradientAverager(generator.parameters())
    checkpoints.truncate_log(run, start)
    if (reason := kernels_ready()) is not None:
        run.warn(f"kernels are compiled at their first use: {reason}")
    distributed.barrier()  # the first process of each host has compiled for all

    def batch(step: int) -> tuple[Tensor, Tensor]:
        """Return codes [B, L] and classes [B] of iteration `step`: a random crop of each image."""
        indices = data.batch_indices(num_images, config.batch_size, config.seed, step)
        picker = torch.Generator().manual_seed(derive_seed("crop", config.seed, step))
        crops = torch.randint(num_crops, (config.batch_size,), generator=picker)
        indices, crops = indices[share], crops[share]
        places, crop_places = data.send(indices, device), data.send(crops, device)
        if codes_on_device:
            found = resident[places, crop_places]
        else:
            rows = train_codes[chosen[indices].numpy(), crops.numpy()].astype(np.int32)
            found = data.send(torch.from_numpy(rows), device)
        return found.long(), labels[places]

    # --------------------------------------------------------------------------------- train
    watch = FiniteWatch(device)
    clock, clock_step = time.monotonic(), start
    for step in range(start, config.iterations):
        stopping = run.stopping()
        if stopping or (step > start and run.save_due(step)):
            watch.flush()
            checkpoints.save(run, step, modules, optimizers, {"seconds": run.seconds()})
        if stopping:
            raise Preempted(f"stopped before iteration {step}")
        torch.manual_seed(derive_seed("stage2 step", config.seed, step, distributed.rank()))
        lr = set_learning_rate(optimizer, config.optim, step, config.iterations)
        code_BL, class_B = batch(step)
        loss_sum = torch.zeros((), device=device)
        parts = list(zip(code_BL.split(micro), class_B.split(micro), strict=True))
        for number, (codes_part, classes_part) in enumerate(parts, 1):
            with bf16:
                hidden_BLD = generator.hidden(codes_part[:, :-1], classes_part)
            loss, nats = output_loss(
                hidden_BLD.flatten(0, 1),
                generator.head.weight,
                codes_part.flatten(),
                illegal_rows(illegal, len(codes_part)),
                config.z_loss,
            )
            gradients.backward(loss * (len(codes_part) / local_batch), last=number == len(parts))
            loss_sum += nats * (len(codes_part) / local_batch)
        norm = clip_gradients(generator.parameters(), config.optim.clip)
        watch.check(step, "training loss", loss_sum)
        watch.check(step, "gradient norm", norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        if (step + 1) % run.settings.log_every == 0 or step + 1 == config.iterations:
            watch.flush()
            rate = (step + 1 - clock_step) / max(1e-9, time.monotonic() - clock)
            clock, clock_step = time.monotonic(), step + 1
            train_loss = distributed.mean(loss_sum).item()
            entry = {"step": step, "lr": lr, "loss": train_loss, "grad_norm": norm.item()}
            run.log({**entry, "tokens_per_second": rate * config.batch_size * code_BL.shape[1]})
            run.progress(step + 1, config.iterations, "generator", rate)
    extra = {"seconds": run.seconds(), "train_loss": train_loss}
    saved = start == config.iterations
    if not saved and run.save_due(config.iterations):
        checkpoints.save(run, config.iterations, modules, optimizers, extra)
        saved = True
    if is_segment(config):
        checkpoints.save_final(run, modules, config.iterations, optimizers)
        return Result(values=[], columns=generator_columns(config, codes))

    # --------------------------------------------------------------------------------- evaluate
    generator.eval()
    val_codes, val_labels = codes.split("val")
    plainly: AbstractContextManager[Any] = nullcontext()
    if run.compile and not generator.uses_kernels and len(val_labels) < COMPILE_FROM:
        plainly = torch.compiler.set_stance("force_eager")
    try:
        with plainly:
            loss_L = validation_loss(run, generator, val_codes[:, 0], val_labels, illegal)
    except Preempted:
        if not saved:
            checkpoints.save(run, config.iterations, modules, optimizers, extra)
        raise

    # --------------------------------------------------------------------------------- finish
    checkpoints.save_final(run, modules, config.iterations)
    run.artifact("val_loss_per_position.npy", loss_L)
    length = codes.tokens_per_image
    val_loss = float(loss_L.mean())
    where = {"reference": "validation images, centre crop", "num_samples": len(val_labels)}
    values = [
        Value(metric="val_loss", value=val_loss, unit="nats/token", provenance=where),
        Value(
            metric="val_bits_per_image",
            value=val_loss * length / math.log(2),
            unit="bits/image",
            provenance=where,
        ),
        Value(metric="train_loss", value=train_loss, unit="nats/token"),
    ]
    return Result(values=values, columns=generator_columns(config, codes))


@torch.inference_mode()
def validation_loss(
    run: Run,
    generator: Generator,
    codes_NL: np.ndarray,
    labels_N: np.ndarray,
    illegal_LV: Tensor | None,
) -> np.ndarray:
    """Mean cross-entropy in nats at every position [L], class-conditional, float64.

    Under the model that was trained: codes that training masked have no probability here either.
    """
    config: GeneratorConfig = run.config
    bf16 = torch.autocast(
        run.device.type, torch.bfloat16, enabled=config.numerics.precision == "bf16"
    )
    total = torch.zeros(codes_NL.shape[1], dtype=torch.float64, device=run.device)
    # A fixed size, so that the sums do not depend on the batch size of the training.
    for first in range(0, len(labels_N), 64):
        if run.stopping():
            raise Preempted("stopped while measuring the validation loss")
        chunk = np.asarray(codes_NL[first : first + 64]).astype(np.int64)
        code_BL = torch.from_numpy(chunk).to(run.device)
        class_B = torch.from_numpy(labels_N[first : first + 64].astype(np.int64)).to(run.device)
        if config.label_mode == "none":
            class_B = torch.zeros_like(class_B)
        with bf16:
            logits_BLV = generator(code_BL[:, :-1], class_B)
        if illegal_LV is not None:
            logits_BLV = logits_BLV.float().masked_fill(illegal_LV, -math.inf)
        total += token_loss(logits_BLV, code_BL).double().sum(0)
        run.progress(first + len(chunk), len(labels_N), "validation loss", 0.0)
    return (total / len(labels_N)).cpu().numpy()


def generator_columns(config: GeneratorConfig, codes: Codes) -> dict[str, Any]:
    """Return counts and FLOPs of a generator run."""
    size, length = codes.codebook_size, codes.tokens_per_image
    num_classes = codes.num_classes if config.label_mode == "class" else 1
    cost = flops.generator_cost(config.model, size, num_classes, length)
    images = config.iterations * config.batch_size
    train = flops.generator_flops_train(config, size, length)
    return {
        "params": cost.params,
        "params_non_embedding": cost.params_non_embedding,
        "params_head": cost.params_head,
        "params_matmul": cost.params_matmul,
        "flops_train": float(train),
        "flops_marginal": float(train - flops.generator_flops_shared(config, size, length)),
        "flops_paper": float(flops.generator_flops_paper(config, size, num_classes, length)),
        "flops_sample": float(
            flops.generator_flops_sample(config.model, size, num_classes, length, guided=False)
        ),
        "tokens_train": images * length,
        "images_train": images,
        "iterations": config.iterations,
        "tokens_per_image": length,
        "codebook_size": size,
        "train_seed": config.seed,
    }
