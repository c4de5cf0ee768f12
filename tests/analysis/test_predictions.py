"""Intervals of predictions: Student's t, leverage, and the error of the law's form."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.coverage_predictions import new_run_coverage
from tokenlaw.analysis import command
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.fitting.fitted import Fit
from tokenlaw.analysis.request import FitRequest
from tokenlaw.trainer import parts


def fitted(frame: pd.DataFrame, **keywords: object) -> Fit:
    found = fit(frame, FitRequest(law="power_law", **{"bootstrap": 200, **keywords}))  # type: ignore[arg-type]
    assert isinstance(found, Fit) and found.status == "ok"
    return found


def bent(num: int = 40, noise: float = 0.001) -> pd.DataFrame:
    """Return runs of a law with a floor, which a straight line misses beyond the data."""
    x = np.geomspace(1e17, 1e20, num)
    y = (1.5 + 2e3 * x**-0.2) * np.exp(np.random.default_rng(0).normal(0, noise, num))
    return pd.DataFrame({"C": x, "loss": y})


@pytest.mark.parametrize("noise", ["normal", "t3"])
@pytest.mark.parametrize("num", [5, 8, 12, 30])
def test_a_new_run_is_covered(num: int, noise: str) -> None:
    found = new_run_coverage(num, noise, trials=200, draws=60, seed=11)
    assert 0.90 <= found.share <= 0.99
    assert found.width_over_oracle <= (1.3 if num >= 12 else 1.6)


def test_an_interval_is_as_wide_as_the_forward_misses_say() -> None:
    found = fitted(bent())
    assert any(one.beyond_noise for one in found.forward)
    x = np.array([1e21, 1e22])
    truth = 1.5 + 2e3 * x**-0.2
    got = found.predict({"x": x})
    assert (np.abs(np.log(got.y / truth)) > 0.01).all()  # the line is wrong there
    assert (got.low_new < truth).all() and (truth < got.high_new).all()
    # Inside the fitted rows the residuals hold the error of the form.
    inside = found.predict({"x": np.array([1e18])})
    assert np.log(inside.high_new / inside.low_new)[0] < np.log(got.high_new / got.low_new)[0] / 2


def test_a_right_form_is_not_widened() -> None:
    x = np.geomspace(1e17, 1e20, 40)
    y = 60 * x**-0.11 * np.exp(np.random.default_rng(1).normal(0, 0.01, 40))
    found = fitted(pd.DataFrame({"C": x, "loss": y}))
    assert len(found.forward) == 5 and not any(one.beyond_noise for one in found.forward)


def test_a_mean_miss_is_judged_by_its_own_error() -> None:
    """A bias of one scatter over many runs is many standard errors."""
    x = np.geomspace(1e17, 1e21, 300)
    bend = np.where(x > 3e20, 0.012, 0.0)
    y = 60 * x**-0.11 * np.exp(np.random.default_rng(2).normal(0, 0.01, 300) + bend)
    check = next(
        one
        for one in fitted(pd.DataFrame({"C": x, "loss": y}), bootstrap=0).checks
        if one.name == "hold_out"
    )
    bias, scatter = check.values["bias"], check.values["scatter"]
    assert bias is not None and scatter is not None and abs(bias) < 2 * scatter
    assert check.passed is False


def test_compute_alone_has_a_distance() -> None:
    """A point that gives only C is as far outside as its compute is."""
    rng = np.random.default_rng(0)
    n, d = (
        one.ravel() for one in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(rng.normal(0, 0.005, n.size))
    found = fit(
        pd.DataFrame({"N": n, "D": d, "loss": loss}), FitRequest(law="chinchilla", bootstrap=60)
    )
    assert isinstance(found, Fit)
    got = found.predict({"x": np.array([6e19, 6e21])})
    assert got.decades_outside == pytest.approx([0.0, 1.0])


def test_a_negative_loss_has_a_law_and_an_interval() -> None:
    module = parts.load("laws", "vocabulary")
    columns, _ = module.Law(module.Config()).synthetic(np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(0, 0.02, len(columns["y"]))
    frame = pd.DataFrame({**columns, "y": columns["y"] + noise})
    roles = {role: role for role in columns}
    found = fit(frame, FitRequest(law="vocabulary", bootstrap=60, with_checks=False, **roles))
    assert isinstance(found, Fit) and frame["y"].min() < 0
    got = found.predict({role: columns[role] for role in "nvd"})
    share = ((got.low_new <= frame["y"]) & (frame["y"] <= got.high_new)).mean()
    assert 0.9 <= share <= 0.99
    with pytest.raises(ValueError, match="must be positive, but is -"):
        fit(frame, FitRequest(law="chinchilla", bootstrap=0, y="y", n="n", d="d"))


def test_the_allocation_has_intervals_in_text_and_json() -> None:
    rng = np.random.default_rng(0)
    n, d = (
        one.ravel() for one in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = (1.7 + 400 * n**-0.34 + 410 * d**-0.28) * np.exp(rng.normal(0, 0.005, n.size))
    frame = pd.DataFrame({"N": n, "D": d, "loss": loss})
    request = FitRequest(law="chinchilla", bootstrap=60)
    answer = command.fit(frame, request, pd.DataFrame({"C": [6e21]}))
    (entry,) = answer["predictions"]
    assert entry["decades_outside"] == pytest.approx(1.0)
    for role in "nd":
        low, high = entry[f"{role}_optimal_ci95"]
        assert low < entry[f"{role}_optimal"] < high
    text = command.render_text(answer)
    assert "N* " in text and "D* " in text and "1.00 decades outside the data" in text


def isoflops(*, even: bool) -> pd.DataFrame:
    """Return runs at five budgets, or evenly over three decades of compute."""
    c = np.geomspace(1e18, 1e21, 100) if even else np.repeat(np.geomspace(1e18, 1e21, 5), 20)
    n = 0.1 * c**0.5 * np.exp(np.tile(np.linspace(-1.5, 1.5, 20), 5))
    d = c / (6 * n)
    budget = np.repeat(np.arange(5) + 1, 20)
    return pd.DataFrame(
        {"C": c, "N": n, "D": d, "loss": 1.7 + 400 * n**-0.34 + 410 * d**-0.28, "cell": budget}
    )


def test_dense_compute_is_no_budget() -> None:
    request = FitRequest(law="isoflop", bootstrap=0)
    refused = fit(isoflops(even=True), request)
    assert isinstance(refused, Fit) and refused.status == "no_budgets"
    assert "100 rows over 1e+03x" in refused.reason and "--budget" in refused.reason
    told = fit(isoflops(even=True), FitRequest(law="isoflop", bootstrap=0, budget="cell"))
    assert isinstance(told, Fit) and told.status == "ok"
    good = fit(isoflops(even=False), request)
    assert isinstance(good, Fit) and good.params["a"] + good.params["b"] == pytest.approx(
        1, abs=0.01
    )
    assert "W-BUDGETS" not in {one.code for one in good.warnings}
    # Budgets that are none give exponents that do not add up.
    assert abs(told.params["a"] + told.params["b"] - 1) > 0.01
    assert "W-BUDGETS" in {one.code for one in told.warnings}
