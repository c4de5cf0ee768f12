"""The kernels around convolutions, run by Triton's interpreter on the CPU: the norm with its sums
and activation, the sums that are laid out anew, and a whole tokenizer made of them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import interpreted
import torch
import torch.nn.functional as F

# dtype, images, channels, groups, side: several tiles and chunks, odd channels, channels for two
# programs.
SHAPES = {
    "whole tiles": (torch.float32, 1, 32, 4, 16),
    "odd": (torch.float32, 1, 181, 1, 3),
    "wide": (torch.float32, 1, 160, 5, 5),
    "bf16": (torch.bfloat16, 2, 96, 3, 5),
}


def test_kernels_are_the_plain_operations():
    said = interpreted.output(__file__)  # one process: it takes seconds to start
    assert said.split() == [part.__name__ for part in PARTS]


def near(found, expected, dtype, what):
    """Both compared in float64, by their distance as a share of the expected one."""
    assert (found is None) == (expected is None), what
    if found is not None:
        limit = 2e-5 if dtype == torch.float32 else 3e-2
        away = (found.double() - expected.double()).norm() / (1e-12 + expected.double().norm())
        assert away < limit, f"{what}: {away:.2e}"


def inputs(dtype, batch, channels, side, large_mean):
    def made(*shape):
        return torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)

    x, addend = made(2 * batch, channels, side, side).chunk(2)
    x = x + (100 if large_mean else 1)  # a mean that is large beside the spread
    bias, weight, shift = torch.randn(3, channels).unbind()
    return [t.detach().requires_grad_() for t in (x, addend, bias, weight, shift)]


def norms():
    from tokenlaw.trainer.kernels.group_norm import SLOPE, group_norm

    acts = {"none": lambda z: z, "silu": F.silu, "leaky_relu": lambda z: F.leaky_relu(z, SLOPE)}
    cases = [("silu", True, True), ("silu", False, False)]
    cases += [("none", True, False), ("leaky_relu", False, True)]
    for name, (dtype, batch, channels, groups, side) in SHAPES.items():
        for act, added, also_sum in cases[: {"whole tiles": 2, "bf16": 4}.get(name, 1)]:
            torch.manual_seed(0)
            wanted = inputs(dtype, batch, channels, side, dtype == torch.float32 and not added)
            exact = [t.detach().double().requires_grad_() for t in wanted]
            results = []
            for x, addend, bias, weight, shift in (wanted, exact):
                plain = x.dtype == torch.float64
                if plain:
                    total = (x + addend if added else x) + bias[:, None, None]
                    out = acts[act](F.group_norm(total, groups, weight, shift, 1e-6))
                else:
                    out, total, again = group_norm(
                        x, weight, shift, groups, 1e-6, addend_BCHW=addend if added else None,
                        bias_C=bias, activation=act, also_sum=also_sum,
                    )  # fmt: skip
                    assert torch.equal(again(), out)
                    assert out.dtype == dtype and out.is_contiguous(
                        memory_format=torch.channels_last
                    )
                torch.manual_seed(1)
                d_out, d_total = torch.randn(2, *out.shape, dtype=torch.float64).to(dtype)
                ends, slopes = ([out, total], [d_out, d_total]) if also_sum else ([out], [d_out])
                slopes = [slope.to(end.dtype) for slope, end in zip(slopes, ends, strict=True)]
                torch.autograd.backward(ends, slopes)
                results.append((*ends, *(t.grad for t in (x, addend, bias, weight, shift))))
            for number, (found, expected) in enumerate(zip(*results, strict=True)):
                near(found, expected, dtype, f"{name}, {act}, {number}")


def layouts():
    from tokenlaw.trainer.kernels.spread import spread

    for name, (dtype, batch, channels, _, side) in SHAPES.items():
        cases = [("doubled", True), ("padded", True), ("padded", False)]
        for layout, added in cases if name == "bf16" else cases[:2]:
            torch.manual_seed(0)
            wanted = inputs(dtype, batch, channels, side, False)[:3]
            exact = [t.detach().double().requires_grad_() for t in wanted]
            results = []
            for x, addend, bias in (wanted, exact):
                if x.dtype == torch.float64:
                    total = (x + addend if added else x) + bias[:, None, None]
                    out = (
                        F.interpolate(total, scale_factor=2.0)
                        if layout == "doubled"
                        else F.pad(total, (0, 1, 0, 1))
                    )
                else:
                    out = spread(x, bias, layout, addend if added else None)
                torch.manual_seed(1)
                out.backward(torch.randn(out.shape, dtype=torch.float64).to(dtype).to(out.dtype))
                results.append((out, x.grad, addend.grad, bias.grad))
            for number, (found, expected) in enumerate(zip(*results, strict=True)):
                near(found, expected, dtype, f"{name}, {layout}, {number}")


def tokenizer():
    """Outputs and gradients beside those of the plain modules: in fp32 with what is made again, in
    bf16 with what is kept.
    """
    from tokenlaw.trainer import kernels
    from tokenlaw.trainer.tokenizers.vqgan import Config, Tokenizer

    kernels.usable = lambda x: True
    config = Config(
        ch=4, ch_mult=(1, 2), num_res_blocks_encoder=1, num_res_blocks_decoder=1, z_channels=4
    )
    torch.manual_seed(0)
    model = Tokenizer(config, 3, 8).to(memory_format=torch.channels_last)
    for parameter in model.parameters():  # biases and scales that matter
        parameter.data += 0.1 * torch.randn(parameter.shape)
    x_BCHW = torch.randn(1, 3, 4, 4)

    def outcome(bf16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y_BCHW = model.decode(model.encode(x_BCHW))
        torch.manual_seed(1)
        y_BCHW.backward(torch.randn(y_BCHW.shape).to(y_BCHW.dtype))
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        return y_BCHW.detach(), grads

    exact, plain = outcome(False), outcome(True)
    model.use_kernels(recompute=True)
    found = outcome(False)
    model.use_kernels(recompute=False)
    rounded = outcome(True)
    for one, other in zip(found, exact, strict=True):
        near(one, other, torch.float32, "fp32")
    # As far from fp32 as plain bf16 is; the interpreter rounds to bf16 towards zero.
    for one, other, truth in zip(rounded, plain, exact, strict=True):
        away, usual = ((t.double() - truth.double()).norm() for t in (one, other))
        assert one.dtype == other.dtype and away < 2 * usual, (away, usual)


def discriminator():
    """Both sides' losses and gradients of a PatchGAN."""
    from tokenlaw.trainer import kernels
    from tokenlaw.trainer.losses.patchgan import Config, Loss

    kernels.usable = lambda x: True
    torch.manual_seed(0)
    model = Loss(Config(objective="hinge", ndf=8, n_layers=1)).to(memory_format=torch.channels_last)
    x_BCHW, y_BCHW = torch.randn(2, 2, 3, 16, 16).unbind()

    def outcome():
        model.zero_grad()
        fake_BCHW = y_BCHW.clone().requires_grad_()
        loss = model.generator_loss(fake_BCHW)
        loss.backward()
        assert all(p.grad is None for p in model.parameters())
        own, _ = model.discriminator_loss(x_BCHW, y_BCHW)
        own.backward()
        return loss, own, fake_BCHW.grad, *(p.grad for p in model.parameters())

    plain = outcome()
    model.use_kernels(recompute=False)
    for number, (found, expected) in enumerate(zip(outcome(), plain, strict=True)):
        near(found, expected, torch.float32, f"discriminator, {number}")


