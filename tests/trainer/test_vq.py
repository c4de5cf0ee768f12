import math

import pytest
import torch
import torch.nn.functional as F

from tokenlaw.trainer.quantizers import _lookup
from tokenlaw.trainer.quantizers._entropy import entropy_penalty
from tokenlaw.trainer.quantizers._lookup import code_stats, exact_fp32, nearest
from tokenlaw.trainer.quantizers._rotation import rotate
from tokenlaw.trainer.quantizers.vq import Config, Quantizer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_search_is_brute_force_whatever_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    z_TD, codebook_KD = torch.randn(50, 5), torch.randn(37, 5)
    expected = torch.cdist(z_TD.double(), codebook_KD.double()).argmin(1)
    assert torch.equal(nearest(z_TD, codebook_KD), expected)
    for tile in (1, 37, 37 * 7):
        monkeypatch.setattr(_lookup, "TILE", tile)
        assert torch.equal(nearest(z_TD, codebook_KD), expected)


def test_ties_go_to_the_lowest_code() -> None:
    codebook_KD = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[1.0, 0.0]]), codebook_KD).tolist() == [1]


def test_large_codebooks_never_make_a_tokens_by_codes_tensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_lookup, "TILE", 2**12)
    largest = 0
    true_addmm = torch.addmm

    def watched(*args: torch.Tensor, **options: float) -> torch.Tensor:
        nonlocal largest
        out = true_addmm(*args, **options)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(torch, "addmm", watched)
    nearest(torch.randn(64, 2), torch.randn(2**10, 2))
    assert 0 < largest <= 2**12


def test_codes_are_the_same_under_bf16_autocast() -> None:
    quantizer = Quantizer(Config(codebook_size=4096))
    z_BND = torch.randn(4, 64, 8)
    plain = quantizer(z_BND, 0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z_BND, 0)
    assert torch.equal(plain.code_BN, cast.code_BN)
    assert torch.equal(plain.z_q_BND, cast.z_q_BND)


