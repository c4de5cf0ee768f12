"""What launches write down before they act: numbered, in order, and mended when one dies."""

import itertools
import json
import os
import threading
import time
from pathlib import Path

from tokenlaw.slurm import launch_records
from tokenlaw.slurm.launch_records import Submission, await_turn, launches, open_intent

SUBMISSION = Submission(name="toy.x.1", tasks=(("codes/a",), ("generator/b", "evaluation/c")))


def opened(home: Path, submitting: bool = False) -> launch_records.Intent:
    return open_intent(home, study="toy", executor="slurm", submitting=submitting)


def test_tokens_are_unique_and_in_order(tmp_path: Path) -> None:
    tokens: list[str] = []
    threads = [
        threading.Thread(target=lambda: tokens.append(opened(tmp_path).token)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = sorted(token.rsplit("-", 1)[1] for token in tokens)
    assert numbers == [f"{number:06d}" for number in range(1, 13)]
    assert len({token.split("-")[1] for token in tokens}) == 1


def test_two_homes_have_different_tokens(tmp_path: Path) -> None:
    assert opened(tmp_path / "a").token != opened(tmp_path / "b").token


def test_what_is_submitted_can_be_read_back(tmp_path: Path) -> None:
    intent = opened(tmp_path)
    intent.add(SUBMISSION)
    (found,) = launches(tmp_path)
    assert found.submissions == (SUBMISSION,) and found.submissions[0].ids == []
    intent.put("toy.x.1", "77")
    assert launches(tmp_path)[0].submissions[0].ids == ["77_0", "77_1"]
    intent.withdraw("toy.x.1")
    assert launches(tmp_path) == []


def test_one_task_is_no_array() -> None:
    assert Submission(name="n", tasks=(("codes/a",),), job_id="5").ids == ["5"]


def test_a_later_launch_waits_for_an_earlier_one(tmp_path: Path) -> None:
    first, second = opened(tmp_path, submitting=True), opened(tmp_path, submitting=True)
    await_turn(first)
    order = []

    def wait() -> None:
        await_turn(second)
        order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    order.append("first")
    first.submitted()
    thread.join(5)
    assert order == ["first", "second"]


def test_a_dead_launch_is_not_waited_for(tmp_path: Path) -> None:
    first, second = opened(tmp_path, submitting=True), opened(tmp_path, submitting=True)
    record = json.loads(first.path.read_text())
    first.path.write_text(json.dumps(record | {"pid": 2**22 + 1}))
    await_turn(second)


def test_a_silent_launch_of_another_host_is_not_waited_for(tmp_path: Path) -> None:
    first, second = opened(tmp_path, submitting=True), opened(tmp_path, submitting=True)
    record = json.loads(first.path.read_text())
    first.path.write_text(json.dumps(record | {"host": "login2"}))
    os.utime(first.path, (0, 0))
    await_turn(second)


def test_a_launch_that_died_is_settled_after_a_while(tmp_path: Path) -> None:
    intent = opened(tmp_path, submitting=True)
    intent.add(SUBMISSION)
    record = json.loads(intent.path.read_text())
    intent.path.write_text(json.dumps(record | {"pid": 2**22 + 1}))
    assert not launches(tmp_path)[0].settled
    os.utime(intent.path, (0, 0))
    assert launches(tmp_path)[0].settled and not launches(tmp_path)[0].alive
    launch_records.adopt(tmp_path, intent.token, "toy.x.1", "9")
    assert launches(tmp_path)[0].submissions[0].job_id == "9"


def test_a_closed_launch_is_over(tmp_path: Path) -> None:
    intent = opened(tmp_path, submitting=True)
    intent.add(SUBMISSION)
    assert launches(tmp_path)[0].alive
    intent.close()
    assert launches(tmp_path)[0].settled and not launches(tmp_path)[0].alive


def test_a_damaged_record_is_put_aside_and_its_number_stays_taken(tmp_path: Path, capsys) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    second.add(SUBMISSION)
    first.path.write_text("{}")
    assert [found.token for found in launches(tmp_path, all_of_them=True)] == [second.token]
    assert f"{first.path}: not a launch record; put aside" in capsys.readouterr().err
    assert [path.name for path in first.path.parent.glob("*.damaged-*")]
    launches(tmp_path)
    assert capsys.readouterr().err == ""
    assert opened(tmp_path).token.endswith("000003")


def test_a_damaged_home_id_is_taken_from_the_records(tmp_path: Path) -> None:
    first = opened(tmp_path)
    (first.path.parent / "home-id").write_text("?")
    assert opened(tmp_path).token[:11] == first.token[:11]


def test_another_hosts_launch_lives_by_the_clock_of_the_files(tmp_path: Path, monkeypatch) -> None:
    intent = opened(tmp_path, submitting=True)
    content = json.loads(intent.path.read_text()) | {"host": "login2"}
    intent.path.write_text(json.dumps(content))
    real = time.time
    for skew in (-3600, 200, 3600):
        monkeypatch.setattr(time, "time", lambda skew=skew: real() + skew)
        (found,) = launches(tmp_path, all_of_them=True)
        assert found.alive and not found.settled


def test_a_launch_that_died_is_settled_by_the_clock_of_the_files(
    tmp_path: Path, monkeypatch
) -> None:
    intent = opened(tmp_path, submitting=True)
    content = json.loads(intent.path.read_text()) | {"pid": 2**22 + 1}
    intent.path.write_text(json.dumps(content))
    ages = {0: False, 3600: True}  # seconds of silence: settled
    real = time.time
    for (age, settled), skew in itertools.product(ages.items(), (-7200, 0, 7200)):
        os.utime(intent.path, (real() - age,) * 2)
        monkeypatch.setattr(time, "time", lambda skew=skew: real() + skew)
        (launched,) = launches(tmp_path, all_of_them=True)
        assert launched.settled is settled and not launched.alive
