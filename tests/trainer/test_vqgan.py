import pytest
import torch

from tokenlaw.trainer.accounting.flops import Cost
from tokenlaw.trainer.quantizers import vq
from tokenlaw.trainer.tokenizers._blocks import Downsample, norm_groups
from tokenlaw.trainer.tokenizers.vqgan import Config, Tokenizer

TINY = Config(
    ch=8, ch_mult=(1, 2), num_res_blocks_encoder=1, num_res_blocks_decoder=1, z_channels=8
)

# Counts that the papers' code has, module by module: encoder and decoder trunks, all but codebook.
PAPERS = {
    "VQ-16": (Config(), 8, 29_298_176, 42_449_795, 71_883_403 - 16384 * 8),
    "VQ-8": (Config(ch_mult=(1, 2, 2, 4)), 8, None, None, 70_109_835 - 16384 * 8),
    "taming f16": (Config(), 256, 29_298_176, 42_449_795, 72_141_699 - 1024 * 256),
    "taming f16, 16384 codes": (Config(), 256, None, None, 76_073_859 - 16384 * 256),
    "IBQ": (
        Config(num_res_blocks_encoder=4, num_res_blocks_decoder=5),
        256,
        46_752_256,
        59_903_875,
        110_982_019 - 16384 * 256,
    ),
    "IBQ, one block": (
        Config(num_res_blocks_encoder=1, num_res_blocks_decoder=2),
        256,
        None,
        None,
        58_619_779 - 16384 * 256,
    ),
}


def num_params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_counts_hold_exactly_in_cost_and_in_the_module(name: str) -> None:
    config, dim, encoder, decoder, total = PAPERS[name]
    with torch.device("meta"):
        built = Tokenizer(config, dim, 256)
    assert num_params(built) == total
    if encoder is not None:
        assert num_params(built.encoder) == encoder
        assert num_params(built.decoder) == decoder
    sides = config.cost(256, dim)
    assert sides[0].params + sides[1].params == total
    assert sides[0].params == num_params(built.encoder) + num_params(built.project_in)


def test_projections_and_codebook_of_the_papers() -> None:
    with torch.device("meta"):
        narrow, wide = Tokenizer(Config(), 8, 256), Tokenizer(Config(), 256, 256)
    assert (num_params(narrow.project_in), num_params(narrow.project_out)) == (2_056, 2_304)
    assert num_params(wide.project_in) + num_params(wide.project_out) == 131_584
    assert vq.Config(codebook_size=16384, dim=8).cost(256).params == 131_072


def test_forward_arithmetic_at_256_pixels() -> None:
    encoder, decoder = Config().cost(256, 8)
    assert round(encoder.macs / 1e9, 1) == 69.2
    assert round(decoder.macs / 1e9, 1) == 126.4


def test_the_decoder_has_its_own_width_and_depth() -> None:
    base = Config().cost(256, 8)
    for doubled in (Config(ch_decoder=181), Config(num_res_blocks_decoder=7)):
        encoder, decoder = doubled.cost(256, 8)
        assert encoder == base[0]
        assert 1.8 < decoder.params / base[1].params < 2.1


def test_norms_have_32_groups_at_the_papers_widths_and_fewer_when_narrow() -> None:
    assert [norm_groups(width) for width in (128, 256, 512)] == [32, 32, 32]
    for width in range(1, 200):
        assert width % norm_groups(width) == 0
        assert norm_groups(width) <= 32
    assert norm_groups(16) == 4, "four channels a group, else the norm erases a channel's mean"


def test_tokens_are_in_raster_order_and_decode_undoes_the_order() -> None:
    torch.manual_seed(0)
    model = Tokenizer(TINY, 3, 16).eval()
    x_BCHW = torch.randn(1, 3, 16, 16)
    grid = model.project_in(model.encoder(x_BCHW))
    z_BND = model.encode(x_BCHW)
    assert torch.equal(z_BND[0, 8 * 5 + 2], grid[0, :, 5, 2])
    assert torch.equal(model.decode(z_BND), model.decoder(model.project_out(grid)))


def test_halving_pads_right_and_bottom_only() -> None:
    halve = next(layer for layer in Tokenizer(TINY, 3, 16).encoder if type(layer) is Downsample)
    torch.nn.init.ones_(halve.conv.weight)
    torch.nn.init.zeros_(halve.conv.bias)
    seen = halve(torch.ones(1, 8, 4, 4))[0, 0] / 8
    assert seen.tolist() == [[9.0, 6.0], [6.0, 4.0]], "pixels under the kernel"


def test_other_resolutions_go_through_the_same_weights() -> None:
    model = Tokenizer(TINY, 3, 16).eval()
    with torch.no_grad():
        z_BND = model.encode(torch.zeros(2, 3, 24, 24))
        assert z_BND.shape == (2, 144, 3)
        assert model.decode(z_BND).shape == (2, 3, 24, 24)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="resolution: 15 is not a multiple of 2"):
        Tokenizer(TINY, 3, 15)
    model = Tokenizer(TINY, 3, 16)
    with pytest.raises(ValueError, match="resolution: 17"):
        model.encode(torch.zeros(1, 3, 17, 17))
    with pytest.raises(ValueError, match="not square"):
        model.encode(torch.zeros(1, 3, 16, 8))
    with pytest.raises(ValueError, match="tokens: 10 latents"):
        model.decode(torch.zeros(1, 10, 3))


def test_costs_add_up_and_repeat() -> None:
    assert Cost(1, 2) + 3 * Cost(1, 1) == Cost(4, 5)


def test_the_last_layer_is_the_weight_that_makes_pixels() -> None:
    model = Tokenizer(TINY, 3, 16)
    assert model.last_layer.shape == (3, 8, 3, 3)
    assert model.last_layer is list(model.decoder.parameters())[-2]
