"""The kernel that attends to a cache, run by Triton's interpreter on the CPU."""

import os
import subprocess
import sys

import pytest
import torch

from trainer.generator import Cache


@pytest.mark.parametrize(("size", "dtype"), [(16, "float32"), (20, "bfloat16")])
def test_finds_what_the_plain_path_finds(size, dtype):
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch for GPUs)")
    # Triton decides at its import whether it interprets.
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__, str(size), dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "67 positions" in done.stdout


def compare(size: int, dtype: torch.dtype) -> None:
    """Both paths, position by position."""
    from trainer.kernels.cached_attention import attend_cached

    batch, heads, length = 1, 2, 67  # more than one tile of positions
    torch.manual_seed(size)
    plain = Cache((batch, heads, length, size), torch.device("cpu"), dtype)
    keys, values = torch.full((2, batch, heads, length, size), torch.nan, dtype=dtype)
    for position in range(length):
        # As the projections leave them: heads beside heads, a slice of a larger tensor.
        qkv = torch.randn(batch, 1, 3, heads, size).to(dtype)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        expected = plain.attend(q, k, v, position)
        found = attend_cached(q, k, v, keys, values, position)
        assert found.shape == expected.shape and found.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 8e-3
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(keys, plain.k) and torch.equal(values, plain.v)
    print(f"{length} positions")


if __name__ == "__main__":
    compare(int(sys.argv[1]), getattr(torch, sys.argv[2]))
