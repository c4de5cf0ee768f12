"""Frontiers: Pareto set, envelopes, selection inside resamples, crossovers, gains, warnings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis.frontiers import envelopes, winners_curse
from tokenlaw.analysis.frontiers.compare import ENVELOPES, compare, pareto
from tokenlaw.analysis.frontiers.crossover import Line, crossover, gain
from tokenlaw.analysis.request import FrontierRequest
from tokenlaw.analysis.result import Comparison
from tokenlaw.analysis.table import prepare


def study(
    arms: dict[str, tuple[float, float, float]],
    *,
    sizes: int = 5,
    durations: int = 6,
    noise: float = 0.003,
    seeds: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """A grid of sizes x durations per arm: loss = E + (A N^-a + B D^-b), arm -> (E, A, B)."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm, (floor, of_size, of_data) in arms.items():
        for n in np.geomspace(5e6, 2e8, sizes):
            for d in np.geomspace(2e8, 2e10, durations):
                for train_seed in range(seeds):
                    y = floor + of_size * n**-0.3 + of_data * d**-0.28
                    rows.append(
                        {
                            "arm": arm,
                            "run_id": f"{arm}-{len(rows)}",
                            "C": 6 * n * d,
                            "N": n,
                            "D": d,
                            "train_seed": train_seed,
                            "loss": y * np.exp(rng.normal(0, noise)),
                        }
                    )
    return pd.DataFrame(rows)


TWO = {"vq": (1.6, 300.0, 400.0), "crt": (1.5, 320.0, 400.0)}
AXES = {"x": "C", "y": "loss", "group": "arm"}


def codes(found: Comparison) -> set[str]:
    return {one.code for one in found.warnings}


# --- the Pareto set -----------------------------------------------------------------------------


def test_pareto_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        x = rng.integers(0, 12, 40).astype(float)
        y = rng.integers(0, 12, 40).astype(float)
        x[rng.integers(40)] = np.nan
        y[rng.integers(40)] = np.inf
        sign = 1 if trial % 2 else -1
        found = pareto(x, y, direction="lower" if sign == 1 else "higher")
        good = np.isfinite(x) & np.isfinite(y)
        wanted = [
            at
            for at in np.flatnonzero(good)
            if not any(
                (x[other] <= x[at] and sign * y[other] < sign * y[at])
                or (x[other] < x[at] and y[other] == y[at])
                or (x[other] == x[at] and y[other] == y[at] and other < at)
                for other in np.flatnonzero(good)
            )
        ]
        assert sorted(found.tolist()) == wanted
        assert (np.diff(x[found]) > 0).all()


def test_pareto_of_nothing_and_of_an_unknown_direction() -> None:
    assert pareto(np.array([]), np.array([])).tolist() == []
    assert pareto(np.array([np.nan, 1.0]), np.array([1.0, np.nan])).tolist() == []
    with pytest.raises(ValueError, match="direction: 'up' is not allowed; lower or higher"):
        pareto(np.array([1.0]), np.array([1.0]), direction="up")


# --- envelopes ----------------------------------------------------------------------------------


def test_every_envelope_draws_and_the_model_is_the_smoothest() -> None:
    frame = study({"vq": TWO["vq"]}, noise=0.004)
    found = compare(frame, FrontierRequest(x="C", y="loss", n="N", d="D", bootstrap=0))
    (arm,) = found.frontiers.values()
    assert set(arm.envelopes) == set(ENVELOPES)
    for name in ("pareto", "binned", "hull", "model"):
        one = arm.envelopes[name]
        assert one.status == "ok" and len(one.x) == len(one.y) >= 3, name
        assert one.slope is not None and 0.01 < one.slope < 0.2, name
        assert list(one.x) == sorted(one.x)
    assert set(arm.envelopes["hull"].run_ids) <= set(arm.envelopes["pareto"].run_ids)
    runs = dict(zip(frame["run_id"], frame["loss"], strict=True))
    one = arm.envelopes["pareto"]
    assert [runs[name] for name in one.run_ids] == pytest.approx(one.y)
    # The compute-optimal loss of the model is close to the truth at the middle of the data.
    law = arm.envelopes["model"]
    x = law.x[6]
    n = np.geomspace(1e5, 1e11, 20000)
    truth = (1.6 + 300 * n**-0.3 + 400 * (x / 6 / n) ** -0.28).min()
    assert law.y[6] == pytest.approx(truth, rel=0.004)


