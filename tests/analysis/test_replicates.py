"""Replicates: what the columns say, averages before a selection, tokenizers as units of an arm."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis import command
from tokenlaw.analysis.collapse import collapsed
from tokenlaw.analysis.frontiers.compare import compare, pareto
from tokenlaw.analysis.request import FrontierRequest
from tokenlaw.analysis.result import Comparison

AXES = {"x": "C", "y": "loss", "group": "arm"}
BUDGETS = np.geomspace(1e18, 1e20, 8)


def runs(seeds: int = 3, noise: float = 0.013, draw: int = 0, **more: object) -> pd.DataFrame:
    rng = np.random.default_rng(draw)
    rows = [
        {"arm": arm, "C": x, "train_seed": seed, "loss": 3 * (x / 1e18) ** -0.2, **more}
        for arm in ("a", "b")
        for x in BUDGETS
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(loss=frame["loss"] * np.exp(rng.normal(0, noise, len(frame))))


def codes(found: Comparison) -> set[str]:
    return {one.code for one in found.warnings}


@pytest.mark.parametrize(
    ("name", "values", "configurations"),
    [
        ("run_id", lambda n: [f"run-{at}" for at in range(n)], 8),
        ("Unnamed: 0", lambda n: range(n), 8),
        ("gpu_hours", lambda n: np.linspace(1, 2, n), 8),
        ("host", lambda n: [f"node{at % 5}" for at in range(n)], 8),
        ("psnr", lambda n: np.linspace(20, 21, n), 8),
        ("loss_std", lambda n: np.linspace(0.01, 0.02, n), 8),
        ("lr_peak", lambda n: [1e-3 * (1 + at % 3) for at in range(n)], 24),
        ("loss_weight", lambda n: [0.1 * (1 + at % 3) for at in range(n)], 24),
        ("optimizer", lambda n: [("adam", "muon", "lion")[at % 3] for at in range(n)], 24),
    ],
)
def test_the_columns_say_what_a_replicate_is(name, values, configurations) -> None:
    frame = runs()
    frame[name] = list(values(len(frame)))
    found = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    assert found.frontiers["a"].configurations == configurations, found.replicates
    assert found.frontiers["a"].n == 24


def test_seeds_are_averaged_before_anything_is_selected_and_the_text_says_so() -> None:
    frame = runs()
    answer = command.frontier(frame, FrontierRequest(bootstrap=0, **AXES))
    mean = np.exp(np.log(frame[frame["arm"] == "a"]["loss"]).groupby(frame["C"]).mean())
    assert answer["frontiers"]["a"]["points"]["y"] == pytest.approx(mean.tolist())
    assert "48 rows differ in train_seed alone (equal: C)" in command.render_text(answer)
    apart = compare(frame, FrontierRequest(bootstrap=20, by="train_seed", **AXES))
    assert apart.frontiers["a"].configurations == 24


def test_rows_without_a_seed_are_repeats_only_if_they_scatter_like_repeats() -> None:
    frame = runs().drop(columns="train_seed")
    assert compare(frame, FrontierRequest(bootstrap=0, **AXES)).frontiers["a"].configurations == 8
    frame["loss"] *= np.tile([1.0, 1.2, 1.5], len(frame) // 3)
    found = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    assert found.frontiers["a"].configurations == 24
    assert "taken as configurations" in found.replicates


def test_a_worse_run_a_little_cheaper_is_no_frontier() -> None:
    good = pd.DataFrame({"C": BUDGETS, "loss": 3 * (BUDGETS / 1e18) ** -0.2})
    bad = good.assign(C=good["C"] * 0.99, loss=good["loss"] * 1.2)
    frame = pd.concat([good, bad], ignore_index=True)
    x, y = frame["C"].to_numpy(), frame["loss"].to_numpy()
    assert len(pareto(x, y)) > 8
    assert sorted(pareto(x, y, tolerance=0.05)) == list(range(8))
    found = compare(frame, FrontierRequest(x="C", y="loss", bootstrap=0))
    assert found.frontiers["all"].fits["straight"].params["b"] == pytest.approx(0.2, abs=1e-6)
    assert (
        len(
            compare(frame, FrontierRequest(x="C", y="loss", bootstrap=0, tolerance=0))
            .frontiers["all"]
            .points.x
        )
        > 8
    )


def tokenizers(num: int, sd: float = 0.3) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.concat(
        runs(1, draw=one, tokenizer_id=f"t{one}", level=np.exp(rng.normal(0, sd)))
        for one in range(num)
    ).drop(columns="train_seed")
    frame["tokenizer_id"] = frame["arm"] + frame["tokenizer_id"]
    return frame.assign(gfcd=frame["loss"] * frame.pop("level")).drop(columns="loss")


def test_tokenizers_are_the_units_of_an_arm() -> None:
    request = FrontierRequest(x="C", y="gfcd", group="arm", bootstrap=200)
    one, five = (compare(tokenizers(num), request) for num in (1, 5))
    sd = five.frontiers["a"].components.sd
    assert 0.1 < sd["tokenizer"] < 0.6 and sd["generator"] == pytest.approx(0.013, rel=0.4)
    width = [found.gains[0].middle.ci95[1] / found.gains[0].middle.ci95[0] for found in (one, five)]
    assert width[1] > 2 * width[0]  # five show a spread that one cannot
    assert "W-ONE-TOKENIZER" in codes(one) and "W-ONE-TOKENIZER" not in codes(five)
    for text in (one.to_json(), command.render_text(command.frontier(tokenizers(1), request))):
        assert "significant" not in text and "leaves out how much tokenizers" in text
    assert "significant" in five.to_json()


def test_a_tokenizer_that_both_arms_share_cancels_in_the_gain() -> None:
    frame = tokenizers(4)
    own = compare(frame, FrontierRequest(x="C", y="gfcd", group="arm", bootstrap=200)).gains[0]
    frame["tokenizer_id"] = frame["tokenizer_id"].str[1:]
    shared = compare(frame, FrontierRequest(x="C", y="gfcd", group="arm", bootstrap=200)).gains[0]
    ratio = [one.middle.ci95[1] / one.middle.ci95[0] for one in (own, shared)]
    assert ratio[0] > 2 * ratio[1]


def test_losses_of_different_tokenizers_codes_are_rates() -> None:
    frame = tokenizers(2).rename(columns={"gfcd": "val_bits_per_image"})
    request = FrontierRequest(x="C", y="val_bits_per_image", group="arm", bootstrap=0)
    found = compare(frame, request)
    assert (found.gains, found.crossovers) == ((), ()) and "W-RATES" in codes(found)
    assert found.frontiers["a"].curve
    frame["tokenizer_id"] = frame["tokenizer_id"].str[1:]  # the arms differ in something else
    assert compare(frame, request).gains


def test_a_collapsed_tokenizer_is_named_and_is_no_reference() -> None:
    frame = runs(1).assign(codebook_size=128, codebook_usage=0.8)
    frame.loc[frame["arm"] == "a", "codebook_usage"] = 3 / 128
    found = compare(frame, FrontierRequest(bootstrap=0, **AXES))
    (text,) = [one.message for one in found.warnings if one.code == "W-COLLAPSE"]
    assert text.startswith("a uses 2.3% of its codebook, about 3 of 128 codes")
    assert found.reference == "b"
    assert collapsed(frame.drop(columns="codebook_usage"), frame["arm"].to_numpy()) == {}


def test_an_arm_of_one_cluster_has_no_interval() -> None:
    frame = runs(1).assign(batch=lambda table: np.where(table["arm"] == "a", "one", table["C"]))
    found = compare(frame, FrontierRequest(by="batch", bootstrap=50, **AXES))
    assert not found.frontiers["a"].fits["straight"].ci95 and not found.frontiers["a"].low
    assert found.frontiers["b"].fits["straight"].ci95
    assert any("a: one cluster by batch: no interval" in one.message for one in found.warnings)


def test_the_better_form_leads_and_the_choices_are_told() -> None:
    x = BUDGETS
    frame = pd.concat(
        pd.DataFrame({"arm": arm, "C": x, "loss": floor + 2 * (x / 1e18) ** -0.5})
        for arm, floor in (("a", 1.0), ("b", 1.1))
    )
    rng = np.random.default_rng(0)
    frame["loss"] *= np.exp(rng.normal(0, 0.002, len(frame)))
    request = FrontierRequest(bootstrap=60, window=1.0, bins=3, **AXES)
    answer = command.frontier(frame, request)
    assert answer["leading"] == answer["frontiers"]["a"]["leading"] == "floor"
    text = command.render_text(answer)
    assert text.index("  floor, scatter") < text.index("  straight, scatter")
    assert "searched to 1 decades beyond the data" in text and "by envelope: pareto" in text
    assert {"pareto", "binned", "interpolated"} <= set(answer["gains"][0]["by_envelope"])


@pytest.mark.parametrize(
    ("setting", "value"), [("tolerance", -0.1), ("bins", 0.0), ("window", 21.0), ("bins", np.nan)]
)
def test_bad_settings_are_one_line(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^--{setting}: .* is not allowed") as caught:
        FrontierRequest(**{setting: value})
    assert "\n" not in str(caught.value)


def test_checkpoints_of_a_named_run_are_one_run() -> None:
    frame = runs(1).drop(columns="train_seed")
    frame["Name"] = [f"run-{at}" for at in range(len(frame))]
    early = frame.assign(step=100, loss=frame["loss"] * 1.3, C=frame["C"] / 2)
    both = pd.concat([early, frame.assign(step=200)], ignore_index=True)
    found = compare(both, FrontierRequest(bootstrap=0, **AXES))
    assert (found.n, found.left_out[0].reason) == (16, "not the last checkpoint of its run")
    assert "W-CHECKPOINTS" in codes(found)
    kept = compare(both, FrontierRequest(bootstrap=40, end_points=False, **AXES))
    assert kept.bootstrap.by == "run" and kept.bootstrap.clusters == 16
    # A name that several runs of one step share is a model's, not a run's.
    models = frame.assign(step=200, Name="small")
    assert compare(models, FrontierRequest(bootstrap=0, **AXES)).n == 16
