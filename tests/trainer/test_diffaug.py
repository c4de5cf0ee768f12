import pytest
import tiny
import torch

from tokenlaw.trainer.losses import _diffaug
from tokenlaw.trainer.losses._diffaug import augment, color, cutout, translation
from tokenlaw.trainer.losses.patchgan import Config, Loss
from tokenlaw.trainer.parts import load

ALL = ("color", "translation", "cutout")
CHANGES = {"color": color, "translation": translation, "cutout": cutout}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------- the changes


def test_color_is_affine_in_each_image() -> None:
    x_BCHW = torch.randn(200, 3, 4, 4)
    y_BCHW = color(x_BCHW)
    # Contrast and saturation act around means, so the mean of an image moves by brightness alone.
    moved_B = (y_BCHW - x_BCHW).mean((1, 2, 3))
    assert moved_B.abs().max() <= 0.5 + 1e-5 and moved_B.std() > 0.2
    # Between pixels, the grey part keeps its shape up to the contrast, the rest up to both.
    grey, after = x_BCHW.mean(1), y_BCHW.mean(1)
    contrast_B = _ratio(grey, after)
    assert 0.5 <= contrast_B.min() < 0.6 and 1.4 < contrast_B.max() <= 1.5
    both_B = _ratio(x_BCHW - grey[:, None], y_BCHW - after[:, None])
    saturation_B = both_B / contrast_B
    assert 0 <= saturation_B.min() < 0.1 and 1.9 < saturation_B.max() <= 2.001


def _ratio(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The factor between two sets of images around their means; it must be the same everywhere."""
    x, y = (v.flatten(1) - v.flatten(1).mean(1, keepdim=True) for v in (x, y))
    factor_B1 = (x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True)
    assert torch.allclose(y, factor_B1 * x, atol=1e-4)
    return factor_B1[:, 0]


def test_translation_moves_by_an_eighth_and_fills_with_zeros() -> None:
    x_BCHW = torch.rand(300, 3, 16, 24) + 1
    seen = set()
    for before, after in zip(x_BCHW, translation(x_BCHW), strict=True):
        rows, columns = (after[0] != 0).any(1).nonzero(), (after[0] != 0).any(0).nonzero()
        top, left = int(rows[0]), int(columns[0])
        height, width = len(rows), len(columns)
        down = top if top else height - 16
        right = left if left else width - 24
        expected = torch.zeros_like(before)
        expected[:, max(0, down) : 16 + down, max(0, right) : 24 + right] = before[
            :, max(0, -down) : 16 - down, max(0, -right) : 24 - right
        ]
        assert torch.equal(after, expected)
        seen.add((down, right))
    assert {down for down, _ in seen} == set(range(-2, 3))
    assert {right for _, right in seen} == set(range(-3, 4))


def test_cutout_zeroes_half_a_side_around_any_pixel() -> None:
    x_BCHW = torch.rand(400, 3, 8, 8) + 1
    y_BCHW = cutout(x_BCHW)
    hole_BHW = (y_BCHW == 0).all(1)
    assert torch.equal(y_BCHW, torch.where(hole_BHW[:, None], 0.0, x_BCHW))
    sizes = {(int(h.any(1).sum()), int(h.any(0).sum())) for h in hole_BHW}
    assert all(int(h.sum()) == int(h.any(1).sum()) * int(h.any(0).sum()) for h in hole_BHW)
    assert max(sizes) == (4, 4), "a square of half the side"
    assert min(sizes) == (2, 2), "less where it leaves the image"
    assert hole_BHW.any(0).all(), "every pixel is hit now and then"


@pytest.mark.parametrize("name", ALL)
def test_gradients_pass_as_the_images_do(name: str) -> None:
    # Each change is affine in the image (colour within one draw): its derivative is exact.
    x_BCHW = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def same_draw(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return CHANGES[name](x)

    assert torch.autograd.gradcheck(same_draw, x_BCHW)
    assert not torch.equal(same_draw(x_BCHW), x_BCHW)


def test_the_seed_decides_and_images_differ() -> None:
    x_BCHW = torch.randn(1, 3, 16, 16).expand(6, -1, -1, -1)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augment(x_BCHW, ALL))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert len({tuple(image.flatten()[:50].tolist()) for image in found[0]}) == 6


# -------------------------------------------------------------------------------- in the losses


def test_both_sides_are_changed_and_the_made_images_get_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = []
    real_augment = _diffaug.augment

    def spy(x_BCHW: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
        shown.append((x_BCHW, real_augment(x_BCHW, names)))
        return shown[-1][1]

    monkeypatch.setattr(_diffaug, "augment", spy)
    loss = Loss(Config(ndf=4, n_layers=1, objective="hinge", diffaug=ALL))
    inputs = []
    loss.layers.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    x, y = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16, requires_grad=True)
    loss.generator_loss(y).backward()
    assert y.grad is not None and y.grad.abs().amax((1, 2, 3)).min() > 0
    loss.discriminator_loss(x, y)
    assert len(shown) == len(inputs) == 3
    for (before, after), seen, whose in zip(shown, inputs, (y, x, y), strict=True):
        assert torch.equal(before, whose) and torch.equal(seen, after)
        assert (before - after).abs().amax((1, 2, 3)).min() > 0.1, "every image is changed"
    plain = Loss(Config(ndf=4, n_layers=1, objective="hinge"))
    plain.load_state_dict(loss.state_dict())
    before = torch.get_rng_state()
    assert plain.generator_loss(y) == -plain(y).mean()
    assert torch.equal(torch.get_rng_state(), before), "off: nothing is drawn"


def test_unknown_changes_are_refused() -> None:
    from tokenlaw.trainer.accounting.config import decode

    with pytest.raises(ValueError, match="diffaug.*'blur'.*'color', 'translation' or 'cutout'"):
        decode(load("losses", "patchgan").Config, {"diffaug": ["blur"]}, "patchgan")


# ------------------------------------------------------------------------------------ in a run


def test_a_stopped_run_draws_the_same_changes(home, tmp_path) -> None:
    with tiny.fewer_digits(train=24, val=8):
        tree = tiny.tokenizer(adversarial=tiny.PATCHGAN | {"diffaug": list(ALL)})
        calm = tiny.done(tmp_path / "calm", "tokenizer", tree)
        run_dir = tiny.lay_out(home, "tokenizer", tree)
        assert tiny.do(run_dir, tiny.StopAfter(3)).outcome == "preempted"
        assert tiny.do(run_dir).outcome == "done"
        tiny.assert_same(run_dir, calm)
        plain = tiny.done(tmp_path / "plain", "tokenizer", tiny.tokenizer())
    first, second = tiny.losses(plain), tiny.losses(calm)
    assert first[:2] == second[:2], "before the discriminator is on"
    assert first[2:] != second[2:]
