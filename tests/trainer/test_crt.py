import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tokenlaw.trainer.accounting import flops
from tokenlaw.trainer.accounting.config import OptimConfig, decode
from tokenlaw.trainer.models.llama import rope_table
from tokenlaw.trainer.regularizers.crt import Config, Regularizer, scale_gradient

TINY = {"width": 16, "heads": 2, "hidden_multiple": 8}
GRID = (3, 3)


def build(**options: object) -> Regularizer:
    torch.manual_seed(0)
    return Regularizer(Config(**(TINY | options)), 4, GRID)  # type: ignore[arg-type]


def gradients(
    weight: float, step: int = 10**6
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Gradient of the encoder with a reconstruction loss, and of the causal model."""
    model = build(weight=weight)
    torch.manual_seed(1)
    encoder = nn.Linear(6, 4)
    x = torch.randn(5, 9, 6)
    out = model(encoder(x), step)
    ((factor, loss),) = out.losses.values()
    assert factor == 1.0
    (out.z_BND.square().mean() + loss).backward()
    assert encoder.weight.grad is not None
    of_model = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert len(of_model) == len(list(model.parameters()))
    reconstruction = torch.autograd.grad(encoder(x).square().mean(), encoder.weight)[0]
    return encoder.weight.grad, of_model, reconstruction


def test_the_gradient_op_is_the_identity_forward_and_a_factor_backward() -> None:
    z = torch.randn(3, requires_grad=True)
    out = scale_gradient(z, 0.25)
    assert torch.equal(out, z)
    (grad,) = torch.autograd.grad(out.sum(), z)
    assert torch.equal(grad, torch.full((3,), 0.25))


def test_the_causal_models_gradient_does_not_depend_on_lambda() -> None:
    _, half, _ = gradients(0.5)
    _, four, _ = gradients(4.0)
    assert max(g.abs().max() for g in four) > 1e-4
    assert all(torch.equal(a, b) for a, b in zip(half, four, strict=True))


def test_the_encoders_gradient_is_linear_in_lambda() -> None:
    one, _, alone = gradients(1.0)
    four, _, _ = gradients(4.0)
    assert (one - alone).abs().max() > 1e-5
    assert torch.allclose(four - alone, 4 * (one - alone), atol=1e-6)


def test_at_lambda_zero_the_tokenizer_trains_as_if_alone() -> None:
    for weight, step in ((0.0, 10**6), (4.0, 0)):
        encoder, model, alone = gradients(weight, step)
        assert torch.equal(encoder, alone)
        assert any(g.abs().max() > 1e-4 for g in model), "the causal model still learns"


def test_lambda_rises_along_a_half_cosine_or_a_line() -> None:
    config = Config()
    assert [config.weight_at(s) for s in (0, 1000, 10**6)] == [0.0, 4.0, 4.0]
    assert config.weight_at(500) == pytest.approx(2.0)
    assert config.weight_at(250) == pytest.approx(4 * 0.146447, rel=1e-4)
    assert Config(ramp_shape="linear").weight_at(250) == pytest.approx(1.0)


@pytest.mark.parametrize("position", ["rope_2d", "rope_1d", "learned", "none"])
def test_a_guess_sees_only_earlier_latents(position: str) -> None:
    model = build(position=position, width=32, heads=4).eval()
    z_BND = torch.randn(1, 9, 4)
    other = z_BND.clone()
    other[:, 5:] += 1.0
    before, after = model.predict(z_BND), model.predict(other)
    assert before.shape == (1, 8, 4)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6), "guesses of latents 1 .. 5"
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_the_loss_is_the_mean_squared_error_of_the_next_unit_latent() -> None:
    model = build()
    z_BND = 3 * torch.randn(2, 9, 4)
    out = model(z_BND, 5)
    assert out.z_BND is z_BND
    unit = F.normalize(z_BND, dim=-1)
    error = (model.predict(unit) - unit[:, 1:]).square()
    assert out.losses["crt"][1].item() == pytest.approx(error.mean().item(), rel=1e-5)
    summed = build(reduction="sum")(z_BND, 5).losses["crt"][1]
    assert summed.item() == pytest.approx(4 * error.mean().item(), rel=1e-5)


def test_normalisation_takes_away_the_gain_of_shrinking() -> None:
    z_BND = torch.randn(2, 9, 4)
    normalised, raw = build(), build(l2_normalize=False)
    losses = [
        [m(s * z_BND, 5).losses["crt"][1].item() for s in (1, 0.1)] for m in (normalised, raw)
    ]
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-4)
    assert losses[1][1] < 0.05 * losses[1][0]


def test_the_target_passes_gradients_unless_detached() -> None:
    def of_last(**options: bool) -> float:
        z_BND = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
        build(**options)(z_BND, 10**6).losses["crt"][1].backward()
        assert z_BND.grad is not None
        return z_BND.grad[:, -1].abs().max().item()

    assert of_last() > 1e-4
    assert of_last(detach_target=True) == 0.0, "the last latent is a target only"


def test_a_start_token_predicts_the_first_latent_too() -> None:
    model = build(start_token=True)
    z_BND = torch.randn(2, 9, 4)
    assert model.predict(z_BND).shape == (2, 9, 4)
    first = model.predict(z_BND)[:, 0]
    assert torch.equal(first[0], first[1]), "nothing comes before it"


def test_each_latent_is_turned_by_its_own_place_in_the_grid() -> None:
    table = rope_table("rope_2d", 8, GRID, 10_000.0, "zero")
    assert torch.equal(build().rope, table[1:9]), "row 0 is the class token's"
    assert torch.equal(build(start_token=True).rope, table[:9])


def test_the_tied_head_has_no_matrix_of_its_own() -> None:
    linear, tied = build(), build(head="tied")
    count = [sum(p.numel() for p in m.parameters()) for m in (linear, tied)]
    assert count[0] - count[1] == 16 * 4


def test_collapse_guards_are_what_their_names_say() -> None:
    model = build(l2_normalize=False)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)  # always predicts zero
    z_BND = torch.randn(4, 9, 4)
    stats = model(z_BND, 10**6).stats
    after, change = z_BND[:, 1:], z_BND[:, 1:] - z_BND[:, :-1]
    mean_error = (after - after.mean((0, 1))).square().mean()
    assert stats["crt_r2_mean"].item() == pytest.approx(
        (1 - after.square().mean() / mean_error).item(), abs=1e-5
    )
    assert stats["crt_r2_previous"].item() == pytest.approx(
        (1 - after.square().mean() / change.square().mean()).item(), abs=1e-5
    )
    assert stats["crt_z_norm"].item() == pytest.approx(z_BND.norm(dim=-1).mean().item())
    assert stats["crt_weight"].item() == 4.0


def test_it_learns_what_can_be_predicted() -> None:
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(3)
    turn = torch.linalg.qr(torch.randn(4, 4))[0]
    first = F.normalize(torch.randn(32, 1, 4), dim=-1)
    steps = [first]
    for _ in range(8):
        steps.append(steps[-1] @ turn)
    z_BND = torch.cat(steps, dim=1)
    for _ in range(60):
        optimizer.zero_grad()
        out = model(z_BND, 0)
        out.losses["crt"][1].backward()
        optimizer.step()
    assert out.stats["crt_r2_mean"] > 0.9
    assert out.stats["crt_r2_previous"] > 0.9


def test_its_optimiser_follows_the_tokenizers_rate_as_adamw() -> None:
    tokenizer = OptimConfig(name="adam", lr_peak=3e-4, warmup_iterations=7, beta2=0.9)
    own = Config().optim_for(tokenizer)
    assert (own.name, own.weight_decay) == ("adamw", 0.1)
    assert (own.lr_peak, own.warmup_iterations, own.beta2) == (3e-4, 7, 0.9)
    given = OptimConfig(lr_peak=1e-2)
    assert Config(optim=given).optim_for(tokenizer) is given
    scheduled = OptimConfig(weight_decay=0.05, weight_decay_end=0.08)
    assert Config().optim_for(scheduled).weight_decay_end is None


def test_overhead_at_256_tokens_is_that_of_the_page() -> None:
    encoder, decoder = 69.2e9, 126.4e9
    for width, percent in ((512, 0.9), (768, 1.9), (1024, 3.4), (1280, 5.4)):
        macs = Config(width=width, heads=width // 64).cost(256, 8).macs
        assert 100 * macs / (encoder + decoder) == pytest.approx(percent, abs=0.12)
    assert flops.llama_hidden(1024) == 2816


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="heads: 3 does not divide width 16"):
        decode(Config, {"width": 16, "heads": 3}, where="crt")
