import measured
import numpy as np
import pytest
import tiny
import torch

from tokenlaw.results_db.durable import sha256_file
from tokenlaw.results_db.strict_json import DamagedError
from tokenlaw.trainer.kinds.extractor import Classifier, load_extractor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return measured.extractor(tmp_path_factory.mktemp("home"))


def test_learns_the_digits_and_names_its_weights(made):
    (accuracy,) = measured.values(made, "extractor_accuracy")
    assert accuracy["value"] > 0.8
    digest = sha256_file(made.path / "final" / "extractor.safetensors")
    assert accuracy["provenance"]["extractor"] == f"digits-clf-{digest[:8]}"
    assert accuracy["provenance"]["num_samples"] == 360


def test_features_are_unit_vectors_whatever_the_batch(made):
    extractor = load_extractor(made.path, torch.device("cpu"))
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    features = extractor.features(images)
    assert features.shape == (7, 32)
    assert torch.allclose(features.norm(dim=1), torch.ones(7), atol=1e-6)
    pieces = torch.cat([extractor.features(part) for part in images.split(2)])
    assert torch.allclose(features, pieces, atol=1e-6)


def test_stored_statistics_are_those_of_the_real_images(made):
    from tokenlaw.trainer.accounting import config as configs
    from tokenlaw.trainer.loop import data
    from tokenlaw.trainer.run import Settings

    extractor = load_extractor(made.path, torch.device("cpu"))
    config = configs.decode(configs.DataConfig, tiny.data())
    train = data.open_images(config, Settings(), "train").center(torch.arange(1437))
    features = extractor.features(train).double().numpy()
    assert np.allclose(extractor.train_mu_D, features.mean(0), atol=1e-7)
    assert np.allclose(extractor.train_sigma_DD, np.cov(features, rowvar=False), atol=1e-7)
    val = data.open_images(config, Settings(), "val").center(torch.arange(360))
    assert torch.allclose(extractor.val_ND, extractor.features(val), atol=1e-6)


def test_stopped_and_resumed_gives_the_same_weights(made, tmp_path):
    tree = made.config()["config"]
    run_dir = tiny.lay_out(tmp_path, "extractor", tree)
    for polls, outcome in ((7, "preempted"), (30, "preempted"), (10**6, "done")):
        assert tiny.do(run_dir, tiny.StopAfter(polls)).outcome == outcome
    tiny.assert_same(run_dir, made)


def test_damaged_statistics_are_refused(tmp_path):
    made = measured.extractor(tmp_path, iterations=1)
    path = made.artifacts_path / "train_mu.npy"
    np.save(path, np.load(path) + 1)
    with pytest.raises(DamagedError, match="train_mu.npy"):
        load_extractor(made.path, torch.device("cpu"))


def test_large_images_are_reduced_first():
    model = Classifier(width=8, num_classes=2)
    with torch.inference_mode():
        assert model.features(torch.zeros(1, 3, 128, 128)).shape == (1, 8)
