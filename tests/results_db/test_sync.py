"""The database follows the files: once, twice, from nothing, and from many writers at once."""

import json
import multiprocessing
import sqlite3
import time

import pytest
from made_home import finish, make_run, make_study, planned, value, write_plan

from tokenlaw.results_db import engine, record, spool, sync
from tokenlaw.results_db.engine import opened

TABLES = ("study", "run", "member", "edge", "attempt", "endpoint", "artifact")


def contents(home):
    connection = sqlite3.connect(home / "tokenlaw.db")
    try:
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in TABLES
        }
    finally:
        connection.close()


def delete_database(home):
    for path in home.glob("tokenlaw.db*"):
        path.unlink()


def test_everything_twice_is_once_and_a_deleted_database_comes_back(tmp_path):
    make_study(tmp_path)
    with opened(tmp_path) as opened_engine:
        first = sync.ingest(tmp_path, opened_engine)
    before = contents(tmp_path)
    assert first.ok and first.studies == 1
    assert len(before["endpoint"]) == first.values == 20
    assert len(before["run"]) == 16 and len(before["attempt"]) == first.runs == 14
    assert len(before["member"]) == 16 and len(before["study"]) == 1
    with opened(tmp_path) as opened_engine:
        for step in (sync.ingest, sync.sync, sync.sync, sync.ingest):
            report = step(tmp_path, opened_engine)
            assert report.ok and report.values == 0
    assert contents(tmp_path) == before
    for step in (sync.sync, sync.ingest):  # the plan leads ingest to results without markers
        delete_database(tmp_path)
        with opened(tmp_path) as opened_engine:
            assert step(tmp_path, opened_engine).values == 20
        assert contents(tmp_path) == before


def test_a_run_of_no_study_comes_back_by_sync(tmp_path):
    finish(make_run(tmp_path, "tokenizer", "alone"), [value("psnr", 1.0)])
    with opened(tmp_path) as opened_engine:
        sync.ingest(tmp_path, opened_engine)
    before = contents(tmp_path)
    delete_database(tmp_path)
    with opened(tmp_path) as opened_engine:
        assert sync.sync(tmp_path, opened_engine).values == 1
    assert contents(tmp_path) == before


def test_the_current_plan_defines_the_members(tmp_path):
    first = write_plan(tmp_path, "s", [planned("a", "generator", [("vq", {"size": "S"})])])
    second = write_plan(
        tmp_path,
        "s",
        [planned("b", "generator", [("vq", {"size": "S"}), ("crt", {"size": "S"})])],
    )
    with opened(tmp_path) as opened_engine:

        def members():
            sync.ingest(tmp_path, opened_engine)
            return [(row[1], row[2]) for row in contents(tmp_path)["member"]]

        assert members() == [("b", "crt"), ("b", "vq")]
        pointer = tmp_path / "studies" / "s" / "current.json"
        pointer.write_text(json.dumps({"plan": f"plan-{first}.json"}))
        assert members() == [("a", "vq")]
        pointer.unlink()  # then the newest file counts
        assert members() == [("b", "crt"), ("b", "vq")]
        pointer.write_text('{"plan": "../../../etc/passwd"}')
        report = sync.ingest(tmp_path, opened_engine)
        assert [name for name, _ in report.problems] == ["studies/s"]
        assert members() == [("b", "crt"), ("b", "vq")]
    assert first != second


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda plan: plan | {"scheme": 2}, "scheme"),
        (lambda plan: plan | {"study": "other"}, "belongs to study 'other'"),
        (lambda plan: {k: v for k, v in plan.items() if k != "runs"}, "'runs' is missing"),
        (lambda plan: plan | {"runs": plan["runs"] * 2}, "listed twice"),
        (lambda plan: plan | {"runs": [{"id": "a", "kind": "model"}]}, "kind 'model'"),
        (lambda plan: plan | {"runs": [1]}, "not a plan"),
        (lambda plan: [plan], "not a plan"),
    ],
)
def test_a_plan_that_is_none_is_reported_and_does_not_stop_the_rest(spoil, says, tmp_path):
    digest = write_plan(tmp_path, "bad", [planned("a", "generator", [("vq", {})])])
    path = tmp_path / "studies" / "bad" / f"plan-{digest}.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    write_plan(tmp_path, "good", [planned("b", "generator", [("vq", {})])])
    with opened(tmp_path) as opened_engine:
        report = sync.ingest(tmp_path, opened_engine)
    ((name, reason),) = report.problems
    assert name == "studies/bad" and says in reason
    assert [row[0] for row in contents(tmp_path)["study"]] == ["good"]


