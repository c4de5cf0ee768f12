import dataclasses

import pytest

from tokenlaw.sweeps.studies import _crt, _imagenet
from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import LlamaConfig, decode_run, part
from tokenlaw.trainer.accounting.flops import Cost

MODEL = LlamaConfig(width=32, layers=2, heads=4, hidden_multiple=16)


def tokenizer_run(**options: object):
    tree = {
        "data": {
            "dataset": part("digits"),
            "num_classes": 10,
            "num_train": 100,
            "num_val": 10,
            "resolution": 32,
        },
        "tokenizer": part("vqgan", ch=8, ch_mult=(1, 2), z_channels=8),
        "quantizer": part("vq", codebook_size=64),
        "iterations": 10,
        "batch_size": 4,
    }
    return decode_run("tokenizer", tree | options)


def test_layers_cost_what_they_hold_and_multiply() -> None:
    assert flops.conv(3, 8, 3, 100) == Cost(3 * 8 * 9 + 8, 3 * 8 * 9 * 100)
    assert flops.conv(3, 8, 3, 100, bias=False).params == 216
    assert flops.linear(4, 5, 7, bias=True) == Cost(25, 140)
    assert flops.norm(6) == Cost(12, 0)
    assert flops.attention(5, 7, 3) == Cost(0, 210)


def test_train_flops_of_a_token_are_six_per_weight_plus_attention() -> None:
    d, n, vocabulary, length = 32, 2, 50, 16
    hidden = flops.llama_hidden(d, 16)
    weights = n * (4 * d * d + 3 * d * hidden) + vocabulary * d
    assert hidden == 96
    assert flops.generator_flops_per_token(MODEL, vocabulary, length) == (
        6 * weights + 6 * n * d * length
    )


def test_the_papers_axis_leaves_out_the_tokens() -> None:
    config = decode_run(
        "generator",
        {
            "model": {"width": 640, "layers": 6, "heads": 10},
            "iterations": 15_000,
            "batch_size": 256,
        },
    )
    paper = flops.generator_flops_paper(config, 16384, 1000, 256)
    assert paper == 6 * 52_094_720 * 15_000 * 256
    assert f"{paper:.1e}" == "1.2e+15"
    # The full count has the 256 tokens of an image and attention on top, and no input tables.
    ratio = flops.generator_flops_train(config, 16384, 256) / paper
    assert 0.7 * 256 < ratio < 256


def test_a_tokenizer_run_is_billed_for_every_network_it_runs() -> None:
    bare = flops.tokenizer_flops_train(tokenizer_run())
    cost = flops.tokenizer_cost(tokenizer_run())
    images = 40
    assert bare == 2 * images * 3 * (cost.encoder.macs + cost.decoder.macs + cost.quantizer.macs)
    assert cost.macs_forward == cost.encoder.macs + cost.decoder.macs
    perceptual = tokenizer_run(perceptual="random_vgg")
    vgg = flops.tokenizer_cost(perceptual).perceptual.macs
    assert flops.tokenizer_flops_train(perceptual) - bare == 2 * images * 3 * vgg
    regularised = tokenizer_run(
        regularizer=part("crt", width=16, heads=2, hidden_multiple=8), tokenizer="vqgan"
    )
    crt = flops.tokenizer_cost(regularised).regularizer.macs
    alone = flops.tokenizer_flops_train(tokenizer_run(tokenizer="vqgan"))
    assert crt > 0
    assert flops.tokenizer_flops_train(regularised) - alone == 2 * images * 3 * crt


@pytest.mark.parametrize(
    ("width", "percent"), [(512, 0.8), (768, 1.7), (1024, 3.0), (1152, 3.7), (1280, 4.7)]
)
def test_overhead_of_the_causal_model_in_crts_iteration(width: int, percent: float) -> None:
    # Of two blocks of such width, on encoder, decoder, discriminator and LPIPS together.
    tree = {**_crt.TOKENIZER, "data": _imagenet.DATA}
    plain = decode_run("tokenizer", tree)
    config = decode_run("tokenizer", tree | {"regularizer": part("crt", width=width, heads=8)})
    overhead = flops.regularizer_overhead(config)
    assert 100 * overhead == pytest.approx(percent, abs=0.1)
    assert flops.regularizer_overhead(plain) == 0.0
    # With so many iterations fewer both runs cost the same, but for the discriminator's share.
    fair = round(400_000 / (1 + overhead))
    costs = [flops.tokenizer_flops_train(dataclasses.replace(c, adversarial=None, iterations=n))
             for c, n in ((plain, 400_000), (config, fair))]  # fmt: skip
    assert costs[1] == pytest.approx(costs[0], rel=3e-3)


def test_the_discriminator_is_billed_from_its_start() -> None:
    def billed(**options: object) -> int:
        options = {"ndf": 4, "n_layers": 2} | options
        return flops.tokenizer_flops_train(tokenizer_run(adversarial=part("patchgan", **options)))

    bare = flops.tokenizer_flops_train(tokenizer_run())
    assert billed(start_iteration=10) == bare
    late, early = billed(start_iteration=6) - bare, billed(start_iteration=0) - bare
    assert early == pytest.approx(2.5 * late)
    penalised = billed(start_iteration=0, objective="wgan_gp") - bare
    assert penalised == pytest.approx(early * 14 / 8)


def test_an_unprojected_regulariser_sees_wider_latents() -> None:
    for latent, width in (("projected", 8), ("unprojected", 16)):
        config = tokenizer_run(
            tokenizer=part("vqgan", ch=8, ch_mult=(1, 2, 2), z_channels=16),
            regularizer=part("crt", width=16, heads=2, hidden_multiple=8, latent=latent),
        )
        assert flops.latent_width(config) == width