def test_isoflop_envelope_needs_sizes_and_uses_minima() -> None:
    budget = np.repeat(np.geomspace(1e17, 1e20, 5), 9)
    u = np.tile(np.linspace(-1, 1, 9), 5)
    n = 0.1 * budget**0.5 * np.exp(u)
    frame = pd.DataFrame({"C": budget, "N": n, "loss": 20 * budget**-0.05 * (1 + 0.04 * u**2)})
    found = compare(frame, FrontierRequest(x="C", y="loss", n="N", envelope="isoflop", bootstrap=0))
    (arm,) = found.frontiers.values()
    assert arm.points.run_ids == ()
    assert arm.fits["straight"].params["b"] == pytest.approx(0.05, rel=1e-3)
    none = compare(
        frame.drop(columns="N"), FrontierRequest(x="C", y="loss", envelope="isoflop", bootstrap=0)
    )
    assert none.frontiers["all"].points.status == "needs the parameters (--n)"
    assert none.frontiers["all"].fits["straight"].status == "no_envelope"


def test_the_pareto_set_of_each_draw_is_the_pareto_set_of_its_runs() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"C": rng.integers(1, 9, 30), "loss": rng.integers(1, 9, 30), "run_id": range(30)}
    )
    data = prepare(frame, {"x": "C", "y": "loss"}, ("x", "y"))
    weights = rng.poisson(1.0, (60, 30)).astype(float)
    plain = np.log(data.columns["y"])[None]
    moved = plain + np.round(rng.normal(0, 0.3, (60, 30)), 1)
    for log_y in (plain, moved):
        found = envelopes.draw("pareto", data, log_y, weights, direction="lower", start=1.0)
        assert found.row_k is not None
        for draw in range(60):
            rows = np.flatnonzero(weights[draw] > 0)
            values = np.broadcast_to(log_y, weights.shape)[draw]
            wanted = rows[pareto(data.columns["x"][rows], values[rows])]
            assert found.row_k[found.use_Bk[draw]].tolist() == wanted.tolist()


def test_thinning_keeps_every_run_that_a_resample_can_select() -> None:
    rng = np.random.default_rng(0)
    num = 3000
    x = np.exp(rng.uniform(0, 8, num))
    frame = pd.DataFrame({"C": x, "loss": x**-0.003 * np.exp(np.abs(rng.normal(0, 0.1, num)))})
    data = prepare(frame, {"x": "C", "y": "loss"}, ("x", "y"))
    for name in ("pareto", "binned"):
        kept = envelopes.candidates(name, data, "lower", float(x.min()))
        assert len(kept) < num / 2
        weights = rng.poisson(1.0, (50, num)).astype(float)
        log_y = np.log(data.columns["y"])[None]
        whole = envelopes.draw(name, data, log_y, weights, direction="lower", start=float(x.min()))
        part = envelopes.draw(
            name,
            data.take(kept),
            log_y[:, kept],
            weights[:, kept],
            direction="lower",
            start=float(x.min()),
        )
        assert whole.row_k is not None and part.row_k is not None
        for draw in range(50):
            of_whole = set(whole.row_k[whole.use_Bk[draw]])
            assert of_whole == set(kept[part.row_k[part.use_Bk[draw]]])


# --- selection inside the resamples -------------------------------------------------------------


