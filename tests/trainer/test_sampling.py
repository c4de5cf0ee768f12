import copy
import dataclasses
import math

import pytest
import torch

from tokenlaw.trainer.accounting.config import LlamaConfig, SamplingConfig
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.sampling import draw as sampling
from tokenlaw.trainer.sampling.draw import draw, guidance_scales, sample, sample_uniforms
from tokenlaw.trainer.sampling.sampler import Sampler

VOCABULARY, CLASSES, GRID = 24, 5, (3, 4)
LENGTH = 12


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    config = LlamaConfig(width=32, layers=2, heads=2, hidden_multiple=16)
    made = Generator(config, VOCABULARY, CLASSES, GRID)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made.eval()


def how(**changes):
    return dataclasses.replace(SamplingConfig(), **changes)


# ------------------------------------------------------------ seeds and batches


@pytest.mark.parametrize(
    "options", [{}, {"cfg_scale": 2.5}, {"cfg_scale": 2.5, "top_k": 5, "temperature": 0.8}]
)
def test_samples_do_not_depend_on_the_batch(generator, options):
    class_B = torch.arange(7) % CLASSES
    seeds = [100 + index for index in range(7)]
    whole = sample(generator, class_B, seeds, how(**options))
    assert whole.shape == (7, LENGTH)
    for size in (1, 3):
        pieces = [
            sample(generator, class_B[at : at + size], seeds[at : at + size], how(**options))
            for at in range(0, 7, size)
        ]
        assert torch.equal(torch.cat(pieces), whole)
    order = [4, 0, 6, 2, 1, 3, 5]
    shuffled = sample(generator, class_B[order], [seeds[i] for i in order], how(**options))
    assert torch.equal(shuffled, whole[order])


def test_the_seed_is_the_only_randomness(generator):
    class_B = torch.zeros(4, dtype=torch.long)
    torch.manual_seed(1)
    first = sample(generator, class_B, [1, 1, 2, 3], how())
    torch.manual_seed(2)
    assert torch.equal(sample(generator, class_B, [1, 1, 2, 3], how()), first)
    assert torch.equal(first[0], first[1])
    assert len({tuple(row.tolist()) for row in first}) == 3


def test_uniforms_are_a_function_of_the_seed():
    together = sample_uniforms([5, 6], 1000)
    assert torch.equal(together[1], sample_uniforms([6], 1000)[0])
    assert together.dtype == torch.float64
    assert together.min() >= 0 and together.max() < 1
    assert together.mean().item() == pytest.approx(0.5, abs=0.03)


def test_matrices_cast_once_draw_what_autocast_draws(generator):
    class_B = torch.arange(6) % CLASSES
    with torch.autocast("cpu", torch.bfloat16):
        expected = sample(generator, class_B, range(6), how(cfg_scale=2.0))
        cast = copy.deepcopy(generator)
        sampling.cast_matrices(cast, torch.bfloat16)
        assert torch.equal(sample(cast, class_B, range(6), how(cfg_scale=2.0)), expected)
    assert cast.head.weight.dtype == torch.bfloat16
    assert cast.norm.weight.dtype == cast.code_embedding.weight.dtype == torch.float32


# ------------------------------------------------------------ what is drawn, how often


def test_codes_are_drawn_at_their_probabilities():
    logits_V = torch.tensor([0.0, 1.0, -1.0, 2.0])
    count = 40_000
    uniform_B = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn_B = draw(logits_V.expand(count, -1), uniform_B, how(), None)
    share = torch.bincount(drawn_B, minlength=4) / count
    torch.testing.assert_close(share, logits_V.softmax(0), atol=1e-4, rtol=0)
    drawn_B = draw(logits_V.expand(count, -1), uniform_B, how(temperature=0.5), None)
    share = torch.bincount(drawn_B, minlength=4) / count
    torch.testing.assert_close(share, (2 * logits_V).softmax(0), atol=1e-4, rtol=0)


def test_the_ends_of_the_unit_interval():
    logits_BV = torch.tensor([[0.0, 0.0, -math.inf, 0.0, -math.inf]] * 2)
    drawn_B = draw(logits_BV, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), how(), None)
    assert drawn_B.tolist() == [0, 3]


