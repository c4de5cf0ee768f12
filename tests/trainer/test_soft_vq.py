import pytest
import torch

from tokenlaw.trainer.quantizers import _lookup
from tokenlaw.trainer.quantizers.soft_vq import Config, Quantizer, soft_assignment


@pytest.mark.parametrize("tokens_per_tile", [1, 4, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_tiles_give_the_values_and_gradients_of_autograd(
    tokens_per_tile: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    z_TD = (torch.randn(11, 6) * 0.7).requires_grad_()
    codebook_KD = (torch.randn(29, 6) * 0.7).requires_grad_()
    weights_TK = (z_TD @ codebook_KD.T / temperature).softmax(1)
    expected = weights_TK @ codebook_KD
    monkeypatch.setattr(_lookup, "TILE", 29 * tokens_per_tile)
    found, code_T = soft_assignment(z_TD, codebook_KD, temperature)
    assert torch.allclose(expected, found, atol=1e-6)
    assert torch.equal(code_T, weights_TK.argmax(1))
    g_TD = torch.randn(11, 6)
    theirs = torch.autograd.grad((expected * g_TD).sum(), [z_TD, codebook_KD])
    ours = torch.autograd.grad((found * g_TD).sum(), [z_TD, codebook_KD])
    for wanted, got in zip(theirs, ours, strict=True):
        assert wanted.abs().max() > 0.1
        assert (wanted - got).abs().max() < 1e-5


def test_training_takes_the_mean_and_evaluation_the_code() -> None:
    torch.manual_seed(0)
    quantizer = Quantizer(Config(codebook_size=20, dim=6, soft_weight=2.0))
    z_BND = torch.randn(2, 5, 6)
    trained = quantizer(z_BND, 0)
    mean_BND = (z_BND @ quantizer.codebook_KD.T).softmax(-1) @ quantizer.codebook_KD
    assert torch.allclose(trained.z_q_BND, mean_BND, atol=1e-6)
    weight, value = trained.losses["soft"]
    assert weight == 2.0
    assert value.item() == pytest.approx((mean_BND - z_BND).square().mean().item(), rel=1e-5)
    evaluated = quantizer.eval()(z_BND, 0)
    assert torch.equal(evaluated.code_BN, trained.code_BN)
    assert torch.equal(evaluated.z_q_BND, quantizer.lookup(trained.code_BN))
    assert set(trained.losses) == {"soft", "entropy"} and set(evaluated.losses) == {"soft"}
