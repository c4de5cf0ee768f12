"""Grids: paths, axes, zips, filters and --set, and what they say when something is wrong."""

from __future__ import annotations

import dataclasses

import pytest
from small_study import ITERATIONS, SIZES, grid

from tokenlaw.sweeps.grid import Arm, Axis, assigned, part, where, zipped
from tokenlaw.sweeps.overrides import overridden, parse_set
from tokenlaw.sweeps.plan import make_plan
from tokenlaw.sweeps.planned import Plan


def plan_of(tmp_path, *sets: str, **changes) -> Plan:
    return make_plan(grid(**changes), home=tmp_path, overrides=sets)


def kinds(plan: Plan) -> dict[str, int]:
    return {kind: entry["runs"] for kind, entry in plan.totals()["by_kind"].items()}


def generators(plan: Plan) -> list:
    return [run for run in plan.runs if run.kind == "generator"]


def test_a_path_is_set_in_a_copy_and_a_bare_part_gets_options():
    tree = {"quantizer": "vq", "optim": {"lr_peak": 1.0}, "other": {"kept": 1}}
    changed = assigned(tree, "quantizer.dim", 4)
    assert changed["quantizer"] == {"name": "vq", "dim": 4}
    assert tree["quantizer"] == "vq"
    assert changed["other"] is tree["other"]
    assert assigned(tree, "optim.clip", 2.0)["optim"] == {"lr_peak": 1.0, "clip": 2.0}
    with pytest.raises(ValueError, match="seed holds 3"):
        assigned({"seed": 3}, "seed.more", 1)


def test_product_by_default(tmp_path):
    plan = plan_of(tmp_path)
    assert kinds(plan) == {
        "extractor": 1,
        "tokenizer": 2,
        "codes": 2,
        "generator": 12,
        "evaluation": 14,
    }
    seen = {(run.arm, run.axes["size"], run.axes["iterations"]) for run in generators(plan)}
    assert len(seen) == 12
    wide = next(run for run in generators(plan) if run.axes == {"size": "M", "iterations": 40})
    assert (wide.config.model.width, wide.config.iterations) == (64, 40)


def test_zipped_axes_move_together(tmp_path):
    sizes = Axis("size", {**SIZES.levels, "L": {"generator.model.width": 96}})
    plan = plan_of(tmp_path, axes=(zipped(sizes, ITERATIONS),))
    pairs = [(run.axes["size"], run.axes["iterations"]) for run in generators(plan)]
    assert pairs == [("S", 10), ("M", 20), ("L", 40)] * 2
    with pytest.raises(ValueError, match="lengths .* differ"):
        zipped(SIZES, ITERATIONS)


def test_filters_drop_cells_and_say_why(tmp_path):
    short = where(
        lambda cell: cell["size"] != "S" or cell["iterations"] < 40, "S learns nothing after 20"
    )
    plan = plan_of(tmp_path, where=(short,))
    assert len(generators(plan)) == 10
    assert plan.dropped == (
        ({"arm": "vq", "size": "S", "iterations": 40}, "S learns nothing after 20"),
        ({"arm": "crt", "size": "S", "iterations": 40}, "S learns nothing after 20"),
    )
    assert plan.to_json()["dropped"][0]["reason"] == "S learns nothing after 20"
    unknown = where(lambda cell: cell["sice"] == "S", "never")
    with pytest.raises(ValueError, match="'sice' is not an axis.*did you mean 'size'"):
        plan_of(tmp_path, where=(unknown,))
    nothing = where(lambda cell: cell["arm"] == "vq", "one arm is enough")
    assert plan_of(tmp_path, where=(nothing,)).warnings == ("arm crt: every cell is dropped",)


def test_an_arm_replaces_an_axis(tmp_path):
    longer = Arm({}, axes=(Axis("iterations", (10, 80), path="generator.iterations"),))
    plan = plan_of(tmp_path, arms={"vq": {}, "long": longer})
    durations = {
        arm: {m.axes["iterations"] for run in generators(plan) for m in run.members if m.arm == arm}
        for arm in ("vq", "long")
    }
    assert durations == {"vq": {10, 20, 40}, "long": {10, 80}}
    # The arms differ in nothing else: the two runs of 10 iterations are shared.
    assert len(generators(plan)) == 8
    with pytest.raises(ValueError, match="'iteration' is not an axis.*did you mean 'iterations'"):
        grid(arms={"a": Arm({}, axes=(Axis("iteration", (1,), path="generator.iterations"),))})