def test_draws_are_the_selection_of_each_resample() -> None:
    """With three runs a resample is one of few sets, and every draw is the line through one."""
    frame = pd.DataFrame({"C": [1.0, 10.0, 100.0, 1000.0], "loss": [4.0, 3.0, 2.5, 2.6]})
    found = compare(frame, FrontierRequest(x="C", y="loss", bootstrap=200, by="run"))
    fit = found.frontiers["all"].fits["straight"]
    got = {round(float(b), 6) for b in fit.draws[:, 1]}
    logs = np.log10(frame["loss"]).to_numpy()
    # The last run is dominated unless the third one is missing.
    # A draw lies as far on the other side of the fit as its resample lies from the Pareto set.
    measured = -np.polyfit([0, 1, 2], logs[:3], 1)[0]
    wanted = {
        round(float(fit.params["b"] + measured + np.polyfit(rows, logs[rows], 1)[0]), 6)
        for rows in ([0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [0, 1, 2], [0, 1, 3])
    }
    assert got == wanted


def test_clusters_that_span_arms_are_drawn_together() -> None:
    frame = study(TWO, seeds=8, sizes=3, durations=3)
    found = compare(frame, FrontierRequest(by="train_seed", bootstrap=50, **AXES))
    assert found.bootstrap is not None
    assert (found.bootstrap.by, found.bootstrap.clusters) == ("train_seed", 8)


# --- crossovers ---------------------------------------------------------------------------------


def law_line(arm: str, a: float, b: float, floor: float | None = None, num: int = 400) -> Line:
    """A line whose draws scatter in both parameters."""
    rng = np.random.default_rng(len(arm) + int(1000 * b))
    point = {"a": np.array([a]), "b": np.array([b])}
    draws = {
        "a": a * np.exp(rng.normal(0, 0.01, num)),
        "b": b + rng.normal(0, 0.002, num),
    }
    if floor is not None:
        point["E"] = np.array([floor])
        draws["E"] = floor * np.exp(rng.normal(0, 0.01, num))
    return Line(arm=arm, status="ok", point=point, draws=draws, low=1.0, high=1e4)


def test_crossover_of_straight_lines_is_the_closed_form() -> None:
    first, second = law_line("vq", 4.0, 0.20), law_line("crt", 5.0, 0.26)
    found = crossover(first, second, form="straight")
    exact = (5.0 / 4.0) ** (1 / 0.06)
    assert found.x == pytest.approx(exact, rel=1e-9)
    assert found.y == pytest.approx(4.0 * exact**-0.20, rel=1e-9)
    assert (found.better_below, found.better_above) == ("vq", "crt")
    assert found.outside_data is False and found.decades_outside == 0
    low, high = found.ci95
    assert low is not None and high is not None and low < exact < high
    draws = (second.draws["a"] / first.draws["a"]) ** (1 / (second.draws["b"] - first.draws["b"]))
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), rel=0.03)
    assert found.p_no_crossing == 0.0
    higher = crossover(first, second, form="straight", direction="higher")
    assert (higher.better_below, higher.better_above) == ("crt", "vq")


def test_parallel_lines_do_not_cross() -> None:
    found = crossover(law_line("vq", 4.0, 0.2), law_line("crt", 3.0, 0.2), form="straight")
    assert (found.status, found.x, found.ci95) == ("no crossing", None, (None, None))
    assert found.better_below == found.better_above == "crt"
    assert found.p_no_crossing is not None and found.p_no_crossing > 0.9


def test_an_interval_is_open_where_draws_do_not_cross() -> None:
    found = crossover(law_line("vq", 4.0, 0.200), law_line("crt", 4.05, 0.203), form="straight")
    assert found.status == "ok"
    assert found.p_no_crossing is not None and found.p_no_crossing > 0.1
    assert None in found.ci95


