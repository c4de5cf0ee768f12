"""Where the time and memory of a tokenizer's training step go, and what each way to run it takes.

    python benchmarks/tokenizer_step.py [--only NAME ...] [--batches 64] [--profile] [--tiny]
    python benchmarks/tokenizer_step.py --no-check --tiles 2048:4:32:1 1024:4:64:3

The modules, losses, clipping and optimisers of `trainer.kinds.tokenizer` on random images that are
on the GPU: VQ-16 at 256 px, K = 16384, bf16, with PatchGAN and a VGG16 perceptual loss (random
weights), as it is trained and in variants that each change one thing, all in one process. The
losses of the last step are shown: variants only compute in another way, so they end at nearly the
same ones.

In the same run, before: encoder and decoder with kernels beside the plain eager modules, outputs
and all gradients, in fp32 and, as far from fp32 as the plain modules are, in bf16; both losses with
kernels beside without, in fp32; and the kernels alone on the largest activations, as shares of the
copy rate. `--tiles` times the latter alone, with each of some ways to share out the work: elements,
warps, tiles and stages of a program (`trainer.kernels.group_norm.Tiling`). `--profile` lists the
kernels of a step as it is trained, by time. `--tiny` is the same at sizes for a CPU, without
kernels.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import statistics
from collections.abc import Callable
from typing import Any

import torch
from generator_step import list_kernels, timed
from torch import Tensor

from tokenlaw.trainer import kernels
from tokenlaw.trainer.accounting.config import decode_run, part
from tokenlaw.trainer.loop.optim import clip_gradients, make_optimizer, optimizer_of
from tokenlaw.trainer.losses import patchgan, random_vgg
from tokenlaw.trainer.models import build

# What each variant changes: what runs by kernels, what is made twice.
VARIANTS: dict[str, dict[str, Any]] = {
    "as trained": {},
    "plain discriminator": {"discriminator": False},
    "activation memory below 1": {"recompute": True},
    "plain": {"autoencoder": False, "perceptual": False, "discriminator": False},
}
LIMIT_FP32 = 1e-4  # distance of outputs and gradients from those of the plain modules, as a share
LIMIT_LOSSES = 1e-3  # the same; a ReLU's argument near 0 may fall on the other side
SIGNS = 0.005  # share of gradients more than with plain bf16 that may have the other sign
SLACK_BF16 = 1.3  # how much further from fp32 than plain bf16 the kernels may be in bf16


def make_config(batch: int, side: int, tiny: bool) -> Any:
    small = {"ch": 8, "ch_mult": [1, 2, 2], "z_channels": 16} if tiny else {}
    return decode_run(
        "tokenizer",
        {
            # No images are read: nobody looks at what data these are.
            "data": {"dataset": "imagefolder", "digest": "0" * 64, "resolution": side}
            | {"num_classes": 1, "num_train": 1, "num_val": 1},
            "tokenizer": part("vqgan", **small),
            "quantizer": part("vq", codebook_size=256 if tiny else 16_384),
            "iterations": 1000,
            "batch_size": batch,
            "optim": {"name": "adam"},
            "numerics": {"precision": "bf16"},
        },
    )


def make_step(
    config: Any,
    x_BCHW: Tensor,
    *,
    autoencoder: bool = True,
    perceptual: bool = True,
    discriminator: bool = True,
    recompute: bool = False,
) -> Callable[[], tuple[Tensor, Tensor]]:
    """One iteration as a function that gives the generator's and the discriminator's loss; what
    does not run by kernels runs eagerly, module by module.
    """
    device, layout = x_BCHW.device, torch.channels_last
    tokenizer, quantizer = build.build_tokenizer(config, device)
    torch.manual_seed(1)
    vgg = random_vgg.Loss(random_vgg.Config()).to(device)
    small = {"ndf": 8, "n_layers": 2} if device.type == "cpu" else {}
    adversarial = patchgan.Loss(
        patchgan.Config(objective="hinge", start_iteration=0, ramp_iterations=0, **small)
    ).to(device)
    trained = torch.nn.ModuleDict({"tokenizer": tokenizer, "quantizer": quantizer})
    for module in (trained, vgg, adversarial):
        module.to(memory_format=layout)
    optimizers = [make_optimizer(trained, config.optim)]
    optimizers.append(optimizer_of(list(adversarial.named_parameters()), config.optim))
    if autoencoder:
        kernels.adopted_by(tokenizer, device, recompute=recompute)
    for module, wanted in ((adversarial, discriminator), (vgg, perceptual)):
        if wanted:
            kernels.adopted_by(module, device)
    bf16 = torch.autocast(device.type, torch.bfloat16)
    parameters = list(trained.parameters())

    def step() -> tuple[Tensor, Tensor]:
        with bf16:
            quantized = quantizer(tokenizer.encode(x_BCHW), 0)
            y_BCHW = tokenizer.decode(quantized.z_q_BND)
        losses = [weight * value for weight, value in quantized.losses.values()]
        losses.append((y_BCHW.float() - x_BCHW).square().mean())
        with bf16:
            losses.append(vgg(x_BCHW, y_BCHW))
            losses.append(0.5 * adversarial.generator_loss(y_BCHW))
        total = torch.stack([loss.float() for loss in losses]).sum()
        total.backward()
        clip_gradients(parameters, config.optim.clip)
        optimizers[0].step()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with bf16:
            own, _ = adversarial.discriminator_loss(x_BCHW, y_BCHW.detach())
        (0.5 * own.float()).backward()
        clip_gradients(adversarial.parameters(), config.optim.clip)
        optimizers[1].step()
        optimizers[1].zero_grad(set_to_none=True)
        return total.detach(), own.detach()

    return step


def measure(name: str, step: Callable[[], tuple[Tensor, Tensor]], batch: int, device: str) -> None:
    first, spent, memory, losses = timed(step, device)
    print(
        f"{name:<30} {batch:>5} {batch / spent:>9,.1f} {1e3 * spent:>8.1f} {memory:>7.1f}"
        f" {first:>9.1f} {losses[0].item():>9.4f} {losses[1].item():>9.4f}",
        flush=True,
    )


def check(config: Any, x_BCHW: Tensor) -> str:
    """Compares kernels with plain modules, forward and backward; AssertionError if they differ."""
    device = x_BCHW.device
    plain, _ = build.build_tokenizer(config, device)
    torch.manual_seed(2)
    for parameter in plain.parameters():  # biases and scales that matter
        parameter.data += (
            0.05
            * parameter.data.std().nan_to_num(1).clamp(min=0.1)
            * torch.randn(parameter.shape, device=device)
        )
    side = config.tokenizer.config.grid_shape(x_BCHW.shape[2])[0]
    z_BND = torch.randn(len(x_BCHW), side * side, config.quantizer.config.dim, device=device)
    fast = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    found = {}
    for name, model in (("plain", plain), ("kernels", fast), ("recompute", fast)):
        if name != "plain":
            kernels.adopted_by(model, device, recompute=name == "recompute")
        for bf16 in (False, True):
            torch.set_float32_matmul_precision("high" if bf16 else "highest")
            torch.backends.cudnn.allow_tf32 = bf16
            model.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = model.encode(x_BCHW), model.decode(z_BND)
            torch.manual_seed(3)
            ends = [torch.randn(out.shape, device=device).to(out.dtype) for out in outputs]
            torch.autograd.backward(outputs, ends)
            gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
            found[name, bf16] = [*(out.detach().flatten() for out in outputs), gradients]
    said = []
    for number, part_ in enumerate(("latents", "images", "gradients")):
        truth = found["plain", False][number]
        usual = distance(found["plain", True][number], truth)
        for name in ("kernels", "recompute"):
            exact = distance(found[name, False][number], truth)
            rounded = distance(found[name, True][number], truth)
            said.append(
                f"{part_}, {name}: fp32 {exact:.1e}, bf16 {rounded:.1e} (plain {usual:.1e})"
            )
            assert exact < LIMIT_FP32, said[-1]
            assert rounded < SLACK_BF16 * usual, said[-1]
    # Adam's first step goes by the signs, however small a gradient is.
    truth = found["plain", False][2].sign()
    alike = {
        name: (found[name, True][2].sign() == truth).float().mean().item()
        for name in ("plain", "kernels", "recompute")
    }
    said.append(
        "signs of bf16 gradients as in fp32: " + ", ".join(f"{n} {a:.2%}" for n, a in alike.items())
    )
    assert min(alike.values()) > alike["plain"] - SIGNS, said[-1]
    return "\n".join(said)


def check_losses(x_BCHW: Tensor, tiny: bool) -> str:
    """The same for the perceptual loss and the discriminator, in fp32: values and gradients."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(4)
    y_BCHW = x_BCHW + 0.3 * torch.randn_like(x_BCHW)
    small = {"ndf": 8, "n_layers": 2} if tiny else {}
    adversarial = patchgan.Loss(patchgan.Config(objective="hinge", **small)).to(x_BCHW.device)
    vgg = random_vgg.Loss(random_vgg.Config()).to(x_BCHW.device)

    def outcome() -> list[Tensor]:
        given_BCHW = y_BCHW.clone().requires_grad_()
        likeness = vgg(x_BCHW, given_BCHW)
        (slope_BCHW,) = torch.autograd.grad(likeness, given_BCHW)
        own, _ = adversarial.discriminator_loss(x_BCHW, y_BCHW)
        slopes = torch.autograd.grad(own, list(adversarial.parameters()))
        (made_BCHW,) = torch.autograd.grad(adversarial.generator_loss(given_BCHW), given_BCHW)
        gradients = torch.cat([slope.flatten() for slope in slopes])
        return [likeness, slope_BCHW, own, gradients, made_BCHW]

    for module in (vgg, adversarial):
        module.to(memory_format=torch.channels_last)
    plain = outcome()
    for module in (vgg, adversarial):
        kernels.adopted_by(module, x_BCHW.device)
    names = ("perceptual", "its gradient", "discriminator", "its gradient", "the generator's")
    found = [distance(one, other) for one, other in zip(outcome(), plain, strict=True)]
    said = ", ".join(f"{name} {away:.1e}" for name, away in zip(names, found, strict=True))
    assert max(found) < LIMIT_LOSSES, said
    return f"losses, fp32: {said}"


