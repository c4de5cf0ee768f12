"""Submitting to SLURM, with a fake one that lies: each run is in the queue once."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from fake_trainer import behave, endpoint
from toy import folder, two_stage_plan

from tokenlaw.results_db.record import RunDir, claim
from tokenlaw.slurm import base, launch_records, scheduler
from tokenlaw.slurm.executors import slurm as slurm_executor
from tokenlaw.slurm.follow import cancel, queue
from tokenlaw.slurm.follow.runs import study_plan
from tokenlaw.slurm.follow.status import study_status
from tokenlaw.slurm.launch import launch
from tokenlaw.slurm.resources import Resources
from tokenlaw.slurm.run_states import Summary
from tokenlaw.sweeps.cli.app import main
from tokenlaw.sweeps.planned import Plan

SCRIPT = Path(__file__).with_name("launch_toy.py")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patience with a fake."""
    monkeypatch.setattr(slurm_executor, "_LOOKS_AFTER_FAILURE", (0.0,))
    monkeypatch.setattr(launch_records, "_SETTLE_SECONDS", 0.2)


def run(plan: Plan, home: Path, wait: bool = False, **options: object) -> Summary:
    return launch(
        plan,
        executor="slurm",
        home=home,
        settings={"device": "cpu"},
        wait=wait,
        progress=False,
        options=options,
    )


def finish(home: Path, plan: Plan, *kinds: str) -> None:
    """Endpoints for all runs of some kinds."""
    for planned in plan.runs:
        if planned.kind in kinds:
            folder(home, planned).mkdir(parents=True, exist_ok=True)
            attempt = claim(RunDir(folder(home, planned)), executor="local")
            attempt.write_endpoint(endpoint(attempt.run_dir, "done"))
            attempt.finish("done")


def submitted(home: Path) -> list[str]:
    """Runs in all that launches wrote down, in order."""
    found = []
    for launched in launch_records.launches(home):
        for submission in launched.submissions:
            found += [run for task in submission.tasks for run in task]
    return found


def all_runs(plan: Plan) -> list[str]:
    return sorted(f"{planned.kind}/{planned.id}" for planned in plan.runs)


