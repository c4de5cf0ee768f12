"""Every declared direction reaches tables and frontiers, and nothing recorded is undeclared."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path

import measured
import numpy as np
import pandas as pd
import pytest
import tiny

from tokenlaw.analysis import direction
from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.request import FrontierRequest
from tokenlaw.results_db import read
from tokenlaw.results_db.columns import WIDE_PREFIXES
from tokenlaw.trainer import parts
from tokenlaw.trainer.accounting import directions

METRICS = "metrics"
DECLARED = {name: better for name, better in directions.directions().items() if better is not None}
NEITHER = sorted(set(directions.directions()) - set(DECLARED))
NEW_PART = tiny.ROOT / "tests/integration/new_parts/trainer/metrics/brightness.py"


def table(column: str, better: str) -> pd.DataFrame:
    """Two arms with a good, a middle and a bad run at each budget; the metric improves with it."""
    sign = 1.0 if better == "lower" else -1.0
    rows = []
    for arm, factor in (("vq", 1.0), ("crt", 0.9)):
        for x in np.geomspace(1e15, 1e18, 8):
            for place, worse in (("good", 1.0), ("middle", 1.1), ("bad", 1.3)):
                y = 3.0 * ((x / 1e15) ** -0.1 * factor * worse) ** sign
                rows.append({"arm": arm, "run_id": f"{arm}-{x:.3g}-{place}", "C": x, column: y})
    return pd.DataFrame(rows)


def assert_chosen(frame: pd.DataFrame, column: str, better: str, **more: str) -> None:
    found = compare(frame, FrontierRequest(x="C", y=column, group="arm", bootstrap=0, **more))
    assert found.direction == better, f"{column}: {found.direction} ({found.direction_reason})"
    for arm in found.frontiers.values():
        assert {name.rsplit("-", 1)[1] for name in arm.points.run_ids} == {"good"}, column
        assert len(arm.points.run_ids) == 8
    (crossing,) = (one for one in found.crossovers if one.form == "straight")
    assert crossing.better_below == "crt", f"{column}: {crossing}"


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_a_declared_metric_is_taken_to_a_frontier_in_its_direction(name: str) -> None:
    better = DECLARED[name]
    assert_chosen(table(name, better), name, better)


@pytest.mark.parametrize(
    "name", ["classifier_score", "codebook_entropy", "rfcd", "train_crt_r2_mean"]
)
@pytest.mark.parametrize("prefix", [*WIDE_PREFIXES, "generator_eval_generator_eval_"])
@pytest.mark.parametrize("ending", ["", *direction.SAME_METRIC])
def test_a_declared_metric_is_known_by_the_names_of_the_wide_table(
    name: str, prefix: str, ending: str
) -> None:
    assert direction.resolve(f"{prefix}{name}{ending}").better == DECLARED[name]


@pytest.mark.parametrize("name", NEITHER)
def test_a_metric_of_no_direction_is_said_to_have_none(name: str) -> None:
    found = compare(table(name, "lower"), FrontierRequest(x="C", y=name, group="arm", bootstrap=0))
    assert [one.message for one in found.warnings if one.code == "W-DIRECTION"] == [
        f"{name} is declared as neither better lower nor higher; lower is taken"
    ]


@pytest.mark.parametrize("name", parts.names(METRICS))
def test_what_is_read_is_what_the_part_holds(name: str) -> None:
    module = parts.load(METRICS, name)
    found = directions.declared_in(Path(str(module.__file__)))
    if isinstance(module.BETTER, str):
        assert set(found.values()) == {module.BETTER} and name in found
    else:
        assert found == module.BETTER


def test_every_module_with_a_declaration_holds_what_is_read() -> None:
    """No branch or later line of a module changes its BETTER."""
    for path in sorted((tiny.ROOT / "trainer").rglob("*.py")):
        names = [
            node.id for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Name) and node.id == "BETTER"
        ]  # fmt: skip
        if names:
            dotted = ".".join(("tokenlaw", *path.relative_to(tiny.ROOT).with_suffix("").parts))
            module = importlib.import_module(dotted)
            if isinstance(module.BETTER, dict):
                assert directions.declared_in(path) == module.BETTER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BETTER = dict(a='lower')", "is computed; allowed: a literal"),
        ("WAY = 'lower'\nBETTER = WAY", "is computed; allowed: a literal"),
        ("BETTER = 'up'", "'up'; allowed: lower or higher, or a dict"),
        ("BETTER = {'a': 'more'}", "'a': 'more'; allowed"),
        ("BETTER = {}", "allowed: lower or higher"),
        ("BETTER = ('lower',)", "allowed: lower or higher"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f'"""A part."""\n{text}\n')
    with pytest.raises(ValueError, match="odd.py: BETTER: ") as error:
        directions.declared_in(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_part_of_ones_own_is_known_by_its_stage_letters() -> None:
    found = directions.declared_in(NEW_PART)
    assert found == dict.fromkeys(("brightness", "rbrightness", "gbrightness"), "higher")


def test_a_part_of_ones_own_travels_in_the_table() -> None:
    """Known to the table alone: no part of this checkout declares it, and no word tells."""
    frame = table("gbrightness", "higher")
    frame.attrs["better"] = {"gbrightness": "higher"}
    assert_chosen(frame, "gbrightness", "higher")
    del frame.attrs["better"]
    found = compare(frame, FrontierRequest(x="C", y="gbrightness", group="arm", bootstrap=0))
    assert "W-DIRECTION" in {one.code for one in found.warnings}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every kind and quantizer, with all that tokenizers can record."""
    folder = tmp_path_factory.mktemp("home")
    extractor = tiny.done(folder, "extractor", tiny.extractor())
    gan = tiny.PATCHGAN | {"start_iteration": 0, "lecam_weight": 0.1}
    for quantizer in (
        tiny.part("vq", codebook_size=32, dim=4, entropy_weight=1.0),
        tiny.part("ibq", codebook_size=32, dim=4),
        tiny.part("lfq", bits=5),
        tiny.part("fsq", levels=[4, 4, 2]),
        tiny.part("vcq", codebook_size=32, dim=4),
    ):
        tree = tiny.crt(quantizer=quantizer, adversarial=gan)
        tokenizer = tiny.done(folder, "tokenizer", tree)
    of = {"tokenizer": tiny.done(folder, "tokenizer", tiny.varied_tokenizer())}
    tiny.done(folder, "evaluation", tiny.reconstructions(), of | {"extractor": extractor})
    of["codes"] = tiny.done(folder, "codes", tiny.codes(), of)
    of["generator"] = tiny.done(folder, "generator", tiny.generator(), {"codes": of["codes"]})
    tiny.done(folder, "evaluation", tiny.samples(), of | {"extractor": extractor})
    assert tokenizer
    return folder


