import dataclasses
import json
import math

import pytest
import tiny

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.accounting.config import decode, decode_part, decode_run, to_tree


def refusal(kind, tree):
    with pytest.raises(ValueError) as caught:
        decode_run(kind, tree)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kind", "tree", "expected"),
    [
        # A misspelt field, at the top, below and in a part, with the nearest name.
        (
            "generator",
            {"iteration": 4},
            r"generator.iteration: there is no such field (did you mean 'iterations'?); "
            r"allowed: model, iterations",
        ),
        (
            "generator",
            {"model": {"widht": 64}},
            "generator.model.widht: there is no such field (did you mean 'width'?); allowed: "
            "width, layers",
        ),
        ("generator", {"optim": {"lr": 1.0}}, "generator.optim.lr: there is no such field"),
        (
            "tokenizer",
            {"quantizer": {"name": "vq", "codebook": 8}},
            "tokenizer.quantizer: vq.codebook: there is no such field (did you mean "
            "'codebook_size'?)",
        ),
        # Wrong types, and nothing is converted in silence.
        (
            "generator",
            {"iterations": "4"},
            "generator.iterations: '4' is not allowed; input should be a valid integer",
        ),
        (
            "generator",
            {"iterations": 4.0},
            "generator.iterations: 4.0 is not allowed; input should be a valid integer",
        ),
        ("generator", {"iterations": True}, "generator.iterations: True is not allowed"),
        (
            "generator",
            {"mask_illegal": 1},
            "generator.mask_illegal: 1 is not allowed; input should be a valid boolean",
        ),
        (
            "generator",
            {"optim": []},
            "generator.optim: 'list' is not allowed; input should be an object",
        ),
        # Out of range.
        (
            "generator",
            {"batch_size": 0},
            "generator.batch_size: 0 is not allowed; input should be greater than or equal to 1",
        ),
        (
            "generator",
            {"z_loss": -0.1},
            "generator.z_loss: -0.1 is not allowed; input should be greater than or equal to 0",
        ),
        ("generator", {"optim": {"beta1": 1.5}}, "generator.optim.beta1: 1.5 is not allowed"),
        (
            "generator",
            {"optim": {"schedule": "cosin"}},
            "generator.optim.schedule: 'cosin' is not allowed; input should be 'constant', "
            "'cosine'",
        ),
        (
            "tokenizer",
            {"quantizer": {"name": "vq", "dim": 0}},
            "tokenizer.quantizer: vq.dim: 0 is not allowed",
        ),
        # Not finite, anywhere.
        (
            "generator",
            {"z_loss": math.nan},
            "generator.z_loss: nan is not allowed; must be a finite number",
        ),
        (
            "generator",
            {"optim": {"lr_peak": math.inf}},
            "generator.optim.lr_peak: inf is not allowed; must be a finite number",
        ),
        (
            "tokenizer",
            {"quantizer": {"name": "vq", "beta": math.nan}},
            "nan is not allowed; must be a finite number",
        ),
        # Missing.
        ("generator", {"model": {"width": 32, "layers": 1}}, "generator.model.heads: is required"),
        # Parts.
        (
            "tokenizer",
            {"quantizer": "vqq"},
            "tokenizer.quantizer: quantizers: 'vqq' is unknown (did you mean 'vq'?); "
            "allowed: fsq, ibq, lfq",
        ),
        ("tokenizer", {"quantizer": "os"}, "tokenizer.quantizer: quantizers: 'os' is unknown"),
        (
            "tokenizer",
            {"quantizer": {"codebook_size": 8}},
            "tokenizer.quantizer: must name a part: ",
        ),
        (
            "tokenizer",
            {"quantizer": {"name": "vq", "version": 99}},
            "tokenizer.quantizer: vq.version: this code has version 1 of the part, the "
            "config was made with 99",
        ),
        # What fields say together.
        (
            "generator",
            {"model": {**tiny.MODEL, "heads": 3}},
            "generator.model: heads: 3 does not divide width 32",
        ),
        (
            "generator",
            {"model": {**tiny.MODEL, "heads": 16}},
            "generator.model: heads: head size 2 must be a multiple of 4 for rope_2d",
        ),
        (
            "evaluation",
            {"metrics": []},
            "evaluation: metrics: is empty; allowed: at least one metric",
        ),
        (
            "evaluation",
            {"metrics": [{"name": "psnr"}]},
            "evaluation: metrics: 'psnr' does not apply to a generator; allowed: tokenizer",
        ),
        (
            "evaluation",
            {"metrics": [{"name": "fcd"}] * 2},
            "evaluation: metrics: a metric is named twice",
        ),
        ("evaluation", {"sample_seeds": [1, 1]}, "evaluation: sample_seeds: (1, 1) is not allowed"),
        (
            "evaluation",
            {"num_samples": None},
            "evaluation: num_samples: is required for a generator",
        ),
        ("evaluation", {"model_resolution": 32}, "evaluation: model_resolution: is for tokenizers"),
        (
            "evaluation",
            {"cfg_selection": "oracle"},
            "evaluation: cfg_grid: () is not allowed with cfg_selection 'oracle'",
        ),
        (
            "evaluation",
            {"cfg_grid": [1.5]},
            "evaluation: cfg_grid: (1.5,) is not allowed with cfg_selection 'fixed'",
        ),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(kind, tree, expected):
    base = {
        "generator": tiny.generator,
        "tokenizer": tiny.tokenizer,
        "evaluation": tiny.samples,
    }[kind]()
    assert expected in refusal(kind, base | tree)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind: 'trainer' is unknown; allowed: extractor, "):
        decode_run("trainer", {})


def test_a_part_without_what_its_folder_needs_is_refused(tmp_path):
    from tokenlaw.trainer import quantizers

    (tmp_path / "half.py").write_text("VERSION = 1\n")
    folders = quantizers.__path__
    folders.append(str(tmp_path))
    parts.names.cache_clear()
    try:
        with pytest.raises(ValueError, match="half: the part does not expose Config, Quantizer"):
            parts.load("quantizers", "half")
    finally:
        folders.remove(str(tmp_path))
        parts.names.cache_clear()


def test_private_modules_are_no_parts():
    assert not [name for name in parts.names("quantizers") if name.startswith("_")]
    with pytest.raises(ValueError, match="'_lookup' is unknown"):
        parts.load("quantizers", "_lookup")


# -------------------------------------------------------------------------------- what is accepted

TREES = {
    "extractor": tiny.extractor,
    "tokenizer": lambda: tiny.crt(perceptual=tiny.VGG, ema_decay=0.99),
    "codes": tiny.codes,
    "generator": tiny.generator,
    "evaluation": tiny.samples,
}


@pytest.mark.parametrize("kind", TREES)
def test_a_resolved_config_decodes_to_itself(kind):
    config = decode_run(kind, TREES[kind]())
    tree = to_tree(config)
    again = decode_run(kind, json.loads(json.dumps(tree)))
    assert again == config and to_tree(again) == tree
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.numerics = None


def test_defaults_are_filled_in():
    tree = to_tree(decode_run("generator", tiny.generator()))
    assert tree["model"]["rope_base"] == 10000.0 and tree["optim"]["name"] == "adamw"
    part = to_tree(decode_run("tokenizer", tiny.tokenizer()))["quantizer"]
    assert part["name"] == "vq" and part["version"] == 1 and part["beta"] == 0.25


def test_whole_numbers_are_fine_where_a_share_is_meant():
    config = decode_run("generator", tiny.generator(z_loss=1))
    assert config.z_loss == 1.0


def test_a_bare_name_takes_the_parts_defaults():
    assert decode_part("quantizers", "vq") == decode_part("quantizers", {"name": "vq"})


def test_decode_of_a_plain_class_names_its_place():
    with pytest.raises(ValueError, match=r"^settings.optim.beta1: 2 is not allowed"):
        decode(configs.ExtractorConfig, tiny.extractor(optim={"beta1": 2}), where="settings")