def test_exact_fp32_restores_what_it_found() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError, match="inside"), exact_fp32(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            raise RuntimeError("inside")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("normalised", [True, False])
def test_losses_and_values_are_the_formulas(normalised: bool) -> None:
    quantizer = Quantizer(Config(codebook_size=32, dim=6, l2_normalize=normalised))
    with torch.no_grad():
        quantizer.codebook_KD.mul_(3.0)  # stored rows may leave the sphere
    z_BND = torch.randn(2, 9, 6)
    out = quantizer(z_BND, 0)
    codes = quantizer.codebook_KD.detach()
    z = z_BND
    if normalised:
        codes, z = F.normalize(codes, dim=-1), F.normalize(z, dim=-1)
        assert torch.allclose(quantizer.codes().norm(dim=1), torch.ones(32), atol=1e-6)
    expected = codes[torch.cdist(z, codes).argmin(-1)]
    assert torch.allclose(out.z_q_BND, expected, atol=1e-6)
    assert out.losses["codebook"][0] == 1.0
    assert out.losses["commitment"][0] == 0.25
    for _, value in out.losses.values():
        assert value.item() == pytest.approx((expected - z).square().mean().item(), rel=1e-5)


def test_beta_may_be_on_the_codebook_side() -> None:
    # taming's and SEED-Voken's VectorQuantizer2 with legacy=True.
    torch.manual_seed(1)
    z_BND = torch.randn(1, 5, 6)
    codebook_KD = torch.randn(7, 6)
    quantizer = Quantizer(
        Config(codebook_size=7, dim=6, l2_normalize=False, beta=0.3, beta_side="codebook")
    )
    with torch.no_grad():
        quantizer.codebook_KD.copy_(codebook_KD)
    z_leaf_BND = z_BND.clone().requires_grad_()
    losses = quantizer(z_leaf_BND, 0).losses
    torch.stack([weight * value for weight, value in losses.values()]).sum().backward()
    z, codes = z_BND.clone().requires_grad_(), codebook_KD.clone().requires_grad_()
    z_q = codes[torch.cdist(z_BND, codebook_KD).argmin(-1)]
    loss = (z_q.detach() - z).pow(2).mean() + 0.3 * (z_q - z.detach()).pow(2).mean()
    loss.backward()
    torch.testing.assert_close(z_leaf_BND.grad, z.grad)
    torch.testing.assert_close(quantizer.codebook_KD.grad, codes.grad)


def test_each_loss_moves_its_own_side_and_the_decoder_moves_the_latents() -> None:
    quantizer = Quantizer(Config(codebook_size=32, dim=6, l2_normalize=False))
    z_BND = torch.randn(2, 9, 6, requires_grad=True)

    def grads(value: torch.Tensor) -> list[torch.Tensor | None]:
        return list(torch.autograd.grad(value, [z_BND, quantizer.codebook_KD], allow_unused=True))

    out = quantizer(z_BND, 0)
    of_z, of_codes = grads(out.losses["codebook"][1])
    assert of_z is None and of_codes is not None
    of_z, of_codes = grads(quantizer(z_BND, 0).losses["commitment"][1])
    assert of_z is not None and of_codes is None
    direction = torch.randn(2, 9, 6)
    of_z, of_codes = grads((quantizer(z_BND, 0).z_q_BND * direction).sum())
    assert of_codes is None
    assert of_z is not None and torch.equal(of_z, direction), "straight through"


def test_an_untrained_net_uses_more_than_one_code() -> None:
    z_BND = torch.randn(4, 64, 8)
    stats = Quantizer(Config(codebook_size=256))(z_BND, 0).stats
    assert 0.2 < stats["usage"] <= 1
    assert 50 < stats["perplexity"] <= 256
    assert stats["z_norm"].item() == pytest.approx(z_BND.norm(dim=-1).mean().item())


def test_usage_and_perplexity_of_known_codes() -> None:
    stats = code_stats(torch.tensor([[0, 0], [1, 3]]), 8)
    assert stats["usage"].item() == 3 / 8
    assert stats["perplexity"].item() == pytest.approx(2**1.5)


# ------------------------------------------------------------------------------- the rotation trick


def test_rotation_gives_the_code_exactly_and_turns_the_gradient() -> None:
    z_BND, e_BND = torch.randn(3, 5, 7, requires_grad=True), torch.randn(3, 5, 7)
    out = rotate(z_BND, e_BND)
    assert (out - e_BND).abs().max() < 1e-6
    # The backward map is the transpose of a scaled rotation that takes z to the code.
    grad = torch.randn(3, 5, 7)
    (back,) = torch.autograd.grad(out, z_BND, grad)
    scale = e_BND.norm(dim=-1) / z_BND.detach().norm(dim=-1)
    assert torch.allclose(back.norm(dim=-1), scale * grad.norm(dim=-1), rtol=1e-4)
    along = (back * F.normalize(z_BND.detach(), dim=-1)).sum(-1)
    assert torch.allclose(along, scale * (grad * F.normalize(e_BND, dim=-1)).sum(-1), atol=1e-4)


def test_the_quantizer_uses_the_rotation_when_asked() -> None:
    z_BND, direction = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    codebook = Quantizer(Config(codebook_size=16)).state_dict()
    grads = []
    for trick in (False, True):
        quantizer = Quantizer(Config(codebook_size=16, rotation_trick=trick))
        quantizer.load_state_dict(codebook)
        z = z_BND.clone().requires_grad_()
        grads.append(torch.autograd.grad((quantizer(z, 0).z_q_BND * direction).sum(), z)[0])
    assert not torch.allclose(grads[0], grads[1], atol=1e-3)


# ------------------------------------------------------------------------------ the entropy penalty


def dense_penalty(z_TD: torch.Tensor, codebook_KD: torch.Tensor, tau: float, kind: str):
    if kind == "dot":
        a = z_TD @ codebook_KD.T / tau
    else:
        a = -torch.cdist(z_TD, codebook_KD).square() / tau
    logp = a.log_softmax(1)
    log_mean = logp.logsumexp(0) - math.log(len(z_TD))
    return -(logp.exp() * logp).sum(1).mean() + (log_mean.exp() * log_mean).sum()


@pytest.mark.parametrize("kind", ["dot", "distance"])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_the_penalty_in_tiles_equals_autograd(
    kind: str, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lookup, "TILE", 23 * 5)  # several tiles, the last one smaller
    z_TD = torch.randn(13, 4, dtype=torch.double) * 0.5
    codebook_KD = torch.randn(23, 4, dtype=torch.double) * 0.5
    z_TD.requires_grad_()
    codebook_KD.requires_grad_()
    expected = dense_penalty(z_TD, codebook_KD, tau, kind)
    value = entropy_penalty(z_TD, codebook_KD, tau, kind)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = torch.autograd.grad(expected, [z_TD, codebook_KD])
    found = torch.autograd.grad(3 * value, [z_TD, codebook_KD])
    for ours, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 1e-3
        assert (ours / 3 - theirs).abs().max() < 1e-5


def test_the_penalty_has_no_epsilon_bias_at_262144_equal_codes() -> None:
    # Every code equally likely: both entropies are log K and the penalty is 0. With log(p + 1e-5)
    # the second one would read 11.19 for 12.48.
    value = entropy_penalty(torch.zeros(2, 4), torch.randn(262_144, 4), 0.01, "dot")
    assert value.item() == pytest.approx(0.0, abs=1e-3)


def test_the_penalty_is_finite_when_assignments_are_certain() -> None:
    z_TD = (torch.eye(4) * 100).requires_grad_()
    codebook_KD = torch.eye(4).requires_grad_()
    value = entropy_penalty(z_TD, codebook_KD, 0.01, "dot")
    assert value.item() == pytest.approx(-math.log(4), abs=1e-6), "certain tokens, even usage"
    for grad in torch.autograd.grad(value, [z_TD, codebook_KD]):
        assert torch.isfinite(grad).all()


def test_the_penalty_enters_the_losses_with_its_weight() -> None:
    out = Quantizer(Config(codebook_size=16, entropy_weight=0.005))(torch.randn(1, 8, 8), 0)
    assert out.losses["entropy"][0] == 0.005
    assert "entropy" not in Quantizer(Config(codebook_size=16))(torch.randn(1, 8, 8), 0).losses
