"""Evaluation runs from their folders to their endpoints."""

from __future__ import annotations

import io
import json
import shutil

import measured
import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.accounting.config import part
from tokenlaw.trainer.kinds.evaluation import in_pieces, picture, resize, spread

SAMPLES = {
    "subject": "generator",
    "data": tiny.data(),
    "metrics": [part("fcd")],
    "num_samples": 44,
    "batch_size": 16,
}
RECONSTRUCTIONS = {
    "subject": "tokenizer",
    "data": tiny.data(),
    "metrics": [part("psnr"), part("ssim"), part("codebook_usage"), part("fcd")],
    "batch_size": 100,
}


class Chain:
    """One tiny run of each kind."""

    def __init__(self, home):
        self.home = home
        self.extractor = measured.extractor(home)
        self.tokenizer = tiny.done(home, "tokenizer", tiny.varied_tokenizer())
        self.codes = tiny.done(home, "codes", tiny.codes(), {"tokenizer": self.tokenizer})
        self.generator = tiny.done(home, "generator", tiny.generator(), {"codes": self.codes})
        self.of_tokenizer = {"tokenizer": self.tokenizer, "extractor": self.extractor}
        self.of_generator = {
            **self.of_tokenizer,
            "codes": self.codes,
            "generator": self.generator,
        }


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def reconstructions(chain):
    return tiny.done(chain.home, "evaluation", RECONSTRUCTIONS, chain.of_tokenizer)


@pytest.fixture(scope="module")
def samples(chain):
    tree = SAMPLES | {"sample_seeds": [0, 1]}
    return tiny.done(chain.home, "evaluation", tree, chain.of_generator)


def close(first, second, tolerance):
    """Whether two runs give the same metrics with the same provenance and close numbers."""
    one, two = measured.endpoint(first)["values"], measured.endpoint(second)["values"]
    names = [(value["metric"], value["provenance"]) for value in one]
    assert names == [(value["metric"], value["provenance"]) for value in two]
    return np.allclose(
        [v["value"] for v in one], [v["value"] for v in two], atol=tolerance, rtol=tolerance
    )


def test_reconstructions_of_the_whole_validation_set(reconstructions):
    found = {value["metric"]: value for value in measured.endpoint(reconstructions)["values"]}
    assert set(found) == {
        "psnr", "ssim", "rfcd",
        "codebook_usage", "codebook_perplexity", "codebook_entropy", "bits_per_pixel",
    }  # fmt: skip
    assert found["psnr"]["provenance"]["num_samples"] == 360
    assert found["rfcd"]["provenance"]["reference"] == "same images"
    assert found["rfcd"]["value"] > 0
    assert found["codebook_usage"]["provenance"]["codes_counted"] == 360 * 16
    columns = measured.endpoint(reconstructions)["columns"]
    assert (columns["codebook_size"], columns["tokens_per_image"]) == (32, 16)


def test_reconstructions_are_those_of_the_tokenizer(chain, reconstructions):
    """Written out once more, from encoder to PSNR."""
    from tokenlaw.trainer.loop import data
    from tokenlaw.trainer.models.build import load_tokenizer
    from tokenlaw.trainer.run import Settings

    config = configs.decode(configs.DataConfig, tiny.data())
    shown = data.open_images(config, Settings(), "val").center(torch.arange(360))
    tokenizer, quantizer, _ = load_tokenizer(chain.tokenizer, torch.device("cpu"))
    with torch.inference_mode():
        quantized = quantizer(tokenizer.encode(shown / 127.5 - 1), 0)
        decoded = tokenizer.decode(quantized.z_q_BND)
    levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round()
    mse = (levels - shown).square().mean(dim=(1, 2, 3))
    (psnr,) = measured.values(reconstructions, "psnr")
    expected = (20 * torch.log10(255 / mse.sqrt())).mean().item()
    assert psnr["value"] == pytest.approx(expected, abs=1e-3)
    (usage,) = measured.values(reconstructions, "codebook_usage")
    assert usage["value"] == len(quantized.code_BN.unique()) / 32
    assert usage["value"] > 2 / 32


