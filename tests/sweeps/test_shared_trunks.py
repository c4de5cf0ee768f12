"""Trunks in plans: what is shared, what it saves, and what becomes of finished segments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_study import grid
from trunk_study import WSD, durations

from tokenlaw.results_db import record
from tokenlaw.results_db.record import RunDir
from tokenlaw.sweeps.grid import Axis, Grid
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan, PlannedRun
from tokenlaw.trainer.accounting.config import decode_run
from tokenlaw.trainer.accounting.identity import run_id

NINE = (15_000, 22_500, 45_000, 90_000, 187_500, 375_000, 750_000, 1_500_000, 2_250_000)


def trunk_runs(plan: Plan, kind: str = "generator") -> tuple[list[PlannedRun], list[PlannedRun]]:
    """(segments, branches) of a plan, in its order."""
    runs = [run for run in plan.runs if run.kind == kind and run.config.trunk is not None]
    return [r for r in runs if r.is_segment], [r for r in runs if not r.is_segment]


def spans(plan: Plan) -> list[tuple[int, int]]:
    return [(r.config.trunk.start, r.config.iterations) for r in trunk_runs(plan)[0]]


def finish(home: Path, *runs: PlannedRun, status: str = "done") -> None:
    for run in runs:
        folder = RunDir(write_run(home, run, {}))
        attempt = record.claim(folder, executor="local", info={"hardware": "CPU toy"})
        columns = {"flops_train": float(run.flops_train), "gpu_hours": 1.0, "hardware": "CPU toy"}
        attempt.write_endpoint(
            {
                "status": status,
                "reason": None,
                "values": [],
                "columns": columns | {"flops_marginal": float(run.flops_marginal)},
                "artifacts": [],
            }
        )
        attempt.finish(status)


# ----------------------------------------------------------------------------------------- the plan


def test_the_papers_nine_durations_cost_half(tmp_path):
    plan = make_plan(durations(*NINE, optim={**WSD, "decay_share": 0.2}), home=tmp_path)
    segments, branches = trunk_runs(plan)
    assert [r.config.iterations for r in branches] == list(NINE)
    assert sum(NINE) == 5_235_000
    steps = [r.config.iterations - r.config.trunk.start for r in (*segments, *branches)]
    assert sum(steps) == 2_847_000  # 80% of the longest, and 20% of each
    generators = plan.to_json()["totals"]["by_kind"]["generator"]
    per_step = branches[0].flops_train // 15_000
    assert generators["flops_train"] == 2_847_000 * per_step
    assert generators["flops_train_without_sharing"] == 5_235_000 * per_step
    totals = plan.to_json()["totals"]
    others = totals["flops_train"] - generators["flops_train"]
    assert totals["flops_train_without_sharing"] == others + 5_235_000 * per_step
    assert totals["segments"] == 9 and totals["runs"] == len(plan.runs)
    alone = make_plan(
        durations(*NINE, optim={**WSD, "decay_share": 0.2}), home=tmp_path, sharing=False
    )
    assert trunk_runs(alone) == ([], [])
    assert alone.totals()["flops_train"] == totals["flops_train_without_sharing"]
    assert alone.totals()["flops_train_without_sharing"] == alone.totals()["flops_train"]
    assert plan.totals()["gpu_hours"] < alone.totals()["gpu_hours"]


def test_segments_are_a_chain_and_branches_leave_it(tmp_path):
    plan = make_plan(durations(40, 8, 16), home=tmp_path)
    segments, branches = trunk_runs(plan)
    assert spans(plan) == [(0, 6), (6, 12), (12, 30)]
    by_end = {r.config.iterations: r.id for r in segments}
    (codes,) = [run.id for run in plan.runs if run.kind == "codes"]
    for segment in segments:
        start = segment.config.trunk.start
        assert segment.parents == {"codes": codes} | ({"trunk": by_end[start]} if start else {})
        assert segment.config.optim.schedule == "constant"
    for branch in branches:
        length = branch.config.iterations
        assert branch.config.trunk.start == length * 3 // 4
        assert branch.parents == {"codes": codes, "trunk": by_end[length * 3 // 4]}
        assert branch.flops_marginal * 4 == branch.flops_train
    assert sum(r.flops_marginal for r in segments) == segments[-1].flops_train
    seen: set[str] = set()
    for run in plan.runs:
        assert set(run.parents.values()) <= seen
        seen.add(run.id)
        assert run_id(run.kind, run.config, run.parents) == run.id
        again = decode_run(run.kind, json.loads(run.config_json))
        assert again == run.config
    document = plan.to_json()["runs"]
    assert {r["trunk"]["id"] for r in document if r["trunk"]} == {document[2]["trunk"]["id"]}
    assert [r["trunk"] and r["trunk"]["role"] for r in document] == [
        *(None, None),
        *("segment",) * 3,
        *("branch",) * 3,
    ]


def test_ids_without_trunks_have_not_moved(tmp_path):
    """Cosine and constant schedules are as they were; so is wsd where it is trained alone."""
    for changes in ({}, {"generator.optim": {"schedule": "cosine"}}):
        plans = [
            make_plan(grid(), home=tmp_path, overrides=changes.items(), sharing=sharing)
            for sharing in (True, False)
        ]
        assert [run.id for run in plans[0].runs] == [run.id for run in plans[1].runs]
        assert plans[0].totals()["segments"] == 0
    opted_out = durations(8, 16)
    assert make_plan(opted_out, home=tmp_path, sharing=False).totals()["segments"] == 0
    assert (
        make_plan(
            Grid(**{**{n: getattr(opted_out, n) for n in FIELDS}, "share_trunks": False}),
            home=tmp_path,
        ).totals()["segments"]
        == 0
    )


FIELDS = ("name", "data", "tokenizer", "generator", "axes")


def test_a_golden_segment_and_branch(tmp_path):
    """These names are on people's disks."""
    segments, branches = trunk_runs(make_plan(durations(8), home=tmp_path))
    assert [run.id for run in (*segments, *branches)] == ["a09cec2d360d69b9", "799f7c014ff48b84"]


