"""What every law in analysis/laws promises, for each file of the folder."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.fitting.fitted import Fit
from tokenlaw.analysis.fitting.law import CurveLaw, Law
from tokenlaw.analysis.request import FitRequest
from tokenlaw.trainer import parts

NAMES = parts.names("laws")
# Options beyond the defaults under which a law must keep its promises too.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "power_law": ({"floor": "free"}, {"floor": 0.7}),
    "broken_power_law": ({"floor": "free"},),
    "gfid_from_loss": ({"scale": "arm"}, {"floor": "shared"}, {"floor": "none"}),
    "isoflop": ({"degree": 3},),
    "sigmoid": ({"floor": "free"}, {"floor": 0.05}),
}
CASES = [(name, options) for name in NAMES for options in ({}, *VARIANTS.get(name, ()))]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}".rstrip("-") for name, options in CASES]
ROLES = {"x": "C", "y": "loss", "n": "N", "d": "D", "u": "U", "v": "V", "p": "P", "group": "arm"}


def law_and_table(name: str, options: dict[str, Any]) -> tuple[Law, pd.DataFrame, dict[str, float]]:
    module = parts.load("laws", name)
    law = module.Law(module.Config(**options))
    columns, params = law.synthetic(np.random.default_rng(0))
    return law, pd.DataFrame({ROLES[role]: values for role, values in columns.items()}), params


def fitted(frame: pd.DataFrame, name: str, options: dict[str, Any], **keywords: Any) -> Fit:
    keywords = {"bootstrap": 0, "with_checks": False, **keywords}
    group = "arm" if "arm" in frame else None
    return fit(frame, FitRequest(law=name, options=options, group=group, **keywords))


def noisy(frame: pd.DataFrame, size: float = 0.01) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return frame.assign(loss=frame["loss"] * np.exp(rng.normal(0.0, size, len(frame))))


@pytest.mark.parametrize("name", NAMES)
def test_exposes_a_frozen_config_and_a_final_law(name: str) -> None:
    module = parts.load("laws", name)
    config = module.Config()
    assert issubclass(module.Law, Law)
    assert getattr(module.Law, "__final__", False)
    for one in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, one.name, one.default)
    assert set(module.REQUIRES) <= set(ROLES) and "y" in module.REQUIRES


def test_an_unknown_law_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'chinchila' is unknown \(did you mean 'chinchilla'"):
        fit(pd.DataFrame({"C": [1.0]}), "chinchila")
    with pytest.raises(ValueError, match="no option 'flor'; it has: floor"):
        fit(pd.DataFrame({"C": [1.0]}), FitRequest(law="power_law", options={"flor": "free"}))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("loss", ["huber", "l1", "l2"])
def test_recovers_its_own_law(name: str, options: dict[str, Any], loss: str) -> None:
    _, frame, params = law_and_table(name, options)
    found = fitted(frame, name, options, loss=loss)
    assert found.status == "ok"
    assert sorted(found.params) == sorted(params)
    for key, value in params.items():
        assert found.params[key] == pytest.approx(value, rel=1e-6), key
    assert found.objective is not None and found.objective < 1e-8
    if not isinstance(parts.load("laws", name).Law(parts.load("laws", name).Config()), CurveLaw):
        return  # the curve of a law of optima is the loss at the optimum, not at every row
    columns = {role: frame[column] for role, column in ROLES.items() if column in frame}
    del columns["y"]
    assert found.curve(columns) == pytest.approx(frame["loss"].to_numpy(), rel=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_the_order_of_rows_does_not_matter(name: str, options: dict[str, Any]) -> None:
    _, frame, _ = law_and_table(name, options)
    frame = noisy(frame)
    first = fitted(frame, name, options, loss="l2")
    second = fitted(frame.sample(frac=1.0, random_state=3), name, options, loss="l2")
    assert first.data_hash == second.data_hash
    assert second.params == pytest.approx(first.params, rel=1e-5)
    assert second.objective == pytest.approx(first.objective, rel=1e-9)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_units_do_not_matter(name: str, options: dict[str, Any]) -> None:
    _, frame, _ = law_and_table(name, options)
    frame = noisy(frame)
    factors = {"C": 1e-18 if name != "gfid_from_loss" else 0.125, "N": 1e-6, "D": 1e-9}
    if {"C", "N"} <= set(frame):
        factors["D"] = factors["C"] / factors["N"]  # C = 6 N D stays true
    factors["U"] = factors["D"]  # unique tokens are tokens
    other = frame.assign(
        **{name: frame[name] * factor for name, factor in factors.items() if name in frame},
        loss=frame["loss"] * 3.0,
    )
    scaled = dict(options)
    if isinstance(options.get("floor"), float):
        scaled["floor"] = options["floor"] * 3.0
    first = fitted(frame, name, options, loss="l2")
    second = fitted(other, name, scaled, loss="l2")
    assert first.objective is not None
    # Residuals of a raw law are in units of y.
    factor = 9.0 if law_and_table(name, options)[0].raw else 1.0
    assert second.objective == pytest.approx(factor * first.objective, rel=1e-6)

    def curve(found: Fit, table: pd.DataFrame) -> np.ndarray:
        columns = {role: table[column] for role, column in ROLES.items() if column in table}
        del columns["y"]
        return found.curve(columns)

    assert curve(second, other) == pytest.approx(3.0 * curve(first, frame), rel=1e-4)
    for key in ("b", "alpha", "beta", "eta", "c", "a"):
        if key in first.params and not law_and_table(name, options)[0].is_amplitude(key):
            assert second.params[key] == pytest.approx(first.params[key], rel=1e-3), key


DEGENERATE = {
    "one row": lambda frame: frame.head(1),
    "two rows": lambda frame: frame.head(2),
    "constant y": lambda frame: frame.assign(loss=2.0),
    "one x": lambda frame: frame.assign(
        **{name: frame[name].iloc[0] for name in ("C", "N", "D") if name in frame}
    ),
}


# Two points do determine a straight line.
DEGENERATE_CASES = [
    (name, case)
    for name in NAMES
    for case in DEGENERATE
    if (name, case) != ("power_law", "two rows")
]


@pytest.mark.parametrize(("name", "case"), DEGENERATE_CASES)
def test_degenerate_data_end_in_a_status_and_no_number(name: str, case: str) -> None:
    _, frame, _ = law_and_table(name, {})
    frame = DEGENERATE[case](noisy(frame)).reset_index(drop=True)
    frame["run_id"] = [f"r{at}" for at in range(len(frame))]
    found = fitted(frame, name, {}, bootstrap=50, with_checks=True)
    assert found.status in {"too_few", "no_spread", "collinear", "no_minimum"}
    assert found.reason
    assert found.params == {} and found.ci95 == {} and found.derived == {}
    assert found.objective is None and found.draws.size == 0
    assert json.loads(found.to_json()) == found.to_dict()
    with pytest.raises(ValueError, match="has no numbers"):
        found.curve({"x": [1.0]})


def test_a_ray_of_tokens_per_parameter_is_collinear() -> None:
    n = np.geomspace(1e7, 1e9, 8)
    frame = pd.DataFrame({"N": n, "D": 20 * n, "loss": 1.7 + 400 / n**0.3})
    assert fit(frame, FitRequest(law="chinchilla", bootstrap=0)).status == "collinear"
    assert fit(frame, FitRequest(law="overtraining", bootstrap=0)).status == "collinear"


def test_a_given_floor_above_the_data_is_a_status() -> None:
    frame = pd.DataFrame({"C": np.geomspace(1, 100, 5), "loss": [3.0, 2.5, 2.2, 2.1, 2.05]})
    found = fit(frame, FitRequest(law="power_law", options={"floor": 2.1}, bootstrap=0))
    assert found.status == "floor_above_data"
    with pytest.raises(ValueError, match="floor: 'some' is not allowed"):
        fit(frame, FitRequest(law="power_law", options={"floor": "some"}))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_json_round_trip_and_draws(name: str, options: dict[str, Any]) -> None:
    _, frame, _ = law_and_table(name, options)
    found = fitted(noisy(frame), name, options, bootstrap=60, by="run", loss="l2")
    assert found.status == "ok"
    assert json.loads(found.to_json()) == found.to_dict()
    if found.bootstrap is None:  # too few resamples could be fitted, and it says so
        assert "W-DRAWS" in {one.code for one in found.warnings}
        return
    assert found.draws.shape == (found.bootstrap.draws, len(found.params))
    assert found.bootstrap.draws + found.bootstrap.failed == 60
    for key, (low, high) in found.ci95.items():
        assert low is not None and high is not None and low <= high, key
    columns = {role: frame[column] for role, column in ROLES.items() if column in frame}
    del columns["y"]
    here, there = found.predict(columns), found.predict(columns)
    assert there.low == pytest.approx(here.low) and there.high_new == pytest.approx(here.high_new)
    assert (here.low_new <= here.low + 1e-9).mean() > 0.9
    assert (here.decades_outside == 0).all()


@pytest.mark.parametrize(
    ("law", "values"),
    [
        ("chinchilla", {"E": 1.0, "A": 3.0, "B": 1e-3, "alpha": 1e-4, "beta": 2e-4}),
        ("overtraining", {"E": 1.0, "a": 3.0, "b": 1e-3, "eta": 1e-4}),
        *(
            (law, {"n_coef": 1.0, "a": 50.0, "d_coef": 1.0, "b": -50.0})
            for law in ("isoflop", "chinchilla_approach1")
        ),
    ],
)
def test_an_optimum_that_no_float_can_hold_is_no_number(law: str, values: dict[str, float]) -> None:
    module = parts.load("laws", law)
    made = module.Law(module.Config())
    params = {name: np.array([value]) for name, value in values.items()}
    found = made.optimum(params, np.array([1e10, 1e20]))
    assert found is not None and np.isnan(found[0]).all() and np.isnan(found[1]).all()
    if law == "chinchilla":  # its loss is an ordinary number all the same: the lowest over N
        log_n = np.linspace(0.0, 2e5, 400_001)
        losses = 1 + 3 * np.exp(-1e-4 * log_n) + 1e-3 * np.exp(-2e-4 * (np.log(1e10 / 6) - log_n))
        got = made.curve(params, {"x": np.array([1e10])})
        assert got[0, 0] == pytest.approx(losses.min(), rel=1e-8)
