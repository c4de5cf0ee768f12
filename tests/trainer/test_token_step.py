"""One token's step, with its position on the device: plain, and with the kernels interpreted."""

import interpreted
import pytest
import torch

from tokenlaw.trainer.accounting.config import LlamaConfig, SamplingConfig
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.sampling import token_step
from tokenlaw.trainer.sampling.draw import draw, guidance_scales, sample, sample_uniforms

VOCABULARY, CLASSES, GRID = 300, 5, (3, 4)
BATCH = 5
SIZES = [1, 2, 2, 3, 4, 6, 80, 110, 140, 180, 220, 300]
SHAPES = {
    "plain": {},
    "learned": {"position": "learned"},
    "adaln": {"adaln": True},
    "no norm": {"qk_norm": False, "rope_cls": "identity"},
}
HOW = {
    "plain": {},
    "guided": {"cfg_scale": 2.5, "temperature": 0.9},
    "top-k": {"cfg_scale": 2.5, "top_k": 5},
    "top-p": {"cfg_scale": 2.5, "cfg_schedule": "step", "cfg_step_share": 0.5, "top_p": 0.8},
}


def build(grid=GRID, **options):
    torch.manual_seed(0)
    config = LlamaConfig(width=32, layers=2, heads=2, hidden_multiple=16, **options)
    generator = Generator(config, VOCABULARY, CLASSES, grid)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return generator.eval()


@torch.inference_mode()
def stepped(generator, class_B, seeds, how, sizes=None, batch=BATCH):
    """Codes [B, L], drawn by a step made for `batch` samples, which has begun another before."""
    length = generator.tokens_per_image
    scales = guidance_scales(how, length, sizes)
    guided = any(scale != 1.0 for scale in scales)
    step = token_step.TokenStep(generator, batch, guided, how, sizes)
    for these, count in (([7] * len(seeds), 2), (seeds, length)):
        step.begin(class_B, sample_uniforms(these, length), scales)
        for _ in range(count):
            step()
    return step.code_BL[: len(seeds)].clone()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("sizes", [None, SIZES], ids=["", "sizes"])
def test_draws_what_sample_draws(shape, how, sizes):
    generator, options = build(**SHAPES[shape]), SamplingConfig(**HOW[how])
    class_B, seeds = torch.arange(4) % CLASSES, [3, 1, 4, 5]
    expected = sample(generator, class_B, seeds, options, sizes)
    assert torch.equal(stepped(generator, class_B, seeds, options, sizes), expected)


def test_an_int8_cache_needs_a_kernel():
    how = SamplingConfig(kv_cache="int8")
    for drawn_by in (stepped, sample):
        with pytest.raises(ValueError, match="sampling.kv_cache: 'int8' needs a GPU"):
            drawn_by(build(), torch.arange(2), [1, 2], how)


# ------------------------------------------------------------ the same with kernels


def test_kernels_do_what_plain_operations_do():
    assert interpreted.output(__file__) == "equal\n"


def steps() -> None:
    token_step.usable = lambda x: True
    class_B, seeds, grid = torch.arange(2) % CLASSES, [3, 1], (2, 2)
    for shape, how, sizes in (("adaln", "guided", SIZES[-4:]), ("learned", "top-k", None)):
        generator, options = build(grid, **SHAPES[shape]), SamplingConfig(**HOW[how])
        expected = sample(generator, class_B, seeds, options, sizes)
        found = stepped(generator, class_B, seeds, options, sizes, batch=2)
        assert torch.equal(found, expected), (shape, how)
    # Eight bits change a code now and then, and those after it; of these few, none.
    generator = build(grid)
    expected = sample(generator, class_B, seeds, SamplingConfig())
    found = stepped(generator, class_B, seeds, SamplingConfig(kv_cache="int8"), batch=2)
    assert torch.equal(found, expected)


def draws() -> None:
    from tokenlaw.trainer.kernels.draw_code import draw_code

    torch.manual_seed(1)
    rows, length, width = 5, 3, 6
    for codes in (1, 100, 2049):
        for dtype, spread in ((torch.float32, 1.0), (torch.bfloat16, 8.0)):
            logits_RV = spread * torch.randn(2 * rows, codes).to(dtype)
            conditional_BV, unconditional_BV = logits_RV.float().chunk(2)
            uniform_BL = torch.rand(rows, length, dtype=torch.float64)
            uniform_BL[:2] = torch.tensor([[0.0], [1 - 2**-53]])
            scale_L = torch.tensor([1.0, 1.75, 4.0])
            size_L = torch.tensor([1, (codes + 1) // 2, codes])
            embedding_VD = torch.randn(codes, width).bfloat16().float()
            for position, guided, sizes in (
                (0, True, size_L),
                (1, False, None),
                (1, True, size_L),
                (2, True, None),
            ):
                drawn_BL = torch.full((rows, length), -1)
                input_RD = torch.zeros(2 * rows if guided else rows, width, dtype=dtype)
                draw_code(
                    logits_RV if guided else logits_RV[:rows],
                    uniform_BL,
                    scale_L,
                    sizes,
                    torch.tensor([0.7], dtype=torch.float64),
                    torch.tensor([position]),
                    drawn_BL,
                    embedding_VD,
                    input_RD,
                )
                logits_BV = conditional_BV
                if guided:
                    difference_BV = conditional_BV - unconditional_BV
                    logits_BV = unconditional_BV + scale_L[position] * difference_BV
                how, limit = SamplingConfig(temperature=0.7), None
                if sizes is not None:
                    limit = int(sizes[position])
                code_BL = torch.full((rows, length), -1)
                code_BL[:, position] = draw(logits_BV, uniform_BL[:, position], how, limit)
                assert torch.equal(drawn_BL, code_BL), (codes, dtype, position)
                for input_BD in input_RD.split(rows):
                    assert torch.equal(input_BD, embedding_VD[code_BL[:, position]].to(dtype))


if __name__ == "__main__":
    steps()
    draws()
    print("equal")
