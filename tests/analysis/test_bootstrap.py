"""Resampling: the units, the corrections, the count of clusters, and the coverage of intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tokenlaw.analysis.coverage import coverage
from tokenlaw.analysis.fitting import bootstrap
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.request import FitRequest
from tokenlaw.analysis.table import prepare


def line(num: int, noise: float = 0.01, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = np.geomspace(1e17, 1e20, num)
    return pd.DataFrame(
        {
            "run_id": [f"r{at}" for at in range(num)],
            "C": x,
            "loss": 60 * x**-0.11 * np.exp(rng.normal(0, noise, num)),
        }
    )


def test_every_resample_keeps_clusters_whole_and_strata_at_their_size() -> None:
    ids = np.array([0, 0, 1, 2, 2, 2, 3])
    strata = np.array([0, 0, 0, 1, 1, 1, 1])
    weights = bootstrap.weights(ids, 500, np.random.default_rng(0), strata)
    assert weights.shape == (500, 7)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    assert (weights[:, 3] + weights[:, 6] == 2).all()
    plain = bootstrap.weights(ids, 500, np.random.default_rng(0))
    assert (plain[:, [0, 2, 3, 6]].sum(axis=1) == 4).all()
    assert plain[:, 0].var() == pytest.approx(0.75, rel=0.2)  # binomial, 4 draws of 1/4


def test_some_rows_of_many_have_the_weights_of_all() -> None:
    rng = np.random.default_rng(0)
    some = bootstrap.weights_of_some(1000, 50, 4000, rng)
    assert some.shape == (4000, 50)
    assert some.mean() == pytest.approx(1.0, abs=0.02)
    assert some.var() == pytest.approx(1.0, abs=0.05)
    assert (some == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)


def test_the_small_sample_factor_is_dof_and_student() -> None:
    factor, stretch = bootstrap.noise_factor(6, 3)
    assert stretch == pytest.approx(stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975))
    assert factor == pytest.approx(np.sqrt(2.0) * stretch)
    assert bootstrap.noise_factor(10**6, 3)[0] == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="3 rows and 3 parameters"):
        bootstrap.noise_factor(3, 3)


def test_auto_takes_residuals_for_few_runs_and_runs_for_many() -> None:
    few = fit(line(9), FitRequest(law="power_law", bootstrap=50))
    many = fit(line(40), FitRequest(law="power_law", bootstrap=50))
    assert few.bootstrap is not None and many.bootstrap is not None
    assert few.bootstrap.by == "residual" and few.bootstrap.stretch > 1.1
    assert many.bootstrap.by == "run" and many.bootstrap.stretch == 1.0
    assert (few.bootstrap.clusters, many.bootstrap.clusters) == (9, 40)


def test_correlated_points_need_clusters() -> None:
    """Ten points of each run share an offset: by point the error of b is far too small."""
    rng = np.random.default_rng(0)
    runs = line(24, noise=0.0)
    rows = []
    for _, run in runs.iterrows():
        offset = rng.normal(0, 0.02)
        for step in range(10):
            y = run["loss"] * np.exp(offset + rng.normal(0, 0.001))
            rows.append({**run, "step": step, "loss": y, "twin": int(run["run_id"][1:]) // 2})
    frame = pd.DataFrame(rows)

    def error(by: str) -> float:
        found = fit(
            frame,
            FitRequest(
                law="power_law",
                loss="l2",
                by=by,
                bootstrap=300,
                end_points=False,
                with_checks=False,
            ),
        )
        assert "W-CHECKPOINTS" in {one.code for one in found.warnings}
        return found.se["b"]

    assert error("run") / error("point") > 2.0
    found = fit(
        frame, FitRequest(law="power_law", loss="l2", by="twin", bootstrap=50, end_points=False)
    )
    assert found.bootstrap is not None and found.bootstrap.clusters == 12
    text = next(one.text for one in found.checklist if one.name == "uncertainty")
    assert "12 clusters" in text and "by twin" in text
    # By default only the last checkpoint of each run is an end point.
    assert fit(frame, FitRequest(law="power_law", bootstrap=0)).n == 24


def test_runs_of_one_trunk_are_reported() -> None:
    frame = line(24).assign(trunk_id=[f"t{at // 4}" for at in range(24)])
    by_run = fit(frame, FitRequest(law="power_law", by="run", bootstrap=50))
    assert "W-CLUSTER" in {one.code for one in by_run.warnings}
    by_trunk = fit(frame, FitRequest(law="power_law", by="trunk_id", bootstrap=50))
    codes = {one.code for one in by_trunk.warnings}
    assert "W-CLUSTER" not in codes and "W-FEW-CLUSTERS" in codes


def test_a_cluster_column_must_exist_and_be_filled() -> None:
    with pytest.raises(ValueError, match="--by: 'trunc' is not run, point, residual"):
        fit(line(9), FitRequest(law="power_law", by="trunc"))
    holes = line(9).assign(trunk=[None, *range(8)])
    with pytest.raises(ValueError, match="column 'trunk' is missing in 1 rows"):
        fit(holes, FitRequest(law="power_law", by="trunk"))


def test_no_degrees_of_freedom_means_no_interval() -> None:
    found = fit(line(2), FitRequest(law="power_law", bootstrap=100))
    assert found.status == "ok" and found.ci95 == {} and found.bootstrap is None
    assert "W-NO-DOF" in {one.code for one in found.warnings}


def test_the_same_seed_gives_the_same_draws() -> None:
    first = fit(line(30), FitRequest(law="power_law", bootstrap=60, seed=5))
    again = fit(line(30), FitRequest(law="power_law", bootstrap=60, seed=5))
    other = fit(line(30), FitRequest(law="power_law", bootstrap=60, seed=6))
    assert first.to_json() == again.to_json()
    assert first.ci95["b"] != other.ci95["b"]


def test_draws_of_a_straight_line_have_the_textbook_error() -> None:
    frame = line(60, noise=0.02)
    found = fit(
        frame,
        FitRequest(law="power_law", loss="l2", bootstrap=2000, by="residual", with_checks=False),
    )
    answer = stats.linregress(np.log(frame["C"]), np.log(frame["loss"]))
    assert found.params["b"] == pytest.approx(-answer.slope, rel=1e-9)
    assert found.se["b"] == pytest.approx(answer.stderr, rel=0.1)


def test_one_newton_step_stands_in_for_refits_of_large_tables() -> None:
    from tokenlaw.analysis.fitting import draws as module

    frame = line(400, noise=0.02).assign(loss=lambda table: table["loss"] + 1.0)
    keywords = {"options": {"floor": "free"}, "loss": "l2", "by": "run", "bootstrap": 400}
    whole = fit(frame, FitRequest(law="power_law", with_checks=False, **keywords))
    old = module.ONE_STEP_ROWS
    try:
        module.ONE_STEP_ROWS = 100
        step = fit(frame, FitRequest(law="power_law", with_checks=False, **keywords))
    finally:
        module.ONE_STEP_ROWS = old
    assert step.params == whole.params
    for name in ("E", "b"):
        assert step.se[name] == pytest.approx(whole.se[name], rel=0.15)


def test_naive_residuals_do_not_cover_and_corrected_ones_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five budgets over three decades, one decade out, the design of many studies."""
    design = {
        "law": FitRequest(bootstrap=120, by="residual", loss="l2"),
        "params": {"a": 60.0, "b": 0.11},
        "columns": {"x": np.geomspace(1e17, 1e20, 5)},
        "at": {"x": 1e21},
        "noise": 0.02,
        "trials": 120,
    }
    corrected = coverage(**design)
    assert corrected.share >= 0.90 and corrected.without == 0
    assert abs(corrected.bias) < 0.01
    monkeypatch.setattr(bootstrap, "noise_factor", lambda rows, params: (1.0, 1.0))
    naive = coverage(**design)
    assert naive.share <= 0.85
    assert naive.width < 0.7 * corrected.width


def test_clusters_of_a_table_without_run_ids_are_its_rows() -> None:
    data = prepare(line(6).drop(columns="run_id"), {"x": "C", "y": "loss"}, ("x", "y"))
    assert bootstrap.clusters(data, "run").num == 6
    assert bootstrap.clusters(data, "point").num == 6
    assert bootstrap.clusters(data, "C").num == 6