def test_results_of_runs_that_a_new_plan_shares_are_there_at_once(tmp_path):
    run = make_run(tmp_path, "tokenizer", "shared")
    finish(run, [value("psnr", 1.0)])
    for marker in spool.pending(tmp_path):
        spool.clear(marker)
    write_plan(tmp_path, "s", [planned("shared", "tokenizer", [("vq", {})])])
    with opened(tmp_path) as opened_engine:
        assert sync.ingest(tmp_path, opened_engine).values == 1


def test_the_end_of_an_attempt_arrives_after_its_endpoint(tmp_path):
    attempt = record.claim(make_run(tmp_path, "tokenizer", "a"), executor="local")
    attempt.write_endpoint({"status": "done", "values": [value("p", 1.0)], "columns": {}})
    with opened(tmp_path) as opened_engine:
        assert sync.ingest(tmp_path, opened_engine).values == 1
        attempt.finish("done")
        assert sync.ingest(tmp_path, opened_engine).ok
    assert contents(tmp_path)["attempt"][0][11] == "done"


WRITERS, RUNS_EACH, VALUES = 32, 10, 5  # 50 endpoint values each, in 10 transactions


def _write(home, own, barrier, results):
    barrier.wait()
    try:
        with opened(home) as opened_engine:
            # Its own, and one that all write.
            for name in (*own, "common"):
                run = record.RunDir.of(home, "tokenizer", name)
                assert sync.ingest_run(home, opened_engine, run).ok
        results.put("")
    except BaseException as error:
        results.put(repr(error))
        raise


def test_32_writers_lose_and_double_nothing(tmp_path):
    names = [[f"r{w}-{n}" for n in range(RUNS_EACH)] for w in range(WRITERS)]
    attempt = record.claim(make_run(tmp_path, "tokenizer", "common"), executor="local")
    values = [value("gfcd", 1.5, seed=seed) for seed in range(VALUES)]
    text = json.dumps(attempt.write_endpoint({"status": "done", "values": values, "columns": {}}))
    for name in (name for own in names for name in own):
        folder = tmp_path / "tokenizer" / name
        folder.mkdir()
        (folder / "endpoint.json").write_text(text.replace('"common"', f'"{name}"'))
    with opened(tmp_path):
        pass
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(WRITERS + 1), context.Queue()
    workers = [
        context.Process(target=_write, args=(tmp_path, own, barrier, results)) for own in names
    ]
    for worker in workers:
        worker.start()
    with opened(tmp_path) as opened_engine:
        with opened_engine.begin():  # one that holds the write lock for a while
            barrier.wait()
            time.sleep(0.5)
        scans = 0
        while any(worker.is_alive() for worker in workers):
            with engine.reading(opened_engine) as reader:
                reader.exec_driver_sql("SELECT count(*) FROM endpoint").scalar()
            scans += 1
            time.sleep(0.05)
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == [""] * WRITERS and scans > 0
    stored = contents(tmp_path)
    assert len(stored["run"]) == WRITERS * RUNS_EACH + 1
    assert len(stored["endpoint"]) == len(stored["run"]) * VALUES
    assert {row[4] for row in stored["endpoint"]} == {1.5}
