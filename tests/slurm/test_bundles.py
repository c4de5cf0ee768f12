"""Which runs share a job."""

from pathlib import Path

from toy import two_stage_plan

from tokenlaw.results_db.record import RunDir
from tokenlaw.slurm.base import Bundling, Job
from tokenlaw.slurm.bundles import Task, make_jobs
from tokenlaw.slurm.resources import Resources
from tokenlaw.sweeps.planned import Plan, PlannedRun

HOME = Path("/home-of-runs")


def task(run: PlannedRun, seconds: float = 60.0) -> Task:
    return Task(
        run_dir=RunDir.of(HOME, run.kind, run.id),
        parents=run.parents,
        seconds=seconds,
        priority=seconds,
    )


def jobs(plan: Plan, *, queued: dict[str, str] | None = None, **bundling: float) -> list[Job]:
    return make_jobs(
        [task(run) for run in plan.runs],
        resources=lambda kind: Resources(),
        queued=queued or {},
        bundling=Bundling(**bundling),  # type: ignore[arg-type]
    )


def kinds(job: Job) -> list[str]:
    return [run.kind for run in job.run_dirs]


def test_what_follows_one_run_shares_its_job() -> None:
    made = jobs(two_stage_plan(generators=2))
    assert kinds(made[0]) == ["tokenizer", "codes"] and made[0].after == ()
    assert [kinds(job) for job in made[1:]] == [["generator", "evaluation"]] * 2
    assert [job.after for job in made[1:]] == [(made[0].key,)] * 2


def test_every_run_is_in_one_job() -> None:
    plan = two_stage_plan(generators=50, tokenizers=3)
    made = jobs(plan)
    found = [run.id for job in made for run in job.run_dirs]
    assert sorted(found) == sorted(run.id for run in plan.runs)


def test_jobs_stand_behind_what_they_wait_for() -> None:
    seen: set[str] = set()
    for job in jobs(two_stage_plan(generators=9, tokenizers=4)):
        assert set(job.after) <= seen
        seen.add(job.key)


def test_what_others_wait_for_stays_alone() -> None:
    made = jobs(two_stage_plan(generators=2, tokenizers=3), minutes=1000.0, least_jobs=1)
    leaders = [job for job in made if kinds(job)[0] == "tokenizer"]
    # One that fails must not keep the children of the others from starting.
    assert [kinds(job) for job in leaders] == [["tokenizer", "codes"]] * 3
    assert len(made) == 6


def test_small_runs_fill_the_time_given() -> None:
    plan = two_stage_plan(generators=60)  # each with its evaluation: 140 s
    assert len(jobs(plan, minutes=70.0, least_jobs=1)) == 1 + 2
    assert len(jobs(plan, minutes=2.0, least_jobs=1)) == 1 + 60
    assert len(jobs(plan, minutes=1000.0, least_jobs=8)) == 1 + 8


def test_long_runs_stay_alone_and_shares_are_even() -> None:
    plan = two_stage_plan(generators=4)
    tasks = [
        task(run, 3600.0 if run.id == plan.runs[2].id else 60.0)
        for run in plan.runs
        if run.kind == "generator"
    ]
    made = make_jobs(
        tasks,
        resources=lambda kind: Resources(),
        queued={},
        bundling=Bundling(minutes=60.0, least_jobs=1),
    )
    assert sorted(len(job.run_dirs) for job in made) == [1, 3]


def test_a_parent_in_the_queue_is_waited_for_by_its_job_id() -> None:
    plan = two_stage_plan(generators=1)
    tasks = [task(run) for run in plan.runs[2:]]
    (made,) = make_jobs(
        tasks,
        resources=lambda kind: Resources(),
        queued={plan.runs[1].id: "123_4", plan.runs[0].id: "123_3"},
        bundling=Bundling(),
    )
    assert made.after == ("123_3", "123_4")


def test_kinds_with_other_resources_do_not_share() -> None:
    made = make_jobs(
        [task(run) for run in two_stage_plan(generators=1).runs],
        resources=lambda kind: Resources(gpus=0 if kind == "codes" else 1),
        queued={},
        bundling=Bundling(),
    )
    assert [kinds(job) for job in made] == [["tokenizer"], ["codes"], ["generator", "evaluation"]]


def test_time_is_asked_from_the_estimate_with_a_margin() -> None:
    def minutes(seconds: float, **bundling: object) -> int | None:
        (made,) = make_jobs(
            [task(two_stage_plan(1).runs[0], seconds)],
            resources=lambda kind: Resources(),
            queued={},
            bundling=Bundling(**bundling),  # type: ignore[arg-type]
        )
        return made.resources.minutes

    assert minutes(60) == 15
    assert minutes(3600) == 240, "2 x 60 + 10"
    assert minutes(3600, margin=1.0, extra_minutes=0.0) == 120, "the next step above 60.2"
    assert minutes(3600, most_minutes=100) == 100, "the partition's limit; it goes on afterwards"


def test_a_time_that_was_given_stays() -> None:
    made = make_jobs(
        [task(run) for run in two_stage_plan(generators=60).runs],
        resources=lambda kind: Resources(minutes=40),
        queued={},
        bundling=Bundling(least_jobs=1),
    )
    assert {job.resources.minutes for job in made} == {40}
    # 30 minutes without the start, at half of the margin: 15 minutes of work, six pairs of 140 s.
    assert max(len(job.run_dirs) for job in made[1:]) in (12, 14)