@pytest.mark.parametrize("codes", [1, 127, 128, 129, 1000, 4096])
def test_drawing_inverts_the_distribution_function(codes):
    torch.manual_seed(codes)
    weight_BV = torch.rand(500, codes, dtype=torch.float64) ** 8
    weight_BV[:, codes // 2 :][torch.rand(500, codes - codes // 2) < 0.3] = 0
    weight_BV[:, 0].clamp_min_(1e-9)
    uniform_B = torch.rand(500, dtype=torch.float64)
    uniform_B[:2] = torch.tensor([0.0, 1 - 2**-53])
    found = sampling.invert(weight_BV, uniform_B)
    above = weight_BV.cumsum(1) > (uniform_B * weight_BV.sum(1))[:, None]
    expected = above.int().argmax(1)
    assert torch.equal(found[2:], expected[2:])
    assert (weight_BV.gather(1, found[:, None]) > 0).all()
    assert found[0] == 0 and found[1] == weight_BV[1].nonzero().max()


def test_top_k_keeps_the_k_largest():
    torch.manual_seed(0)
    logits_BV = torch.randn(2000, 10)
    uniform_B = torch.rand(2000, dtype=torch.float64)
    drawn_B = draw(logits_BV, uniform_B, how(top_k=3), None)
    rank_B = (logits_BV > logits_BV.gather(1, drawn_B[:, None])).sum(1)
    assert set(rank_B.tolist()) == {0, 1, 2}
    assert torch.equal(draw(logits_BV, uniform_B, how(top_k=1), None), logits_BV.argmax(1))


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probability = torch.tensor([0.1, 0.4, 0.2, 0.3])  # sorted: 1 (.4), 3 (.7), 2 (.9), 0
    uniform_B = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    logits_BV = probability.log().expand(1000, -1)
    for top_p, kept in ((0.35, {1}), (0.45, {1, 3}), (0.75, {1, 3, 2}), (1.0, {0, 1, 2, 3})):
        drawn_B = draw(logits_BV, uniform_B, how(top_p=top_p), None)
        assert set(drawn_B.tolist()) == kept
    share = torch.bincount(draw(logits_BV, uniform_B, how(top_p=0.45), None), minlength=4) / 1000
    assert share[1].item() == pytest.approx(4 / 7, abs=2e-3)


def test_illegal_codes_are_never_drawn(generator):
    sizes = [1, 2, 2, 3, 4, 6, 8, 11, 14, 18, 22, 24]
    seeds = list(range(60))
    class_B = torch.arange(60) % CLASSES
    for options in ({}, {"cfg_scale": 3.0, "cfg_codebook": "log"}, {"top_k": 20}):
        code_BL = sample(generator, class_B, seeds, how(**options), sizes)
        assert (code_BL < torch.tensor(sizes)).all()
        # Not by luck: without the sizes the same seeds draw codes beyond them.
        free = options | {"cfg_codebook": "none"}
        free_BL = sample(generator, class_B, seeds, how(**free))
        assert (free_BL >= torch.tensor(sizes)).any()
    # The legal ones keep their proportions.
    logits_BV = torch.tensor([[0.0, 1.0, 5.0]]).expand(1000, -1)
    uniform_B = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    share = draw(logits_BV, uniform_B, how(), 2).double().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=2e-3)


# ------------------------------------------------------------ guidance


def test_scale_one_is_the_conditional_model(generator):
    class_B = torch.arange(6) % CLASSES
    seeds = list(range(6))
    plain = sample(generator, class_B, seeds, how(cfg_scale=1.0))
    # Guidance really runs here (one position differs from 1), and up to it nothing changes.
    nearly = how(cfg_scale=4.0, cfg_schedule="step", cfg_step_share=1.0)
    guided = sample(generator, class_B, seeds, nearly)
    assert torch.equal(guided[:, :-1], plain[:, :-1])
    assert not torch.equal(sample(generator, class_B, seeds, how(cfg_scale=4.0)), plain)


def test_guidance_extrapolates_from_the_null_class(generator, monkeypatch):
    seen = []
    real = sampling.draw

    def spy(logits_BV, *rest):
        seen.append(logits_BV.clone())
        return real(logits_BV, *rest)

    monkeypatch.setattr(sampling, "draw", spy)
    class_B = torch.tensor([2, 4])
    code_BL = sample(generator, class_B, [1, 2], how(cfg_scale=3.0))
    null_B = torch.full_like(class_B, CLASSES)
    with torch.inference_mode():
        conditional = generator(code_BL[:, :-1], class_B)
        unconditional = generator(code_BL[:, :-1], null_B)
    expected = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(torch.stack(seen, 1), expected, atol=1e-3, rtol=1e-4)


def test_schedule_constant():
    assert guidance_scales(how(cfg_scale=2.0), 4, None) == [2.0] * 4


