"""Numbers of the metrics that need no downloaded network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from measured import batch, context, numbers
from measured import extractor as trained_extractor

from tokenlaw.trainer.accounting import config as configs
from tokenlaw.trainer.kinds.extractor import load_extractor
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.metrics import _frechet, codebook_usage, fcd, psnr, ssim
from tokenlaw.trainer.run import Settings

SIDE = 32


@pytest.fixture(scope="module")
def extractor_run(tmp_path_factory):
    return trained_extractor(tmp_path_factory.mktemp("home"), SIDE, iterations=80)


@pytest.fixture(scope="module")
def digits():
    """All validation digits, uint8, and their labels."""
    config = configs.decode(configs.DataConfig, tiny.data(SIDE))
    images = data.open_images(config, Settings(), "val")
    return images.center(torch.arange(len(images))), images.labels


def noisy(images, strength, seed=0):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images.float() + strength * noise).round().clamp(0, 255).to(torch.uint8)


# ---------------------------------------------------------------------------------- PSNR and SSIM


def test_psnr_by_hand():
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other = black.clone()
    other[0, 0, 0, 0] = 10
    other[1] = 255
    # 48 values: MSE 100/48 for the first, 255^2 for the second; mean of the two PSNRs, not the PSNR
    # of the mean MSE.
    expected = (10 * math.log10(255**2 * 48 / 100) + 0.0) / 2
    found = numbers(psnr, context(), batch(other, black))["psnr"]
    assert found == pytest.approx(expected, abs=1e-9)


def test_identical_images_count_as_the_cap():
    black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    metric = psnr.Metric(psnr.Config(), context())
    metric.update(batch(black, black))
    (value,) = metric.compute()
    assert value.value == psnr.PSNR_MAX and value.provenance["identical_images"] == 2
    # The cap cannot be reached by images that differ, at the sizes it is stated for.
    worst = torch.zeros(1, 3, 226, 226, dtype=torch.uint8)
    different = worst.clone()
    different[0, 0, 0, 0] = 1
    assert numbers(psnr, context(), batch(different, worst))["psnr"] < psnr.PSNR_MAX


def test_psnr_and_ssim_agree_with_piq(digits):
    import piq

    images, _ = digits
    for strength in (5, 40):
        changed = noisy(images[:40], strength)
        pair = (changed.double() / 255, images[:40].double() / 255)
        found = numbers(psnr, context(), batch(changed, images[:40]))["psnr"]
        # piq adds 1e-8 to the MSE.
        assert found == pytest.approx(piq.psnr(*pair, data_range=1.0).item(), abs=1e-3)
        found = numbers(ssim, context(), batch(changed, images[:40]))["ssim"]
        expected = piq.ssim(*pair, data_range=1.0, downsample=False).item()
        assert found == pytest.approx(expected, abs=1e-5)
    assert numbers(ssim, context(), batch(images, images))["ssim"] == pytest.approx(1.0, abs=1e-9)


def test_ssim_needs_its_window():
    with pytest.raises(ValueError, match="8 px.*at least 11 px"):
        ssim.Metric(ssim.Config(), context(resolution=8))


# ------------------------------------------------------------------------------------- codebook


def test_codebook_usage_by_hand():
    codes = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3]])
    images = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    found = numbers(codebook_usage, context(), batch(images, codes=codes))
    assert found["codebook_usage"] == 4 / 16
    assert found["codebook_entropy"] == pytest.approx(2.0)
    assert found["codebook_perplexity"] == pytest.approx(4.0)
    assert found["bits_per_pixel"] == pytest.approx(4 * 4 / SIDE**2)
    # 6 of 8 codes are one entry: H = .75 log2(8/6) + .25 log2(8).
    codes = torch.tensor([[5, 5, 5, 5], [5, 5, 1, 2]])
    found = numbers(codebook_usage, context(), batch(images, codes=codes))
    assert found["codebook_entropy"] == pytest.approx(0.75 * math.log2(8 / 6) + 0.25 * 3)
    varying = context(codebook_sizes=(2, 4, 16, 16))
    found = numbers(codebook_usage, varying, batch(images, codes=codes))
    assert found["bits_per_pixel"] == pytest.approx((1 + 2 + 4 + 4) / SIDE**2)


def test_codebook_usage_of_nothing_is_undefined():
    found = numbers(codebook_usage, context())
    assert found["codebook_usage"] is None and found["codebook_perplexity"] is None


# ------------------------------------------------------------------------- classifier distances


def test_distance_to_itself_is_zero(extractor_run, digits):
    images, _ = digits
    found = numbers(fcd, context(extractor=extractor_run), batch(images, images))
    assert 0 <= found["rfcd"] < 1e-9


def test_distance_is_the_formula(extractor_run, digits):
    """Against a matrix square root made from eigenvectors, an independent way."""
    images, _ = digits
    changed = _blur(images, 2).round().to(torch.uint8)
    found = numbers(fcd, context(extractor=extractor_run), batch(changed, images))["rfcd"]
    network = load_extractor(extractor_run.path, torch.device("cpu"))
    first, second = (network.features(x).double().numpy() for x in (changed, images))
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    weights, vectors = np.linalg.eigh(s1)
    root = vectors @ np.diag(np.sqrt(weights.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(0)).sum()
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(s1 + s2) - 2 * cross
    assert found == pytest.approx(expected, rel=1e-5)
    assert found > 1e-3


def test_samples_against_the_training_statistics(extractor_run, digits):
    """Real validation images score the floor; the library's whole path gives the same number."""
    images, _ = digits
    where = context("generator", extractor_run)
    metric = fcd.Metric(fcd.Config(), where)
    metric.update(batch(images))
    (value,) = metric.compute()
    assert value.metric == "gfcd"
    provenance = value.provenance
    assert value.value == pytest.approx(provenance["floor"], abs=1e-9)
    assert provenance["num_samples"] == provenance["floor_num_samples"] == 360
    assert provenance["reference"] == "train images"
    assert provenance["extractor"].startswith("digits-clf-")

    from torch_fidelity import calculate_metrics

    config = configs.decode(configs.DataConfig, tiny.data(SIDE))
    train = data.open_images(config, Settings(), "train").center(torch.arange(1437))
    whole = calculate_metrics(
        input1=_ListOfImages(images),
        input2=_ListOfImages(train),
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor=provenance["extractor"],
    )
    # The library averages in single precision.
    assert whole["frechet_inception_distance"] == pytest.approx(value.value, abs=1e-5)


