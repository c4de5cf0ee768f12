"""The kernel that attends to a cache, run by Triton's interpreter on the CPU."""

import interpreted
import torch

from tokenlaw.trainer.accounting.config import LlamaConfig
from tokenlaw.trainer.models.llama import Attention, rope_table
from tokenlaw.trainer.models.operations import Cache

HEADS, LENGTH, TILE = 2, 10, 4
CASES = (
    (16, torch.float32, "turned"),
    (20, torch.bfloat16, "turned"),
    (12, torch.float32, "learned"),
    (16, torch.float32, "no norm"),
    (20, torch.float32, "int8"),
)


def test_finds_what_the_plain_path_finds():
    assert interpreted.output(__file__) == "".join(f"{size} {how}\n" for size, _, how in CASES)


def compare(size: int, dtype: torch.dtype, how: str) -> None:
    """Both paths, position by position."""
    from tokenlaw.trainer.kernels import cached_attention

    batch, width = 2, HEADS * size
    torch.manual_seed(size)
    attention = Attention(LlamaConfig(width=width, layers=1, heads=HEADS, qk_norm=how != "no norm"))
    torch.nn.init.normal_(attention.wqkv.weight, std=width**-0.5)
    gains, table = None, None
    if how != "no norm":
        gains = attention.q_norm.weight, attention.k_norm.weight
        for gain in gains:
            torch.nn.init.normal_(gain)
    if how != "learned":
        table = rope_table("rope_2d", size, (5, 7), 10000.0, "zero")
    cached_attention.TILE = cached_attention.BYTES_TILE = TILE
    shape, device = (batch, HEADS, LENGTH, size), torch.device("cpu")
    plain = Cache(shape, device, dtype)
    # What is not yet set must not be read.
    keys, values = torch.full((2, *shape), torch.nan, dtype=dtype)
    units, tolerance = None, 1e-5 if dtype == torch.float32 else 1.6e-2
    if how == "int8":
        keys, values = torch.full((2, *shape), 99, dtype=torch.int8)
        units, tolerance = torch.full((2, *shape[:3]), torch.nan), 5e-2
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), torch.inference_mode():
        for position in range(LENGTH):
            x_B1D = torch.randn(batch, 1, width)
            row = None if table is None else table[position : position + 1]
            q, k, v = attention.split(attention.wqkv(x_B1D), row)
            expected = plain.attend(q, k, v, position).transpose(1, 2).flatten(1)
            qkv = attention.wqkv(x_B1D)[:, 0]
            at, eps = torch.tensor([position]), 1e-5
            found = cached_attention.attend_cached(qkv, keys, values, at, gains, eps, table, units)
            assert found.shape == expected.shape and found.dtype == dtype
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    if units is not None:
        bytes_of = (stored.view(torch.uint8).float() - 128 for stored in (keys, values))
        keys, values = (
            whole * unit[..., None] for whole, unit in zip(bytes_of, units, strict=True)
        )
        # Half a step of 127, which the greatest entry sets.
        assert ((keys - plain.k).abs() <= 0.51 * units[0, ..., None]).all()
        assert ((values - plain.v).abs() <= 0.51 * units[1, ..., None]).all()
    else:
        torch.testing.assert_close(keys, plain.k, atol=tolerance, rtol=tolerance)
        assert torch.equal(values, plain.v)
    print(size, how)


if __name__ == "__main__":
    for case in CASES:
        compare(*case)
