"""From a plan to the wide table: each generator gets the evaluations of its own arm and axes."""

from __future__ import annotations

import json
from pathlib import Path

from small_study import grid

from tokenlaw.results_db import read
from tokenlaw.results_db.engine import opened
from tokenlaw.results_db.sync import sync
from tokenlaw.sweeps.grid import Axis
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan, PlannedRun


def finish(home: Path, run: PlannedRun, values: dict[str, float]) -> None:
    endpoint = {
        "scheme": 1,
        "run_id": run.id,
        "kind": run.kind,
        "attempt": 1,
        "status": "done",
        "reason": None,
        "values": [
            {"metric": name, "value": value, "unit": "1", "provenance": {}}
            for name, value in values.items()
        ],
        "columns": {},
        "artifacts": [],
        "commit": None,
        "dirty": None,
        "versions": {},
        "finished_at": "2026-01-01T00:00:00.000+00:00",
    }
    folder = write_run(home, run, {})
    (folder / "endpoint.json").write_text(json.dumps(endpoint))


def table(home: Path, plan: Plan):
    """The wide table, after every evaluation ended with a value made from its own axes."""
    plan.write(home)
    for run in plan.runs:
        member = run.members[0]
        if member.evaluation == "samples":
            finish(home, run, {"gfcd": 100.0 * run.axes.get("cfg_scale", 0.0)})
        elif member.evaluation == "reconstruction":
            finish(home, run, {"psnr": float(run.config.model_resolution or 32)})
        else:
            finish(home, run, {})
    with opened(home) as engine:
        assert sync(home, engine).ok
    return read.endpoints("small", wide=True, home=home)


def test_a_tokenizer_that_is_evaluated_at_several_lengths(tmp_path):
    lengths = {
        64: {"codes.data.resolution": 32},
        256: {"codes.data.resolution": 64, "evaluations.reconstruction.model_resolution": 64},
    }
    plan = make_plan(
        grid(arms={"vq": {}}, axes=(Axis("tokens", lengths),)),
        home=tmp_path,
    )
    assert plan.totals()["by_kind"]["tokenizer"]["runs"] == 1
    wide = table(tmp_path, plan)
    assert dict(zip(wide["tokens"], wide["psnr"], strict=True)) == {64: 32.0, 256: 64.0}


def test_an_axis_of_the_evaluations_alone_gives_rows_of_its_own(tmp_path):
    scales = Axis("cfg_scale", (1.0, 1.5, 2.0), path="evaluations.samples.sampling.cfg_scale")
    plan = make_plan(grid(axes=(scales,)), home=tmp_path)
    assert plan.totals()["by_kind"]["generator"]["runs"] == 2
    wide = table(tmp_path, plan)
    assert len(wide) == 6
    assert wide["run_id"].nunique() == 2
    assert (wide["gfcd"] == 100 * wide["cfg_scale"]).all()


def test_arms_that_share_a_generator_keep_their_own_evaluations(tmp_path):
    arms = {
        "plain": {},
        "guided": {"evaluations.samples.sampling.cfg_scale": 2.0},
    }
    plan = make_plan(grid(arms=arms, axes=()), home=tmp_path)
    assert plan.totals()["by_kind"]["generator"]["runs"] == 1
    plan.write(tmp_path)
    for run in plan.runs:
        scale = run.config.sampling.cfg_scale if run.kind == "evaluation" else 0.0
        finish(tmp_path, run, {"gfcd": scale} if run.members[0].evaluation == "samples" else {})
    with opened(tmp_path) as engine:
        sync(tmp_path, engine)
    wide = read.endpoints("small", wide=True, home=tmp_path)
    assert dict(zip(wide["arm"], wide["gfcd"], strict=True)) == {"plain": 1.0, "guided": 2.0}
