"""Every verb of an executor may be called twice, early, late, and with ids that nobody knows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_cluster import FakeCluster
from fake_trainer import behave
from toy import attempts, folder, two_stage_plan

from tokenlaw.results_db.record import RunDir
from tokenlaw.slurm.base import BaseExecutor, Context, Job
from tokenlaw.slurm.executors.local import Executor as Local
from tokenlaw.slurm.executors.slurm import Executor as Slurm
from tokenlaw.slurm.launch_records import open_intent
from tokenlaw.slurm.resources import Resources
from tokenlaw.sweeps.plan import write_run

PLAN = two_stage_plan(generators=2)


def context(home: Path) -> Context:
    intent = open_intent(home, study="toy", executor="x", submitting=False)
    return Context(
        home=home, study="toy", token=intent.token, workers=1, use_gpu=False, intent=intent
    )


@pytest.fixture(params=["local", "slurm"])
def place(
    request: pytest.FixtureRequest, home: Path, cluster: FakeCluster
) -> Iterator[BaseExecutor]:
    home.mkdir()
    made: BaseExecutor = {"local": Local, "slurm": Slurm}[request.param](context(home))
    yield made
    made.close()


def job(home: Path, number: int = 0) -> Job:
    run = PLAN.runs[number]
    write_run(home, run, {})
    return Job(key=run.id, run_dirs=(RunDir(folder(home, run)),), resources=Resources(minutes=10))


def wait(place: BaseExecutor, condition: Callable[[], bool]) -> None:
    for _ in range(200):
        place.poll(0.1)
        if condition():
            return
    raise AssertionError("not in time")


def test_a_job_given_twice_is_there_once(
    place: BaseExecutor, home: Path, cluster: FakeCluster
) -> None:
    behave(folder(home, PLAN.runs[0]), {"seconds": 0.2})
    made = job(home)
    first, second = place.submit([made]), place.submit([made])
    assert first == second and len(place.poll()) == 1
    if isinstance(place, Slurm):
        assert cluster.calls("sbatch") == 1
    else:
        wait(place, lambda: attempts(home, PLAN.runs[0]) == 1)


def test_ids_come_in_the_order_of_the_jobs(place: BaseExecutor, home: Path) -> None:
    jobs = [job(home, 0), job(home, 2), job(home, 4)]
    ids = place.submit(jobs)
    assert len(set(ids)) == 3
    assert place.submit(jobs[::-1]) == ids[::-1]


def test_nothing_to_do(place: BaseExecutor) -> None:
    assert place.submit([]) == [] and place.poll() == {}
    place.cancel([])
    place.cancel(["99", "no such job"])
    place.cancel(["99"], kill=True)


def test_cancelled_twice(place: BaseExecutor, home: Path) -> None:
    behave(folder(home, PLAN.runs[0]), {"seconds": 30})
    (job_id,) = place.submit([job(home)])
    assert job_id is not None
    place.poll()
    for _ in range(2):
        place.cancel([job_id], kill=True)
    wait(place, lambda: place.poll()[job_id].phase == "gone")


def test_closed_twice(place: BaseExecutor, home: Path) -> None:
    place.submit([job(home)])
    place.close()
    place.close()


def test_resources_that_are_not_there(home: Path, cluster: FakeCluster) -> None:
    with pytest.raises(ValueError, match="gpus"):
        Local(Context(home=home, study="toy", token="t", gpus=99))