def test_classes_have_equal_counts(chain, monkeypatch):
    from tokenlaw.trainer.sampling import sampler

    drawn, real = [], sampler.sample

    def sample(generator, class_B, seeds, *rest):
        assert len(seeds) == len(class_B) == len(set(seeds))
        drawn.extend(class_B.tolist())
        return real(generator, class_B, seeds, *rest)

    monkeypatch.setattr(sampler, "sample", sample)
    tree = SAMPLES | {"num_samples": 44, "sample_seeds": [7]}
    tiny.done(chain.home, "evaluation", tree, chain.of_generator)
    assert drawn == [index % 10 for index in range(44)]


def test_classes_are_in_proportion_to_those_of_the_reference(chain, monkeypatch):
    from tokenlaw.trainer.loop import data
    from tokenlaw.trainer.sampling import sampler

    drawn, real, opened = [], sampler.sample, data.open_images

    def sample(generator, class_B, *rest):
        drawn.extend(class_B.tolist())
        return real(generator, class_B, *rest)

    def open_images(*arguments):
        images = opened(*arguments)
        images.labels = torch.tensor([3] * (len(images) // 4) + [7] * len(images))[: len(images)]
        return images

    monkeypatch.setattr(sampler, "sample", sample)
    monkeypatch.setattr(data, "open_images", open_images)
    tree = SAMPLES | {"sample_seeds": [7], "label_prior": "as_reference"}
    run = tiny.done(chain.home, "evaluation", tree, chain.of_generator)
    assert np.bincount(drawn).tolist() == [0, 0, 0, 11, 0, 0, 0, 33]
    (value,) = measured.values(run, "gfcd")
    assert value["provenance"]["label_prior"] == "as_reference"
    with Image.open(run.artifacts_path / "samples.png") as image:
        assert image.size[1] == 2 * 16 + 2  # a row for each class that was drawn


def test_the_prior_is_in_the_identity_and_of_generators_only(chain):
    from tokenlaw.trainer.accounting.identity import id_tree

    plain = configs.decode_run("evaluation", SAMPLES)
    other = configs.decode_run("evaluation", SAMPLES | {"label_prior": "as_reference"})
    assert "label_prior" not in id_tree(plain) and id_tree(other)["label_prior"] == "as_reference"
    with pytest.raises(ValueError, match="label_prior: 'as_reference' is for generators"):
        configs.decode_run("evaluation", RECONSTRUCTIONS | {"label_prior": "as_reference"})


def test_a_distance_carries_its_cautions_and_the_accuracy(chain, samples, tmp_path):
    (accuracy,) = measured.values(chain.extractor, "extractor_accuracy")
    assert 0.1 < accuracy["provenance"]["chance"] < 0.11  # the largest class of the validation half
    for value in measured.values(samples, "gfcd"):
        assert value["provenance"]["extractor_accuracy"] == accuracy["value"]
        assert value["provenance"]["label_prior"] == "balanced"
        assert "caution" not in value["provenance"]
    blind = measured.extractor(tmp_path, iterations=1)
    tree = RECONSTRUCTIONS | {"metrics": [part("fcd")], "num_samples": 31}
    parents = {**chain.of_tokenizer, "extractor": blind}
    shutil.copytree(chain.tokenizer.path, tmp_path / "tokenizer" / chain.tokenizer.id)
    run = tiny.done(tmp_path, "evaluation", tree, parents)
    (value,) = measured.values(run, "rfcd")
    told = value["provenance"]["caution"]
    assert told.startswith("the classifier is near chance: accuracy 0.")
    assert told.endswith("; 31 samples for 32 features: too few, the distance is biased")


def test_reconstruction_picture_shows_originals_over_reconstructions(reconstructions):
    (entry,) = measured.endpoint(reconstructions)["artifacts"]
    png = (reconstructions.artifacts_path / entry["file"]).read_bytes()
    shown = np.asarray(Image.open(io.BytesIO(png)))
    assert entry["name"] == "reconstructions.png"
    assert shown.shape == (4 * 18 - 2, 8 * 18 - 2, 3)
    from tokenlaw.trainer.loop import data
    from tokenlaw.trainer.run import Settings

    val = data.open_images(configs.decode(configs.DataConfig, tiny.data()), Settings(), "val")
    first = val.center(torch.tensor([0]))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(shown[:16, :16], first)
    assert not np.array_equal(shown[18:34, :16], first)


def test_each_sample_seed_has_its_value_and_its_own_samples(samples):
    first, second = measured.values(samples, "gfcd")
    assert [v["provenance"]["seed"] for v in (first, second)] == [0, 1]
    assert first["value"] != second["value"]
    assert first["provenance"]["num_samples"] == 44
    assert measured.endpoint(samples)["columns"]["flops_sample"] > 0
    (entry,) = measured.endpoint(samples)["artifacts"]
    shown = Image.open(io.BytesIO((samples.artifacts_path / entry["file"]).read_bytes()))
    # 44 samples of 10 classes: a row per class, 5 images in the widest.
    assert shown.size == (5 * 18 - 2, 10 * 18 - 2)


def test_batch_size_moves_no_number(chain, reconstructions, samples):
    other = tiny.done(
        chain.home, "evaluation", RECONSTRUCTIONS | {"batch_size": 7}, chain.of_tokenizer
    )
    assert close(reconstructions, other, 1e-6)
    tree = SAMPLES | {"sample_seeds": [0, 1], "batch_size": 44}
    other = tiny.done(chain.home, "evaluation", tree, chain.of_generator)
    assert close(samples, other, 1e-6)


# Every token that is drawn polls too, so the stops fall in different passes, batches and tokens.
@pytest.mark.parametrize(
    ("kind", "polls"), [("reconstructions", (1, 1)), ("samples", (1, 5, 20, 60))]
)
def test_stopped_and_resumed_gives_the_same_endpoint(chain, kind, polls, request):
    whole = request.getfixturevalue(kind)
    kept = {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()}
    expected, log = measured.endpoint(whole), tiny.log_entries(whole)
    try:
        whole.endpoint_path.unlink()
        for path in whole.artifacts_path.iterdir():
            path.unlink()
        for count in polls:
            assert tiny.do(whole, tiny.StopAfter(count)).outcome == "preempted"
        assert tiny.do(whole).outcome == "done"
        found = measured.endpoint(whole)
        assert found["values"] == expected["values"]
        assert found["artifacts"] == expected["artifacts"]
        assert tiny.log_entries(whole) == log and len(log) in (1, 2)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


# In one of the two orders the best is not the first.
@pytest.mark.parametrize("grid", [[1.0, 3.0], [3.0, 1.0]])
def test_scale_is_chosen_and_all_tries_are_kept(chain, grid):
    tree = SAMPLES | {"cfg_selection": "oracle", "cfg_grid": grid, "sample_seeds": [0, 5]}
    run_dir = tiny.done(chain.home, "evaluation", tree, chain.of_generator)
    names = [entry["name"] for entry in measured.endpoint(run_dir)["artifacts"]]
    assert sorted(names) == ["cfg_selection.json", "samples.png"]
    tried = json.loads((run_dir.artifacts_path / "cfg_selection.json").read_text())["tried"]
    assert all(set(value) == {"metric", "value", "unit", "provenance"}
               for one in tried for value in one["values"])  # fmt: skip
    assert [entry["cfg_scale"] for entry in tried] == grid
    best = min(tried, key=lambda entry: entry["distance"])
    first, second = measured.values(run_dir, "gfcd")
    assert first["value"] == pytest.approx(best["distance"], abs=1e-12)
    for value, seed in ((first, 0), (second, 5)):
        assert value["provenance"]["cfg_scale"] == best["cfg_scale"]
        assert value["provenance"]["cfg_selection"] == "oracle"
        assert value["provenance"]["seed"] == seed
    # The chosen samples are those of a run with that scale fixed.
    fixed = SAMPLES | {"sampling": {"cfg_scale": best["cfg_scale"]}, "sample_seeds": [5]}
    other = tiny.done(chain.home, "evaluation", fixed, chain.of_generator)
    assert measured.values(other, "gfcd")[0]["value"] == second["value"]


def test_scale_from_training_images_is_scored_against_validation_images(chain):
    tree = SAMPLES | {
        "cfg_selection": "train_subset",
        "cfg_grid": [1.0, 3.0],
        "metrics": [part("fcd", reference="val")],
    }
    run_dir = tiny.done(chain.home, "evaluation", tree, chain.of_generator)
    (value,) = measured.values(run_dir, "gfcd")
    assert value["provenance"]["reference"] == "val images"
    tried = json.loads((run_dir.artifacts_path / "cfg_selection.json").read_text())["tried"]
    assert all(entry["distance"] != entry["values"][0]["value"] for entry in tried)


def test_choosing_on_the_scored_images_must_be_called_oracle(chain):
    tree = SAMPLES | {"cfg_selection": "train_subset", "cfg_grid": [1.0, 2.0]}
    outcome = tiny.do(tiny.lay_out(chain.home, "evaluation", tree, chain.of_generator))
    assert outcome.outcome == "failed" and outcome.error_class == "ValueError"
    assert "allowed with metrics.fcd.reference 'train': fixed, oracle" in outcome.error


def test_other_resolution_is_brought_back_to_that_of_the_metrics(chain):
    tree = RECONSTRUCTIONS | {"model_resolution": 24}
    run_dir = tiny.done(chain.home, "evaluation", tree, chain.of_tokenizer)
    assert measured.endpoint(run_dir)["columns"]["tokens_per_image"] == 36
    (usage,) = measured.values(run_dir, "codebook_usage")
    assert usage["provenance"]["codes_counted"] == 360 * 36
    (bits,) = measured.values(run_dir, "bits_per_pixel")
    assert bits["value"] == pytest.approx(36 * 5 / 16**2)


def test_resize_is_pillows_antialiased_bicubic():
    image = np.random.default_rng(0).integers(90, 166, (24, 24, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    found = resize(tensor, 16)[0].permute(1, 2, 0).clamp(0, 255).numpy()
    # Pillow rounds (and cuts, where contrast is high) to 8 bits between its two directions.
    assert np.abs(found - expected).max() < 1.5


def test_spread_takes_equal_steps():
    assert spread(10, None).tolist() == list(range(10))
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert len(set(spread(360, 359).tolist())) == 359
    with pytest.raises(ValueError, match="num_samples: 11.*has 10"):
        spread(10, 11)


def test_large_images_pass_through_networks_in_pieces():
    seen = []

    def network(x):
        seen.append(len(x))
        return 2 * x

    x = torch.arange(5)
    for side, sizes in ((256, [5]), (2048, [2, 2, 1]), (8192, [1] * 5)):
        seen.clear()
        assert torch.equal(in_pieces(network, x, side), 2 * x)
        assert seen == sizes


def test_picture_leaves_gaps():
    row = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    shown = np.asarray(Image.open(io.BytesIO(picture([row, row[:1]]))))
    assert shown.shape == (10, 10, 3)
    assert shown[:4, :4].max() == 0 and shown[:4, 4:6].min() == 255 and shown[6:, 6:].min() == 255


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": [part("psnr")]}, "'psnr' does not apply to a generator; allowed: tokenizer"),
        ({"metrics": []}, "metrics: is empty"),
        ({"metrics": [part("fcd"), part("fcd")]}, "named twice"),
        ({"sample_seeds": [1, 1]}, "different seeds"),
        ({"num_samples": None}, "num_samples: is required"),
        ({"cfg_grid": [1.0]}, "not allowed with cfg_selection 'fixed'"),
        ({"cfg_selection": "oracle"}, "not allowed with cfg_selection 'oracle'"),
        ({"model_resolution": 24}, "model_resolution: is for tokenizers"),
    ],
)
def test_bad_configs_are_refused_in_the_plan(change, message):
    with pytest.raises(ValueError, match=message):
        configs.decode_run("evaluation", SAMPLES | change)


def test_extractor_of_other_images_is_refused(chain):
    other = measured.extractor(chain.home, resolution=8, iterations=1)
    parents = chain.of_tokenizer | {"extractor": other}
    outcome = tiny.do(tiny.lay_out(chain.home, "evaluation", RECONSTRUCTIONS, parents))
    assert outcome.error_class == "ValueError"
    assert "data.resolution: 16 in the evaluation, 8 in its extractor" in outcome.error


def test_undefined_metric_fails_the_run(chain):
    outcome = tiny.do(
        tiny.lay_out(chain.home, "evaluation", SAMPLES | {"num_samples": 1}, chain.of_generator)
    )
    assert outcome.error_class == "ValueError"
    assert "gfcd is undefined here: a covariance needs 2 images" in outcome.error


def test_missing_parent_is_named(chain):
    parents = {"tokenizer": chain.tokenizer, "extractor": chain.extractor}
    outcome = tiny.do(tiny.lay_out(chain.home, "evaluation", SAMPLES, parents))
    assert outcome.error == "parents: codes, generator missing; a generator needs them"