def test_tokenizers_share_trunks_too(tmp_path):
    made = grid(axes=(Axis("length", (8, 16), path="tokenizer.iterations"),))
    plan = make_plan(made, home=tmp_path, overrides=[("tokenizer.optim", WSD)])
    segments, branches = trunk_runs(plan, "tokenizer")
    assert [run.arm for run in segments] == ["vq", "vq", "crt", "crt"]
    assert [run.axes for run in segments] == [{}, {"length": 16}] * 2  # where their branches agree
    assert [run.axes for run in branches] == [{"length": 8}, {"length": 16}] * 2
    codes = [run for run in plan.runs if run.kind == "codes"]
    assert [run.parents["tokenizer"] for run in codes] == [run.id for run in branches]
    results = {run.id for run in branches}
    evaluations = [run for run in plan.runs if run.kind == "evaluation"]
    assert {run.parents["tokenizer"] for run in evaluations} == results
    # Generators over different tokenizers have nothing in common.
    wsd = {"tokenizer.optim": WSD, "generator.optim": WSD}
    both = make_plan(made, home=tmp_path, overrides=wsd.items())
    assert len(trunk_runs(both)[0]) == len(trunk_runs(both)[1]) == 4


def test_arms_that_differ_in_the_decay_share_one_trunk(tmp_path):
    made = durations(8, 16)
    arms = {"sqrt": {}, "linear": {"generator.optim.decay_shape": "linear"}}
    made = Grid(**{**{n: getattr(made, n) for n in FIELDS}, "arms": arms})
    segments, branches = trunk_runs(make_plan(made, home=tmp_path))
    assert (len(segments), len(branches)) == (2, 4)
    assert [m.arm for m in segments[0].members] == ["sqrt", "linear"]
    assert all(not member.primary for run in segments for member in run.members)
    assert all(member.primary for run in branches for member in run.members)


def test_studies_do_not_set_the_trunk(tmp_path):
    made = durations(8, trunk={"role": "branch", "start": 6})
    with pytest.raises(ValueError, match="generator.trunk: is the planner's"):
        make_plan(made, home=tmp_path)


# --------------------------------------------------------------------------------- durations later


def states(plan: Plan) -> dict[tuple[str, int], str]:
    return {
        (run.config.trunk.role, run.config.iterations): run.state
        for run in plan.runs
        if run.kind == "generator"
    }


def test_a_longer_duration_later_uses_what_is_finished(tmp_path):
    before = make_plan(durations(8, 16), home=tmp_path)
    finish(tmp_path, *before.runs)
    after = make_plan(durations(8, 16, 40), home=tmp_path)
    assert {run.id for run in before.runs} < {run.id for run in after.runs}
    new = {key for key, state in states(after).items() if state != "done"}
    assert new == {("segment", 30), ("branch", 40)}
    assert spans(after) == [(0, 6), (6, 12), (12, 30)]
    # As does a study of the long one alone, whatever it is called.
    alone = make_plan(durations(40), home=tmp_path)
    assert spans(alone) == [(0, 6), (6, 12), (12, 30)]
    assert states(alone)["segment", 12] == "done"
    elsewhere = make_plan(durations(40), home=tmp_path / "elsewhere")
    assert spans(elsewhere) == [(0, 30)]
    assert trunk_runs(elsewhere)[1][0].id == trunk_runs(alone)[1][0].id


