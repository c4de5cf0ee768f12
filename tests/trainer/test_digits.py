import numpy as np
import pytest

from tokenlaw.trainer.datasets import digits


def test_split_is_complete_disjoint_and_stratified():
    config = digits.Config()
    facts = digits.describe(config, None)
    assert (facts.num_classes, facts.num_train, facts.num_val) == (10, 1437, 360)
    train = digits.open_split(config, None, "train")
    val = digits.open_split(config, None, "val")
    assert (len(train), len(val)) == (1437, 360)
    val_counts = np.bincount([val.label(i) for i in range(len(val))], minlength=10)
    train_counts = np.bincount([train.label(i) for i in range(len(train))], minlength=10)
    assert val_counts.sum() == 360
    assert np.abs(val_counts - (val_counts + train_counts) / 5).max() < 1


def test_pixels_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = np.sort(np.rint(bunch.data * 255 / 16).astype(int).sum(axis=1) * 3)
    halves = [digits.open_split(digits.Config(), None, name) for name in ("train", "val")]
    images = [half.image(i) for half in halves for i in range(len(half))]
    assert images[0].shape == (8, 8, 3) and images[0].dtype == np.uint8
    assert np.array_equal(np.sort([int(image.astype(int).sum()) for image in images]), expected)
    assert max(image.max() for image in images) == 255


def test_digest_is_frozen_and_knows_the_split():
    digest = digits.describe(digits.Config(), None).digest
    assert digest == "3fe9f63e7bb047c8963299eb027e7c73d54158a63af3d84583da031a458c09af"
    assert digits.describe(digits.Config(split_seed=1), None).digest != digest


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'test'.*train, val"):
        digits.open_split(digits.Config(), None, "test")