def test_every_recorded_value_carries_its_declaration(home: Path) -> None:
    endpoints = [path for path in home.glob("*/*/endpoint.json")]
    assert {path.parts[-3] for path in endpoints} == {
        "extractor", "tokenizer", "codes", "generator", "evaluation"
    }  # fmt: skip
    seen = set()
    for path in endpoints:
        for value in measured.endpoint(tiny.RunDir(path.parent))["values"]:
            assert value["metric"] in directions.directions(), f"{value['metric']} is not declared"
            assert value.get("better") == directions.directions()[value["metric"]], value
            seen.add(value["metric"])
    assert {"train_entropy", "train_soft", "train_token_entropy", "train_lecam", "rfcd"} <= seen


def test_it_is_in_both_tables(home: Path) -> None:
    long = read.endpoints(home=home)
    for metric, better in zip(long["metric"], long["better"], strict=True):
        assert better == directions.directions()[metric] or (pd.isna(better) and metric in NEITHER)
    wide = read.endpoints(home=home, wide=True)
    told = wide.attrs["better"]
    assert told["gfcd"] == told["tokenizer_train_loss"] == "lower"
    assert told["psnr"] == told["codebook_entropy"] == told["code_usage_train"] == "higher"
    assert not set(told) - set(wide.columns) and not any(name.endswith("_std") for name in told)
    for name, better in told.items():  # CSV files lose it
        assert direction.resolve(name).better == better, name


def test_a_part_of_one_direction_gives_it_to_any_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that no declaration has: the part that made the value decides."""
    metric = parts.load(METRICS, "ssim").Metric
    computed = metric.compute
    monkeypatch.setattr(
        metric,
        "compute",
        lambda self: [dataclasses.replace(value, metric="likeness") for value in computed(self)],
    )
    tokenizer = tiny.RunDir(next((home / "tokenizer").iterdir()))
    tree = tiny.reconstructions(metrics=[tiny.part("ssim")], num_samples=16)
    done = tiny.done(home, "evaluation", tree, {"tokenizer": tokenizer})
    (value,) = measured.values(done, "likeness")
    assert value["better"] == "higher"
