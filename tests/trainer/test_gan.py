import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tokenlaw.trainer.accounting.config import OptimConfig
from tokenlaw.trainer.losses import _gan
from tokenlaw.trainer.losses.patchgan import BatchNorm, Config, Loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def tiny(**options: object) -> Loss:
    return Loss(Config(ndf=4, n_layers=2, **options))  # type: ignore[arg-type]


def test_the_papers_discriminator_has_2765633_parameters_and_a_30_by_30_map() -> None:
    with torch.device("meta"):
        built = Loss(Config())
        assert built(torch.empty(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    assert sum(p.numel() for p in built.parameters()) == 2_765_633
    assert Config().cost(256).params == 2_765_633
    assert round(Config().cost(256).macs / 1e9, 2) == 3.15
    assert Config().patches(256) == 30


@pytest.mark.parametrize(("resolution", "layers"), [(16, 1), (16, 2), (32, 2), (32, 3)])
def test_small_images_fit_with_fewer_layers(resolution: int, layers: int) -> None:
    config = Config(ndf=4, n_layers=layers)
    out = Loss(config)(torch.randn(2, 3, resolution, resolution))
    side = config.patches(resolution)
    assert out.shape == (2, 1, side, side)


def test_images_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="n_layers: 3 is too many for 16 px"):
        Config().cost(16)


def test_batch_norm_is_torchs_in_training() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    theirs.weight.data, theirs.bias.data = ours.weight.data.clone(), ours.bias.data.clone()
    x = torch.randn(4, 5, 3, 3) * 2 + 1
    ours.eval()  # statistics are always the batch's
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    direction = torch.randn(4, 5, 3, 3)
    assert torch.allclose(ours(a), theirs(b), atol=1e-5)
    (ours(a) * direction).sum().backward()
    (theirs(b) * direction).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert torch.allclose(a.grad, b.grad, atol=1e-5)


# -------------------------------------------------------------------------------------- objectives


def test_the_critic_of_wasserstein_rises_on_real_and_falls_on_fake() -> None:
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 0.0])
    for objective in ("wgan_clip", "wgan_gp"):
        loss = _gan.discriminator_objective(objective, real, fake)  # type: ignore[arg-type]
        assert loss.item() == -3.5, "mean of fake less mean of real"
    logits = torch.zeros(4, 1, requires_grad=True)
    (grad,) = torch.autograd.grad(
        _gan.discriminator_objective("wgan_clip", logits[:2], logits[2:]), logits
    )
    assert grad.flatten().tolist() == [-0.5, -0.5, 0.5, 0.5]


def test_hinge_and_wasserstein_share_the_generators_loss() -> None:
    fake = torch.randn(3, 1, 4, 4)
    losses = [_gan.generator_objective(o, fake) for o in ("hinge", "wgan_clip", "wgan_gp")]  # type: ignore[arg-type]
    assert losses[0] == losses[1] == losses[2] == -fake.mean()
    assert _gan.generator_objective("non_saturating", fake) != losses[0]


def test_hinge_stops_pushing_beyond_the_margin() -> None:
    value = _gan.discriminator_objective("hinge", torch.tensor([3.0, 0.5]), torch.tensor([-2.0]))
    assert value.item() == pytest.approx(0.5 * (0.25 + 0.0))


def test_non_saturating_takes_the_mean_of_an_image_before_the_nonlinearity() -> None:
    fake = torch.tensor([[[[4.0, -4.0]]], [[[2.0, 0.0]]]])
    expected = F.softplus(-torch.tensor([0.0, 1.0])).mean()
    assert _gan.generator_objective("non_saturating", fake).item() == pytest.approx(expected.item())
    both = _gan.discriminator_objective("non_saturating", fake, fake)
    expected = expected + F.softplus(torch.tensor([0.0, 1.0])).mean()
    assert both.item() == pytest.approx(expected.item())


def test_weights_are_clipped_after_a_step_of_clipped_wasserstein_only() -> None:
    for objective, clipped in (("wgan_clip", True), ("hinge", False)):
        loss = tiny(objective=objective, clip_limit=0.02)
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.add_(1.0)
        loss.after_step()
        largest = max(p.abs().max().item() for p in loss.parameters())
        assert (largest <= 0.02 + 1e-8) is clipped


def test_the_gradient_penalty_is_one_minus_the_slope_squared() -> None:
    class Slope(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            return 3 * x_BCHW[:, :1, :1, :1] + 4 * x_BCHW[:, 1:2, :1, :1]

    real, fake = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    assert _gan.gradient_penalty(Slope(), real, fake).item() == pytest.approx(16.0, rel=1e-4)
    loss = tiny(objective="wgan_gp")
    value, stats = loss.discriminator_loss(torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16))
    value.backward()
    assert stats["gradient_penalty"] > 0
    assert all(p.grad is not None for p in loss.parameters())