def test_a_crossing_far_away_is_outside_the_data() -> None:
    found = crossover(law_line("vq", 4.0, 0.20), law_line("crt", 7.0, 0.26), form="straight")
    exact = (7.0 / 4.0) ** (1 / 0.06)
    assert found.x == pytest.approx(exact, rel=1e-9)
    assert found.outside_data is (exact > 1e4)
    far = crossover(law_line("vq", 4.0, 0.20), law_line("crt", 8.0, 0.26), form="straight")
    assert far.outside_data is True
    assert far.decades_outside == pytest.approx(np.log10(2.0 ** (1 / 0.06)) - 4, abs=1e-6)


def test_curves_with_floors_may_cross_twice() -> None:
    first = law_line("vq", 2.0, 0.5, floor=1.0)
    second = law_line("crt", 2.2, 0.9, floor=1.12)
    found = crossover(first, second, form="floor")
    assert found.crossings == 2 and found.x is not None
    gap = 1.0 + 2.0 * found.x**-0.5 - (1.12 + 2.2 * found.x**-0.9)
    assert gap == pytest.approx(0.0, abs=1e-9)


def test_crossover_interval_covers_the_truth() -> None:
    """Two arms of known straight frontiers: nearly all intervals should hold the crossing."""
    exact = (60.0 / 45.0) ** (1 / 0.006)
    hit, trials = 0, 24
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        x = np.geomspace(exact / 30, exact * 30, 8)
        frame = pd.DataFrame(
            {
                "arm": np.repeat(["vq", "crt"], 8),
                "C": np.tile(x, 2),
                "loss": np.concatenate([45.0 * x**-0.104, 60.0 * x**-0.11])
                * np.exp(rng.normal(0, 0.003, 16)),
            }
        )
        found = compare(frame, FrontierRequest(bootstrap=200, seed=trial, **AXES)).crossovers[0]
        low, high = found.ci95
        hit += (low is None or low <= exact) and (high is None or exact <= high)
    assert hit >= 0.85 * trials


# --- gains --------------------------------------------------------------------------------------


def test_gain_of_straight_lines_is_the_closed_form() -> None:
    arm, reference = law_line("crt", 3.6, 0.22), law_line("vq", 4.0, 0.20)
    found = gain(arm, reference, form="straight")
    x = np.array(found.x)
    exact = (4.0 / (3.6 * x**-0.22)) ** (1 / 0.20) / x
    assert np.array(found.gain) == pytest.approx(exact, rel=1e-9)
    assert all(a <= b <= c for a, b, c in zip(found.low, found.gain, found.high, strict=True))
    assert not any(found.p_unreachable)
    flags = np.array(found.outside_data)
    assert (flags == (exact * x > 1e4)).all() and flags.any() and not flags.all()


def test_gain_beyond_the_reference_floor_is_no_number() -> None:
    arm = law_line("crt", 2.0, 0.5, floor=0.9)
    reference = law_line("vq", 2.0, 0.5, floor=1.0)
    found = gain(arm, reference, form="floor")
    values = [one is None for one in found.gain]
    assert values[0] is False and values[-1] is True
    assert found.p_unreachable[-1] == 1.0 and found.high[-1] is None and found.low[-1] is None


def test_gain_of_an_arm_over_itself_is_one() -> None:
    frame = study({"vq": TWO["vq"], "twin": TWO["vq"]}, noise=0.0)
    found = compare(frame, FrontierRequest(bootstrap=0, reference="vq", **AXES))
    for one in found.gains:
        assert one.arm == "twin"
        assert [value for value in one.gain] == pytest.approx([1.0] * len(one.gain), rel=1e-6)


# --- warnings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "lead", "false"), [(3, 1.1, 1.05), (5, 1.5, 1.07), (10, 2.0, 1.09), (30, 2.7, 1.12)]
)
def test_the_size_of_the_winners_curse(num: int, lead: float, false: float) -> None:
    """One seed per run, best of K, 1.3% noise as of FID, slope 0.234."""
    assert 100 * winners_curse.expected_lead(num) * 0.013 == pytest.approx(lead, abs=0.05)
    assert winners_curse.false_gain(num, 0.013, 0.234) == pytest.approx(false, abs=0.006)
    rng = np.random.default_rng(0)
    simulated = -rng.normal(0, 1, (20000, num)).min(axis=1).mean()
    assert winners_curse.expected_lead(num) == pytest.approx(simulated, abs=0.02)


