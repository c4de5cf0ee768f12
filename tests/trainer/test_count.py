import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenlaw.trainer.accounting import counts as count
from tokenlaw.trainer.losses import patchgan
from tokenlaw.trainer.models.llama import Generator
from tokenlaw.trainer.quantizers import ibq, vq
from tokenlaw.trainer.tokenizers.vqgan import Tokenizer

# name -> all parameters, non-embedding parameters: the papers' tables.
GENERATORS = {
    "llama-52M": (52_094_720, 30_482_560),
    "llama-81M": (80_557_312, 56_783_936),
    "llama-111M": (110_888_448, 84_953_856),
    "llama-212M": (211_955_968, 181_698_944),
    "llama-343M": (342_910_976, 308_331_520),
    "llama-517M": (516_729_600, 477_827_712),
    "llama-775M": (774_699_520, 731_475_200),
    "llama-1.4B": (1_410_972_672, 1_359_103_488),
    "llama-3.1B": (3_096_659_200, 2_988_598_400),
    "adaln-342M": (342_994_944, 308_415_488),
    "adaln-649M": (649_640_960, 606_416_640),
    "adaln-1.1B": (1_076_103_168, 1_024_233_984),
    "adaln-2.1B": (2_063_331_840, 1_998_495_360),
}
TOKENIZERS = {
    "vqgan-f16-k16384": 71_883_403,
    "vqgan-f16-k1024": 71_760_523,
    "vqgan-f16-k131072": 72_800_907,
    "ibq-k16384": 110_982_019,
    "ibq-k262144": 173_896_579,
}


def num_params(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def meta_generator(name: str) -> Generator:
    """The model itself, without QK-norm: its gains are in no paper's count."""
    config = dataclasses.replace(count.generators()[name], qk_norm=False)
    with torch.device("meta"):
        return Generator(config, count.VOCABULARY, count.CLASSES, (16, 16)).eval()


def test_the_table_has_the_named_rows_with_the_papers_integers() -> None:
    table = count.to_json()
    named = [f"tokenizer/{n}" for n in TOKENIZERS] + ["discriminator/patchgan"]
    assert list(table) == named + [f"generator/{n}" for n in GENERATORS]
    for name, (params, non_embedding) in GENERATORS.items():
        row = table[f"generator/{name}"]
        assert (row["params"], row["params_non_embedding"]) == (params, non_embedding)
    for name, params in TOKENIZERS.items():
        row = table[f"tokenizer/{name}"]
        assert (row["params"], row["params_non_embedding"]) == (params, None)
    assert table["discriminator/patchgan"]["params"] == 2_765_633
    assert all(isinstance(row["macs_forward"], int) for row in table.values())


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_as_built_have_these_parameters(name: str) -> None:
    built = meta_generator(name)
    assert num_params(built) == GENERATORS[name][0]
    outside = (built.code_embedding, built.class_embedding, built.head)
    assert num_params(built) - num_params(*outside) == GENERATORS[name][1]


@pytest.mark.parametrize("name", ["llama-52M", "adaln-342M"])
def test_a_forward_pass_of_a_generator_multiplies_so_often(name: str) -> None:
    built = meta_generator(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        codes, classes = torch.zeros(1, 255, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        assert built(codes, classes).shape == (1, 256, 16384)
    assert counter.get_total_flops() == 2 * count.to_json()[f"generator/{name}"]["macs_forward"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_as_built_have_these_parameters_and_products(name: str) -> None:
    named = count.tokenizers()[name]
    quantizer = {"vq": vq, "ibq": ibq}[named.quantizer.name]
    with torch.device("meta"):
        built = Tokenizer(named.tokenizer.config, named.quantizer.config.dim, 256)
        codebook = quantizer.Quantizer(named.quantizer.config)
        with FlopCounterMode(display=False) as counter:
            built.decode(built.encode(torch.zeros(1, 3, 256, 256)))
    assert num_params(built, codebook) == TOKENIZERS[name]
    assert counter.get_total_flops() == 2 * count.to_json()[f"tokenizer/{name}"]["macs_forward"]


def test_the_discriminator_as_built() -> None:
    row = count.to_json()["discriminator/patchgan"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        built = patchgan.Loss(patchgan.Config())
        built(torch.zeros(1, 3, 256, 256))
    assert num_params(built) == row["params"]
    assert counter.get_total_flops() == 2 * (row["macs_forward"] or 0)


@pytest.mark.parametrize(
    ("name", "codes", "params"),
    [
        ("llama-111M", 1024, 87_295_488),
        ("llama-111M", 131_072, 287_049_216),
        ("llama-212M", 1024, 184_430_848),
        ("llama-212M", 131_072, 417_476_864),
        ("llama-343M", 1024, 311_453_696),
        ("llama-343M", 131_072, 577_792_000),
        ("llama-517M", 1024, 481_340_160),
        ("llama-517M", 131_072, 780_970_752),
        ("llama-775M", 1024, 735_377_920),
        ("llama-775M", 131_072, 1_068_300_800),
    ],
)
def test_the_same_backbones_at_other_codebook_sizes(name: str, codes: int, params: int) -> None:
    from tokenlaw.trainer.accounting.flops import generator_cost

    assert generator_cost(count.generators()[name], codes, 1000, 256).params == params