def test_the_tokenizers_objective_can_be_set_apart() -> None:
    # IBQ: hinge for the discriminator, softplus of an image's mean for the tokenizer.
    apart = tiny(objective="hinge", generator_objective="non_saturating")
    hinge, saturating = tiny(objective="hinge"), tiny(objective="non_saturating")
    for other in (hinge, saturating):
        other.load_state_dict(apart.state_dict())
    x, y = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16)
    assert apart.generator_loss(y) == saturating.generator_loss(y) != hinge.generator_loss(y)
    of_apart, of_hinge = (loss.discriminator_loss(x, y)[0] for loss in (apart, hinge))
    assert of_apart == of_hinge != saturating.discriminator_loss(x, y)[0]
    linear = tiny(objective="non_saturating", generator_objective="linear")
    linear.load_state_dict(apart.state_dict())
    assert linear.generator_loss(y) == hinge.generator_loss(y)


# ----------------------------------------------------------------------------- gate, sides, extras


def test_the_gate_is_a_cosine_from_its_start() -> None:
    config = Config()
    loss = tiny()
    assert [loss.weight(s) for s in (0, 19_999, 20_000, 22_000, 10**6)] == [0, 0, 0, 0.5, 0.5]
    assert loss.weight(21_000) == pytest.approx(0.25)
    assert config.gate(20_500) == pytest.approx(0.146447, rel=1e-4)
    hard = tiny(ramp_iterations=0)
    assert [hard.weight(s) for s in (19_999, 20_000)] == [0, 0.5]


def test_the_discriminators_loss_is_gated_with_the_same_weight_or_not() -> None:
    same, own = tiny(), tiny(gate_discriminator=False)
    for step in (0, 20_500, 30_000):
        assert same.discriminator_weight(step) == same.weight(step)
    assert [own.discriminator_weight(s) for s in (19_999, 20_000, 10**6)] == [0, 1, 1]


def test_each_side_moves_only_its_own_parameters() -> None:
    loss = tiny(objective="hinge")
    fake = torch.randn(2, 3, 16, 16, requires_grad=True)
    loss.generator_loss(fake).backward()
    assert fake.grad is not None and fake.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in loss.parameters())
    fake.grad = None
    value, stats = loss.discriminator_loss(torch.randn(2, 3, 16, 16), fake)
    value.backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in loss.parameters())
    assert set(stats) == {"logit_real", "logit_fake"}


def test_lecam_pulls_outputs_towards_the_averages_of_the_other_side() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 0.5])
    value = _gan.lecam(real, fake, ema_real=torch.tensor(1.0), ema_fake=torch.tensor(-1.0))
    assert value.item() == pytest.approx((9 + 1) / 2 + (16 + 0.25) / 2)
    loss = tiny(objective="hinge", lecam_weight=0.1, lecam_decay=0.9)
    x, y = torch.randn(2, 3, 16, 16) + 1, torch.randn(2, 3, 16, 16)
    total, stats = loss.discriminator_loss(x, y)
    assert loss.ema_real.item() == pytest.approx(0.1 * stats["logit_real"].item(), rel=1e-4)
    assert loss.ema_fake.item() == pytest.approx(0.1 * stats["logit_fake"].item(), rel=1e-4)
    assert "ema_real" in loss.state_dict(), "a resumed run goes on with the same averages"
    with torch.no_grad():
        plain = _gan.discriminator_objective("hinge", loss(x), loss(y))
    assert total.item() == pytest.approx((plain + 0.1 * stats["lecam"]).item(), rel=1e-4)


def test_the_adaptive_weight_is_the_ratio_of_gradients() -> None:
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    factor = _gan.adaptive_weight((6 * last).sum(), (2 * last).sum(), last)
    assert factor.item() == pytest.approx(3.0, rel=1e-3)
    assert not factor.requires_grad
    assert _gan.adaptive_weight((6 * last).sum(), (0 * last).sum(), last).item() == 1e4
    off = tiny().adaptive_weight((6 * last).sum(), (2 * last).sum(), last)
    assert off.item() == 1.0
    on = tiny(adaptive=True).adaptive_weight((6 * last).sum(), (2 * last).sum(), last)
    assert on.item() == pytest.approx(3.0, rel=1e-3)


def test_the_discriminator_learns_to_tell() -> None:
    loss = tiny(objective="hinge")
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(30):
        real = torch.randn(8, 3, 16, 16) * 0.2 + 0.5 * torch.eye(16)
        fake = torch.randn(8, 3, 16, 16) * 0.2
        optimizer.zero_grad()
        value, stats = loss.discriminator_loss(real, fake)
        value.backward()
        optimizer.step()
    assert stats["logit_real"] > stats["logit_fake"] + 0.5


def test_settings_of_its_optimiser_default_to_the_tokenizers() -> None:
    tokenizer, own = OptimConfig(lr_peak=3e-4), OptimConfig(lr_peak=1e-5)
    assert Config().optim_for(tokenizer) is tokenizer
    assert Config(optim=own).optim_for(tokenizer) is own