def test_unequal_runs_per_budget_are_reported_with_their_size() -> None:
    many = study({"crt": TWO["vq"]}, seeds=6, noise=0.01).rename(columns={"train_seed": "depth"})
    few = study({"vq": TWO["vq"]}, seeds=4, noise=0.01, seed=1).assign(depth=0)
    found = compare(pd.concat([many, few]), FrontierRequest(bootstrap=0, **AXES))
    (text,) = [one.message for one in found.warnings if one.code == "W-WINNERS-CURSE"]
    assert "crt has" in text and "false compute gain of 1." in text
    crt, vq = found.frontiers["crt"], found.frontiers["vq"]
    assert crt.noise == pytest.approx(0.01, rel=0.2)  # from the repeated runs
    assert crt.winners_curse is not None and vq.winners_curse is not None
    assert crt.winners_curse > vq.winners_curse
    equal = compare(study(TWO), FrontierRequest(bootstrap=0, **AXES))
    assert "W-WINNERS-CURSE" not in codes(equal)


def test_where_the_form_decides_it_says_so() -> None:
    x = np.geomspace(1e18, 1e21, 8)
    frame = pd.DataFrame(
        {
            "arm": np.repeat(["vq", "crt"], 8),
            "C": np.tile(x, 2),
            "loss": np.concatenate([2.0 + 8e5 * x**-0.33, 1.5 + 1.3e6 * x**-0.33]),
        }
    )
    found = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    assert "W-FORM" in codes(found)
    straight = pd.DataFrame(
        {
            "arm": np.repeat(["vq", "crt"], 8),
            "C": np.tile(x, 2),
            "loss": np.concatenate([45.0 * x**-0.104, 60.0 * x**-0.11]),
        }
    )
    assert "W-FORM" not in codes(compare(straight, FrontierRequest(bootstrap=0, **AXES)))


def test_another_envelope_with_another_slope_is_a_warning() -> None:
    frame = study({"vq": TWO["vq"]}, sizes=2, durations=12, noise=0.0005)
    found = compare(frame, FrontierRequest(x="C", y="loss", n="N", d="D", bootstrap=100, by="run"))
    low, high = found.frontiers["all"].fits["straight"].ci95["b"]
    slopes = [one.slope for one in found.frontiers["all"].envelopes.values() if one.slope]
    assert low is not None and high is not None
    outside = any(not low <= slope <= high for slope in slopes)
    assert outside == ("W-ENVELOPES" in codes(found))


# --- tables -------------------------------------------------------------------------------------


def test_losses_per_token_of_different_tokenizers_are_refused() -> None:
    frame = study(TWO).rename(columns={"loss": "val_loss"})
    frame["tokens_per_image"] = np.where(frame["arm"] == "vq", 256, 576)
    with pytest.raises(
        ValueError, match=r"differ in tokens_per_image \(256, 576\).*bits per image"
    ):
        compare(frame, FrontierRequest(x="C", y="val_loss", group="arm", bootstrap=0))
    frame["val_bits_per_image"] = frame["val_loss"] * frame["tokens_per_image"] / np.log(2)
    with pytest.raises(ValueError, match="use --y val_bits_per_image"):
        compare(frame, FrontierRequest(x="C", y="val_loss", group="arm", bootstrap=0))
    bits = compare(frame, FrontierRequest(x="C", y="val_bits_per_image", group="arm", bootstrap=0))
    assert bits.frontiers["vq"].curve  # drawn, and not compared
    assert (bits.crossovers, bits.gains) == ((), ()) and "W-RATES" in codes(bits)
    one = compare(
        frame,
        FrontierRequest(
            x="C", y="val_loss", group="arm", where="tokens_per_image == 256", bootstrap=0
        ),
    )
    assert list(one.frontiers) == ["vq"]


