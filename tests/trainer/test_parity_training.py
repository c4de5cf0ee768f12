"""Whole training runs of both stages follow loops in plain torch over formulas written apart.

The package gives the loops their data only: initial weights, batches, the seed of each step.
"""

from __future__ import annotations

import math
from pathlib import Path

import formulas
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting.config import decode_run, part
from tokenlaw.trainer.calibrate import random_codes
from tokenlaw.trainer.kinds import tokenizer as stage1
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.loop.code_sets import Codes
from tokenlaw.trainer.loop.optim import derive_seed
from tokenlaw.trainer.models.build import (
    build_generator,
    build_tokenizer,
    load_generator,
    load_tokenizer,
)
from tokenlaw.trainer.run import Settings

CPU = torch.device("cpu")


def leaves(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}


def adamw(w: dict[str, Tensor], decay: float) -> torch.optim.AdamW:
    """Matrices decay; gains, biases and tables of codes and classes do not."""
    matrices = [p for n, p in w.items() if p.ndim > 1 and "embedding" not in n and "book" not in n]
    others = [p for p in w.values() if all(p is not q for q in matrices)]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)


def step_at(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def warm_cosine(step: int, iterations: int, peak: float, warmup: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (iterations - warmup))) / 2


def weights_agree(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name] - value).abs().max().item() < limit, name


# ----------------------------------------------------------------------------------------- stage 2


@pytest.fixture(scope="module")
def codes_run(tmp_path_factory) -> RunDir:
    home = tmp_path_factory.mktemp("home")
    run_dir = random_codes(home, tiny.codes(), tiny.varied_tokenizer(), 64)
    attempt = claim(run_dir, executor="test")
    attempt.write_endpoint({"status": "done", "values": [], "columns": {"flops_train": 0.0}})
    attempt.finish("done")
    return run_dir


def test_stage_2(codes_run: RunDir) -> None:
    iterations, batch, peak, decay, z_weight, dropout = 40, 8, 5e-3, 0.5, 1e-2, 0.1
    model = {"token_dropout": dropout, "residual_dropout": dropout, "ffn_dropout": dropout}
    tree = tiny.generator(
        {**model, "class_dropout": 0.3},
        iterations=iterations,
        z_loss=z_weight,
        optim={
            **{"lr_peak": peak, "schedule": "cosine", "warmup_iterations": 5},
            **{"beta1": 0.9, "beta2": 0.95, "weight_decay": decay, "clip": 0.3},
        },
    )
    run_dir = tiny.done(codes_run.home, "generator", tree, {"codes": codes_run})
    config, codes = decode_run("generator", tree), Codes(codes_run)
    w = leaves(build_generator(config, codes, CPU))
    all_codes, labels = (torch.from_numpy(np.array(a)).long() for a in codes.split("train"))
    turn = formulas.turns("rope_2d", 16, codes.grid, "zero")
    shape = {"layers": 2, "heads": 2, "turn_LP": turn}
    optimizer = adamw(w, decay)
    losses, norms = [], []
    for step in range(iterations):
        images = data.batch_indices(len(labels), batch, 0, step)
        picker = torch.Generator().manual_seed(derive_seed("crop", 0, step))
        crops = torch.randint(all_codes.shape[1], (batch,), generator=picker)
        code, classes = all_codes[images, crops], labels[images]
        torch.manual_seed(derive_seed("stage2 step", 0, step, 0))
        classes = torch.where(torch.rand(batch) < 0.3, codes.num_classes, classes)
        logits = formulas.generator(code[:, :-1], classes, w, dropout=dropout, **shape)
        partition = torch.logsumexp(logits, dim=-1)
        nats = (partition - logits.gather(2, code[..., None])[..., 0]).mean()
        (nats + z_weight * partition.pow(2).mean()).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(w.values(), 0.3).item())
        step_at(optimizer, warm_cosine(step, iterations, peak, 5))
        losses.append(nats.item())
    entries = tiny.log_entries(run_dir)
    assert tiny.losses(run_dir) == pytest.approx(losses, abs=2e-5)
    assert [entry["grad_norm"] for entry in entries] == pytest.approx(norms, rel=1e-3)
    assert losses[-1] < losses[0] and sum(norm > 0.3 for norm in norms) > 5
    weights_agree(load_generator(run_dir, CPU)[0].state_dict(), w, 2e-4)


# ----------------------------------------------------------------------------------------- stage 1

ITERATIONS, BATCH, PEAK, DECAY, CLIP, AVERAGED = 30, 8, 3e-4, 0.1, 0.5, 0.9
GAN_START, GAN_RAMP, GAN_WEIGHT, LECAM, LECAM_DECAY = 4, 12, 0.2, 0.1, 0.9
LAMBDA, RAMP, CAUSAL_DECAY = 4.0, 10, 0.1
BASE = {"lr_peak": PEAK, "warmup_iterations": 3, "schedule": "cosine", "beta1": 0.9, "beta2": 0.95}


