"""Published and measured numbers on public data, reproduced through the public functions.

Tables are read from TOKENLAW_DATA, or from ../shared/data beside the repository; a test whose table
is not there is skipped and says so. A8 and A16 need no table.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis import command
from tokenlaw.analysis.coverage import coverage
from tokenlaw.analysis.fitting.fit import fit, hold_out
from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.request import FitRequest, FrontierRequest
from tokenlaw.analysis.table_files import read

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TOKENLAW_DATA", ROOT.parent / "shared" / "data"))


def table(name: str) -> pd.DataFrame:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {name} in {DATA} (set TOKENLAW_DATA to the folder of public tables)")
    return read(path)


EPOCH = {
    "x": "Training FLOP",
    "n": "Model Size",
    "y": "loss",
    "where": "loss < 3.44",  # the paper's filter: without the five highest losses
}


@pytest.fixture(scope="module")
def epoch() -> pd.DataFrame:
    return table("epoch_chinchilla/svg_extracted_data.csv")


def test_a1_chinchilla_by_huber_is_the_global_optimum(epoch: pd.DataFrame) -> None:
    found = fit(epoch, FitRequest(law="chinchilla", bootstrap=0, **EPOCH))
    assert found.n == 240 and found.n_left_out == 5
    assert found.objective is not None and found.objective <= 1.01828e-3
    params = found.params
    assert params["E"] == pytest.approx(1.8172, abs=3e-4)
    assert params["alpha"] == pytest.approx(0.34731, abs=3e-4)
    assert params["beta"] == pytest.approx(0.36717, abs=4e-4)
    assert params["A"] == pytest.approx(477.8, rel=0.01)
    assert params["B"] == pytest.approx(2143, rel=0.01)
    assert found.derived["a"] == pytest.approx(0.5139, abs=1e-3)
    # Against the paper, whose headline is another fit of the same data.
    assert params["E"] == pytest.approx(1.817, abs=0.002)
    assert params["alpha"] == pytest.approx(0.3478, abs=0.002)
    assert params["beta"] == pytest.approx(0.3658, abs=0.003)
    assert params["A"] == pytest.approx(482, rel=0.02)
    assert params["B"] == pytest.approx(2085, rel=0.04)


def test_a1_chinchilla_by_least_absolute_deviation_is_the_published_headline(
    epoch: pd.DataFrame,
) -> None:
    found = fit(
        epoch, FitRequest(law="chinchilla", loss="l1", bootstrap=0, with_checks=False, **EPOCH)
    )
    assert found.objective is not None and found.objective <= 1.12950
    assert found.params["A"] == pytest.approx(482.01, rel=0.005)
    assert found.params["B"] == pytest.approx(2085.4, rel=0.005)
    assert found.params["E"] == pytest.approx(1.81686, abs=1e-4)


def test_a1_optimal_size_at_the_compute_of_chinchilla(epoch: pd.DataFrame) -> None:
    answer = command.fit(
        epoch, FitRequest(law="chinchilla", bootstrap=0, **EPOCH), pd.DataFrame({"C": [5.88e23]})
    )
    (found,) = answer["predictions"]
    assert found["n_optimal"] == pytest.approx(7.40e10, rel=0.005)
    assert found["d_optimal"] / found["n_optimal"] == pytest.approx(17.9, rel=0.01)


@pytest.mark.parametrize(
    ("loss", "delta", "expected"),
    [
        ("huber", 1e-5, (1.817, 0.348, 0.366, 0.513)),
        ("huber", 3e-3, (1.821, 0.349, 0.369, 0.514)),
        ("huber", 1e-2, (1.838, 0.354, 0.382, 0.518)),
        ("l2", 1e-3, (1.8646, 0.360, 0.406, 0.530)),
    ],
)
def test_a1_sensitivity_to_the_objective(
    epoch: pd.DataFrame, loss: str, delta: float, expected: tuple[float, ...]
) -> None:
    found = fit(
        epoch,
        FitRequest(
            law="chinchilla", loss=loss, delta=delta, bootstrap=0, with_checks=False, **EPOCH
        ),
    )
    got = (found.params["E"], found.params["alpha"], found.params["beta"], found.derived["a"])
    assert got == pytest.approx(expected, abs=1.1e-3)


def test_a2_bootstrap_intervals_are_the_published_ones(epoch: pd.DataFrame) -> None:
    found = fit(
        epoch, FitRequest(law="chinchilla", bootstrap=2000, seed=42, with_checks=False, **EPOCH)
    )
    assert found.bootstrap is not None and found.bootstrap.draws == 2000
    assert found.ci95["E"] == pytest.approx((1.769, 1.871), abs=0.005)
    assert found.ci95["alpha"] == pytest.approx((0.317, 0.373), abs=0.006)
    assert found.ci95["beta"] == pytest.approx((0.331, 0.415), abs=0.008)
    assert found.se["a"] == pytest.approx(0.020, abs=0.002)


def test_a3_held_out_compute(epoch: pd.DataFrame) -> None:
    check = hold_out(epoch, "chinchilla", "`Training FLOP` > 1e21", **EPOCH)
    assert (check.values["n_fit"], check.values["n_held"]) == (217, 23)
    assert check.values["rmsle"] is not None and check.values["rmsle"] <= 0.014
    assert check.values["bias"] is not None and abs(check.values["bias"]) <= 0.004


def test_a5_approach_2_on_llama_3() -> None:
    isoflops = table("isoflops_open_athena/isoflops_llama_3.csv")
    found = fit(
        isoflops,
        FitRequest(
            law="isoflop",
            x="budget",
            n="params",
            d="tokens",
            y="loss",
            where="experiment == 'llama_3__raw_loss'",
            bootstrap=0,
        ),
    )
    assert found.params["b"] == pytest.approx(0.5368, abs=0.002)
    assert found.params["d_coef"] == pytest.approx(0.299, abs=0.002)
    assert "W-EDGE" not in {one.code for one in found.warnings}  # all 10 minima are interior


def test_a6_approach_2_on_chinchilla_flags_the_edge_minimum() -> None:
    isoflops = table("isoflops_open_athena/isoflops_epochai_chinchilla.csv")
    keywords = {"x": "budget", "n": "params", "d": "tokens", "y": "loss"}
    found = fit(isoflops, FitRequest(law="isoflop", bootstrap=0, **keywords))
    assert found.params["a"] == pytest.approx(0.492, abs=0.003)
    assert [one.code for one in found.warnings].count("W-EDGE") == 1
    cubic = fit(isoflops, FitRequest(law="isoflop", bootstrap=0, options={"degree": 3}, **keywords))
    assert cubic.params["a"] == pytest.approx(0.481, abs=0.003)


@pytest.mark.parametrize(
    ("alpha", "beta", "width", "shift"),
    [
        (0.465, 0.155, 16.0, 0.301),  # A8
        (0.465, 0.155, 8.0, 0.16),
        (0.465, 0.155, 4.0, 0.07),
        (0.34, 0.28, 16.0, 0.054),
        (0.34, 0.28, 4.0, 0.013),
    ],
)
def test_a8_a_wide_parabola_misplaces_the_optimum_and_says_so(
    alpha: float, beta: float, width: float, shift: float
) -> None:
    truth = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": alpha, "beta": beta}
    budget = np.repeat(np.geomspace(1e17, 1e21, 5), 15)
    ratio = (alpha * truth["A"] / (beta * truth["B"])) ** (1 / (alpha + beta))
    best = ratio * (budget / 6) ** (beta / (alpha + beta))
    n = best * np.tile(np.geomspace(1 / width, width, 15), 5)
    d = budget / (6 * n)
    loss = truth["E"] + truth["A"] / n**alpha + truth["B"] / d**beta
    frame = pd.DataFrame({"C": budget, "N": n, "D": d, "loss": loss})

    found = fit(frame, FitRequest(law="isoflop", bootstrap=0, with_checks=False))
    middle = 1e19
    exact = ratio * (middle / 6) ** (beta / (alpha + beta))
    placed = found.params["n_coef"] * middle ** found.params["a"]
    assert placed / exact - 1 == pytest.approx(shift, abs=0.006)
    if width == 16.0 and alpha == 0.465:
        tokens = found.params["d_coef"] * middle ** found.params["b"]
        assert tokens / (middle / (6 * exact)) - 1 == pytest.approx(-0.23, abs=0.01)
    warned = "W-PARABOLA" in {one.code for one in found.warnings}
    assert warned == (shift > 0.05)

    third = fit(frame, FitRequest(law="chinchilla", bootstrap=0, with_checks=False))
    for name, value in truth.items():
        assert third.params[name] == pytest.approx(value, rel=1e-6)


@pytest.fixture(scope="module")
def llamagen() -> pd.DataFrame:
    published = table("image_generation/published_endpoints.csv")
    # 6 N T over 300 epochs of ImageNet's 1.281e6 images.
    flops = 6 * published["params_m"] * 1e6 * published["tokens_per_image"] * 3.843e8
    return published.assign(C=flops)


TWO_ARMS = {
    "x": "C",
    "y": "gfid",
    "group": "family",
    "where": "family in ('LlamaGen-256', 'LlamaGen-576')",
}


def test_a11_the_floor_moves_the_crossover(llamagen: pd.DataFrame) -> None:
    answer = command.frontier(llamagen, FrontierRequest(bootstrap=200, **TWO_ARMS))
    found = {one["form"]: one for one in answer["crossovers"]}
    assert found["straight"]["x"] == pytest.approx(1.21e21, rel=0.01)
    assert found["floor"]["x"] == pytest.approx(3.7e20, rel=0.07)
    assert found["straight"]["better_below"] == "LlamaGen-256"
    codes = {one["code"] for one in answer["warnings"]}
    assert {"W-FORM", "W-OUTSIDE"} <= codes


def test_a11_interval_at_the_noise_of_fid(llamagen: pd.DataFrame) -> None:
    found = compare(llamagen, FrontierRequest(bootstrap=1000, noise=0.013, **TWO_ARMS)).crossovers[
        0
    ]
    assert found.form == "straight"
    low, high = found.ci95
    assert low == pytest.approx(0.9e21, rel=0.08)
    assert high == pytest.approx(1.8e21, rel=0.08)


def test_a13_resampling_points_hides_most_of_the_uncertainty() -> None:
    rows = table("misfitting/scaling_results.csv")
    own = ["model", "total_steps", "peak_lr", "sweep"]
    rows["run_id"] = rows[own].astype(str).agg("/".join, axis=1)
    last = rows.sort_values("current_steps").groupby("run_id").tail(1)
    best = last.sort_values("loss").groupby(["model", "total_steps"]).head(1)["run_id"]
    late = (rows["portion_steps_elapsed"] > 0.1) & (rows["loss"] < 6)
    rows = rows[rows["run_id"].isin(best) & late]
    # Some runs were done twice; the later entry stands.
    rows = rows.drop_duplicates(["run_id", "current_steps"], keep="last").rename(
        columns={"current_steps": "step"}
    )
    assert rows["run_id"].nunique() == 78

    def error(by: str, draws: int) -> tuple[float, int]:
        found = fit(
            rows,
            FitRequest(
                law="chinchilla",
                n="N",
                d="D",
                y="loss",
                end_points=False,
                by=by,
                bootstrap=draws,
                with_checks=False,
            ),
        )
        assert found.bootstrap is not None
        return found.se["a"], found.bootstrap.clusters

    point, num_points = error("point", 300)
    run, num_runs = error("run", 200)
    size, num_sizes = error("model", 400)
    assert (num_points, num_runs, num_sizes) == (len(rows), 78, 11)
    assert point == pytest.approx(0.0206, rel=0.15)
    assert run / point >= 2
    assert size / point >= 3


def test_a15_dit_follows_compute() -> None:
    published = table("image_generation/published_endpoints.csv")
    where = "family == 'DiT' and train_steps == 400000"
    dit = published[(published["family"] == "DiT") & (published["train_steps"] == 400000)]
    assert len(dit) == 12
    correlation = np.corrcoef(dit["gfid"], np.log(dit["forward_gmacs"]))[0, 1]
    assert correlation == pytest.approx(-0.9298, abs=2e-4)
    answer = command.fit(
        published, FitRequest(x="forward_gmacs", y="gfid", where=where, loss="l2", bootstrap=0)
    )
    assert -answer["params"]["b"] == pytest.approx(-0.365, abs=1e-3)
    assert "W-MACS" in {one["code"] for one in answer["warnings"]}


def test_a16_intervals_cover_one_decade_out() -> None:
    found = coverage(
        FitRequest(
            law="power_law", bootstrap=120, by="residual", loss="l2", options={"floor": "free"}
        ),
        {"E": 1.5, "a": 2.0, "b": 0.15},
        {"x": np.geomspace(1.0, 1e3, 6)},
        {"x": 1e4},
        noise=0.013,
        trials=120,
    )
    assert found.without == 0
    assert found.share >= 0.90