def test_direction_follows_the_metric() -> None:
    frame = study({"vq": TWO["vq"]}).assign(psnr=lambda table: 40 - 3 * table["loss"])
    found = compare(frame, FrontierRequest(x="C", y="psnr", bootstrap=0))
    assert found.direction == "higher"
    ys = found.frontiers["all"].points.y
    assert list(ys) == sorted(ys)
    with pytest.raises(ValueError, match="direction: 'down'"):
        compare(frame, FrontierRequest(x="C", y="psnr", direction="down", bootstrap=0))


def test_diverged_and_unfinished_runs_are_left_out_and_counted() -> None:
    frame = study(TWO)
    frame["status"] = "done"
    frame.loc[[0, 1, 2], "status"] = ["diverged", "diverged", "pending"]
    frame.loc[3, "loss"] = np.nan
    found = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    assert (found.n, found.n_left_out) == (len(frame) - 4, 4)
    assert {(one.reason, one.count) for one in found.left_out} == {
        ("status is diverged", 2),
        ("status is pending", 1),
        ("loss is missing (NaN)", 1),
    }
    assert "W-DIVERGED" in codes(found)


def test_a_single_run_arm_has_a_status_and_no_curve() -> None:
    frame = pd.concat([study({"vq": TWO["vq"]}), study({"one": TWO["crt"]}).head(1)])
    found = compare(frame, FrontierRequest(bootstrap=50, **AXES))
    one = found.frontiers["one"]
    assert {form: fit.status for form, fit in one.fits.items()} == {
        "straight": "too_few",
        "floor": "too_few",
    }
    assert one.curve == {} and found.frontiers["vq"].curve
    assert all(cross.x is None and "one: too_few" in cross.status for cross in found.crossovers)


def test_round_trip_and_order_of_rows() -> None:
    frame = study(TWO, sizes=3, durations=3)
    found = compare(frame, FrontierRequest(bootstrap=60, **AXES))
    assert json.loads(found.to_json()) == found.to_dict()
    mixed = compare(frame.sample(frac=1.0, random_state=0), FrontierRequest(bootstrap=0, **AXES))
    plain = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    assert mixed.data_hash == plain.data_hash
    for one, other in zip(mixed.crossovers, plain.crossovers, strict=True):
        assert one.x == pytest.approx(other.x, rel=1e-6)
    assert found.reference == "vq"
    assert (
        compare(frame, FrontierRequest(bootstrap=0, reference="crt", **AXES)).gains[0].arm == "vq"
    )
    with pytest.raises(ValueError, match="no arm 'x'; the arms are crt, vq"):
        compare(frame, FrontierRequest(reference="x", **AXES))


def test_bad_options() -> None:
    frame = study(TWO, sizes=2, durations=2)
    with pytest.raises(ValueError, match="--envelope: 'lower' is not known"):
        compare(frame, FrontierRequest(envelope="lower", **AXES))
    with pytest.raises(ValueError, match="--noise"):
        compare(frame, FrontierRequest(noise=-1.0, **AXES))
    with pytest.raises(ValueError, match="--by: residual with --envelope model needs --noise"):
        compare(frame, FrontierRequest(envelope="model", n="N", d="D", by="residual", **AXES))


def test_a_resample_whose_amplitude_overflows_is_no_warning_of_the_users() -> None:
    # Two runs of nearly equal compute ask for a slope of 26, and for more than 1e308 at x = 1.
    frame = pd.DataFrame({"C": [1e15, 1.01e15, 1e16, 1e17], "loss": [3.0, 2.3, 2.0, 1.5]})
    found = compare(frame, FrontierRequest(by="run", bootstrap=200, tolerance=0.0))
    assert found.bootstrap is not None and found.bootstrap.draws > 100