def test_schedule_step():
    # GigaTok: decode step i makes token i + 1; full scale from (i + 1) / 255 >= 0.18 on.
    scales = guidance_scales(how(cfg_scale=2.0, cfg_schedule="step"), 256, None)
    assert scales[0] == 1.0
    for step in range(255):
        assert scales[step + 1] == (2.0 if (step + 1) / 255 >= 0.18 else 1.0)
    assert scales.count(1.0) == 46


def test_schedule_cosine_power():
    # RAR: a_t = (1 - cos(pi (t / L)^p)) / 2.
    scales = guidance_scales(
        how(cfg_scale=5.0, cfg_schedule="cosine_power", cfg_power=2.0), 8, None
    )
    for place, scale in enumerate(scales):
        assert scale == pytest.approx(1 + 4 * (1 - math.cos(math.pi * (place / 8) ** 2)) / 2)
    assert scales[0] == 1.0 and scales == sorted(scales)
    flat = how(cfg_scale=5.0, cfg_schedule="cosine_power", cfg_power=0.0)
    assert guidance_scales(flat, 3, None) == [5.0] * 3


def test_guidance_aware_of_the_codebook():
    # VCQ Eq. 4: no guidance where K_t = K_min, all of it where K_t = K_max, log between.
    vcq = how(cfg_scale=3.0, cfg_codebook="log")
    assert guidance_scales(vcq, 3, [2, 8, 32]) == pytest.approx([1.0, 2.0, 3.0])
    assert guidance_scales(vcq, 2, [16, 16]) == [3.0, 3.0]
    with pytest.raises(ValueError, match="cfg_codebook: 'log' needs a quantizer whose codebook"):
        guidance_scales(vcq, 2, None)


def test_the_codebook_factor_multiplies_every_schedule():
    # VCQ: the factor of K_t times RAR's cosine ramp; s_t - 1 is the product of all three.
    sizes = [2, 4, 16, 128, 1024, 2048]
    log = [math.log2(size / 2) / 10 for size in sizes]
    linear = [(size - 2) / 2046 for size in sizes]
    ramp = [(1 - math.cos(math.pi * (t / 6) ** 1.5)) / 2 for t in range(6)]
    rar = {"cfg_scale": 11.0, "cfg_schedule": "cosine_power", "cfg_power": 1.5}
    for name, factors in (("log", log), ("linear", linear)):
        found = guidance_scales(how(**rar, cfg_codebook=name), 6, sizes)
        expected = [1 + 10 * a * r for a, r in zip(ramp, factors, strict=True)]
        assert found == pytest.approx(expected, abs=1e-12)
        found = guidance_scales(how(cfg_scale=3.0, cfg_codebook=name), 6, sizes)
        assert found == pytest.approx([1 + 2 * r for r in factors], abs=1e-12)
        assert found[0] == 1.0 and found[-1] == 3.0
    # A constant codebook has the plain schedule, as the paper's Appendix C finds.
    flat = guidance_scales(how(**rar, cfg_codebook="log"), 6, [64] * 6)
    assert flat == guidance_scales(how(**rar), 6, None) != [11.0] * 6


def test_stopping_is_polled_between_tokens(generator):
    polls = iter([False] * 5 + [True])
    with pytest.raises(InterruptedError, match="stopped"):
        sample(generator, torch.tensor([0]), [0], how(), None, lambda: next(polls))
    assert next(polls, "all used") == "all used"


# ------------------------------------------------------------ batch after batch


def test_a_sampler_draws_what_sample_draws(generator):
    sampler = Sampler(generator)
    class_B = torch.arange(6) % CLASSES
    for options in (how(cfg_scale=2.0), how(cfg_scale=3.0, top_k=5), how()):
        expected = sample(generator, class_B, range(6), options)
        assert torch.equal(sampler(class_B, range(6), options), expected)
    with pytest.raises(InterruptedError):
        sampler(class_B, range(6), how(), lambda: True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: records a CUDA graph")
def test_a_recorded_graph_draws_what_the_loop_draws(generator):
    device = torch.device("cuda")
    generator = copy.deepcopy(generator).to(device)
    class_B = torch.arange(6, device=device) % CLASSES
    sizes = [1, 2, 2, 3, 4, 6, 8, 11, 14, 18, 22, 24]
    for sampler, limits in ((Sampler(generator), None), (Sampler(generator, sizes), sizes)):
        # One graph serves other scales, seeds and smaller batches; unguided sampling needs another.
        for count, options in (
            (6, how(cfg_scale=2.0)),
            (4, how(cfg_scale=3.0)),
            (6, how()),
            (5, how()),
            (5, how(top_k=5)),
        ):
            seeds = range(count, 2 * count)
            expected = sample(generator, class_B[:count], seeds, options, limits)
            assert torch.equal(sampler(class_B[:count], seeds, options), expected)
