"""What SLURM's commands say, read."""

import pytest
from fake_cluster import FakeCluster

from tokenlaw.slurm import scheduler


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("UNLIMITED", None),
        ("30", 30),
        ("90:00", 90),
        ("00:00:30", 1),
        ("02:30:00", 150),
        ("1-00:00:00", 1440),
        ("2-12", 3600),
        ("7-01:30", 10170),
    ],
)
def test_times(text: str, minutes: int | None) -> None:
    assert scheduler.parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("state", "reason", "phase"),
    [
        ("PENDING", "Priority", "queued"),
        ("PENDING", "JobHeldUser", "queued"),
        ("PENDING", "DependencyNeverSatisfied", "gone"),
        ("RUNNING", "None", "running"),
        ("COMPLETING", "None", "running"),
        ("REQUEUE_HOLD", "None", "queued"),
        ("COMPLETED", "None", "gone"),
        ("CANCELLED", "None", "gone"),
        ("NODE_FAIL", "None", "gone"),
        ("OUT_OF_MEMORY", "None", "gone"),
        ("PREEMPTED", "None", "gone"),
    ],
)
def test_phases(state: str, reason: str, phase: str) -> None:
    assert scheduler.Listed(id="1", name="n", state=state, reason=reason).phase == phase


def test_limits_of_the_cluster(cluster: FakeCluster) -> None:
    cluster.switch(max_array=101, max_submit=40)
    assert scheduler.limits() == scheduler.Limits(array_size=101, submitted=40)
    cluster.switch(no_accounting=True)
    assert scheduler.limits() == scheduler.Limits(array_size=101, submitted=None)
    assert scheduler.max_minutes(None) == 2880


def test_errors_carry_the_words_of_the_command(cluster: FakeCluster) -> None:
    cluster.switch(queue_down=True)
    with pytest.raises(scheduler.SchedulerError, match="Unable to contact slurm controller"):
        scheduler.my_jobs()


def test_many_ids_are_cancelled_in_few_calls(cluster: FakeCluster) -> None:
    scheduler.cancel(str(number) for number in range(1200))
    assert cluster.calls("scancel") == 3
