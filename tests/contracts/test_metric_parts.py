"""What every metric keeps to: split or merged, the number is the same."""

from __future__ import annotations

import dataclasses
import math

import fake_weights
import measured
import pytest
import torch

from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.metrics import Batch, Distance, NeedsWeights, fid

FOLDER = "metrics"
COUNT, TOKENS, CODES = 12, 4, 16
SMALLEST = {"ms_ssim": 161}  # pixels, for metrics that need more than 32
# Networks whose file is made here with random contents: options that declare its hash.
WEIGHTS = {
    "lpips": (lambda path: fake_weights.backbone(path, "alex"), "backbone_sha256", {"net": "alex"}),
    "clip_fid": (fake_weights.clip, "sha256", {}),
}


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return measured.extractor(tmp_path_factory.mktemp("home"), 32, iterations=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def random_inception(config, context):
    """Inception itself takes too long here; its loading is tested on its own. Fewer features than
    images: a covariance without full rank turns rounding errors into their square roots."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(3 * 32 * 32, 6, generator=draw, dtype=torch.float64) / 1e3
    return fid.Network(
        name="random",
        outputs=lambda image: (image.flatten(1).double() @ weight,) * 2,
        width=6,
        logits=6,
    )


CASES = [(name, stage) for name in parts.names(FOLDER) for stage in parts.load(FOLDER, name).STAGES]


@pytest.fixture(params=CASES, ids=[f"{name}-{stage}" for name, stage in CASES])
def made(request, extractor, folder, monkeypatch):
    """(module, a function that makes a fresh Metric, a batch of 12 images) for a part and stage."""
    name, stage = request.param
    module = parts.load(FOLDER, name)
    options, weights = {}, {}
    if name in WEIGHTS:
        make, field, options = WEIGHTS[name]
        path, digest = make(folder / name)
        options = options | {field: digest}
        weights = dict.fromkeys(module.Config(**options).weights(), path)
    monkeypatch.setattr(fid, "_load", random_inception)
    side = SMALLEST.get(name, 32)

    def images(seed, count=COUNT):
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)

    def reference(split, wanted):
        yield from images(3, 9).split(5)

    context = measured.context(
        stage, extractor, resolution=side, weights=weights, reference=reference, num_codes=CODES
    )
    originals = images(0)
    # Near their originals, as reconstructions are: MS-SSIM of unrelated images is no number.
    noise = torch.randn(originals.shape, generator=torch.Generator().manual_seed(1)) * 12
    shown = (originals.float() + noise).round().clamp(0, 255).to(torch.uint8)
    codes = torch.randint(0, CODES, (COUNT, TOKENS), generator=torch.Generator().manual_seed(2))
    whole = Batch(
        image_BCHW=shown,
        reference_BCHW=originals if stage == "tokenizer" else None,
        code_BN=codes,
        label_B=torch.arange(COUNT) % 10,
    )
    return module, lambda: module.Metric(module.Config(**options), context), whole


def pieces(whole, *sizes):
    """The batch cut into consecutive ones."""
    start = 0
    for size in sizes:
        cut = slice(start, start + size)
        start += size
        yield Batch(
            image_BCHW=whole.image_BCHW[cut],
            reference_BCHW=None if whole.reference_BCHW is None else whole.reference_BCHW[cut],
            code_BN=whole.code_BN[cut],
            label_B=whole.label_B[cut],
        )
    assert start == COUNT


def same(first, second):
    one, two = first.compute(), second.compute()
    assert [(v.metric, v.unit) for v in one] == [(v.metric, v.unit) for v in two]
    for a, b in zip(one, two, strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-6, rel=1e-6), a.metric


def test_batches_do_not_matter(made):
    _, make, whole = made
    reference = make()
    reference.update(whole)
    for sizes in ((1,) * COUNT, (5, 7), (11, 1)):
        metric = make()
        for piece in pieces(whole, *sizes):
            metric.update(piece)
        same(metric, reference)


def test_states_of_two_processes_add_up(made):
    _, make, whole = made
    reference, first, second, nothing = make(), make(), make(), make()
    reference.update(whole)
    for metric, piece in zip((first, second), pieces(whole, 8, 4), strict=True):
        metric.update(piece)
    first.merge(second.state())
    first.merge(nothing.state())
    same(first, reference)
    kept = {name: value.clone() for name, value in first.state().items()}
    nothing.merge(kept)
    same(nothing, reference)
    # A state is a copy: going on must not change what was saved.
    saved = second.state()
    before = {name: value.clone() for name, value in saved.items()}
    second.update(whole)
    assert all(torch.equal(saved[name], before[name]) for name in saved)


def test_values_are_named_finite_and_have_a_direction(made):
    module, make, whole = made
    metric = make()
    metric.update(whole)
    values = metric.compute()
    assert values
    for value in values:
        assert value.value is not None and math.isfinite(value.value), value
        assert isinstance(value.unit, str) and value.provenance
        better = module.BETTER if isinstance(module.BETTER, str) else module.BETTER[value.metric]
        assert better in ("lower", "higher")
    assert len({value.metric for value in values}) == len(values)


def test_images_of_another_type_are_refused(made):
    module, make, whole = made
    changed = dataclasses.replace(whole, image_BCHW=whole.image_BCHW.float())
    if module.__name__.endswith(".codebook_usage"):
        make().update(changed)  # looks at codes only
        return
    with pytest.raises(ValueError, match="uint8"):
        make().update(changed)


@pytest.mark.parametrize("name", parts.names(FOLDER))
def test_parts_say_what_they_need(name):
    module = parts.load(FOLDER, name)
    assert set(module.STAGES) <= {"tokenizer", "generator"} and module.STAGES
    config = module.Config()
    with pytest.raises(ValueError, match="there is no such field"):
        configs.decode(module.Config, {"no_such_field": 1})
    if isinstance(config, NeedsWeights):
        for file, digest in config.weights().items():
            assert "/" not in file and len(digest) >= 8
    if issubclass(module.Metric, Distance):
        assert "generator" in module.STAGES
        assert isinstance(module.Metric.for_selection(config, "oracle"), module.Config)
