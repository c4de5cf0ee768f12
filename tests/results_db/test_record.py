"""Claims, the fence, endpoints and states, from files alone."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_home import finish, make_run, value

from tokenlaw.results_db import durable, processes, record, spool, state, strict_json
from tokenlaw.results_db.endpoint import check_endpoint, same_result
from tokenlaw.results_db.provenance import SNAPSHOT_COMMIT, provenance


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, "tokenizer", "abc")


def endpoint(number=1.0, **more):
    return {
        "status": "done",
        "values": [value("psnr", number, "dB", num_samples=10)],
        "columns": {"params": 3, "gpu_hours": 0.5},
        **more,
    }


def test_attempts_are_numbered_and_the_newest_alone_may_write(run):
    first = record.claim(run, executor="local", job="7", info={"hardware": "cpu"})
    first.check()
    second = record.claim(run, executor="slurm")
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(record.Fenced, match="attempt 1 was replaced by attempt 2"):
        first.check()
    with pytest.raises(record.Fenced):
        first.write_endpoint(endpoint())
    assert not run.endpoint_path.exists()
    second.write_endpoint(endpoint())
    claim = json.loads(run.attempt_path(1).read_text())
    assert claim["pid"] == os.getpid() and claim["hardware"] == "cpu" and claim["job"] == "7"
    assert len(claim["commit"]) == 40 and claim["versions"]["python"]


def test_attempts_beyond_999_stay_in_order(run):
    run.attempts_path.mkdir()
    for number in (2, 999, 1000):
        run.attempt_path(number).write_text("{}")
    assert record.claim(run, executor="local").number == 1001


def test_a_claim_for_a_state_that_is_over_is_refused(run):
    record.claim(run, executor="local", after=0)
    with pytest.raises(record.Fenced, match="attempt 0 is not the newest, 1 is"):
        record.claim(run, executor="local", after=0)
    assert run.attempts() == [1]
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        record.claim(run.path.parent / "missing", executor="local")


def _claim(path, barrier, results):
    barrier.wait()
    try:
        results.put(record.claim(path, executor="local", after=0).number)
    except record.Fenced:
        results.put(None)


def test_of_eight_simultaneous_claims_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(4):
        run = make_run(tmp_path, "tokenizer", f"run{number}")
        barrier, results = context.Barrier(8), context.Queue()
        workers = [
            context.Process(target=_claim, args=(run.path, barrier, results)) for _ in range(8)
        ]
        for worker in workers:
            worker.start()
        outcomes = [results.get(timeout=30) for _ in workers]
        for worker in workers:
            worker.join()
        assert sorted(outcomes, key=str) == [1] + [None] * 7
        assert run.attempts() == [1]


def test_a_claim_sweeps_what_dead_attempts_left(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = []
    for host in (processes.host_name(), "another-host"):
        for folder in (run.path, run.checkpoints_path, run.artifacts_path):
            folder.mkdir(exist_ok=True)
            path = folder / f".tmp-{host}@{dead.pid}@0123456789ab@step-1"
            path.mkdir()
            names.append(path)
    record.claim(run, executor="local")
    assert not any(path.exists() for path in names)


def test_an_attempt_ends_once_and_tells_no_password(run):
    attempt = record.claim(run, executor="local")
    error = "cannot reach postgresql://me:hunter2@db/x with password='hunter2'\0\ud800"
    assert attempt.finish("failed", "OSError", error, step=12) is True
    assert attempt.finish("done") is False
    end = json.loads(run.attempt_end_path(1).read_text())
    assert (end["outcome"], end["error_class"], end["step"]) == ("failed", "OSError", 12)
    assert "hunter2" not in run.attempt_end_path(1).read_text() and "://***@db" in end["error"]
    assert end["seconds"] >= 0
    assert state.read_attempts(run)[0]["end"] == end
    with pytest.raises(ValueError, match="outcome: 'great', allowed are done"):
        attempt.finish("great")


def test_an_endpoint_is_linked_before_its_marker_and_twice_is_once(run, monkeypatch):
    attempt = record.claim(run, executor="local")
    spool.clear(spool.pending(run.home)[0])
    marked = []
    monkeypatch.setattr(spool, "mark", lambda home, run: marked.append(run.endpoint_path.exists()))
    stored = attempt.write_endpoint(endpoint())
    assert marked == [True]
    assert record.read_endpoint(run) == stored
    assert stored["run_id"] == "abc" and stored["kind"] == "tokenizer" and stored["attempt"] == 1
    again = attempt.write_endpoint(endpoint(finished_at="2030-01-01T00:00:00+00:00"))
    assert again == stored and marked == [True, True]
    slower = endpoint(columns={"params": 3, "gpu_hours": 9.0, "hardware": "another"})
    assert attempt.write_endpoint(slower) == stored
    for different in (
        endpoint(1.0000000000000002),
        endpoint(columns={"params": 4}),
        endpoint(status="diverged"),
        endpoint(artifacts=[{"name": "a", "file": "a.npy", "sha256": "0" * 64, "bytes": 1}]),
    ):
        with pytest.raises(record.Conflict, match=r"endpoint\.json"):
            attempt.write_endpoint(different)
    assert record.read_endpoint(run) == stored


def test_a_damaged_endpoint_counts_as_missing_and_is_kept_aside(run):
    finish(run, [value("psnr", 1.0)])
    assert record.run_state(run) == "done"
    text = run.endpoint_path.read_text()
    run.endpoint_path.write_text(text[:40])
    assert record.run_state(run) != "done"
    with pytest.raises(strict_json.DamagedError, match=r"endpoint\.json"):
        record.read_endpoint(run)
    finish(run, [value("psnr", 1.0)])
    assert record.run_state(run) == "done"
    assert (run.path / "endpoint.damaged-002.json").read_text() == text[:40]


def complete(**more):
    return {
        "scheme": 1,
        "run_id": "abc",
        "kind": "tokenizer",
        "attempt": 1,
        "reason": None,
        "commit": None,
        "dirty": None,
        "versions": {},
        "finished_at": "2026-01-01T00:00:00+00:00",
        "artifacts": [],
        **endpoint(),
        **more,
    }


ARTIFACT = {"name": "a", "file": "a.npy", "sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extra": 1}, "unknown key 'extra'"),
        ({"scheme": 2}, "scheme: '2'"),
        ({"run_id": "../x"}, "run_id"),
        ({"kind": "model"}, "kind: 'model', allowed: extractor"),
        ({"status": "great"}, "status"),
        ({"attempt": 0}, "attempt"),
        ({"values": [value("psnr", float("nan"))]}, r"values\[0\]\.value: 'nan'"),
        ({"values": [value("psnr", float("inf"))]}, r"values\[0\]\.value: 'inf'"),
        ({"values": [value("psnr", None)]}, 'only with status "diverged"'),
        ({"values": [value("psnr", True)]}, r"values\[0\]\.value"),
        ({"values": [value("psnr", "1.0")]}, r"values\[0\]\.value"),
        ({"values": [value("ps nr", 1.0)]}, r"values\[0\]\.metric"),
        ({"values": [value("m" * 65, 1.0)]}, r"values\[0\]\.metric"),
        ({"values": [value("psnr", 1.0), value("psnr", 2.0)]}, "one value for a metric"),
        ({"values": [value("psnr", 1.0) | {"better": "up"}]}, r"values\[0\]\.better: 'up'"),
        ({"values": [value("psnr", 1.0) | {"better": None}]}, r"values\[0\]\.better: 'None'"),
        (
            {"values": [value("psnr", 1.0) | {"best": "lower"}]},
            "unknown key 'best', allowed are better",
        ),
        ({"values": [{"metric": "psnr", "value": 1.0}]}, "'provenance' is missing"),
        ({"values": [value("psnr", 1.0, floor=float("nan"))]}, "provenance.floor"),
        ({"values": [value("psnr", 1.0, num_samples=1.5)]}, "provenance.num_samples"),
        ({"values": [value("psnr", 1.0, extractor=["a"])]}, "provenance.extractor"),
        ({"columns": {"parameters": 1}}, "unknown 'parameters', allowed are params"),
        ({"columns": {"params": 1.5}}, "columns.params"),
        ({"columns": {"params": 2**63}}, "columns.params"),
        ({"columns": {"flops_train": float("inf")}}, "columns.flops_train"),
        ({"columns": {"flops_train": 10**400}}, "columns.flops_train"),
        ({"artifacts": [ARTIFACT, ARTIFACT]}, "each name once"),
        ({"artifacts": [{**ARTIFACT, "file": "../../etc/passwd"}]}, "inside the run folder"),
        ({"artifacts": [{**ARTIFACT, "file": "/etc/passwd"}]}, "inside the run folder"),
        ({"artifacts": [{**ARTIFACT, "sha256": "abc"}]}, "sha256"),
        ({"versions": {"torch": float("nan")}}, "versions.torch: nan"),
    ],
)
def test_what_is_no_endpoint_is_refused_by_field(change, says, run):
    assert check_endpoint(complete())
    with pytest.raises(ValueError, match=says):
        check_endpoint(complete(**change))
    attempt = record.claim(run, executor="local")
    with pytest.raises(ValueError, match=says):
        attempt.write_endpoint(complete(**change))
    assert not run.endpoint_path.exists()


def test_a_direction_is_optional_and_no_part_of_the_result():
    plain = complete(values=[value("psnr", 1.0)])
    for better in ("lower", "higher"):
        told = complete(values=[value("psnr", 1.0) | {"better": better}])
        assert check_endpoint(told)["values"][0]["better"] == better
        assert same_result(told, plain) and same_result(plain, told)
    assert not same_result(plain, complete(values=[value("psnr", 2.0) | {"better": "higher"}]))


def test_an_endpoint_is_the_attempts_own(run):
    attempt = record.claim(run, executor="local")
    with pytest.raises(ValueError, match="run_id: 'other', allowed is this attempt's: 'abc'"):
        attempt.write_endpoint(endpoint(run_id="other"))
    assert attempt.write_endpoint(endpoint(status="diverged", values=[value("psnr", None)]))


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "a" * 65, "a\nb", "x\0", ".hidden"])
def test_names_that_are_no_run_ids_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="run id"):
        record.RunDir.of(tmp_path, "tokenizer", name)


def test_run_folders_are_plain_folders_of_a_known_kind(tmp_path, run):
    with pytest.raises(ValueError, match="kinds: extractor"):
        record.RunDir(tmp_path / "models" / "abc")
    (run.path.parent / "link").symlink_to(run.path)
    with pytest.raises(ValueError, match="is a link"):
        record.RunDir(run.path.parent / "link")
    assert record.RunDir(run).home == tmp_path


def old(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_states_before_the_start(tmp_path, run):
    child = make_run(tmp_path, "codes", "child", parents={"tokenizer": "abc"})
    assert record.run_state(run) == "planned"
    assert record.run_state(child) == "waiting"
    finish(run, [value("psnr", 1.0)])
    assert record.run_state(child) == "planned"
    assert record.run_state(tmp_path / "tokenizer" / "never-made") == "planned"


def test_states_of_attempts_that_ended(run):
    for outcome, expected in (
        ("failed", "failed"),
        ("preempted", "preempted"),
        ("fenced", "lost"),
        ("done", "lost"),  # without an endpoint it is not done
    ):
        record.claim(run, executor="local").finish(outcome)
        assert record.run_state(run) == expected
    finish(run, [], status="diverged", reason="diverged at step 3")
    assert record.run_state(run) == "diverged"


def test_a_dead_process_of_this_host_is_lost_at_once(run):
    code = (
        "import sys\nfrom tokenlaw.results_db import record\n"
        "record.claim(sys.argv[1], executor='local')\nprint(record.run_state(sys.argv[1]))"
    )
    root = Path(record.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, cwd=root
    )
    assert done.stdout == "running\n", done.stderr
    assert record.run_state(run) == "lost"


def test_another_process_with_the_same_pid_is_not_the_attempt(run):
    record.claim(run, executor="local", info={"pid_start": 1})
    assert record.run_state(run) == "lost"


def test_silence_beyond_the_grace_is_lost_and_counts_from_the_claim(run):
    attempt = record.claim(run, executor="local", info={"host": "far-away"})
    assert record.run_state(run) == "running"
    old(run.attempt_path(1), 400)
    assert record.run_state(run, grace_seconds=300) == "lost"
    assert record.run_state(run, grace_seconds=500) == "running"
    attempt.heartbeat.beat(step=3, steps=9, phase="train", unit_per_second=1.5)
    status = record.run_status(run)
    assert status.state == "running" and status.process_alive is None
    assert status.heartbeat["step"] == 3 and status.age_seconds < 100
    old(run.heartbeat_path, 400)
    assert record.run_state(run, grace_seconds=300) == "lost"


def test_an_older_attempts_heartbeat_is_no_sign_of_life(run):
    first = record.claim(run, executor="local", info={"host": "far-away"})
    first.heartbeat.beat(step=1, steps=2, phase="train")
    record.claim(run, executor="local", info={"host": "far-away"})
    old(run.attempt_path(2), 400)
    assert record.run_state(run, grace_seconds=300) == "lost"


def test_ages_go_by_the_clock_that_stamps_files(run, monkeypatch):
    record.claim(run, executor="local", info={"host": "far-away"})
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    state._clocks.clear()
    status = record.run_status(run)
    assert status.state == "running" and 0 <= status.age_seconds < 100


def test_heartbeats_come_at_most_once_a_second(run):
    heartbeat = record.Heartbeat(run, 1)
    assert heartbeat.beat(step=1, steps=9, phase="train") is True
    assert heartbeat.beat(step=2, steps=9, phase="train") is False
    assert heartbeat.beat(step=3, steps=9, phase="train", force=True) is True
    assert json.loads(run.heartbeat_path.read_text())["step"] == 3


def test_states_of_a_grid_are_read_quickly(tmp_path):
    started = time.monotonic()
    for number in range(5000):
        record.run_state(record.RunDir.of(tmp_path, "generator", f"run{number}"))
    assert time.monotonic() - started < 5


def test_a_snapshot_carries_its_commit(tmp_path):
    assert provenance(tmp_path)["commit"] is None
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    durable.write_json(snapshot / SNAPSHOT_COMMIT, {"commit": "f" * 40, "dirty": True})
    known = provenance(snapshot)
    assert (known["commit"], known["dirty"]) == ("f" * 40, True)


def test_the_commit_of_a_repository_and_whether_it_is_changed(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD").stdout.strip()
    clean = provenance(tmp_path)
    assert (clean["commit"], clean["dirty"]) == (head, False)
    inner = tmp_path / "site-packages"
    inner.mkdir()
    (inner / "x").write_text("1")
    assert provenance(inner)["commit"] is None  # an installed copy is not this repository's code


def test_a_replaced_attempt_beats_no_more(run):
    first = record.claim(run, executor="local")
    first.heartbeat.beat(step=1, steps=9, phase="train", force=True)
    second = record.claim(run, executor="local")
    second.heartbeat.beat(step=2, steps=9, phase="train", force=True)
    before = run.heartbeat_path.read_bytes()
    with pytest.raises(record.Fenced, match="attempt 1 was replaced by attempt 2"):
        first.heartbeat.beat(step=3, steps=9, phase="train", force=True)
    assert run.heartbeat_path.read_bytes() == before


def test_the_probe_of_the_clock_opens_only_files_that_it_makes(tmp_path):
    """A name that is planted beforehand, as a link to another file, is never opened."""
    code = """
import os, sys
from pathlib import Path
from tokenlaw.results_db import state
opened = []
def note(event, args):
    if event == "open" and str(args[0]).startswith(sys.argv[1] + os.sep):
        opened.append((args[0], args[2]))
sys.addaudithook(note)
for _ in range(2):
    state._clocks.clear()
    state._file_system_now(Path(sys.argv[1]))
assert len({name for name, _ in opened}) == len(opened) == 2, opened
assert all(flags & os.O_EXCL and flags & os.O_CREAT for _, flags in opened), opened
assert not os.listdir(sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_an_endpoint_beyond_its_bound_is_not_read(run):
    attempt = record.claim(run, executor="local")
    attempt.write_endpoint(endpoint())
    attempt.finish("done")
    assert state.peek_endpoint(run)["status"] == state.run_status(run).state == "done"
    with open(run.endpoint_path, "ab") as file:
        file.write(b" " * (17 << 20))  # still JSON
    assert state.peek_endpoint(run) == {} and state.run_status(run).state != "done"
    with pytest.raises(strict_json.DamagedError, match="at most 16777216 are read"):
        state.read_endpoint(run)