def stage_1_tree() -> dict:
    gan = {
        **{"objective": "hinge", "adaptive": True, "gate_discriminator": True, "n_layers": 1},
        **{
            "weight": GAN_WEIGHT,
            "start_iteration": GAN_START,
            "ramp_iterations": GAN_RAMP,
            "ndf": 4,
        },
        **{"lecam_weight": LECAM, "lecam_decay": LECAM_DECAY},
        # Of its own, so that neither the decay nor the clipping of the tokenizer's is meant.
        "optim": {**BASE, "name": "adam", "clip": 0.0},
    }
    causal = {
        **{"weight": LAMBDA, "ramp_iterations": RAMP, "layers": 1, "width": 16, "heads": 2},
        "hidden_multiple": 16,
        "optim": {**BASE, "name": "adamw", "weight_decay": CAUSAL_DECAY, "clip": 0.0},
    }
    return tiny.tokenizer(
        quantizer=part("vq", codebook_size=16, dim=4, beta=0.25),
        regularizer=part("crt", **causal),
        adversarial=part("patchgan", **gan),
        augment="none",
        iterations=ITERATIONS,
        batch_size=BATCH,
        ema_decay=AVERAGED,
        optim={**BASE, "name": "adamw", "weight_decay": DECAY, "clip": CLIP},
    )


def autoencoder_losses(
    x: Tensor, w: dict[str, Tensor], causal: dict[str, Tensor], turn: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y; reconstruction; both terms of the quantizer; what CRT asks of the encoder, and of its
    model: the encoder sees lambda times the error, the model the error itself."""
    z = formulas.latents(x, w, levels=3, blocks=1)
    weight = LAMBDA * (1 - math.cos(math.pi * min(1.0, step / RAMP))) / 2
    frozen = {name: p.detach() for name, p in causal.items()}
    of_encoder = weight * formulas.causal_loss(z, frozen, 1, 2, turn)
    of_model = formulas.causal_loss(z.detach(), causal, 1, 2, turn)
    z_q, _, codebook, commitment = formulas.vector_quantized(z, w["quantizer.codebook_KD"], 0.25)
    y = formulas.images(z_q, w, levels=3, blocks=1)
    return y, (y - x).pow(2).mean(), codebook + commitment, of_encoder, of_model


def test_stage_1(tmp_path: Path) -> None:
    tree = stage_1_tree()
    run_dir = tiny.done(tmp_path, "tokenizer", tree)
    config = decode_run("tokenizer", tree)
    tokenizer, quantizer = build_tokenizer(config, CPU)
    w = leaves(nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer}))
    critic = leaves(stage1.build_loss(config.adversarial, "adversarial", config, CPU, {}))
    torch.manual_seed(derive_seed("stage1 regularizer", 0))
    module = parts.load("regularizers", "crt")
    causal = leaves(module.Regularizer(config.regularizer.config, 4, (4, 4)))
    turn = formulas.turns("rope_2d", 8, (4, 4), "zero")[:-1]
    pictures = data.open_images(config.data, Settings(), "train")
    optimizers = [adamw(w, DECAY), adamw(causal, CAUSAL_DECAY), adamw(critic, 0.0)]
    average = {name: p.detach().clone() for name, p in w.items()}
    mean_real = mean_fake = 0.0
    expected: list[dict[str, float]] = []
    for step in range(ITERATIONS):
        lr = warm_cosine(step, ITERATIONS, PEAK, 3)
        images = data.batch_indices(len(pictures), BATCH, 0, step)
        x = data.to_float(pictures.augmented(images, 0, "none", 0.8))
        y, pixels, quantized, of_encoder, of_model = autoencoder_losses(x, w, causal, turn, step)
        total, shown = pixels + quantized + of_encoder, pixels + quantized + of_model
        seen = {}
        ramp = min(1.0, max(0.0, (step - GAN_START) / GAN_RAMP))
        gate = GAN_WEIGHT * (1 - math.cos(math.pi * ramp)) / 2
        if gate > 0:
            frozen = {name: p.detach() for name, p in critic.items()}
            gan = -formulas.patchgan(y, frozen, strided=1).mean()
            last = w["tokenizer.decoder.12.weight"]  # to pixels
            seen["adaptive_weight"] = formulas.adaptive(pixels, gan, last)
            total = total + gate * seen["adaptive_weight"] * gan
            shown = shown + gate * seen["adaptive_weight"] * gan
        total.backward()
        of_model.backward()
        seen["grad_norm"] = torch.nn.utils.clip_grad_norm_(w.values(), CLIP).item()
        step_at(optimizers[0], lr)
        step_at(optimizers[1], lr)
        for name, p in w.items():
            average[name] = AVERAGED * average[name] + (1 - AVERAGED) * p.detach()
        if gate > 0:
            real, fake = (formulas.patchgan(i, critic, strided=1) for i in (x, y.detach()))
            mean_real = LECAM_DECAY * mean_real + (1 - LECAM_DECAY) * real.mean().item()
            mean_fake = LECAM_DECAY * mean_fake + (1 - LECAM_DECAY) * fake.mean().item()
            of_critic = formulas.hinge(real, fake)
            of_critic = of_critic + LECAM * formulas.lecam(real, fake, mean_real, mean_fake)
            (gate * of_critic).backward()
            step_at(optimizers[2], lr)
            seen["discriminator"] = of_critic.item()
        expected.append({"loss": shown.item(), "crt": of_model.item(), **seen})
    entries = tiny.log_entries(run_dir)
    assert len(entries) == ITERATIONS
    for entry, line in zip(entries, expected, strict=True):
        assert {name: entry[name] for name in line} == pytest.approx(line, rel=1e-3, abs=1e-5)
    assert sum(line["grad_norm"] > CLIP for line in expected) > 5
    found = load_tokenizer(run_dir, CPU)
    weights_agree(
        leaves(nn.ModuleDict({"tokenizer": found[0], "quantizer": found[1]})), average, 2e-5
    )