def test_a_duration_in_between_keeps_all_that_is_finished(tmp_path):
    before = make_plan(durations(8, 40), home=tmp_path)
    assert spans(before) == [(0, 6), (6, 30)]
    finish(tmp_path, *before.runs)
    after = make_plan(durations(8, 16, 40), home=tmp_path)
    assert spans(after) == [(0, 6), (6, 12), (6, 30)]  # one that is there stays as it was trained
    assert {run.id for run in before.runs} < {run.id for run in after.runs}
    new = {key for key, state in states(after).items() if state != "done"}
    assert new == {("segment", 12), ("branch", 16)}
    # Elsewhere, planned at once, the same runs are cut otherwise and have the same ids.
    fresh = make_plan(durations(8, 16, 40), home=tmp_path / "elsewhere")
    assert spans(fresh) == [(0, 6), (6, 12), (12, 30)]
    assert {run.id for run in fresh.runs} == {run.id for run in after.runs}


def test_a_segment_that_was_begun_keeps_its_way(tmp_path):
    before = make_plan(durations(8, 40), home=tmp_path)
    for run in before.runs:
        write_run(tmp_path, run, {})
    # Only the long one is left in the study: its segment still goes on from the short one's.
    after = make_plan(durations(16, 40), home=tmp_path)
    assert spans(after) == [(0, 6), (6, 12), (6, 30)]
    for run in after.runs:
        folder = RunDir(write_run(tmp_path, run, {}))
        assert folder.config()["parents"] == run.parents
        assert folder.config()["config"] == json.loads(run.config_json)


def test_a_segment_whose_beginning_was_removed_is_planned_with_it_again(tmp_path):
    before = make_plan(durations(8, 40), home=tmp_path)
    finish(tmp_path, *before.runs)
    shutil.rmtree(tmp_path / "generator" / trunk_runs(before)[0][0].id)
    after = make_plan(durations(16, 40), home=tmp_path)
    assert spans(after) == [(0, 6), (6, 12), (6, 30)]
    assert states(after)["segment", 6] != "done" == states(after)["segment", 30]


def test_only_finished_segments_of_the_same_trunk_are_found(tmp_path):
    others = make_plan(durations(16, seed=1), home=tmp_path)
    finish(tmp_path, *others.runs)
    assert spans(make_plan(durations(40), home=tmp_path)) == [(0, 30)]
    unfinished = make_plan(durations(16), home=tmp_path)
    for run in unfinished.runs:
        write_run(tmp_path, run, {})
    assert spans(make_plan(durations(40), home=tmp_path)) == [(0, 30)]
    finish(tmp_path, *trunk_runs(unfinished)[0], status="diverged")
    assert spans(make_plan(durations(40), home=tmp_path)) == [(0, 30)]


def test_hours_are_of_what_the_run_itself_computes(tmp_path):
    before = make_plan(durations(8, 16), home=tmp_path)
    segments, branches = trunk_runs(before)
    finish(tmp_path, *(run for run in before.runs if run.kind != "generator"), segments[0])
    after = make_plan(durations(8, 16), home=tmp_path)
    # Six iterations took an hour; the other trunk's segment is six more, the decays two and four.
    hours = [run.gpu_hours for run in (*trunk_runs(after)[0], *trunk_runs(after)[1])]
    assert hours == pytest.approx([1.0, 1.0, 2 / 6, 4 / 6])
    assert branches[0].hours_source == "default"


def test_rates_of_other_studies_know_what_a_branch_computed(tmp_path):
    plan = make_plan(durations(8), home=tmp_path)
    (branch,) = trunk_runs(plan)[1]
    folder = RunDir(write_run(tmp_path, branch, {}))
    attempt = record.claim(folder, executor="local", info={})
    columns = {
        "flops_train": float(branch.flops_train),
        "flops_marginal": float(branch.flops_marginal),
        "params": branch.params,
        "params_non_embedding": branch.params_non_embedding,
        "tokens_per_image": 64,
        "images_train": 64,
        "iterations": 8,
        "gpu_hours": 1.0,
    }
    attempt.write_endpoint({"status": "done", "values": [], "columns": columns, "artifacts": []})
    attempt.finish("done")
    found = make_plan(durations(8, seed=1), home=tmp_path)
    alone = next(run for run in trunk_runs(found)[1])
    assert alone.hours_source == "measured"
    assert alone.gpu_hours == pytest.approx(1.0)  # a decay as long as the one that was timed
