"""Launching trunks: segments in order, branches behind theirs, and what a diverged one leaves."""

import json
from pathlib import Path

from fake_trainer import behave
from toy import attempts, folder, planned

from results_db.record import may_follow
from slurm.launch import launch
from slurm.status import study_status
from sweeps.plan import Plan
from sweeps.watch import study_plan


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
