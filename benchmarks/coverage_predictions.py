"""Measure how often "95% of a new run" holds a new run, and its width over an oracle's.

python benchmarks/coverage_predictions.py [--trials 1000] [--tables FOLDER]

A power law with n runs over three decades; the new run lies in the middle ("inside") or a third of
a decade beyond the largest ("beyond"). The oracle knows the noise and the form, and fits the two
parameters by least squares. A missing or infinite interval is a miss. With FOLDER, which holds
public tables as NAME_train.parquet and NAME_test.parquet, the laws of those tables are fitted to
the first and counted on the second.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.fitting.fitted import Fit, Fits
from tokenlaw.analysis.request import FitRequest

# Public tables (ScaleBench): name -> law, columns by role, group.
TABLES = {
    "farseer": ("farseer", {"y": "loss", "n": "N", "d": "D"}, "none"),
    "data_constrained": (
        "data_constrained",
        {"y": "loss", "n": "params", "d": "tokens", "u": "unique_tokens"},
        "none",
    ),
    "parallel": ("parallel", {"y": "loss", "n": "num_params", "p": "parallel_size"}, "group"),
    "vocab": (
        "vocabulary",
        {
            "y": "unigram_normalized_loss",
            "n": "non_vocab_parameters",
            "v": "vocab_size",
            "d": "num_characters",
        },
        "none",
    ),
}
SIZE = 0.01  # of the noise, in logs; for t3 its scale
SIZES = (5, 8, 12, 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """Coverage of a new run by the interval at one point."""

    share: float
    width_over_oracle: float  # median


def new_run_coverage(
    num: int, noise: str, *, trials: int, draws: int, seed: int, beyond: bool = False
) -> NewRun:
    """Return the coverage for `num` runs with "normal" or "t3" noise."""
    rng = np.random.default_rng([seed, num, len(noise)])
    x = np.geomspace(1e18, 1e21, num)
    at = np.array([2e21 if beyond else 3e19])
    true = float(np.log(60 * at**-0.11)[0])
    covered, widths = 0, []
    for trial in range(trials):
        e = rng.normal(size=num + 1) if noise == "normal" else rng.standard_t(3, num + 1)
        frame = pd.DataFrame({"C": x, "loss": 60 * x**-0.11 * np.exp(SIZE * e[:num])})
        found = fit(
            frame, FitRequest(law="power_law", bootstrap=draws, seed=trial, with_checks=False)
        )
        assert isinstance(found, Fit)
        got = found.predict({"x": at})
        low, high = np.log(got.low_new[0]), np.log(got.high_new[0])
        covered += bool(low <= true + SIZE * e[num] <= high and np.isfinite(high - low))
        widths.append(high - low)
    design = np.stack([np.ones(num), np.log(x)], axis=1)
    point = np.array([1.0, np.log(at[0])])
    leverage = point @ np.linalg.solve(design.T @ design, point)
    quantile = stats.norm.ppf(0.975) if noise == "normal" else stats.t.ppf(0.975, 3)
    oracle = 2 * quantile * SIZE * np.sqrt(1 + leverage)
    return NewRun(share=covered / trials, width_over_oracle=float(np.median(widths)) / oracle)


def on_table(folder: Path, name: str) -> tuple[int, int, float]:
    """Return the targets inside their interval, the targets, and R2 of a public table."""
    law, columns, group = TABLES[name]
    train, test = (pd.read_parquet(folder / f"{name}_{part}.parquet") for part in ("train", "test"))
    found = fit(train, FitRequest(law=law, group=group, with_checks=False, **columns))  # type: ignore[arg-type]
    fits = found if isinstance(found, Fits) else {None: found}
    inside, true, predicted = 0, [], []
    for key, one in fits.items():
        rows = test if key is None else test[test[group] == key]
        y = rows[columns["y"]].to_numpy()
        got = one.predict({role: rows[column] for role, column in columns.items() if role != "y"})
        inside += int(((got.low_new <= y) & (y <= got.high_new)).sum())
        true += y.tolist()
        predicted += got.y.tolist()
    error = float(((np.array(true) - predicted) ** 2).sum())
    return inside, len(true), 1 - error / float(((true - np.mean(true)) ** 2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--tables", type=Path)
    args = parser.parse_args()
    if args.tables is not None:
        print("| table | targets inside | R2 |\n|---|---|---|")
        for name in TABLES:
            inside, num, r2 = on_table(args.tables, name)
            print(f"| {name} | {inside} of {num} | {r2:.3f} |", flush=True)
    print("| n | noise | new run | covered | width over the oracle's |\n|---|---|---|---|---|")
    for noise in ("normal", "t3"):
        for num in SIZES:
            for beyond in (False, True):
                found = new_run_coverage(
                    num, noise, trials=args.trials, draws=200, seed=7, beyond=beyond
                )
                place = "beyond" if beyond else "inside"
                print(
                    f"| {num} | {noise} | {place} | {found.share:.3f} "
                    f"| {found.width_over_oracle:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
