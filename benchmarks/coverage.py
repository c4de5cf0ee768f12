"""Coverage of the intervals of `tokenlaw frontier`, by simulation of studies whose truth is known.

    python benchmarks/coverage.py [--trials 1000] [--draws 400] [--only WORD] [--json FILE]

Two arms have the law 3 (C / 1e18)^-.2 at eight budgets over two decades; A has one run a budget, B
has K. An interval that is missing or open counts as a miss. Beside each coverage stands the median
width over that of an oracle, which knows the noise, the law's form and which runs are the best. It
prints the table of docs/analysis.md and ends with 1 when a gate is missed. Every gate has seeds of
its own, on which nothing was chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from tokenlaw.analysis.frontiers.compare import compare  # noqa: E402
from tokenlaw.analysis.request import FrontierRequest  # noqa: E402
from tokenlaw.analysis.result import Comparison  # noqa: E402

BUDGETS = np.geomspace(1e18, 1e20, 8)
MIDDLE = 1e19
SLOPE = 0.2
NOISE = 0.013  # of FID between training seeds
NORMAL = 1.96
Z_WIDTH = 2 * NORMAL


def law(x: np.ndarray | float) -> Any:
    return 3.0 * (x / 1e18) ** -SLOPE


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """One kind of study, and what is asked of its intervals."""

    name: str
    make: Callable[[np.random.Generator], pd.DataFrame]
    asks: str  # "covers", "false" or "power"
    limit: float  # least coverage or power, or most false verdicts
    runs_a: float = 1.0  # runs a budget that an oracle averages
    runs_b: float = 1.0
    level_sd: float = 0.0  # of an arm's level, known to the oracle
    envelope: str = "pareto"
    gain: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Result of one design."""

    name: str
    trials: int
    asks: str
    limit: float
    gain: float  # share of trials whose interval of the gain holds the truth
    curve: float  # the same of B's curve
    significant: float  # share of trials called so
    gain_width: float  # median width over the oracle's
    curve_width: float

    def passed(self, slack: float = 0.0, widest: float = 1.6) -> bool:
        """Tell if the gate holds, with `slack` on shares."""
        if self.asks == "false":
            return self.significant <= self.limit + slack
        if self.asks == "power":
            return self.significant >= self.limit - slack
        covers = all(self.limit - slack <= one <= 0.99 + slack for one in (self.gain, self.curve))
        return covers and max(self.gain_width, self.curve_width) <= widest


def many_runs(
    rng: np.random.Generator, num: int, *, worse: float = 0.0, gain: float = 1.0
) -> pd.DataFrame:
    """A has one run a budget, B `num`; of B's the next is `worse` (log) than the one before."""
    rows = [("A", x, law(x)) for x in BUDGETS]
    for x in BUDGETS:
        rows += [
            ("B", x * (1 + 1e-6 * at), law(x * gain) * np.exp(worse * at)) for at in range(num)
        ]
    frame = pd.DataFrame(rows, columns=["arm", "C", "loss"])
    return frame.assign(loss=frame["loss"] * np.exp(rng.normal(0, NOISE, len(frame))))


def seeds(rng: np.random.Generator) -> pd.DataFrame:
    """A has one seed of every cell, B three."""
    rows = [("A", x, 0) for x in BUDGETS] + [("B", x, one) for x in BUDGETS for one in range(3)]
    frame = pd.DataFrame(rows, columns=["arm", "C", "train_seed"])
    return frame.assign(loss=law(frame["C"]) * np.exp(rng.normal(0, NOISE, len(frame))))


def tokenizers(rng: np.random.Generator, num: int) -> pd.DataFrame:
    """Both arms have `num` tokenizers that differ by a standard deviation of .35 in log y."""
    rows = []
    for arm in "AB":
        for one in range(num):
            level = np.exp(rng.normal(0, TOKENIZER_SD))
            rows += [
                (arm, f"{arm}{one}", x, law(x) * level * np.exp(rng.normal(0, NOISE)))
                for x in BUDGETS
            ]
    return pd.DataFrame(rows, columns=["arm", "tokenizer_id", "C", "gfcd"])


TOKENIZER_SD = 0.35


