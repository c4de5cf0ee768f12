"""Properties of the analysis over random studies: recovery, units, order, what never happens."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tokenlaw.analysis import command
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.frontiers.compare import compare, pareto
from tokenlaw.analysis.request import FitRequest, FrontierRequest

few = settings(
    max_examples=25,
    # Small examples are not worth minutes of shrinking.
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
some = settings(few, max_examples=10)
number = st.floats(min_value=-1e3, max_value=1e3, allow_nan=False)


@few
@given(
    a=st.floats(0.1, 1e4),
    b=st.floats(-0.9, 2.0).filter(lambda b: abs(b) > 0.01),
    low=st.floats(1e2, 1e20),
    decades=st.floats(0.5, 5.0),
    num=st.integers(3, 30),
    loss=st.sampled_from(["huber", "l1", "l2"]),
)
def test_a_power_law_recovers_itself(
    a: float, b: float, low: float, decades: float, num: int, loss: str
) -> None:
    x = np.geomspace(low, low * 10**decades, num)
    frame = pd.DataFrame({"C": x, "loss": a * (x / low) ** -b})
    found = fit(frame, FitRequest(law="power_law", loss=loss, bootstrap=0, with_checks=False))
    assert found.status == "ok"
    assert found.params["b"] == pytest.approx(b, abs=1e-6)
    assert found.params["a"] * low**-b == pytest.approx(a, rel=1e-6)


@few
@given(
    floor=st.floats(0.2, 3.0),
    share=st.floats(0.2, 5.0),
    b=st.floats(0.08, 1.2),
    decades=st.floats(2.0, 4.0),
)
def test_a_floor_recovers_itself(floor: float, share: float, b: float, decades: float) -> None:
    x = np.geomspace(1e18, 1e18 * 10**decades, 14)
    frame = pd.DataFrame({"C": x, "loss": floor * (1 + share * (x / 1e18) ** -b)})
    found = fit(
        frame,
        FitRequest(
            law="power_law", options={"floor": "free"}, loss="l2", bootstrap=0, with_checks=False
        ),
    )
    assert found.params["E"] == pytest.approx(floor, rel=1e-4)
    assert found.params["b"] == pytest.approx(b, rel=1e-4)


@some
@given(
    floor=st.floats(0.5, 2.5),
    alpha=st.floats(0.15, 0.6),
    beta=st.floats(0.15, 0.6),
    of_size=st.floats(0.1, 1.0),
    of_data=st.floats(0.1, 1.0),
)
def test_chinchilla_recovers_itself(
    floor: float, alpha: float, beta: float, of_size: float, of_data: float
) -> None:
    n, d = (one.ravel() for one in np.meshgrid(np.geomspace(1, 300, 6), np.geomspace(1, 300, 6)))
    y = floor + of_size * n**-alpha + of_data * d**-beta
    frame = pd.DataFrame({"N": 1e7 * n, "D": 1e9 * d, "loss": y})
    found = fit(frame, FitRequest(law="chinchilla", bootstrap=0, with_checks=False))
    assert found.params["E"] == pytest.approx(floor, rel=1e-5)
    assert found.params["alpha"] == pytest.approx(alpha, rel=1e-4)
    assert found.params["beta"] == pytest.approx(beta, rel=1e-4)
    assert found.params["A"] * 1e7**-alpha == pytest.approx(of_size, rel=1e-3)


@few
@given(st.lists(st.tuples(number, number), max_size=30), st.randoms(use_true_random=False))
def test_pareto_dominates_everything_else(
    points: list[tuple[float, float]], random: object
) -> None:
    x, y = (np.array([point[at] for point in points]) for at in (0, 1))
    front = pareto(x, y)
    assert len(set(front)) == len(front)
    for at in range(len(points)):
        beaten = any(x[one] <= x[at] and y[one] <= y[at] for one in front)
        assert beaten
    for one in front:
        for other in front:
            assert one == other or not (x[other] <= x[one] and y[other] <= y[one])
    shuffled = list(range(len(points)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = pareto(x[shuffled], y[shuffled])
    assert list(zip(x[front], y[front], strict=True)) == [
        (x[shuffled][one], y[shuffled][one]) for one in again
    ]


@some
@given(
    unit_x=st.floats(1e-20, 1e6),
    unit_y=st.floats(1e-3, 1e3),
    seed=st.integers(0, 100),
)
def test_crossovers_and_gains_do_not_know_units(unit_x: float, unit_y: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.geomspace(1e17, 1e20, 9)
    y = np.concatenate([45.0 * x**-0.104, 66.0 * x**-0.113]) * np.exp(rng.normal(0, 0.003, 18))
    frame = pd.DataFrame({"arm": np.repeat(["vq", "crt"], 9), "C": np.tile(x, 2), "loss": y})
    keywords = {"x": "C", "y": "loss", "group": "arm", "bootstrap": 0}
    first = compare(frame, FrontierRequest(**keywords))
    scaled = frame.assign(C=frame["C"] * unit_x, loss=frame["loss"] * unit_y)
    second = compare(scaled.sample(frac=1.0, random_state=seed), FrontierRequest(**keywords))
    for one, other in zip(first.crossovers, second.crossovers, strict=True):
        assert (one.x is None) == (other.x is None)
        if one.x is not None and other.x is not None:
            tight = 1e-6 if one.form == "straight" else 1e-3
            assert other.x / unit_x == pytest.approx(one.x, rel=tight)
    straight, again = first.gains[0], second.gains[0]
    assert again.gain == pytest.approx(straight.gain, rel=1e-6)
    codes = [one.code for one in first.warnings]
    assert [one.code for one in second.warnings] == codes


GOOD = st.floats(min_value=1e-3, max_value=1e3) | st.sampled_from([1.0, 2.0, 3.0])
CELL = GOOD | st.sampled_from([np.nan, np.inf, -1.0, 0.0])
ARM = st.sampled_from(["vq", "crt", "ibq"])


def tables(*cells: st.SearchStrategy) -> st.SearchStrategy:
    """Rows of usable numbers, or rows with anything in them."""
    return st.one_of(
        *[
            st.lists(st.tuples(*(one if one is ARM else kind for one in cells)), max_size=14)
            for kind in (GOOD, CELL)
        ]
    )


@settings(few, max_examples=60)
@given(
    rows=tables(CELL, CELL, CELL),
    law=st.sampled_from(["power_law", "chinchilla", "isoflop", "overtraining"]),
)
def test_any_table_ends_in_numbers_a_status_or_one_line(
    rows: list[tuple[float, float, float]], law: str
) -> None:
    frame = pd.DataFrame(rows, columns=["N", "D", "loss"]).assign(
        C=lambda table: 6 * table["N"] * table["D"]
    )
    try:
        found = fit(
            frame, FitRequest(law=law, x="C", n="N", d="D", y="loss", bootstrap=20, by="point")
        )
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert json.loads(found.to_json()) == found.to_dict()
    if found.status != "ok":
        assert found.reason and found.params == {} and found.ci95 == {}
    else:
        assert all(np.isfinite(value) for value in found.params.values())
        assert found.objective is not None and np.isfinite(found.objective)
        assert command.render_text(
            command.fit(frame, FitRequest(law=law, x="C", n="N", d="D", bootstrap=0))
        )


@settings(few, max_examples=60)
@given(
    rows=tables(CELL, CELL, ARM),
    by=st.sampled_from(["auto", "run", "residual"]),
)
def test_any_table_ends_in_a_comparison_or_one_line(
    rows: list[tuple[float, float, str]], by: str
) -> None:
    frame = pd.DataFrame(rows, columns=["C", "gfid", "arm"])
    try:
        found = compare(frame, FrontierRequest(x="C", y="gfid", group="arm", bootstrap=20, by=by))
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert json.loads(found.to_json()) == found.to_dict()
    for one in found.frontiers.values():
        for form in one.curve:
            assert one.fits[form].status == "ok"
