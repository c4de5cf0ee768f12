"""Entropies of codes: known distributions, the corrections, and the nulls of noise."""

from __future__ import annotations

import numpy as np
import pytest

from tokenlaw.analysis import code_entropy


def schedule(shape: str, largest: int = 16384, length: int = 256) -> list[int]:
    """VCQ's codebook sizes K_t = round(2 + (K - 2) f((t - 1) / (L - 1)))."""
    u = np.arange(length) / (length - 1)
    f = {"linear": u, "cosine": 1 - np.cos(np.pi * u / 2), "constant": np.ones(length)}[shape]
    return np.rint(2 + (largest - 2) * f).astype(int).tolist()


def test_entropy_of_known_counts() -> None:
    assert code_entropy.entropy_bits(np.array([1, 1, 1, 1])) == pytest.approx(2.0)
    assert code_entropy.entropy_bits(np.array([0, 7, 0])) == 0.0
    assert code_entropy.entropy_bits(np.array([3, 1])) == pytest.approx(0.811278, abs=1e-6)


@pytest.mark.parametrize(
    ("codes", "images", "bits"),
    [(131072, 50_000, 1.89), (131072, 1_280_000, 0.074), (16384, 50_000, 0.24)],
)
def test_the_bias_of_large_codebooks(codes: int, images: int, bits: float) -> None:
    assert code_entropy.miller_madow(codes, images) == pytest.approx(bits, rel=0.02)


def test_positions_are_corrected_and_pooled() -> None:
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(64, size=3000), rng.integers(8, size=3000)], axis=1)
    found = code_entropy.positions(codes, 64)
    assert found.plug_in_L[0] < found.corrected_L[0] <= 6.0
    assert found.corrected_L == pytest.approx([6.0, 3.0], abs=0.01)
    assert found.seen_L.tolist() == [64, 8]
    # Half the mass is spread over 64 codes, half over 8 of them.
    share = np.concatenate([np.full(8, 0.5 / 64 + 0.5 / 8), np.full(56, 0.5 / 64)])
    exact = -(share * np.log2(share)).sum()
    assert found.pooled == pytest.approx(exact, abs=0.01)
    assert found.skew == pytest.approx(1 - (64 + 8) / 2 / 2**exact, abs=0.01)
    assert not found.warnings
    few = code_entropy.positions(rng.integers(4096, size=(500, 2)), 4096)
    assert [one.code for one in few.warnings] == ["W-BIAS"]


@pytest.mark.parametrize(
    ("shape", "images", "expected"),
    [
        ("constant", 50_000, [13.738, 1.871, 0.0002]),
        ("cosine", 50_000, [1, 1, 1.585, 2.321, 2.802, 3.267, 2.868, 0.714, 0.051, 0.002]),
        ("constant", 1_281_167, [13.991, 6.294, 0.005, 0]),
        ("linear", 1_281_167, [1, 6.044, 7.013, 5.877, 0.354, 0.002]),
    ],
)
def test_noise_shows_the_same_cliff(shape: str, images: int, expected: list[float]) -> None:
    sizes = schedule(shape)[: len(expected)]
    found = code_entropy.uniform_null(images, sizes)
    assert found.bits_L == pytest.approx(expected, abs=0.02)
    assert (found.bits_L <= found.bound_L + 1e-9).all()


def test_noise_exceeds_the_printed_bound() -> None:
    sizes = schedule("cosine")[:12]
    found = code_entropy.uniform_null(50_000, sizes)
    over = found.bits_L - found.printed_L
    assert int(np.argmax(over > 0.05)) == 7  # t = 8: the printed bound is 0 there
    assert found.printed_L[7] == 0.0 and found.bits_L[7] == pytest.approx(0.714, abs=0.02)
    assert found.remaining_L == pytest.approx(np.log2(50_000) - np.cumsum(found.bits_L), abs=1e-9)
    assert (np.diff(found.unique_share_L) >= 0).all() and found.unique_share_L[-1] > 0.99


def test_dependent_codes_leave_the_permuted_null() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(16, size=4000)
    second = (first + rng.integers(2, size=4000)) % 16
    codes = np.stack([first, second, rng.integers(16, size=4000)], axis=1)
    found = code_entropy.conditionals(codes, [16, 16, 16], held_out_nats=[2.7, 0.7, 2.7])
    assert found.measured.bits_L[1] == pytest.approx(1.0, abs=0.02)
    assert found.permuted.bits_L[1] == pytest.approx(4.0, abs=0.1)
    assert found.held_out_L == pytest.approx(np.array([2.7, 0.7, 2.7]) / np.log(2))
    assert not found.warnings
    noise = code_entropy.conditionals(rng.integers(16, size=(4000, 3)), [16, 16, 16])
    assert [one.code for one in noise.warnings] == ["W-BIAS"]


def test_conditional_entropies_add_up_to_the_joint() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(5, size=(300, 4))
    found = code_entropy.conditional(codes, [5] * 4)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert found.bits_L.sum() == pytest.approx(code_entropy.entropy_bits(counts))
    assert found.prefix_bits_L[-1] == pytest.approx(code_entropy.entropy_bits(counts))


def test_what_is_no_code_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 to 7"):
        code_entropy.positions(np.array([[1, 8]]), 8)
    with pytest.raises(ValueError, match="are no integers"):
        code_entropy.positions(np.array([[1.0, 2.0]]), 8)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        code_entropy.positions(np.array([1, 2, 3]), 8)
    with pytest.raises(ValueError, match="3 given for 2 positions"):
        code_entropy.conditional(np.array([[1, 2]]), [8, 8, 8])