def test_each_run_is_in_the_queue_once(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan(generators=6)
    first = run(plan, home)
    assert first.queued == 14 and cluster.calls("sbatch") == 2
    assert sorted(submitted(home)) == all_runs(plan)
    again = run(plan, home)
    assert again.submitted == () and again.elsewhere == 14 and cluster.calls("sbatch") == 2


def test_only_parents_in_the_queue_are_waited_for(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan(generators=2)
    run(plan, home)
    jobs = cluster.jobs()
    assert [job["dependency"] for job in jobs.values()] == ["", "afterok:100", "afterok:100"]
    other = home.parent / "other"
    finish(other, plan, "tokenizer", "codes")
    run(plan, other)
    new = [job for job_id, job in cluster.jobs().items() if job_id not in jobs]
    assert [job["dependency"] for job in new] == ["", ""]


def test_children_added_later_wait_for_the_queued_parent(home: Path, cluster: FakeCluster) -> None:
    run(two_stage_plan(generators=1), home)
    later = run(two_stage_plan(generators=2), home)
    assert len(later.submitted) == 2
    assert list(cluster.jobs().values())[-1]["dependency"] == "afterok:100"


def test_arrays_are_cut_at_the_limit_of_the_cluster(home: Path, cluster: FakeCluster) -> None:
    cluster.switch(max_array=4)
    plan = two_stage_plan(generators=10)
    finish(home, plan, "tokenizer", "codes")
    assert run(plan, home, bundle_minutes=0.01).queued == 20
    assert cluster.calls("sbatch") == 3
    assert sorted(submitted(home)) == sorted(
        f"{r.kind}/{r.id}" for r in plan.runs if r.kind in ("generator", "evaluation")
    )


@pytest.mark.parametrize("accounting", [True, False])
def test_submit_limits_are_kept(home: Path, cluster: FakeCluster, accounting: bool) -> None:
    cluster.switch(max_submit=5, no_accounting=not accounting)
    plan = two_stage_plan(generators=10)
    finish(home, plan, "tokenizer", "codes")
    summary = run(plan, home, bundle_minutes=0.01)
    assert len(cluster.jobs()) == (5 if accounting else 10)
    assert summary.queued == (10 if accounting else 20)
    assert run(plan, home, bundle_minutes=0.01).submitted == ()


def test_a_limit_that_only_sbatch_knows_leaves_the_rest_for_later(
    home: Path, cluster: FakeCluster
) -> None:
    cluster.switch(sbatch_refuses="AssocMaxSubmitJobLimit")
    summary = run(two_stage_plan(), home)
    assert summary.queued == 0 and summary.stopped is None and submitted(home) == []


def test_small_runs_share_jobs(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan(generators=40)
    finish(home, plan, "tokenizer", "codes")
    run(plan, home, bundle_minutes=60)
    assert 4 <= len(cluster.jobs()) <= 8
    assert sorted(submitted(home)) == sorted(set(submitted(home)))


@pytest.mark.parametrize("lie", ["sbatch_lies", "sbatch_mumbles"])
def test_the_queue_is_believed_rather_than_sbatch(
    home: Path, cluster: FakeCluster, lie: str
) -> None:
    cluster.switch(**{lie: True})
    plan = two_stage_plan()
    assert run(plan, home).queued == 6
    assert cluster.calls("sbatch") == 2
    ids = [s.job_id for launched in launch_records.launches(home) for s in launched.submissions]
    assert ids == ["100", "101"]


def test_a_refusal_is_told_and_nothing_is_left(
    home: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.switch(sbatch_refuses="Invalid account or account/partition combination specified")
    with pytest.raises(ValueError, match="slurm refused: sbatch: error: Invalid account") as caught:
        run(two_stage_plan(), home)
    assert "\n" not in str(caught.value) and "sbatch" not in capsys.readouterr().err, "told once"
    assert submitted(home) == []
    cluster.switch(sbatch_refuses="Unable to contact slurm controller")
    summary = run(two_stage_plan(), home)
    assert summary.exit_code == 1 and "Unable to contact" in (summary.stopped or "")
    assert submitted(home) == []
    cluster.switch(sbatch_refuses="")
    assert run(two_stage_plan(), home).queued == 6


def test_the_trace_of_a_refused_array_is_not_a_job(home: Path, cluster: FakeCluster) -> None:
    """What a SLURM 22.05 leaves in its queue when it refuses an array."""
    cluster.switch(sbatch_lies="Requested node configuration is not available", sbatch_fails=True)
    with pytest.raises(ValueError, match="Requested node configuration is not available"):
        run(two_stage_plan(), home)
    assert submitted(home) == [] and cluster.jobs()


def test_a_job_that_cannot_start_is_told(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan()
    run(plan, home)
    assert study_status(home, study_plan(home, "toy")).notes == ()
    cluster.move("PENDING", reason="PartitionConfig", jobs=["100"])
    (note,) = study_status(home, study_plan(home, "toy")).notes
    assert "PartitionConfig" in note and "tokenlaw cancel toy" in note


def test_a_launch_that_died_after_sbatch_is_mended(home: Path, cluster: FakeCluster) -> None:
    cluster.switch(sbatch_kills=True)
    command = [sys.executable, str(SCRIPT), str(home), "2", "slurm"]
    environment = {**os.environ, "PYTHONPATH": str(base.CODE_ROOT)}
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -9
    cluster.switch(sbatch_kills=False)
    (died,) = launch_records.launches(home)
    assert [submission.job_id for submission in died.submissions] == [None]
    plan = two_stage_plan()
    summary = run(plan, home)
    assert summary.elsewhere == 2 and len(summary.submitted) == 4
    assert sorted(submitted(home)) == all_runs(plan)
    assert launch_records.launches(home)[0].submissions[0].job_id == "100"
    assert list(cluster.jobs().values())[-1]["dependency"] == "afterok:100"


def test_the_job_finds_its_work_even_if_the_launch_died(home: Path, cluster: FakeCluster) -> None:
    run(two_stage_plan(generators=2), home)
    (launched,) = launch_records.launches(home)
    for number, submission in enumerate(launched.submissions, start=1):
        there = home / "launches" / launched.token / str(number)
        assert len(list(there.glob("task-*.pkl"))) == len(submission.tasks)
        for job_id in submission.ids:
            script = cluster.jobs()[job_id]["script"]
            assert f"cd {there}\n" in script and "cp task-" in script


def test_launches_at_once_submit_each_run_once(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan(generators=3)
    command = [sys.executable, str(SCRIPT), str(home), "3", "slurm"]
    environment = {**os.environ, "PYTHONPATH": str(base.CODE_ROOT)}
    launches = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(60) for process in launches] == [0, 0, 0]
    assert sorted(submitted(home)) == all_runs(plan)
    assert cluster.calls("sbatch") == 2


def test_a_queue_that_does_not_answer_changes_nothing(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(two_stage_plan(), home)
    context = base.Context(home=home, study="toy", token="t", use_gpu=False)
    executor = slurm_executor.Executor(context)
    executor._reports = {"100": base.JobReport(phase="running")}
    cluster.switch(queue_down=True)
    executor._next_look = 0.0
    assert executor.poll()["100"].phase == "unknown"
    cluster.switch(queue_down=False)
    cluster.move("RUNNING")
    executor._next_look = 0.0
    assert executor.poll()["100"].phase == "running"


def test_a_queue_that_does_not_answer_refuses_a_launch(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenlaw.slurm.launch._PATIENCE_SECONDS", (0.0, 0.0))
    run(two_stage_plan(), home)
    cluster.switch(queue_down=True)
    with pytest.raises(base.QueueUnknown, match="Unable to contact slurm controller"):
        run(two_stage_plan(generators=3), home)
    assert cluster.calls("sbatch") == 2
    cluster.switch(queue_down=False)
    assert len(run(two_stage_plan(generators=3), home).submitted) == 2


def test_the_local_launch_takes_over_what_no_queue_answers_for(
    home: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = two_stage_plan()
    run(plan, home)
    cluster.switch(queue_down=True)
    local = launch(plan, home=home, settings={"device": "cpu"}, workers=2, progress=False)
    assert local.done == 6 and "cannot be asked" in capsys.readouterr().err


def test_no_password_is_left_behind(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = "postgresql+psycopg://u:hunter2@127.0.0.1:1/x"
    monkeypatch.setenv("TOKENLAW_DB", f"{server}?sslpassword=hunter2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    run(two_stage_plan(), home)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"hunter2" in path.read_bytes()]
    assert "hunter2" not in json.dumps(cluster.jobs()) + json.dumps(cluster.state()["calls"])


def test_what_the_queue_lost_is_submitted_again(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan()
    run(plan, home)
    cluster.forget()
    assert len(run(plan, home).submitted) == 6


def test_a_fresh_heartbeat_without_a_job_is_not_believed(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan()
    run(plan, home)
    cluster.move("RUNNING", jobs=["100"])
    attempt = claim(RunDir(folder(home, plan.runs[0])), executor="slurm", job="100")
    attempt.heartbeat.beat(step=1, steps=9, phase="train", force=True)
    far = json.loads(attempt.run_dir.attempt_path(1).read_text()) | {"host": "node7"}
    attempt.run_dir.attempt_path(1).write_text(json.dumps(far))
    assert run(plan, home).submitted == ()
    cluster.move("NODE_FAIL", jobs=["100"])
    assert set(run(plan, home).submitted) >= {plan.runs[0].id, plan.runs[1].id}


def test_a_job_whose_dependency_never_comes_true_is_gone(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan()
    run(plan, home)
    cluster.move("PENDING", reason="DependencyNeverSatisfied", jobs=["101_0", "101_1"])
    assert queue.look(home).of(RunDir(folder(home, plan.runs[2]))) is None
    assert len(run(plan, home).submitted) == 4
    assert set(cluster.jobs()) == {"100", "102_0", "102_1"}, "and the old ones are taken out"


def test_one_queue_call_for_any_number_of_runs(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan(generators=30)
    run(plan, home, bundle_minutes=0.01)
    before = cluster.calls("squeue")
    assert len(queue.look(home).runs) == 62
    assert cluster.calls("squeue") == before + 1


def test_cancel_takes_only_this_studys_jobs_out(home: Path, cluster: FakeCluster) -> None:
    run(two_stage_plan(), home)
    assert cancel.cancel(home, "another").jobs == 0
    done = cancel.cancel(home, "toy")
    assert done.jobs == 3 and done.notes == ()
    assert {job["state"] for job in cluster.jobs().values()} == {"CANCELLED"}
    assert len(run(two_stage_plan(), home).submitted) == 6


def test_cancel_says_that_a_queue_could_not_be_asked(
    home: Path, cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    run(two_stage_plan(), home)
    cluster.switch(queue_down=True)
    assert main(["cancel", "toy", "--home", str(home)]) == 1
    said = capsys.readouterr().out
    assert "note: slurm cannot be asked: " in said and "its jobs go on, so try again later" in said
    assert {job["state"] for job in cluster.jobs().values()} == {"PENDING"}
    cluster.switch(queue_down=False)
    assert not main(["cancel", "toy", "--home", str(home)])
    assert {job["state"] for job in cluster.jobs().values()} == {"CANCELLED"}


def test_inherited_slurm_variables_do_not_reach_sbatch(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_CPU_BIND", "SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SQUEUE_FORMAT", "%A")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURM_CONF", str(cluster.file))
    run(two_stage_plan(), home)
    seen = cluster.state()["environment"]
    assert seen["SLURM_CONF"] == str(cluster.file) and seen["PATH"] == os.environ["PATH"]
    assert not [
        name
        for name in seen
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "CUDA_"))
        and name != "SLURM_CONF"
    ]
    assert os.environ["SLURM_CPU_BIND"] == "x", "this process keeps its own"


@pytest.mark.parametrize("path", ["/nowhere/slurm.conf", ""])
def test_a_configuration_that_is_not_there(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    run(two_stage_plan(), home)
    calls = cluster.state()["calls"]
    monkeypatch.setenv("SLURM_CONF", path)
    words = f"SLURM_CONF: {path!r} is no file; allowed: the cluster's slurm.conf, or not set"
    with pytest.raises(ValueError) as caught:
        run(two_stage_plan(), home)
    assert str(caught.value) == words
    found = study_status(home, study_plan(home, "toy"))
    assert found.notes == (f"slurm cannot be asked: {words}",)
    assert cluster.state()["calls"] == calls, "SLURM's commands would wait for the file"


def test_sbatch_that_does_not_answer(
    home: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_executor, "_SBATCH_SECONDS", 2.0)
    cluster.switch(sbatch_hangs=True)
    began = time.monotonic()
    stopped = run(two_stage_plan(), home)
    assert time.monotonic() - began < 20
    assert stopped.stopped == "slurm refused: sbatch: no answer within 2 s"
    assert stopped.exit_code == 1 and submitted(home) == []
    cluster.switch(sbatch_hangs=False)
    assert len(run(two_stage_plan(), home).submitted) == 6


def test_a_command_that_does_not_answer(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_SECONDS", 1.0)
    (cluster.file.parent / "bin" / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(scheduler.SchedulerError, match="^squeue: no answer within 1 s$"):
        scheduler.my_jobs()


GOLDEN = """#!/bin/bash

# Parameters
#SBATCH --account=proj
#SBATCH --array=0-1%256
#SBATCH --chdir=CODE
#SBATCH --comment='tokenlaw toy'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterok:7:8_1
#SBATCH --gres=gpu:h100:2
#SBATCH --hold
#SBATCH --job-name=toy.tl-0.1
#SBATCH --mem=1536M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=FOLDER/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --reservation=night
#SBATCH --signal=USR2@120
#SBATCH --time=90

# setup
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
id=${id:-$SLURM_JOB_ID}
cd FOLDER
rm -f ${id}_submitted.pkl.save_tmp ${id}_0_result.pkl.save_tmp
[ -e ${id}_submitted.pkl ] || cp task-${SLURM_ARRAY_TASK_ID:-0}.pkl ${id}_submitted.pkl
cd CODE
export PYTHONPATH=CODE

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output FOLDER/%A_%a_%t_log.out --cpus-per-task=4 RUN"""


def test_the_batch_script_is_what_it_should_be() -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = slurm_executor.sbatch_parameters(
        name="toy.tl-0.1",
        study="toy",
        resources=Resources(
            partition="gpu",
            account="proj",
            gpus=2,
            gpu_type="h100",
            cpus=4,
            memory_gb=1.5,
            minutes=90,
            extra=(("reservation", "night"),),
        ),
        folder=Path("/FOLDER"),
        code=Path("/CODE"),
        after=["7", "8_1"],
        at_once=256,
        options=slurm_executor.Options(hold=True),
    )
    # The array's upper end comes from submitit.
    text = _make_sbatch_string(command="RUN", folder="/FOLDER", map_count=2, **parameters)
    expected = GOLDEN.replace("FOLDER", "/FOLDER").replace("CODE", "/CODE").replace("%256", "%2")
    assert text.strip() == expected


def test_a_run_on_several_nodes(home: Path, cluster: FakeCluster) -> None:
    asked = {"generator.nodes": 3, "generator.gpus": 2, "generator.cpus": 8}
    run(two_stage_plan(1), home, **asked)
    jobs = list(cluster.jobs().values())
    (wide,) = [job["script"] for job in jobs if "--nodes=3" in job["script"]]
    for line in ("--ntasks-per-node=1", "--cpus-per-task=8", "--gpus-per-node=2"):
        assert f"#SBATCH {line}\n" in wide
    assert " --cpus-per-task=8 --nodes=1 --ntasks=1 " in wide, "the payload is on the first node"
    assert len(jobs) == 3, "its evaluation asks for less, so it is a job of its own"
    found = {}
    for path in home.glob("launches/*/*/task-*.pkl"):
        payload = pickle.loads(path.read_bytes()).function
        found[payload.run_dirs[0].split("/")[-2]] = (payload.processes, payload.nodes)
    assert found == {"tokenizer": (1, 1), "generator": (6, 3), "evaluation": (1, 1)}


EVIL = [
    "a\ntouch CANARY #",
    "a;touch CANARY",
    "$(touch CANARY)",
    "`touch CANARY`",
    "a b",
    "\0",
    "-x",
]
EVIL += ["a" * 300, "\u202egpu", "'a'"]


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint", "gpu_type"])
def test_injected_resources_are_refused(field: str, evil: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        Resources(**{field: evil})  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


def test_what_is_refused_never_reaches_sbatch(home: Path, cluster: FakeCluster) -> None:
    for evil in EVIL[:4]:
        with pytest.raises(ValueError, match="partition"):
            run(two_stage_plan(), home, partition=evil)
    assert cluster.calls("sbatch") == 0 and not Path("CANARY").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partitoin": "x"}, ["partitoin", "partition"]),
        ({"generators.gpus": 1}, ["generators", "generator"]),
        ({"gpus": -1}, ["gpus", "-1"]),
        ({"gpus": 0.5}, ["gpus", "0.5"]),
        ({"minutes": 0}, ["minutes", "0"]),
        ({"margin": 0}, ["margin", "0"]),
        ({"hold": "yes"}, ["hold", "yes", "bool"]),
    ],
)
def test_bad_options_are_refused(
    home: Path, cluster: FakeCluster, options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        run(two_stage_plan(), home, **options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_more_sbatch_options(home: Path, cluster: FakeCluster) -> None:
    run(two_stage_plan(), home, **{"extra.reservation": "night", "extra.nice": 100})
    script = cluster.jobs()["100"]["script"]
    assert "#SBATCH --reservation=night\n" in script and "#SBATCH --nice=100\n" in script
    with pytest.raises(ValueError, match=r"extra.export: the value holds a secret \(not shown"):
        run(two_stage_plan(3), home, **{"extra.export": "ALL,PGPASSWORD=mark7Q"})
    with pytest.raises(ValueError, match="extra.comment"):
        run(two_stage_plan(3), home, **{"extra.comment": "a\ntouch CANARY"})
    with pytest.raises(ValueError, match="extra"):
        run(two_stage_plan(3), home, **{"extra.wrap it": "x"})


def test_resources_of_one_kind(home: Path, cluster: FakeCluster) -> None:
    run(two_stage_plan(), home, **{"partition": "a", "generator.partition": "b", "minutes": 33})
    scripts = {job_id: job["script"] for job_id, job in cluster.jobs().items()}
    assert "--partition=a" in scripts["100"] and "--time=33" in scripts["100"]
    assert any("--partition=b" in script for script in scripts.values())


def test_without_slurm_here_it_says_so(
    home: Path, fake_trainer: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="scontrol: not found"):
        run(two_stage_plan(), home)


def test_a_failed_run_is_not_given_out_for_ever(home: Path, cluster: FakeCluster) -> None:
    plan = two_stage_plan()
    behave(folder(home, plan.runs[0]), {"fail_at": 1})
    run(plan, home)
    cluster.forget()
    run_dir = RunDir(folder(home, plan.runs[0]))
    for _ in range(2):
        claim(run_dir, executor="slurm", job="100").finish("failed", "RuntimeError", "boom", 1)
    for path in run_dir.attempts_path.glob("00?.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "c", "dirty": False}))
    code = {"commit": "c", "dirty": False, "versions": {}, "host": "h"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenlaw.slurm.run_states.provenance", lambda: code)
        summary = run(plan, home)
    assert summary.submitted == () and [problem.id for problem in summary.failed] == [run_dir.id]
    assert "tokenlaw retry" in summary.failed[0].reason
    from tokenlaw.slurm import retry

    retry.forgive(run_dir)
    assert len(run(plan, home).submitted) == 6
