"""The networks, quantizers and losses give the values and gradients of formulas written apart."""

from __future__ import annotations

import formulas
import pytest
import torch
from torch import Tensor, nn

from tokenlaw.trainer.accounting.config import LlamaConfig, OptimConfig, SamplingConfig
from tokenlaw.trainer.losses import patchgan
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.quantizers import fsq, lfq, vq
from tokenlaw.trainer.quantizers._rotation import rotate
from tokenlaw.trainer.sampling.draw import sample
from tokenlaw.trainer.tokenizers import vqgan

VOCABULARY, CLASSES, GRID = 40, 5, (3, 4)
LAYERS, HEADS, WIDTH = 2, 2, 32


def copies(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The module's weights as leaves of their own."""
    return {
        prefix + name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()
    }


def agree(found: Tensor, expected: Tensor, relative: float = 2e-5) -> None:
    scale = expected.abs().max().item()
    assert scale > 0
    assert (found - expected).abs().max().item() < relative * scale


def gradients_agree(modules: dict[str, nn.Module], w: dict[str, Tensor]) -> None:
    found = {
        prefix + name: p
        for prefix, module in modules.items()
        for name, p in module.named_parameters()
    }
    assert set(found) == set(w)
    # Of biases before a norm, and of keys before a softmax, gradients vanish but for rounding.
    largest = max(p.grad.abs().max().item() for p in w.values() if p.grad is not None)
    for name, expected in w.items():
        assert expected.grad is not None and found[name].grad is not None, name
        error = (found[name].grad - expected.grad).abs().max().item()
        assert error < 1e-4 * expected.grad.abs().max().item() + 1e-6 * largest, name


# ------------------------------------------------------------------------------------- autoencoder


def test_the_vq_autoencoder() -> None:
    torch.manual_seed(0)
    config = vqgan.Config(
        ch=8, ch_mult=(1, 2, 2), num_res_blocks_encoder=2, num_res_blocks_decoder=3, z_channels=16
    )
    tokenizer = vqgan.Tokenizer(config, 4, 16)
    quantizer = vq.Quantizer(vq.Config(codebook_size=24, dim=4, beta=0.25))
    with torch.no_grad():
        for p in (*tokenizer.parameters(), *quantizer.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    w = copies(tokenizer, "tokenizer.") | copies(quantizer, "quantizer.")
    x = torch.rand(3, 3, 16, 16) * 2 - 1

    z = formulas.latents(x, w, levels=3, blocks=2)
    z_q, code, moves_codes, moves_latents = formulas.vector_quantized(
        z, w["quantizer.codebook_KD"], beta=0.25
    )
    y = formulas.images(z_q, w, levels=3, blocks=3)
    ((y - x).pow(2).mean() + moves_codes + moves_latents).backward()

    found_z = tokenizer.encode(x)
    out = quantizer(found_z, 0)
    found_y = tokenizer.decode(out.z_q_BND)
    losses = torch.stack([weight * value for weight, value in out.losses.values()])
    ((found_y - x).square().mean() + losses.sum()).backward()

    agree(found_z, z)
    assert torch.equal(out.code_BN, code) and len(code.unique()) > 3
    agree(quantizer.lookup(code), z_q)
    agree(losses, torch.stack([moves_codes, moves_latents]))
    agree(found_y, y)
    gradients_agree({"tokenizer.": tokenizer, "quantizer.": quantizer}, w)


# -------------------------------------------------------------------------------------- quantizers


@pytest.mark.parametrize("bits", [3, 6])
def test_lfq_with_the_entropy_of_the_joint_codes(bits: int) -> None:
    torch.manual_seed(0)
    config = lfq.Config(bits=bits, group_bits=bits, entropy_weight=0.1, entropy_tau=0.5)
    z = torch.randn(2, 20, bits, requires_grad=True)
    out = lfq.Quantizer(config)(z, 0)
    # All sign vectors, the highest bit first; affinity 2 z.c / tau.
    codes = torch.tensor(
        [[2.0 * (k >> (bits - 1 - d) & 1) - 1 for d in range(bits)] for k in range(2**bits)]
    )
    p = torch.softmax(2 * z.reshape(-1, bits) @ codes.T / 0.5, dim=1)
    of_tokens = -(p * p.log()).sum(1).mean()
    mean = p.mean(0)
    penalty = of_tokens + (mean * mean.log()).sum()
    signs = torch.where(z > 0, 1.0, -1.0)
    commitment = (z - signs).pow(2).mean()
    assert torch.equal(codes[out.code_BN], signs)
    weights = {name: weight for name, (weight, _) in out.losses.items()}
    assert weights == {"commitment": 0.25, "entropy": 0.1}
    agree(out.losses["commitment"][1], commitment)
    agree(out.losses["entropy"][1], penalty)
    (found,) = torch.autograd.grad(out.losses["entropy"][1], z)
    (expected,) = torch.autograd.grad(penalty, z)
    agree(found, expected, 1e-4)


@pytest.mark.parametrize("levels", [(8, 6, 5), (7, 5, 5, 5, 5)])
def test_fsq(levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    z = (2 * torch.randn(2, 30, len(levels))).requires_grad_()
    out = fsq.Quantizer(fsq.Config(levels=levels))(z, 0)
    values, numbers, base = [], torch.zeros(2, 30, dtype=torch.long), 1
    for d, count in enumerate(levels):
        half = (count - 1) * 1.001 / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        shift = torch.atanh(torch.tensor(offset / half))
        bound = torch.tanh(z[..., d] + shift) * half - offset
        whole = bound + (bound.round() - bound).detach()
        values.append(whole / (count // 2))
        numbers += (bound.round().long() + count // 2) * base
        base *= count
    expected = torch.stack(values, dim=-1)
    assert torch.equal(out.code_BN, numbers)
    agree(out.z_q_BND, expected)
    g = torch.randn_like(z)
    (found_grad,) = torch.autograd.grad((out.z_q_BND * g).sum(), z)
    (expected_grad,) = torch.autograd.grad((expected * g).sum(), z)
    agree(found_grad, expected_grad)


def test_the_rotation_trick_is_a_matrix() -> None:
    torch.manual_seed(0)
    z, e, g = torch.randn(1, 6, 5).requires_grad_(), torch.randn(1, 6, 5), torch.randn(1, 6, 5)
    out = rotate(z, e)
    (found,) = torch.autograd.grad((out * g).sum(), z)
    expected_values, expected = [], []
    for a, b, slope in zip(z.detach()[0], e[0], g[0], strict=True):
        u, q = a / a.norm(), b / b.norm()
        w = (u + q) / (u + q).norm()
        turn = torch.eye(5) - 2 * torch.outer(w, w) + 2 * torch.outer(q, u)
        assert torch.allclose(turn @ turn.T, torch.eye(5), atol=1e-5)
        expected_values.append(b.norm() / a.norm() * turn @ a)
        expected.append(b.norm() / a.norm() * turn.T @ slope)
    agree(out[0], torch.stack(expected_values))
    agree(found[0], torch.stack(expected))


# --------------------------------------------------------------------------------------- generator

SHAPES = {
    "rope_2d": {},
    "rope_2d, identity": {"rope_cls": "identity"},
    "rope_1d, no norm": {"position": "rope_1d", "rope_cls": "identity", "qk_norm": False},
    "learned": {"position": "learned"},
    "adaln": {"adaln": True, "qk_norm": False},
}


def built(shape: str) -> tuple[Generator, Tensor | None]:
    """A generator with weights that are not small, and its rotations by the formula."""
    torch.manual_seed(0)
    config = LlamaConfig(width=WIDTH, layers=LAYERS, heads=HEADS, hidden_multiple=16)
    config = LlamaConfig(
        **{name: getattr(config, name) for name in config.__slots__} | SHAPES[shape]
    )
    model = Generator(config, VOCABULARY, CLASSES, GRID).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    kind = config.position
    if kind == "learned":
        return model, None
    return model, formulas.turns(kind, WIDTH // HEADS, GRID, config.rope_cls)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_generator(shape: str) -> None:
    model, turn = built(shape)
    w = copies(model)
    code = torch.randint(VOCABULARY, (3, 12))
    classes = torch.tensor([0, 4, CLASSES])
    logits = formulas.generator(code[:, :-1], classes, w, layers=LAYERS, heads=HEADS, turn_LP=turn)
    g = torch.randn_like(logits)
    (logits * g).sum().backward()
    found = model(code[:, :-1], classes)
    (found * g).sum().backward()
    agree(found, logits)
    gradients_agree({"": model}, w)


HOW = {
    "plain": {},
    "guided": {"cfg_scale": 3.0, "temperature": 0.9},
    "top-k": {"cfg_scale": 2.0, "top_k": 7},
    "top-p": {"cfg_scale": 1.5, "top_p": 0.7},
    "both": {"top_k": 9, "top_p": 0.8, "temperature": 1.2},
}


def drawn(w: dict[str, Tensor], turn: Tensor | None, classes: Tensor, seeds: list[int], how: dict):
    """Codes drawn without a cache: the whole sequence passes for every token, twice if guided."""
    code = torch.zeros(len(seeds), 0, dtype=torch.long)
    uniform = torch.stack(
        [
            torch.rand(12, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
            for s in seeds
        ]
    )
    options = {"layers": LAYERS, "heads": HEADS, "turn_LP": turn}
    scale = how.get("cfg_scale", 1.0)
    for place in range(12):
        logits = formulas.generator(code, classes, w, **options)[:, -1]
        if scale != 1.0:
            null = torch.full_like(classes, CLASSES)
            other = formulas.generator(code, null, w, **options)[:, -1]
            logits = other + scale * (logits - other)
        picked = []
        for row, u in zip(logits.double() / how.get("temperature", 1.0), uniform, strict=True):
            p = torch.softmax(row, 0)
            order = p.argsort(descending=True)
            kept = order[: how["top_k"]] if "top_k" in how else order
            p = torch.zeros_like(p).index_put((kept,), p[kept])
            p = p / p.sum()
            if "top_p" in how:
                count = int((p[order].cumsum(0) < how["top_p"]).sum()) + 1
                p = torch.zeros_like(p).index_put((order[:count],), p[order[:count]])
            running = p.cumsum(0) / p.sum()
            picked.append(int((running <= u[place]).sum()))
        code = torch.cat([code, torch.tensor(picked)[:, None]], dim=1)
    return code


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shape", ["rope_2d", "adaln"])
def test_sampling_with_the_cache_draws_what_whole_sequences_draw(shape: str, how: str) -> None:
    model, turn = built(shape)
    with torch.no_grad():
        w = {name: p.detach() for name, p in model.named_parameters()}
        classes, seeds = torch.tensor([0, 4, 2, 2]), [3, 1, 4, 5]
        expected = drawn(w, turn, classes, seeds, HOW[how])
    found = sample(model, classes, seeds, SamplingConfig(**HOW[how]))
    assert torch.equal(found, expected)
    assert len(expected.unique()) > 4


# ------------------------------------------------------------------------------------- adversarial


def test_the_discriminator_its_losses_and_averages() -> None:
    torch.manual_seed(0)
    config = patchgan.Config(
        ndf=4, n_layers=2, objective="hinge", lecam_weight=0.3, lecam_decay=0.8, adaptive=True,
        weight=0.5, start_iteration=2, ramp_iterations=0, optim=OptimConfig(),
    )  # fmt: skip
    loss = patchgan.Loss(config)
    with torch.no_grad():
        for p in loss.parameters():
            p.add_(0.3 * torch.randn_like(p))
    w = copies(loss)
    mean_real = mean_fake = 0.0
    for step in range(4):
        real, fake = torch.rand(2, 3, 3, 32, 32) * 2 - 1
        found, _ = loss.discriminator_loss(real, fake)
        of_real, of_fake = (formulas.patchgan(x, w, strided=2) for x in (real, fake))
        agree(loss(real), of_real)
        mean_real = 0.8 * mean_real + 0.2 * of_real.mean().item()
        mean_fake = 0.8 * mean_fake + 0.2 * of_fake.mean().item()
        expected = formulas.hinge(of_real, of_fake)
        expected = expected + 0.3 * formulas.lecam(of_real, of_fake, mean_real, mean_fake)
        agree(found, expected)
        assert loss.discriminator_weight(step) == loss.weight(step) == (0.5 if step >= 2 else 0.0)
    found.backward()
    expected.backward()
    gradients_agree({"": loss}, w)
    # The generator's side, at the last weight of a decoder of one layer.
    last, other = torch.randn(3, 3, requires_grad=True), torch.rand(3, 3, 32, 32)
    made = torch.einsum("cd,bdhw->bchw", last, other)
    gan = loss.generator_loss(made)
    agree(gan, -formulas.patchgan(made, w, strided=2).mean())
    own = (made - real).pow(2).mean()
    factor = formulas.adaptive(own, -formulas.patchgan(made, w, strided=2).mean(), last)
    assert loss.adaptive_weight(own, gan, last).item() == pytest.approx(factor, rel=1e-4)
