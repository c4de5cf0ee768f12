import math

import pytest
import torch

from tokenlaw.trainer.quantizers.lfq import Config, Quantizer, sign_codes, token_entropy


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_codes_are_the_bits_of_the_signs() -> None:
    quantizer = Quantizer(Config(bits=4))
    out = quantizer(torch.tensor([[[0.1, -3.0, 2.0, -0.2], [-1.0, -1.0, -1.0, 1e-6]]]), 0)
    assert out.code_BN.tolist() == [[0b1010, 0b0001]]
    assert out.z_q_BND[0, 0].tolist() == [1, -1, 1, -1]
    assert torch.equal(sign_codes(4)[0b1010], torch.tensor([1.0, -1.0, 1.0, -1.0]))


def test_the_commitment_is_the_distance_to_the_signs() -> None:
    z_BND = torch.tensor([[[0.5, -2.0]]])
    weight, value = Quantizer(Config(bits=2))(z_BND, 0).losses["commitment"]
    assert weight == 0.25
    assert value.item() == pytest.approx((0.5**2 + 1.0**2) / 2)


@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_a_tokens_entropy_factorises_over_bits(tau: float) -> None:
    z_TD = torch.randn(20, 6) * tau
    logp = (2 * z_TD @ sign_codes(6).T / tau).log_softmax(1)
    joint = -(logp.exp() * logp).sum(1)
    assert joint.min() > 0.05, "the case must not be trivial"
    assert torch.allclose(token_entropy(z_TD, tau), joint, atol=1e-6)


def test_groups_leave_the_token_entropy_exact_and_bound_the_usage_entropy() -> None:
    z_BND = torch.randn(1, 40, 6) * 0.3
    whole, grouped = (
        Quantizer(Config(bits=6, entropy_tau=1.0, group_bits=g))(z_BND, 0) for g in (6, 2)
    )
    assert Config(bits=18, group_bits=9).groups() == [9, 9]
    assert Config(bits=10, group_bits=9).groups() == [5, 5]
    tokens = token_entropy(z_BND[0], 1.0).mean()
    assert whole.stats["token_entropy"].item() == pytest.approx(tokens.item())
    # Usage entropy: groups taken apart can only look more even than they are together.
    usage_whole, usage_grouped = (tokens - o.losses["entropy"][1] for o in (whole, grouped))
    assert usage_whole <= usage_grouped + 1e-6
    logp = (2 * z_BND[0] @ sign_codes(6).T).log_softmax(1)
    mean = logp.exp().mean(0)
    assert usage_whole.item() == pytest.approx(-(mean * mean.log()).sum().item(), abs=1e-5)
    assert usage_grouped <= 6 * math.log(2) + 1e-6


def test_by_default_the_usage_entropy_is_that_of_whole_codes() -> None:
    assert [Config(bits=bits).groups() for bits in (1, 10, 14, 18)] == [[1], [10], [14], [18]]
    assert [Config(bits=bits).groups() for bits in (19, 24)] == [[10, 9], [12, 12]]
    # Half the bits copy the other half: 2^5 of 2^10 codes are in use, which groups do not see.
    half_BND = torch.randn(1, 2048, 5) * 0.05
    z_BND = half_BND.repeat(1, 1, 2).requires_grad_()
    _, value = Quantizer(Config(bits=10))(z_BND, 0).losses["entropy"]
    (gradient,) = torch.autograd.grad(value, z_BND)
    # Open-MAGVIT2's: mean entropy of tokens less entropy of the mean, over all codes.
    leaf_BND = z_BND.detach().clone().requires_grad_()
    logp = (2 * leaf_BND[0] @ sign_codes(10).T / 0.01).log_softmax(1)
    mean = logp.exp().mean(0)
    joint = -(logp.exp() * logp).sum(1).mean() + torch.special.xlogy(mean, mean).sum()
    (expected,) = torch.autograd.grad(joint, leaf_BND)
    assert value.item() == pytest.approx(joint.item(), abs=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    grouped = Quantizer(Config(bits=10, group_bits=5))(z_BND, 0).losses["entropy"][1]
    assert grouped < joint - 2.5


def test_the_gradient_passes_straight_through() -> None:
    z_BND = torch.randn(1, 3, 5, requires_grad=True)
    direction = torch.randn(1, 3, 5)
    (grad,) = torch.autograd.grad(
        (Quantizer(Config(bits=5))(z_BND, 0).z_q_BND * direction).sum(), z_BND
    )
    assert torch.equal(grad, direction)
