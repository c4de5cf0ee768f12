"""The solver against independent ones: scipy's optimisers, linear programs, differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from tokenlaw.analysis.fitting.solve import (
    Terms,
    grid_starts,
    least_absolute,
    losses,
    minimise,
    newton,
    objective,
)
from tokenlaw.analysis.laws.chinchilla import chinchilla_terms


def problem(num: int = 80, noise: float = 0.01, seed: int = 0) -> tuple[Terms, np.ndarray]:
    rng = np.random.default_rng(seed)
    log_n, log_d = rng.uniform(15, 21, num), rng.uniform(19, 25, num)
    y = 1.7 + 400 * np.exp(-0.34 * log_n) + 2000 * np.exp(-0.36 * log_d)
    log_y = np.log(y) + noise * rng.standard_t(3, num)
    return chinchilla_terms(log_n - log_n.mean(), log_d - log_d.mean(), log_y), log_y


def test_losses_are_hubers() -> None:
    r = np.array([-2.0, -0.5, 0.0, 1.0, 3.0])
    assert losses(r, 1.0) == pytest.approx([1.5, 0.125, 0.0, 0.5, 2.5])
    assert losses(r, np.inf) == pytest.approx(0.5 * r**2)
    assert objective(r, "l1", 1.0) == 6.5
    assert objective(r, "huber", 1.0) == pytest.approx(4.625)
    assert objective(r, "l2", 1.0) == pytest.approx(7.125)


def test_slopes_and_bend_are_the_derivatives() -> None:
    terms, _ = problem(12)
    theta = np.array([[0.8, -1.0, -1.3, 0.4, 0.3]])
    z, jac, extra = terms.slopes(theta)
    assert extra is not None
    weight = np.random.default_rng(0).normal(size=(1, 12))
    bend = terms.bend(weight, jac, extra)[0]
    step = 1e-5
    for one in range(5):
        up, down = theta.copy(), theta.copy()
        up[0, one] += step
        down[0, one] -= step
        slope = (terms.log_y(up) - terms.log_y(down))[0] / (2 * step)
        assert jac[0, :, one] == pytest.approx(slope, abs=1e-8)
        turn = (terms.slopes(up)[1] - terms.slopes(down)[1])[0] / (2 * step)
        assert bend[one] == pytest.approx(weight[0] @ turn, abs=1e-7)


@pytest.mark.parametrize("delta", [1e-3, 1e-2, np.inf])
def test_no_optimiser_of_scipy_gets_lower(delta: float) -> None:
    terms, log_y = problem()
    ones = np.ones(len(log_y))
    loss = "l2" if np.isinf(delta) else "huber"
    starts = grid_starts(terms, log_y, ones)
    found = minimise(terms, log_y, ones, starts, loss=loss, delta=delta)
    best = found.objective_B.min()
    assert found.decrement_B[found.objective_B.argmin()] < 1e-12

    def value(theta: np.ndarray) -> float:
        return 1e3 * float(losses(terms.log_y(theta[None])[0] - log_y, delta).sum())

    rng = np.random.default_rng(0)
    box = list(zip(terms.low_P, terms.high_P, strict=True))
    for start in starts[:2]:
        for method in ("L-BFGS-B", "Nelder-Mead"):
            moved = start + rng.normal(0, 0.05, 5)
            other = minimize(value, moved, method=method, bounds=box, options={"maxiter": 3000})
            assert best <= other.fun / 1e3 * (1 + 1e-9)


def test_least_absolute_of_a_line_is_the_linear_program() -> None:
    rng = np.random.default_rng(0)
    u = rng.normal(size=41)
    log_y = 0.3 - 0.2 * u + 0.05 * rng.standard_t(2, 41)
    terms = Terms(
        features_KnP=np.stack([np.ones(41), -u], axis=1)[None],
        offset_Kn=np.zeros((1, 41)),
        low_P=np.array([-9.0, -9.0]),
        high_P=np.array([9.0, 9.0]),
        amplitude_K=(0,),
        grid_GQ=np.linspace(-1, 1, 9)[:, None],
    )
    ones = np.ones(41)
    start = minimise(terms, log_y, ones, grid_starts(terms, log_y, ones), loss="l1").theta_BP[0]
    theta = least_absolute(terms, log_y, ones, start)
    got = np.abs(terms.log_y(theta[None])[0] - log_y).sum()
    design = np.stack([np.ones(41), -u], axis=1)
    answer = linprog(
        np.concatenate([np.zeros(2), np.ones(82)]),
        A_eq=np.hstack([design, -np.eye(41), np.eye(41)]),
        b_eq=log_y,
        bounds=[(None, None)] * 2 + [(0, None)] * 82,
    )
    assert got == pytest.approx(answer.fun, rel=1e-9)


def test_a_batch_is_its_draws_one_by_one() -> None:
    terms, log_y = problem(40)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=6).astype(float)
    start = minimise(terms, log_y, np.ones(40), grid_starts(terms, log_y, np.ones(40))).theta_BP[:1]
    batch = minimise(terms, log_y, weights, np.repeat(start, 6, axis=0))
    noisy = log_y + 0.01 * rng.normal(size=(6, 40))
    moved = minimise(terms, noisy, np.ones(40), np.repeat(start, 6, axis=0))
    for one in range(6):
        alone = minimise(terms, log_y, weights[one], start)
        assert batch.objective_B[one] == pytest.approx(alone.objective_B[0], rel=1e-8)
        alone = minimise(terms, noisy[one], np.ones(40), start)
        assert moved.objective_B[one] == pytest.approx(alone.objective_B[0], rel=1e-8)


def test_weights_count_rows() -> None:
    terms, log_y = problem(30)
    weights = np.ones(30)
    weights[:5] = 2.0
    rows = np.concatenate([np.arange(5), np.arange(30)])
    twice = Terms(
        features_KnP=terms.features_KnP[:, rows],
        offset_Kn=terms.offset_Kn[:, rows],
        low_P=terms.low_P,
        high_P=terms.high_P,
        amplitude_K=terms.amplitude_K,
        floors=terms.floors,
        grid_GQ=terms.grid_GQ,
    )
    start = grid_starts(terms, log_y, weights)[:1]
    one = newton(terms, log_y, weights, start, delta=np.inf)
    other = newton(twice, log_y[rows], np.ones(35), start, delta=np.inf)
    assert one.theta_BP == pytest.approx(other.theta_BP, rel=1e-6)


def test_the_edge_of_the_box_is_reached_and_told() -> None:
    """Data that want a negative floor end exactly at none."""
    u = np.linspace(-3, 3, 20)
    log_y = -0.2 * u - 0.02 * u**2
    one, none = np.ones(20), np.zeros(20)
    power = np.stack([none, one, -u], axis=1)
    terms = Terms(
        features_KnP=np.stack([np.zeros_like(power), power]),
        offset_Kn=np.stack([np.full(20, log_y.min()), none]),
        low_P=np.array([0.0, -30.0, -4.0]),
        high_P=np.array([5.0, 30.0, 4.0]),
        amplitude_K=(0, 1),
        floors=(0,),
        grid_GQ=np.geomspace(0.01, 4, 20)[:, None],
    )
    found = newton(terms, log_y, one, np.array([[0.5, -1.0, 0.4]]), delta=np.inf)
    assert found.theta_BP[0, 0] == 0.0 and found.at_bound_BP[0].tolist() == [True, False, False]
    assert found.theta_BP[0, 2] == pytest.approx(-np.polyfit(u, log_y, 1)[0], rel=1e-9)
