import pytest
import torch
import torch.nn.functional as F

from tokenlaw.trainer.accounting.identity import id_tree
from tokenlaw.trainer.quantizers import _lookup
from tokenlaw.trainer.quantizers.ibq import Config, Quantizer, index_backpropagation


def dense(z_TD: torch.Tensor, codebook_KD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The published forward pass, with every T x K tensor."""
    p = (z_TD @ codebook_KD.T).softmax(1)
    code_T = p.argmax(1)
    hard = F.one_hot(code_T, len(codebook_KD)).to(p)
    return (hard + p - p.detach()) @ codebook_KD, code_T


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tokens_per_tile", [1, 4, 100])
def test_tiles_give_the_gradients_of_autograd(
    tokens_per_tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z_TD, codebook_KD = torch.randn(11, 6) * 0.7, torch.randn(29, 6) * 0.7
    z_TD.requires_grad_()
    codebook_KD.requires_grad_()
    g_TD = torch.randn(11, 6)
    monkeypatch.setattr(_lookup, "TILE", 29 * tokens_per_tile)
    expected, code = dense(z_TD, codebook_KD)
    found, found_code = index_backpropagation(z_TD, codebook_KD)
    assert torch.equal(code, found_code)
    assert torch.allclose(expected, found, atol=1e-6)
    theirs = torch.autograd.grad((expected * g_TD).sum(), [z_TD, codebook_KD])
    ours = torch.autograd.grad((found * g_TD).sum(), [z_TD, codebook_KD])
    for wanted, got in zip(theirs, ours, strict=True):
        assert wanted.abs().max() > 0.1
        assert (wanted - got).abs().max() < 1e-5


def test_every_code_gets_a_gradient_even_the_unused() -> None:
    z_TD, codebook_KD = torch.randn(4, 6), torch.randn(50, 6, requires_grad=True)
    z_q_TD, code_T = index_backpropagation(z_TD, codebook_KD)
    (grad,) = torch.autograd.grad(z_q_TD.square().sum(), codebook_KD)
    assert len(code_T.unique()) <= 4
    assert (grad.abs().sum(1) > 0).all()


def test_double_quantisation_losses_are_the_published_sum() -> None:
    quantizer = Quantizer(Config(codebook_size=20, dim=6, entropy_weight=0.0))
    z_BND = torch.randn(2, 5, 6, requires_grad=True)
    out = quantizer(z_BND, 0)
    total = sum(weight * value for weight, value in out.losses.values())
    z = z_BND.flatten(0, 1)
    z_q, code = dense(z, quantizer.codebook_KD)
    plain = quantizer.codebook_KD[code]
    expected = (
        (z_q - z).square().mean()
        + (plain.detach() - z).square().mean()
        + 0.25 * (plain - z.detach()).square().mean()
    )
    assert isinstance(total, torch.Tensor)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    sides = [z_BND, quantizer.codebook_KD]
    for wanted, got in zip(
        torch.autograd.grad(expected, sides), torch.autograd.grad(total, sides), strict=True
    ):
        assert torch.allclose(wanted, got, atol=1e-6)


def test_the_side_of_beta_is_a_switch() -> None:
    z_BND = torch.randn(1, 5, 6)
    code = Quantizer(Config(codebook_size=20, dim=6))(z_BND, 0).losses
    paper = Quantizer(Config(codebook_size=20, dim=6, beta_side="commitment"))(z_BND, 0).losses
    assert (code["codebook"][0], code["commitment"][0]) == (0.25, 1.0)
    assert (paper["codebook"][0], paper["commitment"][0]) == (1.0, 0.25)
    assert code["entropy"][0] == 0.05


def test_two_runs_give_the_same_bits() -> None:
    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)
        quantizer = Quantizer(Config(codebook_size=64, dim=8))
        z_BND = torch.randn(2, 16, 8, requires_grad=True)
        out = quantizer(z_BND, 0)
        total = torch.stack([w * v for w, v in out.losses.values()]).sum() + out.z_q_BND.sum()
        return list(torch.autograd.grad(total, [z_BND, quantizer.codebook_KD]))

    for first, second in zip(gradients(), gradients(), strict=True):
        assert torch.equal(first, second)


def test_at_262144_codes_memory_is_tiles_not_tokens_by_codes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes, dim, tokens = 262_144, 3, 12
    monkeypatch.setattr(_lookup, "TILE", codes)
    quantizer = Quantizer(Config(codebook_size=codes, dim=dim))
    z_BND = torch.randn(1, tokens, dim, requires_grad=True)
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append(out.numel())
            return out

    with Watch():
        out = quantizer(z_BND, 0)
        torch.stack([w * v for w, v in out.losses.values()]).sum().backward()
    assert z_BND.grad is not None and torch.isfinite(z_BND.grad).all()
    assert max(sizes) <= codes * dim, "a whole tokens x codes tensor would be four times that"


def test_without_double_quantisation_the_soft_term_is_alone_and_ids_stay() -> None:
    config = Config(codebook_size=20, dim=6, double_quantisation=False, entropy_weight=0.0)
    quantizer, z_BND = Quantizer(config), torch.randn(1, 5, 6)
    out = quantizer(z_BND, 0)
    z_q, _ = dense(z_BND[0], quantizer.codebook_KD)
    assert list(out.losses) == ["soft"]
    assert out.losses["soft"][1].item() == pytest.approx((z_q - z_BND[0]).square().mean().item())
    assert "double_quantisation" not in id_tree(Config())
    assert id_tree(config)["double_quantisation"] is False