def perceptual():
    """Values and gradients on VGG16, with heads and without."""
    from tokenlaw.trainer import kernels
    from tokenlaw.trainer.losses import _vgg, random_vgg

    model = random_vgg.Loss(random_vgg.Config()).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)  # biases that matter
    heads = _vgg.empty_lpips(with_heads=True)
    heads.net.load_state_dict(model.model.net.state_dict())
    for head in heads.lins:
        torch.nn.init.uniform_(head.model[-1].weight)
    x_BCHW, y_BCHW = torch.randn(2, 2, 3, 16, 16).unbind()
    kernels.usable = lambda x: True
    for number in range(2):
        found = []
        for by_kernels in (False, True):
            model._by_kernels = by_kernels
            given_BCHW = y_BCHW[: 1 + number].clone().requires_grad_()
            loss = model(x_BCHW[: 1 + number], given_BCHW)
            loss.backward()
            found.append((loss, given_BCHW.grad))
        for one, other in zip(*found, strict=True):
            near(other, one, torch.float32, f"heads: {bool(number)}")
        model.model = heads


def of_process(rank, number):
    """Output and gradients of one process's images of a batch, with the statistics of all."""
    from tokenlaw.trainer.kernels.group_norm import group_norm

    torch.manual_seed(0)
    x, dy = torch.randn(2, 4, 6, 5, 3)
    weight, shift = (1 + torch.rand(6)).requires_grad_(), torch.randn(6).requires_grad_()
    share = slice(rank * 4 // number, (rank + 1) * 4 // number)
    x = x[share].clone().requires_grad_()
    # As the discriminator's norm has them: all pixels of the images as one image.
    x_1CP1 = x.permute(0, 2, 3, 1).reshape(1, -1, 1, 6).permute(0, 3, 1, 2)
    dy_1CP1 = dy[share].permute(0, 2, 3, 1).reshape(1, -1, 1, 6).permute(0, 3, 1, 2)
    how = {"activation": "leaky_relu", "over_processes": number > 1}
    out_1CP1 = group_norm(x_1CP1, weight, shift, 6, 1e-5, **how).out_BCHW
    gradients = torch.autograd.grad(out_1CP1, [x, weight, shift], dy_1CP1)
    return [out_1CP1.detach()[0, :, :, 0].t(), *gradients]


def processes():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, folder]
        workers = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
        assert [worker.wait() for worker in workers] == [0, 0]
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = of_process(0, 1)
    joined = [torch.cat(values) for values in zip(*found, strict=True)][:2]
    summed = [sum(values) for values in zip(*found, strict=True)][2:]
    for one, other in zip(alone, [*joined, *summed], strict=True):
        near(other, one, torch.float32, "two processes")


PARTS = [norms, layouts, tokenizer, discriminator, perceptual, processes]

if __name__ == "__main__":
    from tokenlaw.trainer.kernels import group_norm

    group_norm._CHUNKS = 2  # so that even small images have several tiles a chunk
    if len(sys.argv) > 1:
        folder, rank = Path(sys.argv[1]), int(sys.argv[2])
        where = f"file://{folder / 'meeting'}"
        torch.distributed.init_process_group("gloo", where, rank=rank, world_size=2)
        torch.save(of_process(rank, 2), folder / f"{rank}.pt")
        torch.distributed.destroy_process_group()
        sys.exit()
    for part in PARTS:
        part()
        print(part.__name__)