def designs() -> list[Design]:
    found = []
    for num in (1, 3, 5, 10):
        for envelope in ("pareto", "binned"):
            found.append(
                Design(
                    name=f"1 run against {num} equally good, {envelope}",
                    make=lambda rng, num=num: many_runs(rng, num),
                    asks="covers",
                    limit=0.90,
                    runs_b=num,
                    envelope=envelope,
                )
            )
    for num in (3, 5, 10):
        found.append(
            Design(
                name=f"1 run against a sweep of {num}, each 1% worse",
                make=lambda rng, num=num: many_runs(rng, num, worse=0.01),
                asks="covers",
                limit=0.90,
            )
        )
    found += [
        Design(
            name="1 seed against 3 of the same cells",
            make=seeds,
            asks="false",
            limit=0.07,
            runs_b=3,
        ),
        Design(
            name="true gain of 1.2, 1 run against 3",
            make=lambda rng: many_runs(rng, 3, gain=1.2),
            asks="power",
            limit=0.80,
            runs_b=3,
            gain=1.2,
        ),
        Design(
            name="5 tokenizers each, no difference",
            make=lambda rng: tokenizers(rng, 5),
            asks="false",
            limit=0.07,
            runs_a=5,
            runs_b=5,
            level_sd=TOKENIZER_SD / np.sqrt(5),
        ),
        Design(
            name="1 tokenizer each, no difference",
            make=lambda rng: tokenizers(rng, 1),
            asks="false",
            limit=0.0,
            level_sd=TOKENIZER_SD,
        ),
    ]
    return found


def simulate(design: Design, trials: int, draws: int) -> Row:
    """Compare `trials` made-up studies of a design."""
    first = zlib.crc32(design.name.encode())
    held_gain = held_curve = called = 0
    gain_widths, curve_widths = [], []
    for trial in range(trials):
        frame = design.make(np.random.default_rng([first, trial]))
        request = FrontierRequest(
            x="C",
            y=frame.columns[-1],
            group="arm",
            reference="A",
            envelope=design.envelope,
            bootstrap=draws,
            seed=trial,
        )
        found = compare(frame, request)
        low, high = gain_interval(found)
        held_gain += low <= np.log(design.gain) <= high
        gain_widths.append(high - low)
        called += next(one for one in found.gains if one.form == "straight").verdict == SIGNIFICANT
        low, high = curve_interval(found)
        held_curve += low <= np.log(law(MIDDLE * design.gain)) <= high
        curve_widths.append(high - low)
    sd_a, sd_b = (
        np.sqrt(NOISE**2 / (len(BUDGETS) * runs) + design.level_sd**2)
        for runs in (design.runs_a, design.runs_b)
    )
    return Row(
        name=design.name,
        trials=trials,
        asks=design.asks,
        limit=design.limit,
        gain=held_gain / trials,
        curve=held_curve / trials,
        significant=called / trials,
        gain_width=float(np.median(gain_widths) / (Z_WIDTH * np.hypot(sd_a, sd_b) / SLOPE)),
        curve_width=float(np.median(curve_widths) / (Z_WIDTH * sd_b)),
    )


SIGNIFICANT = "significant"


def gain_interval(found: Comparison) -> tuple[float, float]:
    """Return the interval of log gain in the middle; NaN (holds nothing) where an end is open."""
    one = next(gain for gain in found.gains if gain.form == "straight")
    ends = (None, None) if one.middle is None else one.middle.ci95
    low, high = (np.nan if end is None else float(np.log(end)) for end in ends)
    return low, high


def curve_interval(found: Comparison) -> tuple[float, float]:
    """Return the interval of log y of B's straight law in the middle."""
    fit = found.frontiers["B"].fits["straight"]
    if not len(fit.draws):
        return np.nan, np.nan
    logs = np.log(fit.curve_draws({"x": np.array([MIDDLE])})[:, 0])
    low, high = np.quantile(logs, [0.025, 0.975])
    return float(low), float(high)


def table(rows: list[Row]) -> str:
    """Return the rows as the table of docs/analysis.md."""
    lines = [
        "| study | gain held | B's curve held | significant | width over the oracle's: gain, curve "
        "| asked |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        asked = {"covers": f">= {one.limit:.2f}", "false": f"significant <= {one.limit:.2f}"}
        asks = asked.get(one.asks, f"significant >= {one.limit:.2f}")
        lines.append(
            f"| {one.name} | {one.gain:.3f} | {one.curve:.3f} | {one.significant:.3f} | "
            f"{one.gain_width:.2f}, {one.curve_width:.2f} | {asks} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 if a gate was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", default="", help="designs whose name holds this word")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    given = parser.parse_args()
    if given.trials < 1 or given.draws < 40:
        parser.error("--trials must be 1 or more, --draws 40 or more")
    chosen = [one for one in designs() if given.only in one.name]
    if not chosen:
        parser.error(f"--only: no design holds {given.only!r}")
    rows, start = [], time.process_time()
    for design in chosen:
        rows.append(simulate(design, given.trials, given.draws))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}\n")
    print(
        f"{given.trials} trials each, {given.draws} draws, {time.process_time() - start:.0f} cpu s"
    )
    missed = [one.name for one in rows if not one.passed()]
    print(f"missed: {', '.join(missed)}" if missed else "all gates hold")
    if given.json:
        given.json.write_text(json.dumps([asdict(one) for one in rows], indent=1))
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
