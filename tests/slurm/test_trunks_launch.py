"""Launching trunks: segments in order, branches behind theirs, and what a diverged one leaves."""

import json
from functools import partial
from pathlib import Path

import pytest
from fake_trainer import behave
from toy import attempts, folder, planned
from trunk_study import durations

from tokenlaw.results_db.record import RunDir, may_follow, read_endpoint
from tokenlaw.slurm.follow.runs import study_plan
from tokenlaw.slurm.follow.status import study_status
from tokenlaw.slurm.launch import launch
from tokenlaw.sweeps.cli.verbs.launch import launched
from tokenlaw.sweeps.plan import Overtaken, make_plan, write_run
from tokenlaw.sweeps.planned import Plan


def trunk_plan() -> Plan:
    tokenizer = planned("tokenizer", "t")
    codes = planned("codes", "c", {"tokenizer": tokenizer.id})
    runs = [tokenizer, codes]
    above: dict[str, str] = {}
    for number in range(2):
        segment = planned("generator", f"segment{number}", {"codes": codes.id, **above})
        above = {"trunk": segment.id}
        runs += [segment, planned("generator", f"branch{number}", {"codes": codes.id, **above})]
    return Plan(study="toy", runs=tuple(runs))


def test_branches_follow_their_segments(home: Path, fake_trainer: object) -> None:
    plan = trunk_plan()
    summary = launch(plan, home=home, settings={"device": "cpu"}, workers=2, progress=False)
    assert (summary.done, summary.exit_code) == (6, 0)
    claims = [json.loads((folder(home, r) / "attempts/001.json").read_text()) for r in plan.runs]
    ends = [json.loads((folder(home, r) / "endpoint.json").read_text()) for r in plan.runs]
    index = {run.id: number for number, run in enumerate(plan.runs)}
    for run, claim in zip(plan.runs, claims, strict=True):
        for parent in run.parents.values():
            assert ends[index[parent]]["finished_at"] <= claim["started_at"]


def test_runs_behind_a_diverged_segment_are_given_out(home: Path, fake_trainer: object) -> None:
    """They end as diverged by themselves (trainer/run.py), so that they are counted."""
    plan = trunk_plan()
    behave(folder(home, plan.runs[2]), {"status": "diverged"})
    summary = launch(plan, home=home, settings={"device": "cpu"}, workers=2, progress=False)
    assert (summary.done, summary.diverged, summary.blocked) == (6, 1, ())
    assert [attempts(home, run) for run in plan.runs] == [1] * 6
    # Codes that diverged, if that were possible, would still block.
    assert may_follow("trunk", "diverged") and not may_follow("codes", "diverged")
    assert not may_follow("trunk", "failed") and may_follow("codes", "done")


def test_status_does_not_call_them_blocked(home: Path, fake_trainer: object) -> None:
    plan = trunk_plan()
    behave(folder(home, plan.runs[2]), {"status": "diverged"})
    behave(folder(home, plan.runs[3]), {"fail_at": 0})
    launch(plan, home=home, settings={"device": "cpu"}, workers=2, progress=False)
    lines = study_status(home, study_plan(home, "toy")).lines
    assert [line.state for line in lines] == ["done", "done", "diverged", "failed", "done", "done"]


@pytest.mark.parametrize("first, second", [((8, 12, 16), (8, 16)), ((8, 16), (8, 12, 16))])
def test_two_launches_that_cut_one_trunk_in_different_ways(
    home: Path, fake_trainer: object, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    """Both are planned, then one writes its folders, in which segments begin where it wants."""
    replan = partial(make_plan, durations(*second), home=home)
    mine, other = replan(), make_plan(durations(*first), home=home)
    for run in other.runs:
        write_run(home, run, {"device": "cpu"})
    with pytest.raises(Overtaken, match="launch again"):
        launch(mine, home=home, settings={"device": "cpu"}, workers=2, progress=False)
    assert not list(home.glob("*/*/attempts/*.json")), "nothing was given out"

    settings = {"device": "cpu"}
    summary = launched(mine, home, settings, workers=2, progress=False, replan=replan)
    assert summary.exit_code == 0 and summary.done == summary.total
    generators = [RunDir(path.parent) for path in home.glob("generator/*/endpoint.json")]
    assert len(generators) == 3 + len(second), "three segments, and the branches"
    for run in generators:
        begun = json.loads(run.attempt_path(1).read_text())["started_at"]
        for role, parent in run.config()["parents"].items():
            kind = "codes" if role == "codes" else "generator"
            ended = read_endpoint(RunDir.of(home, kind, parent))
            assert ended is not None and ended["finished_at"] <= begun
