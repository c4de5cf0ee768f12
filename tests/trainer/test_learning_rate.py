import itertools
import math
import random
from pathlib import Path

import pytest

from tokenlaw.trainer.accounting import (
    codebook_schedules,
    learning_rate,
)
from tokenlaw.trainer.accounting.codebook_schedules import (
    codebook_sizes,
    describe,
    null_conditional_bits,
    t_star,
)
from tokenlaw.trainer.accounting.config import OptimConfig

IMAGENET = 1_281_167

# schedule, K_max -> mean size, its print, total bits, BPP and its print, t* at L=256, t* printed,
# t* for 50,000 images; and the first sizes.
TABLE = [
    ("constant", 16384, 16384.0, 16384, 3584.0, 0.05469, "0.055", 2, 2, 2, [16384] * 6),
    ("constant", 8192, 8192.0, 8192, 3328.0, 0.05078, "0.051", 2, 2, 2, [8192] * 6),
    (
        "linear",
        16384,
        8193.0,
        8193,
        3208.65,
        0.04896,
        "0.049",
        4,
        4,
        4,
        [2, 66, 130, 195, 259, 323],
    ),
    (
        "cosine",
        16384,
        5963.68,
        5964,
        2904.64,
        0.04432,
        "0.044",
        9,
        5,
        7,
        [2, 2, 3, 5, 7, 10, 13, 17, 22, 27],
    ),
    (
        "power",
        16384,
        4696.33,
        4696,
        2690.81,
        0.04106,
        "0.041",
        12,
        6,
        10,
        [2, 2, 2, 2, 3, 3, 3, 4, 5, 6],
    ),
    (
        "cosine",
        11264,
        4100.42,
        4100,
        2768.86,
        0.04225,
        "0.042",
        9,
        5,
        8,
        [2, 2, 3, 4, 5, 7, 10, 12, 16, 19],
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_every_row_of_the_papers_schedule_table(row: tuple) -> None:
    name, size_max, mean, mean_print, bits, bpp, bpp_print, reached, reached_print, small, first = (
        row
    )
    found = describe(name, 2, size_max, 256, IMAGENET)
    assert found["k"][: len(first)] == first
    assert found["k"][-1] == size_max and len(found["k"]) == 256
    assert found["k_mean"] == pytest.approx(mean, abs=0.005)
    assert round(found["k_mean"]) == mean_print
    assert found["bits_total"] == pytest.approx(bits, abs=0.005)
    assert found["bpp"] == pytest.approx(bpp, abs=5e-6)
    assert f"{found['bpp']:.3f}" == bpp_print
    assert found["t_star"] == reached == t_star(found["k"], 1_280_000)
    assert t_star(found["k"], 50_000) == small
    # The printed column belongs to a sequence of 32 tokens.
    assert t_star(codebook_sizes(name, 2, size_max, 32), IMAGENET) == reached_print


@pytest.mark.parametrize("length", [31, 32, 50])
def test_the_printed_t_star_column_needs_a_short_sequence(length: int) -> None:
    printed = [row[8] for row in TABLE]
    at = [t_star(codebook_sizes(r[0], 2, r[1], length), IMAGENET) for r in TABLE]
    assert at == printed
    assert [row[7] for row in TABLE] != printed


@pytest.mark.parametrize(
    ("images", "bits", "reached"),
    [
        (50_000, 15.61, 2),
        (118_000, 16.85, 2),
        (1_280_000, 20.29, 2),
        (12_000_000, 23.52, 2),
        (400_000_000, 28.58, 3),
        (5_000_000_000, 32.22, 3),
    ],
)
def test_sets_of_images_against_a_constant_codebook(images: int, bits: float, reached: int) -> None:
    sizes = codebook_sizes("constant", 2, 16384, 256)
    assert math.log2(images) == pytest.approx(bits, abs=0.005)
    assert t_star(sizes, images) == reached == math.ceil(math.log2(images) / 14)


def test_thresholds_are_powers_of_the_codebook_size() -> None:
    sizes = codebook_sizes("constant", 2, 16384, 256)
    for reached in (2, 3, 4, 5):
        edge = 16384 ** (reached - 1)
        assert t_star(sizes, edge) == reached - 1
        assert t_star(sizes, edge + edge // 1000) == reached
    assert 16384**2 == 268_435_456 and int(16384**2 / 1.28e6) == 209
    assert t_star(sizes[:1], IMAGENET) is None, "one code cannot tell them apart"


def test_the_remaining_budget_is_clipped_at_nothing() -> None:
    found = describe("cosine", 2, 16384, 256, IMAGENET)["remaining_bits"]
    log_n = math.log2(IMAGENET)
    assert found[:3] == pytest.approx([log_n - 1, log_n - 2, log_n - 2 - math.log2(3)])
    assert [round(v, 3) for v in found[7:10]] == [0.465, 0.0, 0.0]
    assert len(found) == 256 and found[-1] == 0.0


NULL = [
    ("constant", IMAGENET, [13.991, 6.294, 0.005, 0]),
    ("linear", IMAGENET, [1, 6.044, 7.013, 5.877, 0.354, 0.002]),
    (
        "cosine",
        IMAGENET,
        [1, 1, 1.585, 2.322, 2.807, 3.320, 3.672, 3.512, 1.010, 0.059, 0.002],
    ),
    (
        "power",
        IMAGENET,
        [1, 1, 1, 1, 1.585, 1.585, 1.585, 1.999, 2.318, 2.560, 2.617, 1.636, 0.360],
    ),
    ("constant", 50_000, [13.738, 1.871, 0.0002]),
    ("cosine", 50_000, [1, 1, 1.585, 2.321, 2.802, 3.267, 2.868, 0.714, 0.051, 0.002]),
]


@pytest.mark.parametrize(("name", "images", "curve"), NULL, ids=lambda v: str(v)[:12])
def test_pure_noise_has_the_papers_entropy_cliff(
    name: str, images: int, curve: list[float]
) -> None:
    found = null_conditional_bits(codebook_sizes(name, 2, 16384, 256), images, len(curve))
    assert found == pytest.approx(curve, abs=0.02)


def test_noise_already_exceeds_the_printed_bound() -> None:
    sizes = codebook_sizes("cosine", 2, 16384, 256)
    null = null_conditional_bits(sizes, IMAGENET, 12)
    before = [math.log2(IMAGENET), *codebook_schedules.remaining_bits(sizes, IMAGENET)]
    bound = [min(math.log2(k), b) for k, b in zip(sizes, before, strict=False)]
    broken = [t for t, (h, b) in enumerate(zip(null, bound, strict=False), 1) if h > b + 1e-3]
    assert broken[0] == 9
    assert (round(null[8], 2), round(bound[8], 3)) == (1.01, 0.465)


def doc_rows(first: str) -> list[list[str]]:
    """Cells of the rows of docs/vcq.md's table whose header begins with `first`."""
    page = Path(__file__).resolve().parents[2] / "docs" / "vcq.md"
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} "))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]


def doc_sizes(text: str, length: int = 256) -> tuple[int, ...]:
    """Sizes of a cell such as `cosine 11264 (Large)` or `linear`."""
    words = text.split()
    return codebook_sizes(words[0], 2, int(words[1]) if len(words) > 1 else 16384, length)


def test_the_pages_tables_are_what_the_code_gives() -> None:
    sizes_rows = doc_rows("schedule, K_max | mean K")
    assert len(sizes_rows) == 6
    for name, mean, mean_print, bits, bpp, bpp_print, first in sizes_rows:
        sizes = doc_sizes(name)
        pixel_bits = codebook_schedules.bits_per_pixel(sizes, 256)
        assert float(mean) == pytest.approx(codebook_schedules.size_mean(sizes), abs=0.005)
        assert int(mean_print) == round(codebook_schedules.size_mean(sizes))
        assert float(bits) == pytest.approx(codebook_schedules.capacity_bits(sizes)[-1], abs=0.005)
        assert (bpp, bpp_print) == (f"{pixel_bits:.5f}"[1:], f"{pixel_bits:.3f}"[1:])
        printed = [int(word) for word in first.removesuffix(", ..").split(",")]
        assert printed == list(sizes[: len(printed)])
    star_rows = doc_rows("schedule, K_max | paper")
    assert len(star_rows) == 6
    for name, printed_star, *found in star_rows:
        long, short = doc_sizes(name), doc_sizes(name, 32)
        computed = [t_star(long, IMAGENET), t_star(short, IMAGENET), t_star(long, 50_000)]
        assert [int(cell.strip("*")) for cell in found] == computed
        assert int(printed_star) == computed[1]
    null_rows = doc_rows("N, schedule")
    assert len(null_rows) == 6
    for name, curve, broken in null_rows:
        count, schedule = name.split(maxsplit=1)
        images, sizes = int(count.replace(",", "")), doc_sizes(schedule)
        null = null_conditional_bits(sizes, images, 14)
        values = [float(cell) for cell in curve.split(",")]
        assert values == pytest.approx(null[: len(values)], abs=0.00051)
        left = [math.log2(images), *codebook_schedules.remaining_bits(sizes, images)]
        bound = [min(math.log2(k), bits) for k, bits in zip(sizes, left, strict=False)]
        first_broken = next(t for t, h in enumerate(null, 1) if h > bound[t - 1] + 1e-3)
        where, value = broken.removeprefix("t = ").split(":")
        assert int(where) == first_broken
        assert float(value) == pytest.approx(bound[first_broken - 1], abs=0.0005)


def test_the_null_is_what_counting_random_codes_gives() -> None:
    sizes, images, rng = (3, 4, 5, 6), 400, random.Random(0)
    runs = []
    for _ in range(60):
        rows = [tuple(rng.randrange(k) for k in sizes) for _ in range(images)]
        entropies = [0.0]
        for t in range(1, 5):
            groups = [len(list(g)) for _, g in itertools.groupby(sorted(row[:t] for row in rows))]
            entropies.append(-sum(n / images * math.log2(n / images) for n in groups))
        runs.append([b - a for a, b in itertools.pairwise(entropies)])
    mean = [sum(column) / len(runs) for column in zip(*runs, strict=True)]
    assert null_conditional_bits(sizes, images) == pytest.approx(mean, abs=0.01)


def test_impossible_schedules_are_refused() -> None:
    for options, text in (
        ({"schedule": "cubic"}, "schedule: 'cubic' is unknown; allowed: constant, linear"),
        ({"size_min": 0}, "codebook_size_min: 0"),
        ({"size_min": 20}, "codebook_size_min: 20"),
        ({"length": 0}, "length: 0"),
        ({"power": 0.0}, "power: 0.0"),
    ):
        asked = {"schedule": "power", "size_min": 2, "size_max": 16, "length": 4} | options
        with pytest.raises(ValueError, match=text):
            codebook_sizes(**asked)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images: 0"):
        describe("linear", 2, 16, 4, 0)
    assert codebook_sizes("linear", 2, 16, 1) == (16,)


# ------------------------------------------------------------------------ rates, ramps and epochs


def test_iterations_are_the_papers_epochs() -> None:
    for iterations, printed in (
        (15_000, "3.0"),
        (22_500, "4.5"),
        (45_000, "9.0"),
        (90_000, "18.0"),
        (187_500, "37.5"),
        (375_000, "74.9"),
        (750_000, "149.9"),
        (1_500_000, "299.7"),
        (2_250_000, "449.6"),
    ):
        assert f"{learning_rate.epochs(iterations, 256, IMAGENET):.1f}" == printed
    assert learning_rate.epochs(375_000, 256, IMAGENET) == pytest.approx(74.93, abs=0.005)
    assert learning_rate.epochs(400_000, 128, IMAGENET) == pytest.approx(39.96, abs=0.005)
    assert learning_rate.epochs(380_000, 128, IMAGENET) == pytest.approx(37.97, abs=0.005)
    assert learning_rate.epochs(1_300_000, 256, IMAGENET) == pytest.approx(259.8, abs=0.05)


def test_the_cosine_ramp_is_half_a_wave() -> None:
    ramp = [learning_rate.cosine_ramp(step, 10, 4) for step in (0, 10, 11, 12, 13, 14, 99)]
    assert ramp == pytest.approx([0, 0, 0.146447, 0.5, 0.853553, 1, 1], abs=1e-6)
    assert [learning_rate.cosine_ramp(step, 10, 0) for step in (9, 10)] == [0, 1]


def rates(steps: list[int], iterations: int, **options: object) -> list[float]:
    optim = OptimConfig(lr_peak=1.0, **options)  # type: ignore[arg-type]
    return [learning_rate.learning_rate(optim, step, iterations) for step in steps]


def test_rates_are_the_formulas() -> None:
    warm = {"warmup_iterations": 10, "lr_warmup_start": 0.1}
    assert rates([0, 5, 10, 99], 100, **warm) == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert rates([10, 55, 100], 100, schedule="cosine", warmup_iterations=10) == pytest.approx(
        [1.0, 0.5, 0.0]
    )
    linear = {"schedule": "linear", "hold_share": 0.2, "lr_end_share": 0.1}
    assert rates([0, 20, 60, 100], 100, **linear) == pytest.approx([1.0, 1.0, 0.55, 0.1])
    steps = {"schedule": "multistep", "milestones": (0.5, 0.9)}
    assert rates([49, 50, 89, 90], 100, **steps) == pytest.approx([1.0, 0.1, 0.1, 0.01])
    wsd = {"schedule": "wsd", "decay_share": 0.2}
    assert rates([79, 80, 85, 100], 100, **wsd) == pytest.approx([1.0, 1.0, 0.5, 0.0])
