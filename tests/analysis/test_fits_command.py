"""What `tokenlaw fit` and `tokenlaw frontier` answer: the JSON's shape, the text, and bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenlaw.analysis import command
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.fitting.fitted import Fits
from tokenlaw.analysis.notices import CODES
from tokenlaw.analysis.request import FitRequest, FrontierRequest
from tokenlaw.analysis.table_files import read

ROOT = Path(__file__).resolve().parents[2]


def runs(num: int = 24, noise: float = 0.004) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n, d = (
        one.ravel() for one in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    )
    loss = (1.7 + 400 * n**-0.34 + 2000 * d**-0.36) * np.exp(rng.normal(0, noise, n.size))
    frame = pd.DataFrame({"C": 6 * n * d, "N": n, "D": d, "loss": loss})
    return frame.head(num).assign(run_id=[f"r{at}" for at in range(num)])


def arms() -> pd.DataFrame:
    one = runs().assign(arm="vq")
    other = runs().assign(arm="crt", loss=lambda table: 0.97 * table["loss"])
    return pd.concat([one, other], ignore_index=True).assign(run_id=[f"r{at}" for at in range(48)])


def test_the_answer_of_fit_has_the_promised_fields() -> None:
    answer = command.fit(runs(), FitRequest(law="chinchilla", bootstrap=60))
    assert {"law", "params", "ci95", "objective", "n", "n_left_out", "warnings"} <= set(answer)
    assert answer["law"] == "chinchilla" and answer["n"] == 24 and answer["n_left_out"] == 0
    assert set(answer["params"]) == {"E", "A", "B", "alpha", "beta"}
    assert set(answer["ci95"]) >= {"E", "A", "B", "alpha", "beta", "a", "b"}
    assert all(set(one) == {"code", "message"} for one in answer["warnings"])
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    # The objective is the sum of Huber's loss over the rows.
    frame = runs()
    p = answer["params"]
    law = p["E"] + p["A"] * frame["N"] ** -p["alpha"] + p["B"] * frame["D"] ** -p["beta"]
    r = np.abs(np.log(law / frame["loss"]))
    total = np.where(r <= 1e-3, 0.5 * r**2, 1e-3 * (r - 0.5e-3)).sum()
    assert answer["objective"] == pytest.approx(total, rel=1e-9)


def test_a_table_of_several_arms_is_fitted_by_arm() -> None:
    by_default = command.fit(arms(), FitRequest(bootstrap=0))
    assert by_default == command.fit(arms(), FitRequest(group="arm", bootstrap=0))
    assert by_default["group"] == "arm" and list(by_default["groups"]) == ["crt", "vq"]
    text = command.render_text(by_default)
    assert text.startswith("by arm (2 groups); --group none pools\n")
    fits = fit(arms(), FitRequest(law="power_law", bootstrap=0))
    assert isinstance(fits, Fits) and fits.group == "arm" and list(fits) == ["crt", "vq"]
    assert "W-POOLED" not in text
    # The arms are those of the rows that are asked for.
    one = command.fit(arms(), FitRequest(bootstrap=0, where="arm == 'vq'"))
    assert one["params"] == by_default["groups"]["vq"]["params"]
    assert command.fit(runs().assign(arm="vq"), FitRequest(bootstrap=0))["n"] == 24
    assert "params" in command.fit(runs().assign(arm=None), FitRequest(bootstrap=0))


@pytest.mark.parametrize("law", ["power_law", "chinchilla"])
def test_pooling_arms_is_said(law: str) -> None:
    answer = command.fit(arms(), FitRequest(law=law, group="none", bootstrap=0))
    assert answer["n"] == 48 and "groups" not in answer
    (message,) = [one["message"] for one in answer["warnings"] if one["code"] == "W-POOLED"]
    assert message == "2 arms (crt, vq) are fitted as one"
    assert "W-POOLED: 2 arms" in command.render_text(answer)
    one_arm = command.fit(runs().assign(arm="vq"), FitRequest(group="none", bootstrap=0))
    assert "W-POOLED" not in {one["code"] for one in one_arm["warnings"]}


def test_groups_of_another_column_that_pool_arms_say_so() -> None:
    frame = arms().assign(half=["low", "high"] * 24)
    answer = command.fit(frame, FitRequest(group="half", bootstrap=0))
    assert [one["message"] for one in answer["warnings"] if one["code"] == "W-POOLED"] == [
        f"{half}: 2 arms (crt, vq) are fitted as one" for half in ("high", "low")
    ]
    for group in (None, "none"):
        found = command.frontier(arms(), FrontierRequest(group=group, bootstrap=0))
        assert "W-POOLED" in {one["code"] for one in found["warnings"]}
    assert "W-POOLED" not in {
        one["code"] for one in command.frontier(arms(), FrontierRequest(group="arm"))["warnings"]
    }


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda one: one.assign(loss=-one["loss"]), "must be positive"),
        (lambda one: one.assign(loss=np.nan), "no finite value"),
        (lambda one: one.head(1), "1 "),
        (lambda one: one.assign(status="failed"), "no row is left"),
        (lambda one: one.assign(codebook_size=[1, 2] * 12), "differ in codebook_size"),
    ],
)
def test_an_arm_that_cannot_be_fitted_hides_no_other(spoil: Any, reason: str) -> None:
    frame = arms().assign(status="done", codebook_size=1)
    good, bad = frame[frame["arm"] == "vq"], frame[frame["arm"] == "crt"]
    answer = command.fit(pd.concat([good, spoil(bad)], ignore_index=True), FitRequest(bootstrap=0))
    alone = command.fit(good.reset_index(drop=True), FitRequest(bootstrap=0))
    assert answer["groups"]["vq"]["params"] == alone["params"]
    assert answer["groups"]["crt"]["status"] != "ok"
    assert reason in answer["groups"]["crt"]["reason"]
    text = command.render_text(answer)
    assert "not fitted: crt;" in text and answer["groups"]["crt"]["reason"] in text


def test_a_wrong_request_of_every_group_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match="^--loss: 'l3' is not allowed"):
        command.fit(arms(), FitRequest(loss="l3", bootstrap=0))
    with pytest.raises(ValueError, match="^--y: no column 'lost'"):
        command.fit(arms(), FitRequest(y="lost", bootstrap=0))


def test_rows_without_an_arm_are_counted() -> None:
    frame = arms()
    frame.loc[[0, 30], "arm"] = None
    answer = command.fit(frame, FitRequest(bootstrap=0))
    assert (answer["n"], answer["n_left_out"]) == (46, 2)
    assert "by arm (2 groups), 2 rows without arm left out;" in command.render_text(answer)


def test_without_draws_there_is_the_point_fit_alone() -> None:
    answer = command.fit(runs(), FitRequest(bootstrap=0))
    assert answer["ci95"] == {} and answer["bootstrap"] is None
    assert answer["params"]["b"] > 0
    assert set(
        command.fit(runs(), FitRequest(bootstrap=0, options={"floor": "free"}))["params"]
    ) == {"E", "a", "b"}
    given = command.fit(runs(), FitRequest(bootstrap=0, options={"floor": 1.5}))
    assert given["params"]["E"] == 1.5


def test_groups_have_an_answer_each() -> None:
    answer = command.fit(arms(), FitRequest(group="arm", bootstrap=30, where="N < 9e8"))
    assert list(answer["groups"]) == ["crt", "vq"] and answer["group"] == "arm"
    assert answer["groups"]["vq"]["law"] == "power_law"
    assert answer["n"] == sum(one["n"] for one in answer["groups"].values())
    joint = command.fit(
        arms().assign(
            bits=lambda table: 100 * table["loss"], gfid=lambda table: table["loss"] ** 3
        ),
        FitRequest(law="gfid_from_loss", x="bits", y="gfid", group="arm", bootstrap=0),
    )
    assert set(joint["params"]) == {"E_crt", "E_vq", "s", "k"}


def test_predictions_with_intervals_and_distance() -> None:
    points = pd.DataFrame({"N": [1e8, 1e10], "D": [1e10, 1e12]})
    answer = command.fit(runs(), FitRequest(law="chinchilla", bootstrap=60), points)
    inside, outside = answer["predictions"]
    assert inside["ci95"][0] <= inside["y"] <= inside["ci95"][1]
    assert inside["ci95_new_run"][0] < inside["ci95"][0]
    assert inside["decades_outside"] == 0
    assert outside["decades_outside"] == pytest.approx(1.0, abs=0.01)
    truth = 1.7 + 400 * 1e8**-0.34 + 2000 * 1e10**-0.36
    assert inside["y"] == pytest.approx(truth, rel=0.005)
    best = command.fit(
        runs(), FitRequest(law="chinchilla", bootstrap=0), pd.DataFrame({"C": [1e19]})
    )["predictions"][0]
    assert best["n_optimal"] * best["d_optimal"] * 6 == pytest.approx(1e19)
    assert best["ci95"] == [None, None]
    with pytest.raises(ValueError, match="--predict: the table needs two of"):
        command.fit(runs(), FitRequest(law="chinchilla", bootstrap=0), pd.DataFrame({"N": [1e8]}))
    with pytest.raises(ValueError, match="--predict: column 'C' has no positive number in row 2"):
        command.fit(runs(), FitRequest(bootstrap=0), pd.DataFrame({"C": [1e18, -1.0]}))
    with pytest.raises(ValueError, match="--predict: the table needs the column 'C'"):
        command.fit(runs(), FitRequest(bootstrap=0), pd.DataFrame({"N": [1e8]}))


def test_the_answer_of_frontier_has_the_promised_parts() -> None:
    answer = command.frontier(arms(), FrontierRequest(group="arm", x="C", y="loss", bootstrap=60))
    assert set(answer["frontiers"]) == {"crt", "vq"}
    assert [one["form"] for one in answer["crossovers"]] == ["straight", "floor"]
    assert {"x", "ci95", "p_no_crossing", "outside_data"} <= set(answer["crossovers"][0])
    assert answer["reference"] == "vq" and answer["gains"][0]["arm"] == "crt"
    gain = answer["gains"][0]
    assert len(gain["x"]) == len(gain["gain"]) == len(gain["low"]) == len(gain["high"])
    assert gain["gain"][20] is not None and gain["gain"][20] > 1
    assert answer["frontiers"]["vq"]["fits"]["straight"]["ci95"]["b"]
    json.dumps(answer, allow_nan=False)
    # A table without arms is one arm.
    alone = command.frontier(runs(), FrontierRequest(group="arm", x="C", y="loss", bootstrap=0))
    assert list(alone["frontiers"]) == ["all"] and alone["gains"] == []


def test_text_of_every_answer_ends_in_the_checklist() -> None:
    texts = [
        command.render_text(command.fit(runs(), FitRequest(law="chinchilla", bootstrap=30))),
        command.render_text(command.fit(arms(), FitRequest(group="arm", bootstrap=0))),
        command.render_text(
            command.frontier(arms(), FrontierRequest(group="arm", x="C", y="loss", bootstrap=30))
        ),
    ]
    for text in texts:
        assert text.isascii() and text.endswith("\n") and "nan" not in text.split()
        for line in ("form", "data", "filter", "counting", "selection", "objective", "uncertainty"):
            assert re.search(rf"^ +{line}: \S", text, re.MULTILINE), line
        assert "code and data: tokenlaw analysis; data hash " in text
    assert "intervals: 95%, 30 draws by run, 24 clusters" in texts[0]
    assert "compute gain over vq" in texts[2]


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "missing column": ({}, {"y": "los"}, "--y: no column 'los' (did you mean 'loss'?)"),
    "no known column": ({"rename": {"loss": "q"}}, {}, "--y: name the column of the metric"),
    "one point": ({"head": 1}, {}, "power_law: 1 rows; this law needs 2 at least"),
    "no rows": ({"head": 0}, {}, "table: no rows"),
    "all NaN": ({"assign": {"loss": np.nan}}, {}, "column 'loss' has no finite value"),
    "all infinite": ({"assign": {"loss": np.inf}}, {}, "column 'loss' has no finite value"),
    "negative FLOPs": ({"assign": {"C": -1e18}}, {}, "column 'C' (train FLOPs) must be positive"),
    "zero loss": ({"assign": {"loss": 0.0}}, {}, "column 'loss' (metric) must be positive"),
    "text": (
        {"assign": {"loss": "high"}},
        {},
        "column 'loss' holds 'high' in row 1 (run r0), which is no number",
    ),
    "duplicate keys": ({"assign": {"run_id": "r"}}, {}, "24 rows share the key run_id='r'"),
    "nothing left": ({}, {"where": "C < 0"}, "table: no row is left after the filters"),
    "code": ({}, {"where": "C.to_csv('x')"}, "where: call is not allowed"),
    "one x": ({"assign": {"C": 1e18}}, {}, "power_law: C has one value only"),
    "unknown law": ({}, {"law": "power"}, "laws: 'power' is unknown"),
    "unknown loss": ({}, {"loss": "mse"}, "--loss: 'mse' is not allowed; huber, l1, l2"),
    "delta": ({}, {"delta": 0.0}, "--delta: 0.0 is not allowed"),
    "bootstrap": ({}, {"bootstrap": -1}, "--bootstrap: -1 is not allowed"),
    "by": ({}, {"by": "trunk"}, "--by: 'trunk' is not run, point, residual, auto or a column"),
    "floor": ({}, {"options": {"floor": "some"}}, "floor: 'some' is not allowed"),
    "floor of chinchilla": (
        {},
        {"law": "chinchilla", "options": {"floor": "free"}},
        "no option 'floor'",
    ),
    "group": ({}, {"group": "arms"}, "--group: no column 'arms'"),
}


def spoiled(recipe: dict[str, Any]) -> pd.DataFrame:
    frame = runs()
    frame = frame.rename(columns=recipe.get("rename", {})).assign(**recipe.get("assign", {}))
    return frame.head(recipe.get("head", len(frame)))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str) -> None:
    recipe, keywords, message = BAD[case]
    with pytest.raises(ValueError) as error:
        command.fit(spoiled(recipe), FitRequest(**{"bootstrap": 0, **keywords}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "case", ["missing column", "one point", "all NaN", "negative FLOPs", "duplicate keys"]
)
def test_bad_input_of_frontier_is_one_clear_line(case: str) -> None:
    recipe, keywords, message = BAD[case]
    with pytest.raises(ValueError) as error:
        command.frontier(spoiled(recipe), FrontierRequest(group="arm", bootstrap=0, **keywords))
    assert message.removeprefix("power_law: ") in str(error.value)
    assert "\n" not in str(error.value)


def test_mixed_flop_rules_are_refused() -> None:
    frame = runs().assign(flops_rule=["6ND"] * 12 + ["6ND no embeddings"] * 12)
    with pytest.raises(ValueError, match="different rules .*6ND, 6ND no embeddings"):
        command.fit(frame, FitRequest(bootstrap=0))
    one = command.fit(frame, FitRequest(bootstrap=0, where="flops_rule == '6ND'"))
    assert one["flops_rule"] == "6ND" and one["n"] == 12


def test_flops_that_are_not_6nd_are_reported() -> None:
    answer = command.fit(
        runs().assign(C=lambda table: table["C"] / 2), FitRequest(x="C", n="N", d="D", bootstrap=0)
    )
    (text,) = [one["message"] for one in answer["warnings"] if one["code"] == "W-FLOPS-RULE"]
    assert "is 0.5 in the middle" in text and "multiply-adds?" in text
    plain = command.fit(runs(), FitRequest(x="C", n="N", d="D", bootstrap=0))
    assert "W-FLOPS-RULE" not in {one["code"] for one in plain["warnings"]}


def test_checkpoints_and_schedules() -> None:
    frame = runs(8).loc[np.repeat(np.arange(8), 3)].reset_index(drop=True)
    frame["step"] = np.tile([1, 2, 3], 8)
    frame["C"] *= frame["step"]
    answer = command.fit(frame, FitRequest(bootstrap=0))
    assert (answer["n"], answer["n_left_out"]) == (8, 16)
    assert answer["left_out"][0]["reason"] == "not the last checkpoint of its run"
    frame["schedule_done"] = frame["run_id"] != "r0"
    answer = command.fit(frame, FitRequest(bootstrap=0))
    assert answer["n"] == 7
    assert answer["left_out"][0] == {
        "reason": "schedule_done is not true (not an end point)",
        "count": 3,
        "rows": ["r0", "r0", "r0"],
    }


def test_rows_repeated_without_a_key_count_once() -> None:
    frame = pd.concat([runs(), runs().head(3)]).drop(columns="run_id")
    answer = command.fit(frame, FitRequest(bootstrap=0))
    assert (answer["n"], answer["n_left_out"]) == (24, 3)
    assert "W-REPEATS" in {one["code"] for one in answer["warnings"]}


def test_losses_per_token_are_not_mixed_in_one_fit() -> None:
    frame = runs().rename(columns={"loss": "val_loss"}).assign(codebook_size=[1024, 16384] * 12)
    with pytest.raises(ValueError, match=r"differ in codebook_size \(1024, 16384\)"):
        command.fit(frame, FitRequest(bootstrap=0))
    assert command.fit(frame, FitRequest(group="codebook_size", bootstrap=0))["n"] == 24
    joint = frame.assign(gfid=frame["val_loss"] ** 3, arm=["a", "b"] * 12)
    with pytest.raises(ValueError, match="--x: val_loss is a loss per token"):
        command.fit(
            joint,
            FitRequest(law="gfid_from_loss", x="val_loss", y="gfid", group="arm", bootstrap=0),
        )


def test_tables_are_read_by_their_ending(tmp_path: Path) -> None:
    frame = runs()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "t.json", orient="records", double_precision=15)
    answers = [
        command.fit(read(tmp_path / f"t.{kind}"), FitRequest(bootstrap=0))["params"]
        for kind in ("csv", "parquet", "tsv", "json")
    ]
    for one in answers:
        assert one == pytest.approx(answers[0], rel=1e-9)
    (tmp_path / "t.xlsx").write_text("no")
    (tmp_path / "broken.parquet").write_text("no")
    (tmp_path / "empty.csv").write_text("")
    for name in ("t.xlsx", "broken.parquet", "empty.csv", "absent.csv"):
        with pytest.raises(ValueError, match="^table: ") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_checks_warn_where_they_should() -> None:
    def codes(answer: dict[str, Any]) -> set[str]:
        return {one["code"] for one in answer["warnings"]}

    good = codes(command.fit(runs(), FitRequest(law="chinchilla", bootstrap=0)))
    assert good <= {"W-DELTA"}
    x = np.geomspace(1e18, 1e21, 30)
    rng = np.random.default_rng(0)
    # A straight law on data with a floor misses the held-out largest runs.
    bent = pd.DataFrame({"C": x, "loss": 1.5 + 1e5 * x**-0.3 * np.exp(rng.normal(0, 0.001, 30))})
    assert "W-HOLD-OUT" in codes(command.fit(bent, FitRequest(bootstrap=0)))
    assert "W-HOLD-OUT" not in codes(
        command.fit(bent, FitRequest(bootstrap=0, options={"floor": "free"}))
    )
    # Repeated runs show the same, whatever the size of the misfit.
    noise = np.exp(rng.normal(0, 0.002, 60))
    twice = pd.DataFrame(
        {"C": np.repeat(x, 2), "loss": (1.5 + 1e5 * np.repeat(x, 2) ** -0.3) * noise}
    )
    assert "W-LACK-OF-FIT" in codes(command.fit(twice, FitRequest(bootstrap=0, loss="l2")))
    assert "W-LACK-OF-FIT" not in codes(
        command.fit(twice, FitRequest(bootstrap=0, loss="l2", options={"floor": "free"}))
    )
    # A law of optima is not held against rows that are none.
    grid = pd.DataFrame({"C": np.repeat(x[::6], 9), "u": np.tile(np.linspace(-1, 1, 9), 5)})
    grid["N"] = 0.1 * grid["C"] ** 0.5 * np.exp(grid["u"])
    grid["loss"] = 20 * grid["C"] ** -0.05 * (1 + 0.05 * grid["u"] ** 2)
    optima = command.fit(grid, FitRequest(law="isoflop", bootstrap=0))
    assert next(one for one in optima["checks"] if one["name"] == "hold_out")["passed"] is None
    # One wild run at the end of the range.
    wild = bent.copy()
    wild.loc[29, "loss"] *= 1.4
    assert "W-INFLUENCE" in codes(command.fit(wild, FitRequest(bootstrap=0, loss="l2")))
    # Half a decade, and a free floor from four budgets.
    narrow = bent[bent["C"] < 3e18]
    assert "W-RANGE" in codes(command.fit(narrow, FitRequest(bootstrap=0)))
    few = bent.iloc[[0, 10, 20, 29]]
    assert "W-RANGE" in codes(command.fit(few, FitRequest(bootstrap=0, options={"floor": "free"})))
    assert "W-FLOOR-ZERO" in codes(
        command.fit(
            pd.DataFrame({"C": x, "loss": 60 * x**-0.1}),
            FitRequest(bootstrap=0, options={"floor": "free"}),
        )
    )
    broken = command.fit(
        bent.assign(loss=60 * x**-0.1 * np.exp(rng.normal(0, 0.01, 30))),
        FitRequest(law="broken_power_law", bootstrap=60, by="residual"),
    )
    assert "W-BREAK" in codes(broken)
    ridge = runs().assign(D=lambda table: 20 * table["N"] * np.tile([1, 1.5], 12))
    assert "W-RIDGE" in codes(
        command.fit(ridge, FitRequest(law="chinchilla", n="N", d="D", bootstrap=0))
    )
    assert "W-DELTA" in codes(command.fit(runs(noise=0.05), FitRequest(delta=1e-4, bootstrap=0)))


def test_the_page_explains_every_code_and_no_other() -> None:
    page = (ROOT / "docs" / "analysis.md").read_text()
    explained = set(re.findall(r"^\| `(W-[A-Z0-9-]+)` \|", page, re.MULTILINE))
    assert explained == set(CODES)
    source = "\n".join(one.read_text() for one in (ROOT / "analysis").rglob("*.py"))
    raised = set(re.findall(r'notice\(\s*"(W-[A-Z0-9-]+)"', source))
    assert raised == set(CODES)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from tokenlaw.analysis import code_entropy, command; "
        "from tokenlaw.trainer import parts; "
        "[parts.load('laws', law) for law in parts.names('laws')]; "
        "heavy = {'torch', 'matplotlib', 'sqlalchemy', 'sklearn', 'ray', 'submitit'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