class _ListOfImages(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def _blur(images, sigma):
    radius = int(3 * sigma + 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    padded = F.pad(images.float(), (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel, groups=3)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=3)


def _corruptions(images, labels):
    """Name -> four sets of images, each worse than the one before."""
    generator = torch.Generator().manual_seed(0)
    spots = torch.rand(len(images), 1, SIDE, SIDE, generator=generator)
    order = torch.randperm(len(images), generator=generator)
    pixels = images.float()
    place = (torch.arange(len(images)) % 20).view(-1, 1, 1, 1)
    made = {
        "noise": [noisy(images, s) for s in (12, 25, 51, 102)],
        "blur": [_blur(images, s) for s in (1, 2, 4, 6)],
        "salt and pepper": [
            pixels.masked_fill(spots < p / 2, 0).masked_fill(spots > 1 - p / 2, 255)
            for p in (0.02, 0.05, 0.1, 0.25)
        ],
        "blend": [pixels * (1 - a) + pixels[order] * a for a in (0.1, 0.2, 0.35, 0.5)],
        "mode loss": [images[labels < kept] for kept in (8, 6, 4, 2)],
        "pixelate": [F.interpolate(F.avg_pool2d(pixels, k), SIDE) for k in (2, 4, 8, 16)],
        "noise images": [
            torch.where(place < k, noisy(pixels * 0 + 127, 50), pixels) for k in (1, 3, 6, 12)
        ],
        "rectangle": [],
    }  # fmt: skip
    for share in (0.15, 0.3, 0.5, 0.7):
        side = int(SIDE * share)
        edge = (SIDE - side) // 2
        covered = images.clone()
        covered[:, :, edge : edge + side, edge : edge + side] = 0
        made["rectangle"].append(covered)
    return {
        name: [level.round().clamp(0, 255).to(torch.uint8) for level in levels]
        for name, levels in made.items()
    }


def test_distance_rises_with_every_corruption(extractor_run, digits):
    images, labels = digits
    network = load_extractor(extractor_run.path, torch.device("cpu"))
    real = _frechet.statistics(network.features(images))
    table = {
        name: [
            _frechet.distance(_frechet.statistics(network.features(level)), real)
            for level in levels
        ]
        for name, levels in _corruptions(images, labels).items()
    }
    falling = [name for name, row in table.items() if not all(np.diff([0.0, *row]) > 0)]
    assert not falling, {name: table[name] for name in falling}


def test_precision_recall_and_score_tell_mode_loss_from_blur(extractor_run, digits):
    images, labels = digits
    found = {}
    for name, samples in {
        "clean": images,
        "mode loss": images[labels < 2],
        "blur": _blur(images, 4).round().to(torch.uint8),
    }.items():
        found[name] = numbers(
            fcd,
            context("generator", extractor_run),
            batch(samples),
            precision_recall=True,
            classifier_score=True,
        )
    assert found["clean"]["fcd_precision"] == found["clean"]["fcd_recall"] == 1.0
    assert found["mode loss"]["fcd_precision"] > 0.9 and found["mode loss"]["fcd_recall"] < 0.4
    assert found["blur"]["fcd_precision"] < 0.6
    assert found["clean"]["classifier_score"] > 2 * found["mode loss"]["classifier_score"]


def test_too_few_images_are_undefined_not_zero(extractor_run, digits):
    metric = fcd.Metric(fcd.Config(), context("generator", extractor_run))
    metric.update(batch(digits[0][:1]))
    (value,) = metric.compute()
    assert value.value is None and "2 images" in value.provenance["undefined"]


def test_distance_without_extractor_says_what_works():
    with pytest.raises(ValueError, match="no extractor run.*psnr and ssim"):
        fcd.Metric(fcd.Config(), context("generator"))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        _frechet.statistics(torch.tensor([[1.0, 2.0], [math.nan, 1.0]]))


def test_only_8_bit_images_are_numbers(extractor_run, digits):
    images, _ = digits
    for module, where in (
        (psnr, context()),
        (ssim, context()),
        (fcd, context(extractor=extractor_run)),
    ):
        with pytest.raises(ValueError, match=r"uint8 \[B, 3, H, W\]"):
            numbers(module, where, batch(images[:2].float(), images[:2].float()))
        with pytest.raises(ValueError, match="differ in shape"):
            numbers(module, where, batch(images[:2], images[:3]))
        with pytest.raises(ValueError, match="compares with originals"):
            numbers(module, where, batch(images[:2]))
