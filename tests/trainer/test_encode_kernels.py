"""Kernels that only tokenising needs, run by Triton's interpreter on the CPU: the search for the
nearest code, the convolution of an image, and attention among the cells of a grid.
"""

import interpreted
import torch
import torch.nn.functional as F


def test_kernels_are_the_plain_operations():
    said = interpreted.output(__file__)  # one process: it takes seconds to start
    assert said.split() == [part.__name__ for part in PARTS]


def both(search):
    """What `search` gives by the kernel and by plain code."""
    from tokenlaw.trainer import kernels
    from tokenlaw.trainer.quantizers import _lookup

    kernels.usable, found = lambda x: True, []
    for tile in (0, 2**24):  # the kernel is for what is more
        _lookup.TILE = tile
        found.append(search())
    return found


def anywhere():
    """Tokens that fill no tile, codes that fill no block, in one part and in several."""
    from tokenlaw.trainer.kernels import nearest as kernel
    from tokenlaw.trainer.quantizers._lookup import nearest

    shapes = ((513, 203, 8), (3, 1037, 4), (260, 16, 16), (129, 100, 12), (7, 1, 5))
    for tokens, codes, width in shapes:
        torch.manual_seed(0)
        z_TD, codebook_KD = torch.randn(tokens, width), torch.randn(codes, width)
        code_T, plain_T = both(lambda z=z_TD, e=codebook_KD: nearest(z, e))
        assert code_T.dtype == torch.int64 and code_T.shape == (tokens,)
        assert torch.equal(code_T, plain_T), (tokens, codes, width)
    z_TD = torch.randn(2, kernel.WIDEST + 1)  # by plain code
    code_T, plain_T = both(lambda: nearest(z_TD, z_TD))
    assert code_T.tolist() == plain_T.tolist() == [0, 1]


def ties():
    """The lowest code: within a block, across blocks, across parts; also where nothing is near."""
    from tokenlaw.trainer.quantizers._lookup import nearest

    codebook_KD = torch.full((1100, 2), 4.0)
    codebook_KD[[5, 6, 300, 301, 1099]] = torch.tensor([1.0, 0.0])
    codebook_KD[[1050, 1090]] = torch.tensor([0.0, 1.0])
    z_TD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0], [float("nan"), 0.0]])
    for code_T in both(lambda: nearest(z_TD, codebook_KD)):
        assert code_T.tolist() == [5, 1050, 0, 0]


def prefixes():
    """Codebooks that grow along the sequence: no code beyond, and the nearest of those before."""
    from tokenlaw.trainer.quantizers._lookup import nearest_prefix

    torch.manual_seed(0)
    z_BND, codebook_KD = torch.randn(150, 5, 3), torch.randn(1100, 3)
    z_BND[7], z_BND[8, 4], z_BND[9, 2] = torch.nan, codebook_KD[-1], codebook_KD[8]
    sizes = (1, 2, 9, 600, 1100)
    code_BN, plain_BN = both(lambda: nearest_prefix(z_BND, codebook_KD, sizes))
    assert torch.equal(code_BN, plain_BN)
    assert (code_BN < torch.tensor(sizes)).all() and code_BN[8, 4] == 1099 and code_BN[9, 2] == 8


def convolutions():
    """Rows of several tiles and of less than one, programs for all tiles and all channels, windows
    of 1, 3 and 5 pixels.
    """
    from tokenlaw.trainer.kernels.few_channels import few_channels, suits

    cases = [(2, 3, 20, 6, 70, 3), (1, 1, 16, 5, 9, 5), (2, 4, 130, 1, 3, 3), (1, 4, 24, 20, 4, 1)]
    for batch, given, made, height, width, side in cases:
        torch.manual_seed(0)
        x_BCHW = torch.randn(batch, given, height, width)
        weight_ECSS = torch.randn(made, given, side, side)
        assert suits(weight_ECSS)
        for dtype, limit in ((torch.float32, 1e-5), (torch.float16, 3e-2)):
            factors = (x_BCHW.to(dtype).float(), weight_ECSS.to(dtype).float())
            out_BEHW = few_channels(x_BCHW, weight_ECSS, dtype)
            assert out_BEHW.dtype == dtype
            assert out_BEHW.is_contiguous(memory_format=torch.channels_last)
            plain_BEHW = F.conv2d(*factors, padding=side // 2)
            assert (out_BEHW.float() - plain_BEHW).abs().max() < limit, (given, side, dtype)
    assert not suits(torch.empty(16, 8, 3, 3)) and not suits(torch.empty(16, 3, 2, 2))


def attention():
    """Cells and channels that fill no tile, several programs an image; the layer in its layout."""
    from tokenlaw.trainer.kernels.wide_attention import CELLS_MAX, suits
    from tokenlaw.trainer.tokenizers import _fused
    from tokenlaw.trainer.tokenizers._blocks import Attention

    assert not suits(16, torch.float32) and not suits(CELLS_MAX + 1, torch.bfloat16)
    for channels, height, width in ((96, 7, 10), (32, 2, 3), (64, 16, 16)):
        torch.manual_seed(0)
        layer, h_BCHW = Attention(channels), 4 * torch.randn(2, channels, height, width)
        h_BCHW = h_BCHW.to(memory_format=torch.channels_last)
        plain_BCHW = layer.attend(h_BCHW)
        with torch.no_grad():
            assert torch.equal(_fused._attend(layer, h_BCHW), plain_BCHW)  # fp32: the same code
            a_BCHW = _fused._attend(layer.half(), h_BCHW.half())
        assert a_BCHW.dtype == torch.float16 and a_BCHW.shape == h_BCHW.shape
        assert a_BCHW.is_contiguous(memory_format=torch.channels_last)
        away = (a_BCHW.float() - plain_BCHW).norm() / plain_BCHW.norm()
        assert away < 3e-3, (channels, away)


def encoder():
    """Latents of a tokenizer without a gradient, beside those with one and the plain modules'."""
    from tokenlaw.trainer import kernels
    from tokenlaw.trainer.kernels import few_channels
    from tokenlaw.trainer.tokenizers.vqgan import Config, Tokenizer

    kernels.usable = lambda x: True
    config = Config(ch=16, ch_mult=(1,), num_res_blocks_encoder=1, z_channels=8)
    torch.manual_seed(0)
    model = Tokenizer(config, 3, 5).to(memory_format=torch.channels_last)
    x_BCHW, calls = torch.randn(1, 3, 5, 5), 0
    true_kernel = few_channels.few_channels

    def counted(*inputs):
        nonlocal calls
        calls += 1
        return true_kernel(*inputs)

    few_channels.few_channels = counted
    plain_BND = model.encode(x_BCHW)
    model.use_kernels(recompute=False)
    assert torch.allclose(model.encode(x_BCHW), plain_BND, atol=1e-4) and calls == 0
    with torch.inference_mode():
        z_BND = model.encode(x_BCHW)
    assert torch.allclose(z_BND, plain_BND, atol=1e-4) and calls == 1


PARTS = (anywhere, ties, prefixes, convolutions, attention, encoder)

if __name__ == "__main__":
    for part in PARTS:
        part()
        print(part.__name__)