def test_an_axis_is_listed_where_it_touches(tmp_path):
    axes = (Axis("codebook_size", (16, 64), path="tokenizer.quantizer.codebook_size"), ITERATIONS)
    plan = plan_of(tmp_path, axes=axes)
    listed = {run.kind: set(run.axes) for run in plan.runs if run.members[0].evaluation is None}
    assert listed == {
        "extractor": set(),
        "tokenizer": {"codebook_size"},
        "codes": {"codebook_size"},
        "generator": {"codebook_size", "iterations"},
    }
    evaluations = {run.members[0].evaluation: set(run.axes) for run in plan.runs}
    assert evaluations["reconstruction"] == {"codebook_size"}
    assert evaluations["samples"] == {"codebook_size", "iterations"}


def test_an_axis_over_the_data_touches_every_stage(tmp_path):
    plan = plan_of(tmp_path, axes=(Axis("resolution", (32, 64), path="data.resolution"),))
    assert all(set(run.axes) == {"resolution"} for run in plan.runs)
    for run in plan.runs:
        if run.kind != "generator":
            assert run.config.data.resolution == run.axes["resolution"]


def test_only_the_resolution_may_differ_between_stages(tmp_path):
    plan = plan_of(tmp_path, "codes.data.resolution=64")
    seen = {run.kind: run.config.data.resolution for run in plan.runs if run.kind != "generator"}
    assert seen["tokenizer"] == 32
    assert seen["codes"] == 64
    with pytest.raises(ValueError, match="codes.data.num_val: every stage follows"):
        plan_of(tmp_path, "codes.data.num_val=3")


def test_set_wins_over_arms(tmp_path):
    arms = {"vq": {}, "slow": {"tokenizer.optim.lr_peak": 1e-5}}
    both = [run for run in plan_of(tmp_path, arms=arms).runs if run.kind == "tokenizer"]
    assert len(both) == 2
    plan = plan_of(tmp_path, "tokenizer.optim.lr_peak=0.5", arms=arms)
    (one,) = [run for run in plan.runs if run.kind == "tokenizer"]
    assert one.config.optim.lr_peak == 0.5
    assert [member.arm for member in one.members] == ["vq", "slow"]


def test_set_of_one_arm(tmp_path):
    plan = plan_of(tmp_path, "arms.crt.tokenizer.regularizer.weight=2.5")
    weights = {
        run.arm: run.config.regularizer and run.config.regularizer.config.weight
        for run in plan.runs
        if run.kind == "tokenizer"
    }
    assert weights == {"vq": None, "crt": 2.5}


def test_set_of_an_axis(tmp_path):
    plan = plan_of(tmp_path, 'axes.size=["M"]', "axes.iterations=[7, 9]")
    assert {run.axes["size"] for run in generators(plan)} == {"M"}
    assert {run.axes["iterations"] for run in generators(plan)} == {7, 9}
    assert {run.config.iterations for run in generators(plan)} == {7, 9}


