"""Products of a few rows with what surrounds them, run by Triton's interpreter on the CPU."""

import interpreted
import torch
import torch.nn.functional as F

from trainer.generator import RMSNorm

EPS = 1e-5
# Rows, width and outputs: the size of a tile (rows and columns 16, 64 bytes), and beyond it.
SHAPES = ((16, 32, 16), (5, 24, 40), (33, 50, 7))


def test_do_what_plain_operations_do():
    assert interpreted.output(__file__) == "".join(f"{shape}\n" for shape in SHAPES)


def compare(rows: int, width: int, outputs: int) -> None:
    from trainer.kernels import few_rows

    torch.manual_seed(rows)
    tile = few_rows.Tile(16, 16, inner=64)
    norm = RMSNorm(width, EPS)
    torch.nn.init.normal_(norm.weight)
    # The squares matter beside eps, and differ from row to row.
    x_RD = torch.randn(rows, width) * torch.logspace(-3, 1, rows)[:, None]
    weight_FD = torch.randn(2 * outputs, width)
    with_gain = few_rows.with_gain(weight_FD, norm.weight, torch.float32).detach()
    expected = F.linear(norm(x_RD), weight_FD).detach()
    squares = few_rows.squares_of(x_RD)
    parts = torch.stack([x_RD[:, ::2].square().sum(1), x_RD[:, 1::2].square().sum(1)], 1)
    for given in (squares, parts, torch.cat([parts / 2, squares / 2], 1)):
        found = few_rows.normed_product(x_RD, given, with_gain, EPS, tile)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    gate, value = expected.chunk(2, 1)
    found = few_rows.normed_swiglu(x_RD, parts, with_gain, EPS, tile)
    torch.testing.assert_close(found, F.silu(gate) * value, atol=1e-4, rtol=1e-5)
    residual = torch.randn(rows, 2 * outputs)
    found, squares = few_rows.product_added(residual, x_RD, weight_FD, tile)
    expected = residual + F.linear(x_RD, weight_FD)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert squares.shape == (rows, -(-2 * outputs // 16))
    torch.testing.assert_close(squares.sum(1), expected.square().sum(1), atol=1e-4, rtol=1e-5)
    print((rows, width, outputs))


if __name__ == "__main__":
    for shape in SHAPES:
        compare(*shape)
