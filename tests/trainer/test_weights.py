"""Metrics that need downloaded networks: how their files are found, checked and used.

The files are random ones of the right shapes; numbers are compared with each other only.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_weights import adm, backbone, clip, inception
from measured import batch, context, numbers

from tokenlaw.trainer.accounting.config import decode
from tokenlaw.trainer.metrics import clip_fid, fid, lpips, ms_ssim

SIDE = 32


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return {
        "inception": inception(folder / "inception.pth"),
        "clip": clip(folder / "clip.pt"),
        "alex": backbone(folder / "alex.pth", "alex"),
        "adm": adm(folder / "adm.npz", images=5, side=SIDE, width=64),
    }


def images(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)


def reference(seen):
    """The reference of a context: 6 validation or up to 8 training images; notes who asked."""

    def read(split, wanted):
        seen.append((split, wanted))
        found = images(6, seed=5) if split == "val" else images(8, seed=6)[:wanted]
        yield from found.split(4)

    return read


@pytest.fixture
def quick_network(monkeypatch):
    """A random projection in place of Inception, which sees 5 images a second and whose 2048
    features take seconds to compare."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3 * SIDE * SIDE, 64, generator=draw) / 1e3
    logits = torch.randn(3 * SIDE * SIDE, 10, generator=draw) / 1e4

    def outputs(image_BCHW):
        x = image_BCHW.flatten(1).float()
        return x @ features, x @ logits

    network = fid.Network(name="quick", outputs=outputs, width=64, logits=10)
    monkeypatch.setattr(fid, "_load", lambda config, where: network)


def test_the_published_digests_are_in_the_file_names():
    assert decode(fid.Config, {}).weights() == {fid.INCEPTION: "6726825d"}
    assert decode(lpips.Config, {"net": "alex"}).weights() == {
        "alexnet-owt-7be5be79.pth": "7be5be79"
    }
    assert decode(lpips.Config, {}).weights() == {"vgg16-397923af.pth": "397923af"}
    ((name, digest),) = decode(clip_fid.Config, {}).weights().items()
    assert name == f"clip-vit-b-32-{digest}.pt" and len(digest) == 64


