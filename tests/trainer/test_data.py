import collections
import dataclasses

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from tokenlaw.trainer.accounting.config import DataConfig, decode
from tokenlaw.trainer.loop import data
from tokenlaw.trainer.run import Settings


class Pictures:
    """A split made of arrays, which counts how often each is decoded."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.decoded = collections.Counter()

    def __len__(self):
        return len(self.arrays)

    def image(self, index):
        self.decoded[index] += 1
        return self.arrays[index]

    def label(self, index):
        return index % 10


def config(resolution=16, **changes):
    return decode(DataConfig, tiny.data(resolution) | changes)


def noise(count, height, width, seed=0):
    draws = np.random.default_rng(seed)
    return [draws.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def ramps(count, side):
    """Red grows with x and green with y, by one level a pixel."""
    y, x = np.mgrid[:side, :side]
    picture = np.stack([x, y, np.zeros_like(x)], axis=2) + 20
    return [picture.astype(np.uint8)] * count


# --------------------------------------------------------------------------------------- data order


@pytest.mark.parametrize(("num", "batch"), [(10, 3), (7, 7), (5, 12), (64, 8)])
def test_every_epoch_is_a_permutation(num, batch):
    steps = [data.batch_indices(num, batch, 3, step) for step in range(2 * num)]
    assert all(len(indices) == batch for indices in steps)
    stream = torch.cat(steps)
    epochs = stream[: len(stream) // num * num].view(-1, num)
    assert torch.equal(epochs.sort(1).values, torch.arange(num).expand(len(epochs), -1))
    assert not torch.equal(epochs[0], epochs[1])


def test_order_is_a_function_of_seed_and_step_alone():
    forward = {step: data.batch_indices(11, 4, 5, step) for step in range(20)}
    data._permutation.cache_clear()
    torch.manual_seed(99)
    for step in reversed(range(20)):
        assert torch.equal(data.batch_indices(11, 4, 5, step), forward[step])
    assert not torch.equal(data.batch_indices(11, 4, 6, 0), forward[0])


def test_batches_of_any_size_walk_the_same_order():
    # The global batch is cut into processes; the stream itself does not depend on the cut.
    small = torch.cat([data.batch_indices(10, 2, 0, step) for step in range(30)])
    large = torch.cat([data.batch_indices(10, 12, 0, step) for step in range(5)])
    assert torch.equal(small, large)


# ------------------------------------------------------------------------------------------- pixels


def test_pixels_go_to_the_unit_interval_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = data.to_float(levels)
    assert floats[0] == -1 and floats[-1] == 1
    assert torch.equal(data.to_uint8(floats), levels)
    assert data.to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_center_crop_is_adms():
    (image,) = noise(1, 96, 64)
    # 64 -> 32 -> 16: box halvings, exactly a mean over 4 x 4 pixels (rounded four times).
    found = data.center_crop(image, 16)
    rows = image.reshape(24, 4, 16, 4, 3).mean((1, 3))
    top = (24 - 16) // 2
    assert np.abs(found.astype(float) - rows[top : top + 16]).max() <= 2.0
    # Below twice the size: bicubic to the short side, then the middle.
    found = data.center_crop(image, 48)
    large = Image.fromarray(image).resize((48, 96 * 48 // 64), Image.Resampling.BICUBIC)
    top = (large.height - 48) // 2
    assert np.array_equal(found, np.asarray(large)[top : top + 48])


def test_center_crop_enlarges_small_images_and_keeps_exact_ones():
    (image,) = noise(1, 8, 8)
    assert data.center_crop(image, 32).shape == (32, 32, 3)
    assert data.center_crop(image, 8) is image
    for height, width in ((31, 40), (40, 31), (17, 100)):
        assert data.center_crop(noise(1, height, width)[0], 16).shape == (16, 16, 3)


@pytest.mark.parametrize(("side", "ratio"), [(256, 1.1), (256, 1.05), (32, 1.1), (16, 1.25)])
def test_ten_crop_is_llamagens(side, ratio):
    from torchvision.transforms.functional import ten_crop

    (image,) = noise(1, 300, 310)
    crops = data.many_crops(image, side, "ten_crop", ratio)
    assert crops.shape == (10, 3, side, side)
    # LlamaGen: ADM's crop to int(1.1 x 256) = 281, then torchvision's TenCrop.
    large = Image.fromarray(data.center_crop(image, int(side * ratio)))
    expected = np.stack([np.asarray(crop) for crop in ten_crop(large, (side, side))])
    assert np.array_equal(crops.transpose(0, 2, 3, 1), expected)
    assert len({crop.tobytes() for crop in crops}) == 10
    assert np.array_equal(data.many_crops(image, side, "five_crop", ratio), crops[:5])
    center = data.many_crops(image, side, "center", ratio)
    assert np.array_equal(center.transpose(0, 2, 3, 1), data.center_crop(image, side)[None])


def test_crop_counts_are_the_declared_ones():
    (image,) = noise(1, 40, 40)
    for policy, count in data.CROPS.items():
        assert len(data.many_crops(image, 16, policy, 1.1)) == count


def test_ten_crops_take_one_decode_of_each_image():
    split = Pictures(noise(6, 40, 40))
    images = data.Images(config(), split)
    crops = images.crops_of([4, 1, 1, 5], "ten_crop", 1.1)
    assert crops.shape == (4, 10, 3, 16, 16) and crops.dtype == torch.uint8
    assert split.decoded == {4: 1, 1: 2, 5: 1}
    expected = data.many_crops(split.arrays[5], 16, "ten_crop", 1.1)
    assert np.array_equal(crops[3].numpy(), expected)


# ----------------------------------------------------------------------------------- augmentation


@pytest.fixture(params=["in memory", "from files"])
def open_ramps(request):
    """Ramps held as one tensor, or decoded image by image: two implementations of one crop."""

    def make(count, side):
        images = data.Images(config(side), Pictures(ramps(count, side)))
        images._fits = request.param == "in memory"
        return images

    return make


def measured(crops_BCHW):
    """Scale and offsets of square crops of ramps, from their own levels; negative if mirrored."""
    inner = crops_BCHW.float()[:, :2, 6:-6, 6:-6]
    side = crops_BCHW.shape[-1]
    span = inner.shape[-1] - 1
    slope_x = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / span
    slope_y = (inner[:, 1, -1, :] - inner[:, 1, 0, :]).mean(1) / span
    middle = inner.mean((2, 3)) - 20 - (side - 1) / 2
    return slope_x, slope_y, middle


def test_crops_stay_in_their_range(open_ramps):
    side, least = 64, 0.5
    images = open_ramps(200, side)
    crops = images.augmented(torch.arange(200), 7, "crop", least)
    assert crops.shape == (200, 3, side, side) and crops.dtype == torch.uint8
    slope_x, slope_y, middle = measured(crops)
    assert torch.allclose(slope_x, slope_y, atol=0.03)  # square, and never mirrored
    assert least - 0.02 <= slope_x.min() < least + 0.05
    assert 0.95 < slope_x.max() <= 1.02
    room = (1 - slope_x) * side / 2
    assert (middle.abs() <= room[:, None] + 0.7).all()  # inside the picture
    wide = room > 8
    reached = (middle[wide] / room[wide, None]).abs()
    assert reached.max() > 0.9 and middle[wide].min() < 0 < middle[wide].max()


def test_half_of_the_crops_are_mirrored(open_ramps):
    images = open_ramps(300, 32)
    slope_x, slope_y, _ = measured(images.augmented(torch.arange(300), 1, "crop_flip", 0.8))
    assert (slope_y > 0).all()
    assert 0.4 < (slope_x < 0).float().mean() < 0.6
    assert torch.allclose(slope_x.abs(), slope_y, atol=0.07)  # one level over 19 pixels


def test_both_implementations_crop_the_same_squares():
    crops = {}
    for fits in (True, False):
        images = data.Images(config(64), Pictures(ramps(50, 64)))
        images._fits = fits
        crops[fits] = images.augmented(torch.arange(50), 3, "crop_flip", 0.6).float()
    difference = (crops[True] - crops[False])[:, :, 6:-6, 6:-6].abs()
    assert difference.max() <= 1.5


def test_augmentation_is_a_function_of_its_seed(open_ramps):
    images = open_ramps(20, 32)
    indices = torch.arange(20)
    first = images.augmented(indices, 5, "crop_flip", 0.5)
    torch.manual_seed(1)
    assert torch.equal(images.augmented(indices, 5, "crop_flip", 0.5), first)
    assert not torch.equal(images.augmented(indices, 6, "crop_flip", 0.5), first)
    assert torch.equal(images.augmented(indices, 5, "none", 0.5), images.center(indices))
    # Full scale leaves nothing to draw but the mirror.
    whole = images.augmented(indices, 5, "crop", 1.0).float()
    assert (whole - images.center(indices).float()).abs().max() <= 1


# ------------------------------------------------------------------------------------ the images


def test_center_is_the_same_held_or_decoded():
    split = Pictures(noise(5, 30, 22))
    held, decoded = data.Images(config(), split), data.Images(config(), split)
    decoded._fits = False
    indices = torch.tensor([3, 0, 3])
    assert torch.equal(held.center(indices), decoded.center(indices))
    assert decoded.dense() is None and held.dense().shape == (5, 3, 16, 16)
    assert held.labels.tolist() == [0, 1, 2, 3, 4]


def test_large_sets_are_not_held(monkeypatch):
    monkeypatch.setattr(data, "DENSE_BYTES", 4 * 3 * 16 * 16)
    assert data.Images(config(), Pictures(noise(5, 16, 16))).dense() is None
    assert data.Images(config(), Pictures(noise(4, 16, 16))).dense() is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [("digest", "0" * 64), ("num_classes", 11), ("num_train", 1), ("num_val", 2)],
)
def test_data_that_differ_from_the_plan_are_refused(field, value):
    declared = config()
    found = getattr(declared, field)
    with pytest.raises(ValueError) as caught:
        data.open_images(config(**{field: value}), Settings(), "train")
    message = str(caught.value)
    assert message.startswith(f"data.{field}:") and "\n" not in message
    assert repr(value) in message and repr(found) in message


def test_both_halves_open():
    train = data.open_images(config(), Settings(), "train")
    val = data.open_images(config(), Settings(), "val")
    assert (len(train), len(val)) == (1437, 360)
    assert train.center(torch.arange(2)).shape == (2, 3, 16, 16)


def test_config_of_data_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().resolution = 8


# ----------------------------------------------------------------------------------- looking ahead


def test_batches_come_in_order_and_begin_early():
    made = []

    def make(step):
        made.append(step)
        return step * step

    walk = data.ahead(make, 3, 8, depth=2)
    assert [value for value in walk] == [9, 16, 25, 36, 49]
    assert made == [3, 4, 5, 6, 7]
    assert list(data.ahead(make, 5, 5)) == []


def test_an_error_in_a_batch_surfaces_at_its_turn():
    def make(step):
        if step == 2:
            raise ValueError("image 2 is unreadable")
        return step

    walk = data.ahead(make, 0, 4)
    assert [next(walk), next(walk)] == [0, 1]
    with pytest.raises(ValueError, match="image 2"):
        next(walk)
