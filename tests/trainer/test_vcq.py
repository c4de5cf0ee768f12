import pytest
import torch

from tokenlaw.trainer.accounting import codebook_schedules
from tokenlaw.trainer.accounting.config import decode
from tokenlaw.trainer.quantizers import _lookup
from tokenlaw.trainer.quantizers._lookup import nearest, nearest_prefix
from tokenlaw.trainer.quantizers.vcq import Config, Quantizer


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tile", [1, 40, 300, 2**24])
def test_each_position_searches_its_own_prefix(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z_BND, codebook_KD = torch.randn(5, 12, 3), torch.randn(40, 3)
    sizes = codebook_schedules.codebook_sizes("cosine", 2, 40, 12)
    monkeypatch.setattr(_lookup, "TILE", tile)
    found = nearest_prefix(z_BND, codebook_KD, sizes)
    for t, size in enumerate(sizes):
        distance = torch.cdist(z_BND[:, t], codebook_KD[:size])
        assert torch.equal(found[:, t], distance.argmin(1)), t


def test_codes_stay_below_the_size_of_their_position() -> None:
    config = Config(codebook_size=64, schedule="power")
    out = Quantizer(config)(torch.randn(50, 16, 8), 0)
    sizes = torch.tensor(config.codebook_sizes(16))
    assert (out.code_BN < sizes).all()
    assert (out.code_BN[:, -1] >= sizes[-2]).any(), "the last position uses what only it may"
    assert config.codebook_sizes(16)[0] == 2 and config.codebook_sizes(16)[-1] == 64


def test_a_constant_schedule_is_plain_vq() -> None:
    quantizer = Quantizer(Config(codebook_size=64, schedule="constant"))
    z_BND = torch.randn(4, 9, 8)
    unit = torch.nn.functional.normalize(z_BND, dim=-1)
    plain = nearest(unit.flatten(0, 1), quantizer.codes()).view(4, 9)
    assert torch.equal(quantizer(z_BND, 0).code_BN, plain)


def test_usage_is_told_by_quarter_of_the_codebook() -> None:
    quantizer = Quantizer(Config(codebook_size=64, schedule="cosine"))
    stats = quantizer(torch.randn(2, 16, 8), 0).stats
    quarters = [stats[f"usage_quarter_{n}"].item() for n in (1, 2, 3, 4)]
    assert sum(quarters) / 4 == pytest.approx(stats["usage"].item())
    assert quarters[0] > quarters[3], "early positions reach the first rows only"


def test_a_smallest_size_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="codebook_size_min: 65 is not allowed"):
        decode(Config, {"codebook_size": 64, "codebook_size_min": 65}, where="vcq")