def test_missing_file_says_where_it_was_looked_for_and_what_works(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints"
    for module, instead in ((fid, "fcd works"), (clip_fid, "fcd works"), (lpips, "psnr, ssim")):
        (name,) = module.Config().weights()
        with pytest.raises(ValueError) as error:
            module.Metric(module.Config(), context())
        message = str(error.value)
        assert name in message and str(place / name) in message and instead in message


def test_file_of_the_right_name_and_other_contents_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    (place / fid.INCEPTION).write_bytes(b"something else")
    with pytest.raises(ValueError, match="sha256 .* does not begin with 6726825d"):
        fid.Metric(fid.Config(), context())


def test_file_of_the_declared_hash_and_other_shapes_is_refused(files):
    path, digest = files["alex"]
    where = context(weights={fid.INCEPTION: path})
    with pytest.raises(ValueError, match="is no Inception file"):
        fid.Metric(fid.Config(inception_sha256=digest), where)
    path, digest = files["inception"]
    where = context(weights={"alexnet-owt-7be5be79.pth": path})
    with pytest.raises(ValueError, match="features.0.weight is missing"):
        lpips.Metric(lpips.Config(net="alex", backbone_sha256=digest), where)


# ------------------------------------------------------------------------------------- distances


def test_rfid_compares_with_the_same_images(quick_network):
    one = images(5)
    found = numbers(fid, context(), batch(one, one))
    assert list(found) == ["rfid"] and 0 <= found["rfid"] < 1e-3
    assert numbers(fid, context(), batch(images(5, seed=1), one))["rfid"] > 1.0


def test_gfid_is_the_librarys_number(files):
    """Against `calculate_metrics`, with the same network, images and settings."""
    from torch_fidelity import calculate_metrics

    path, digest = files["inception"]
    where = context("generator", weights={fid.INCEPTION: path}, reference=reference([]))
    config = fid.Config(inception_sha256=digest, inception_score=False, precision_recall=False)
    metric = fid.Metric(config, where)
    metric.update(batch(images(4)))
    (found,) = metric.compute()
    whole = calculate_metrics(
        input1=_Listed(images(4)),
        input2=_Listed(images(6, seed=5)),
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=path,
    )
    assert found.metric == "gfid"
    assert found.value == pytest.approx(whole["frechet_inception_distance"], rel=1e-4)
    provenance = found.provenance
    assert provenance["extractor"] == f"inception-v3-compat-{digest[:8]}"
    assert (provenance["reference"], provenance["reference_num"]) == ("val images", 6)
    assert provenance["num_samples"] == 4


def test_score_precision_and_recall_stand_beside_the_distance(quick_network):
    real = images(6, seed=5)
    where = context("generator", reference=reference([]))
    metric = fid.Metric(fid.Config(), where)
    metric.update(batch(torch.cat([real, real])))
    found = {value.metric: value for value in metric.compute()}
    assert found["precision"].value == found["recall"].value == 1.0
    assert found["inception_score"].value > 1.0
    assert found["precision"].provenance["reference_num"] == 6
    assert found["inception_score"].provenance["splits"] == 10
    metric = fid.Metric(fid.Config(), where)
    metric.update(batch(real[:3]))
    found = {value.metric: value for value in metric.compute()}
    for name in ("inception_score", "precision", "recall"):
        assert found[name].value is None and "needs" in found[name].provenance["undefined"]


class _Listed(torch.utils.data.Dataset):
    def __init__(self, content):
        self.content = content

    def __len__(self):
        return len(self.content)

    def __getitem__(self, index):
        return self.content[index]


def test_reference_statistics_are_computed_once_and_kept(files, tmp_path):
    path, digest = files["clip"]
    (name,) = clip_fid.Config().weights()
    seen = []

    def where(**changes):
        given = {"weights": {name: path}, "reference": reference(seen), "store": tmp_path / "s"}
        return context("generator", **(given | changes))

    def measure(place):
        options = {"sha256": digest, "reference": "train_subset", "train_images": 5}
        return numbers(clip_fid, place, batch(images(4)), **options)

    one_run = where()
    first = measure(one_run)
    assert measure(one_run) == first and seen == [("train", 5)]
    assert measure(where()) == first and len(seen) == 1
    assert measure(where(reference_id="other images")) == first and len(seen) == 2
    for folder in (tmp_path / "s").iterdir():
        np.save(folder / "mu.npy", np.zeros(16))
    assert measure(where()) == first and len(seen) == 3
    assert measure(where()) == first and len(seen) == 3


def test_adm_reference_file(files, quick_network):
    adm_path, adm_digest = files["adm"]
    weights = {"VIRTUAL_imagenet256_labeled.npz": adm_path}
    where = context("generator", weights=weights)
    config = fid.Config(reference="adm_npz", adm_sha256=adm_digest, inception_score=False)
    metric = fid.Metric(config, where)
    metric.update(batch(images(5)))
    found = {value.metric: value for value in metric.compute()}
    assert set(found) == {"gfid", "precision", "recall"}
    assert found["gfid"].provenance["reference"] == f"adm.npz {adm_digest[:8]}"
    with np.load(adm_path) as stored:
        mu = stored["mu"]
    features = metric.state()["features"].double().numpy()
    assert found["gfid"].value > ((features.mean(0) - mu) ** 2).sum() * 0.99
    other = context("generator", weights=weights, resolution=64)
    metric = fid.Metric(config, other)
    metric.update(batch(images(5)))
    with pytest.raises(ValueError, match=r"images \(32, 32, 3\).*uint8 \(64, 64, 3\)"):
        metric.compute()


def test_adm_file_must_be_declared():
    with pytest.raises(ValueError, match="adm_npz needs it"):
        fid.Config(reference="adm_npz")
    with pytest.raises(ValueError, match="adm_npz needs it"):
        fid.Config(adm_sha256="0" * 64)


def test_clip_distance_names_its_network(files):
    path, digest = files["clip"]
    (name,) = clip_fid.Config().weights()
    where = context("generator", weights={name: path}, reference=reference([]))
    metric = clip_fid.Metric(clip_fid.Config(sha256=digest), where)
    metric.update(batch(images(6, seed=5)))
    (value,) = metric.compute()
    assert value.metric == "gfid_clip" and value.value < 1e-8
    assert value.provenance["extractor"] == f"clip-vit-b-32-{digest[:8]}"
    metric.update(batch(images(6)))
    (value,) = metric.compute()
    assert value.value > 1e-5


def test_scales_are_not_chosen_on_the_scored_images():
    for module in (fid, clip_fid):
        choose = module.Metric.for_selection
        config = choose(module.Config(reference="val_images"), "train_subset")
        assert config.reference == "train_subset"
        assert choose(module.Config(reference="val_images"), "oracle").reference == "val_images"
        with pytest.raises(ValueError, match="allowed with reference 'train_subset'"):
            choose(module.Config(reference="train_subset"), "train_subset")
    adm_config = fid.Config(reference="adm_npz", adm_sha256="0" * 8)
    assert fid.Metric.for_selection(adm_config, "train_subset").reference == "train_subset"
    assert not fid.Metric.for_selection(adm_config, "oracle").precision_recall


# ----------------------------------------------------------------------------- paired networks


def test_lpips_is_the_packages_number(files):
    import lpips as package

    path, digest = files["alex"]
    where = context(weights={"alexnet-owt-7be5be79.pth": path})
    one, other = images(3), images(3, seed=1)
    metric = lpips.Metric(lpips.Config(net="alex", backbone_sha256=digest), where)
    metric.update(batch(one, other))
    (value,) = metric.compute()
    assert value.provenance["extractor"] == f"lpips-v0.1-alex-{digest[:8]}"
    with pytest.warns(UserWarning):
        model = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    stored = torch.load(path, weights_only=True)
    wanted = model.net.state_dict()
    model.net.load_state_dict({k: stored["features." + k.split(".", 1)[1]] for k in wanted})
    with torch.no_grad():
        expected = model(one.float() / 255, other.float() / 255, normalize=True).mean().item()
    assert value.value == pytest.approx(expected, rel=1e-5)
    assert numbers(
        lpips, where, batch(one, one), net="alex", backbone_sha256=digest
    )["lpips"] == 0.0  # fmt: skip


def test_ms_ssim_agrees_with_piq_and_knows_its_smallest_image():
    import piq

    draw = torch.Generator().manual_seed(0)
    small = torch.rand(2, 3, 24, 24, generator=draw)
    smooth = torch.nn.functional.interpolate(small, 176, mode="bicubic").clamp(0, 1)
    one = (smooth * 255).to(torch.uint8)
    noise = 20 * torch.randn(one.shape, generator=draw)
    other = (one.float() + noise).round().clamp(0, 255).to(torch.uint8)
    found = numbers(ms_ssim, context(resolution=176), batch(other, one))["ms_ssim"]
    expected = piq.multi_scale_ssim(other.double() / 255, one.double() / 255, data_range=1.0)
    assert found == pytest.approx(expected.item(), abs=1e-5)
    assert 0.5 < found < 0.99
    with pytest.raises(ValueError, match="160 px is too small.*at least 161 px.*ssim works"):
        ms_ssim.Metric(ms_ssim.Config(), context(resolution=160))
    ms_ssim.Metric(ms_ssim.Config(), context(resolution=161))