def distance(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


# -------------------------------------------------------------------------------- kernels alone


def seconds(work: Callable[[], Any]) -> float:
    """Median device time of ten calls after three, each queued behind a wait: what the host takes
    to start kernels is not in it.
    """
    times = []
    for _ in range(13):
        torch.cuda._sleep(5_000_000)  # clock cycles: some 3 ms
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times[3:])


def show_kernels(batch: int, side: int, tiling: Any = None) -> None:
    """Time of the kernels on the largest activations, beside that of as many bytes copied."""
    from tokenlaw.trainer.kernels import group_norm as module
    from tokenlaw.trainer.kernels.group_norm import group_norm
    from tokenlaw.trainer.kernels.spread import spread

    if tiling is not None:
        module.FORWARD = module.BACKWARD = tiling
    print(f"forward {tuple(module.FORWARD)}, backward {tuple(module.BACKWARD)}")

    def made(pixels: int, channels: int = 128) -> Tensor:
        x_BCHW = torch.randn(batch, channels, pixels, pixels, device="cuda", dtype=torch.bfloat16)
        return x_BCHW.to(memory_format=torch.channels_last).requires_grad_()

    x_BCHW, addend_BCHW, small_BCHW = made(side), made(side), made(side // 2)
    weight_C, shift_C, bias_C = torch.randn(3, 128, device="cuda").unbind()
    given = [x_BCHW, addend_BCHW, *(t.requires_grad_() for t in (weight_C, shift_C, bias_C))]
    target = torch.empty_like(x_BCHW)
    unit = seconds(lambda: target.copy_(x_BCHW.detach())) / 2  # one read or one write
    rate = x_BCHW.numel() * 2 / unit / 1e12
    print(
        f"one read or write of {batch} x {side} x {side} x 128: {1e3 * unit:.3f} ms,"
        f" {rate:.2f} TB/s"
    )

    def norm(added: bool) -> list[Tensor]:
        normed = group_norm(
            x_BCHW, weight_C, shift_C, 32, 1e-6, bias_C=bias_C, activation="silu",
            addend_BCHW=addend_BCHW if added else None, also_sum=added,
        )  # fmt: skip
        return [normed.out_BCHW, normed.sum_BCHW] if added else [normed.out_BCHW]

    def spread_out() -> list[Tensor]:
        return [spread(small_BCHW, bias_C, "doubled")]

    jobs: list[tuple[str, Callable[[], list[Tensor]], float, float, list[Tensor]]] = [
        ("norm, bias, SiLU", lambda: norm(False), 3, 5, [x_BCHW, *given[2:]]),
        ("sum, norm, bias, SiLU", lambda: norm(True), 5, 6, given),
        ("bias, 2 x 2", spread_out, 1.25, 1.25, [small_BCHW, bias_C]),
    ]
    for name, forward, reads, reads_backward, wanted in jobs:
        outs = forward()
        slopes = [torch.randn_like(out) for out in outs]

        def backward(outs: Any = outs, wanted: Any = wanted, slopes: Any = slopes) -> None:
            torch.autograd.grad(outs, wanted, slopes, retain_graph=True)

        with torch.no_grad():
            there = seconds(forward)
        back = seconds(backward)
        print(
            f"{name:<24} forward {1e3 * there:.2f} ms, {reads * unit / there:.2f} of the copy rate;"
            f" backward {1e3 * back:.2f} ms, {reads_backward * unit / back:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--batches", nargs="*", type=int, default=None, help="64")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--no-check", action="store_true", help="the steps only")
    parser.add_argument(
        "--tiles", nargs="*", default=[], help="the kernels alone: elements:warps:tiles:stages"
    )
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    device, side = ("cpu", 16) if chosen.tiny else ("cuda", 256)
    batches = chosen.batches or ([2] if chosen.tiny else [64])
    name = "CPU" if chosen.tiny else torch.cuda.get_device_name()
    print(f"{datetime.date.today()}  {name}, torch {torch.__version__}")
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(max(batches), 3, side // 8, side // 8, generator=draws) * 2 - 1
    x_BCHW = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").to(device)
    x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
    if not chosen.no_check:
        print(check(make_config(4, side, chosen.tiny), x_BCHW[:4]), flush=True)
        print(check_losses(x_BCHW[:4], chosen.tiny), flush=True)
        if not chosen.tiny:
            show_kernels(min(batches), side)
    if chosen.tiles:
        from tokenlaw.trainer.kernels.group_norm import Tiling

        for tile in chosen.tiles:
            show_kernels(min(batches), side, Tiling(*map(int, tile.split(":"))))
        return
    torch.backends.cudnn.benchmark = not chosen.tiny  # as runs on a GPU have it
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    print(
        f"{'variant':<30} {'batch':>5} {'images/s':>9} {'ms/step':>8} {'GiB':>7} {'first, s':>9}"
        f" {'loss':>9} {'its own':>9}"
    )
    for variant in chosen.only:
        for batch in batches:
            gc.collect()
            step = make_step(
                make_config(batch, side, chosen.tiny), x_BCHW[:batch], **VARIANTS[variant]
            )
            try:
                measure(variant, step, batch, device)
                if chosen.profile and variant == "as trained" and batch == batches[0]:
                    list_kernels(step, device)
            except torch.OutOfMemoryError:
                print(f"{variant:<30} {batch:>5} does not fit", flush=True)
            del step


if __name__ == "__main__":
    main()
