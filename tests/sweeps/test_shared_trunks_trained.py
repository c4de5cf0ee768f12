"""A study with trunks, trained: its table has the branches, with both accountings."""

from __future__ import annotations

import dataclasses

import tiny

from tokenlaw.results_db import read
from tokenlaw.results_db.record import RunDir
from tokenlaw.sweeps.grid import Axis, Grid
from tokenlaw.sweeps.plan import make_plan, write_run
from tokenlaw.sweeps.planned import Plan
from tokenlaw.trainer.run import Stop
from tokenlaw.trainer.worker import execute


def study(*iterations: int) -> Grid:
    tokenizer = {**tiny.varied_tokenizer(iterations=2), "data": {}}
    optim = {**tiny.ADAM, "schedule": "wsd", "decay_share": 0.25}
    return Grid(
        name="lengths",
        data=tiny.data(),
        tokenizer=tokenizer,
        codes={name: value for name, value in tiny.codes().items() if name != "data"},
        generator=tiny.generator(optim=optim),
        evaluations={"reconstruction": {"subject": "tokenizer", "metrics": ["psnr"]}},
        axes=(Axis("iterations", iterations, path="generator.iterations"),),
    )


def launched(home, plan: Plan) -> set[str]:
    """Does what is missing, in the plan's order; gives the ids of what was done."""
    plan.write(home)
    done = set()
    for run in plan.runs:
        folder = RunDir(write_run(home, run, {"device": "cpu", "log_every": 1}))
        before = len(folder.attempts())
        assert execute(folder.path, Stop()).outcome == "done"
        done |= {run.id} if len(folder.attempts()) > before else set()
    return done


def spans(plan: Plan, ids: set[str]) -> list[tuple[int, int]]:
    """First and last iteration of runs of the plan that belong to trunks."""
    runs = [run for run in plan.runs if run.id in ids]
    return [(run.config.trunk.start, run.config.iterations) for run in runs]


def test_the_table_has_branches_with_both_accountings(tmp_path):
    plan = make_plan(study(4, 8), home=tmp_path)
    assert launched(tmp_path, plan) == {run.id for run in plan.runs}
    table = read.endpoints("lengths", wide=True, home=tmp_path)
    assert list(table["iterations"]) == [4, 8]
    branches = [run for run in plan.runs if run.kind == "generator" and not run.is_segment]
    assert set(table["run_id"]) == {run.id for run in branches}
    assert table["trunk_id"].nunique() == 1 and table["val_loss"].notna().all()
    assert table["psnr"].nunique() == 1
    per_step = branches[0].flops_train / 4
    assert list(table["flops_train"]) == [4 * per_step, 8 * per_step]
    assert list(table["flops_marginal"]) == [per_step, 2 * per_step]
    ancestors = (table["flops_total"] - table["flops_train"]).unique()
    (above,) = ancestors
    planned = {run.kind: run.flops_train for run in plan.runs}
    assert above == planned["tokenizer"] + planned["codes"]
    # All studies together: segments are no rows there either.
    assert len(read.endpoints(wide=True, home=tmp_path)) == 2
    long = read.endpoints("lengths", home=tmp_path)
    segments = {run.id for run in plan.runs if run.is_segment}
    assert set(long[long["run_id"].isin(segments)]["metric"]) == {None}
    # What was planned for a run and what it ended with are the same numbers.
    frame = long.drop_duplicates("run_id").set_index("run_id")
    for run in plan.runs:
        if run.kind in ("tokenizer", "generator"):
            assert frame.loc[run.id, "flops_train"] == run.flops_train
            assert frame.loc[run.id, "flops_marginal"] == run.flops_marginal

    # A longer duration, then one in between: only what is new is trained.
    longer = make_plan(study(4, 8, 16), home=tmp_path)
    assert spans(longer, launched(tmp_path, longer)) == [(6, 12), (12, 16)]
    between = make_plan(study(4, 8, 12, 16), home=tmp_path)
    assert spans(between, launched(tmp_path, between)) == [(6, 9), (9, 12)]
    table = read.endpoints("lengths", wide=True, home=tmp_path)
    assert list(table["iterations"]) == [4, 8, 12, 16] and table["trunk_id"].nunique() == 1

    # The same study without sharing ends with the same losses.
    alone = make_plan(dataclasses.replace(study(4, 8), name="alone"), home=tmp_path, sharing=False)
    launched(tmp_path, alone)
    expected = read.endpoints("alone", wide=True, home=tmp_path)
    assert list(expected["val_loss"]) == list(table["val_loss"][:2])
    assert expected["trunk_id"].isna().all()
