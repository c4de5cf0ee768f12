import math

import pytest
import torch

from tokenlaw.trainer.accounting.config import decode
from tokenlaw.trainer.quantizers.fsq import RECOMMENDED, Config, Quantizer


@pytest.mark.parametrize(
    ("power", "num_codes"), [(8, 240), (10, 1000), (12, 4375), (14, 15360), (16, 64000)]
)
def test_recommended_levels_give_the_real_codebook_size_and_a_round_trip(
    power: int, num_codes: int
) -> None:
    config = Config(levels=RECOMMENDED[power])
    assert config.num_codes == num_codes
    quantizer = Quantizer(config)
    code_BN = torch.arange(num_codes)[None]
    z_q_BND = quantizer.lookup(code_BN)
    assert z_q_BND.unique(dim=1).shape[1] == num_codes
    assert z_q_BND.abs().max() <= 1
    # Latents that the bound maps onto the levels come back as the very same codes.
    h = (torch.tensor(config.levels) - 1) * (1 + config.eps) / 2
    o = torch.where(torch.tensor(config.levels) % 2 == 0, 0.5, 0.0)
    level = z_q_BND * torch.tensor([n // 2 for n in config.levels])
    z_BND = torch.atanh((level + o) / h) - torch.atanh(o / h)
    out = quantizer(z_BND, 0)
    assert torch.equal(out.code_BN, code_BN)
    assert torch.equal(out.z_q_BND, z_q_BND)


def test_the_index_is_mixed_radix_with_the_first_coordinate_fastest() -> None:
    quantizer = Quantizer(Config(levels=(8, 6, 5)))
    code = 3 + 8 * (2 + 6 * 4)
    expected = [(3 - 4) / 4, (2 - 3) / 3, (4 - 2) / 2]
    assert torch.allclose(quantizer.lookup(torch.tensor([[code]]))[0, 0], torch.tensor(expected))


def test_the_gradient_is_that_of_the_bound() -> None:
    quantizer = Quantizer(Config(levels=(7, 5)))
    z_BND = torch.tensor([[[0.3, -0.8]]], requires_grad=True)
    quantizer(z_BND, 0).z_q_BND.sum().backward()
    h = torch.tensor([6.0, 4.0]) * 1.001 / 2
    expected = h * (1 - torch.tanh(z_BND.detach()) ** 2) / torch.tensor([3.0, 2.0])
    assert z_BND.grad is not None
    assert torch.allclose(z_BND.grad, expected)


def test_the_bound_maps_zero_to_zero_for_even_and_odd_levels() -> None:
    bound = Quantizer(Config(levels=(8, 5))).bound(torch.tensor([[0.0, 0.0], [50.0, 50.0]]))
    assert bound[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert bound[1].tolist() == pytest.approx([3.5035 - 0.5, 2.002])


def test_codes_are_computed_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    quantizer, z_BND = Quantizer(Config(levels=RECOMMENDED[16])), torch.randn(2, 500, 6) * 2
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantizer(z_BND, 0)
    assert torch.equal(cast.code_BN, quantizer(z_BND, 0).code_BN)


def test_there_is_no_auxiliary_loss_and_all_levels_are_reached() -> None:
    quantizer = Quantizer(Config(levels=(8, 5)))
    wide_BND = torch.linspace(-20, 20, 4001)[None, :, None].expand(1, -1, 2)
    out = quantizer(wide_BND, 0)
    assert out.losses == {}
    assert [len(out.z_q_BND[..., i].unique()) for i in range(2)] == [8, 5]


def test_a_single_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fsq.levels.1: 1 is not allowed"):
        decode(Config, {"levels": [8, 1]}, where="fsq")
    assert math.prod((8, 6, 5)) == Config(levels=(8, 6, 5)).num_codes