def test_values_are_json_or_text():
    assert parse_set("a.b=[1, 2]") == ("a.b", [1, 2])
    assert parse_set("a.b=null") == ("a.b", None)
    assert parse_set("a.b=1e-3") == ("a.b", 1e-3)
    assert parse_set("a.b=cosine") == ("a.b", "cosine")
    assert parse_set("a.b=x=y") == ("a.b", "x=y")
    with pytest.raises(ValueError, match="--set: 'a.b'; allowed: path=value"):
        parse_set("a.b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generatr.iterations=3", "names no stage.*did you mean 'generator'"),
        ("evaluations.sample.num_samples=3", "did you mean 'evaluations.samples'"),
        ("generator=3", "names a whole stage"),
        ("generator.iterations=3", "axis 'iterations' varies; allowed: --set axes.iterations="),
        ("generator.model={}", "axis 'size' varies"),
        ("axes.sizes=3", "axes.sizes is not an axis.*did you mean 'size'"),
        ('axes.size=["XL"]', "axes.size has no 'XL'.*allowed: S, M"),
        ("arms.crd.tokenizer.seed=1", "arms.crd is not an arm.*did you mean 'crt'"),
        ("generator.modle.width=3", "generator.modle: there is no such field.*'model'"),
        ("generator.optim.lr_peek=3", "did you mean 'lr_peak'"),
        ("generator.optim.lr_peak=fast", "generator.optim.lr_peak: 'fast' is not allowed"),
        ("generator.optim.lr_peak=NaN", "generator.optim.lr_peak: nan is not allowed"),
        ("generator.batch_size=0", "generator.batch_size: 0 is not allowed"),
        ("tokenizer.quantizer=vqq", "'vqq' is unknown.*did you mean"),
        ("tokenizer.quantizer.codebook_sice=3", "did you mean 'codebook_size'"),
        ("data.resolution=33", "33 is not a multiple of 4"),
        ("evaluations.samples.num_sample=3", "evaluations.samples.num_sample: .*'num_samples'"),
    ],
)
def test_bad_set_is_one_line_with_the_nearest_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        plan_of(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms: a study needs at least one"),
        ({"arms": {"a b": {}}}, "'a b' is not a name"),
        ({"arms": {"a": {"tokeniser.seed": 1}}}, "did you mean 'tokenizer'"),
        ({"axes": (ITERATIONS, ITERATIONS)}, "'iterations' is given twice"),
        ({"primary": ("sample",)}, "did you mean 'samples'"),
        ({"extractor": None, "arms": {"a": {"extractor.width": 3}}}, "names no stage"),
    ],
)
def test_bad_grids(changes, message):
    with pytest.raises(ValueError, match=message):
        grid(**changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Axis("arm", (1,), path="generator.seed"), "'arm' is taken"),
        (lambda: Axis("n", (), path="generator.seed"), "needs at least one"),
        (lambda: Axis("n", "abc", path="generator.seed"), "needs at least one"),
        (lambda: Axis("n", (1, 1), path="generator.seed"), "1 is given twice"),
        (lambda: Axis("n", (1, 2)), "give either labels"),
        (lambda: Axis("n", {"a": {"generator.seed": 1}}, path="generator.seed"), "give either"),
        (lambda: Axis("n", (part("vq"),), path="tokenizer.quantizer"), "cannot be a column"),
    ],
)
def test_bad_axes(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_two_primary_evaluations_of_one_subject_are_refused(tmp_path):
    more = {**grid().evaluations, "again": {"subject": "tokenizer", "metrics": [part("ssim")]}}
    plan = plan_of(tmp_path, evaluations=more)
    primary = {
        member.evaluation: member.primary
        for run in plan.runs
        for member in run.members
        if member.evaluation
    }
    assert primary == {"reconstruction": True, "samples": True, "again": False}
    chosen = plan_of(tmp_path, evaluations=more, primary=("again",))
    assert chosen.primary == ("again", "samples")
    with pytest.raises(ValueError, match="both evaluate the tokenizer"):
        plan_of(tmp_path, evaluations=more, primary=("again", "reconstruction"))


def test_levels_that_change_nothing_are_warned_of(tmp_path):
    same = Axis("note", {"a": {}, "b": {}, "c": {"generator.seed": 5}})
    plan = plan_of(tmp_path, axes=(same,))
    assert len(generators(plan)) == 4
    assert any("one run at several values of note" in line for line in plan.warnings)


def test_a_study_without_stage_two(tmp_path):
    only = dataclasses.replace(grid(), generator=None, codes=None, axes=())
    only = dataclasses.replace(only, evaluations={"r": grid().evaluations["reconstruction"]})
    assert kinds(make_plan(only, home=tmp_path)) == {
        "extractor": 1,
        "tokenizer": 2,
        "evaluation": 2,
    }
    needs = {"s": grid().evaluations["samples"]}
    with pytest.raises(ValueError, match="evaluations.s: the study has no generator"):
        make_plan(dataclasses.replace(only, evaluations=needs), home=tmp_path)


def test_overrides_leave_the_grid_as_it_was():
    made = grid()
    changed = overridden(made, [("tokenizer.seed", 3), ("axes.iterations", [5])])
    assert made == grid()
    assert changed != made
