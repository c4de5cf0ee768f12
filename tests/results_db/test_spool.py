"""Markers, and what is not one."""

import json
import os

import pytest
from made_home import finish, make_run, value

from tokenlaw.results_db import record, report_to_postgres, spool, sync
from tokenlaw.results_db.engine import opened
from tokenlaw.results_db.find_damage import damages


def test_a_run_is_marked_when_claimed_and_when_done(tmp_path):
    run = make_run(tmp_path, "tokenizer", "abc")
    finish(run, [value("psnr", 1.0)])
    (marker,) = spool.pending(tmp_path)
    assert (marker.kind, marker.run_id) == ("tokenizer", "abc")
    spool.mark(tmp_path, run)
    assert len(spool.pending(tmp_path)) == 1
    spool.clear(marker)
    spool.clear(marker)
    assert spool.pending(tmp_path) == []
    assert spool.pending(tmp_path / "nowhere") == []


def fill(home):
    """A spool of rubbish, and one good run."""
    finish(make_run(home, "tokenizer", "good"), [value("psnr", 1.0)])
    folder = spool.spool_path(home)
    (folder / "tokenizer-truncated").write_text('{"kind": "tok')
    (folder / "tokenizer-nan").write_text('{"kind": "tokenizer", "id": NaN}')
    (folder / "tokenizer-twice").write_text('{"kind": 1, "kind": "tokenizer", "id": "twice"}')
    (folder / "model-abc").write_text('{"kind": "model", "id": "abc"}')
    (folder / "tokenizer-other").write_text('{"kind": "tokenizer", "id": "good"}')
    (folder / "tokenizer-a b").write_text('{"kind": "tokenizer", "id": "a b"}')
    (folder / "nothing").write_text("")
    (folder / "tokenizer-large").write_bytes(b" " * (17 << 20))
    (folder / "tokenizer-link").symlink_to("/etc/passwd")
    (folder / "tokenizer-folder").mkdir()
    (folder / "tokenizer-unknown").write_text('{"id":"unknown","kind":"tokenizer"}')
    return 11


def spoil(home, name, text):
    """A run whose endpoint is `text`."""
    run = make_run(home, "tokenizer", name)
    run.endpoint_path.write_text(text)
    spool.mark(home, run)


def test_hostile_content_is_quarantined_with_its_reason_and_the_rest_is_taken(tmp_path):
    count = fill(tmp_path)
    good = (tmp_path / "tokenizer" / "good" / "endpoint.json").read_text()
    content = json.loads(good)
    spoils = {
        "e-truncated": good[:100],
        "e-nan": json.dumps({**content, "run_id": "e-nan", "values": [value("p", float("nan"))]}),
        "e-infinite": good.replace("1.0", "1e999"),
        "e-stranger": good,
        "e-unknown-key": json.dumps({**content, "run_id": "e-unknown-key", "more": 1}),
        "e-large": " " * (17 << 20),
        "e-nothing": "",
        "e-list": "[]",
    }
    for name, text in spoils.items():
        spoil(tmp_path, name, text)
    attempted = make_run(tmp_path, "tokenizer", "attempted")
    attempted.attempts_path.mkdir()
    attempted.attempt_path(1).write_text('{"pid": "many"}')
    spool.mark(tmp_path, attempted)
    with opened(tmp_path) as engine:
        report = sync.ingest(tmp_path, engine)
        assert report.values == 1 and not report.ok
        assert len(report.quarantined) == count + len(spoils)
        assert [name for name, _ in report.problems] == ["tokenizer-attempted"]
        assert "pid: 'many', allowed is int; remove the file" in report.problems[0][1]
        attempted.attempt_path(1).unlink()
        (attempted.attempts_path / "001.json").write_text('{"pid": 1}')
        again = sync.ingest(tmp_path, engine)
    assert again.ok and again.values == 0
    assert [marker.run_id for marker in spool.pending(tmp_path)] == ["attempted"]
    reasons = {held.name: held.reason for held in spool.quarantined(tmp_path)}
    assert len(reasons) == count + len(spoils)
    assert "not strict JSON" in reasons["tokenizer-truncated"]
    assert "unknown kind 'model'" in reasons["model-abc"]
    assert "no such run folder" in reasons["tokenizer-unknown"]
    assert "at most" in reasons["tokenizer-large"] and "at most" in reasons["tokenizer-e-large"]
    assert "NaN is not a JSON number" in reasons["tokenizer-e-nan"]
    assert "belongs to" in reasons["tokenizer-e-stranger"]
    assert "unknown key 'more'" in reasons["tokenizer-e-unknown-key"]
    assert os.readlink(
        next(
            p
            for p in (tmp_path / "spool" / "quarantine").glob("tokenizer-link.*")
            if p.is_symlink()
        )
    )
    assert os.path.getsize("/etc/passwd") > 0


def test_a_damaged_record_of_a_dead_attempt_hides_no_result(tmp_path):
    run = make_run(tmp_path, "tokenizer", "abc")
    record.claim(run, executor="local").finish("failed", "OSError", "disk")
    run.attempt_end_path(1).write_text("")
    finish(run, [value("psnr", 1.0)])
    with opened(tmp_path) as engine:
        report = sync.ingest(tmp_path, engine)
        assert report.values == 1 and not report.quarantined
        ((name, reason),) = report.problems
        assert name == "tokenizer-abc" and "001.end.json: not strict JSON" in reason
        assert sync.sync(tmp_path, engine).values == 0
    lines = [line for line in damages(run.path, lambda run: None) if "001.end.json" in line]
    assert len(lines) == 1 and "remove the file" in lines[0]


def test_a_marker_stays_while_its_run_goes_on(tmp_path):
    run = make_run(tmp_path, "tokenizer", "abc")
    attempt = record.claim(run, executor="local")
    with opened(tmp_path) as engine:
        assert sync.ingest(tmp_path, engine).waiting == 1
        assert len(spool.pending(tmp_path)) == 1
        attempt.finish("failed", "OSError", "disk")
        assert sync.ingest(tmp_path, engine).waiting == 0
        assert spool.pending(tmp_path) == []
        # Killed between the link of the endpoint and its marker: the claim's marker finds it.
        attempt = record.claim(run, executor="local")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(spool, "mark", lambda home, run: None)
            attempt.write_endpoint(
                {"status": "done", "values": [value("psnr", 1.0)], "columns": {}}
            )
        assert sync.ingest(tmp_path, engine).values == 1
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT number, outcome FROM attempt").all()
    assert [tuple(row) for row in rows] == [(1, "failed"), (2, None)]


def test_a_new_attempt_between_reading_and_clearing_keeps_its_marker(tmp_path, monkeypatch):
    run = make_run(tmp_path, "tokenizer", "abc")
    record.claim(run, executor="local").finish("failed")
    real = spool.clear

    def clear(marker):
        record.claim(run, executor="local")
        real(marker)

    monkeypatch.setattr(spool, "clear", clear)
    with opened(tmp_path) as engine:
        sync.ingest(tmp_path, engine)
    assert [marker.run_id for marker in spool.pending(tmp_path)] == ["abc"]


def test_jobs_do_not_open_sqlite(tmp_path, monkeypatch):
    run = make_run(tmp_path, "tokenizer", "abc")
    finish(run, [value("psnr", 1.5)])
    assert report_to_postgres.record_remote(tmp_path, run) is False
    monkeypatch.setenv("TOKENLAW_DB", f"sqlite:///{tmp_path}/x.db")
    assert report_to_postgres.record_remote(tmp_path, run) is False
    assert not list(tmp_path.glob("*.db")) and len(spool.pending(tmp_path)) == 1


@pytest.mark.parametrize("text", ['{"kind":"codes","id":"abc"}', '{"kind":"tokenizer"}', "[]"])
def test_a_marker_that_names_another_run_is_quarantined(text, tmp_path):
    marker = spool.mark(tmp_path, make_run(tmp_path, "tokenizer", "abc"))
    marker.write_text(text)
    assert spool.pending(tmp_path) == []
    ((name, reason),) = ((held.name, held.reason) for held in spool.quarantined(tmp_path))
    assert (name, reason) == (
        "tokenizer-abc",
        "tokenizer-abc: the content does not say what the name says",
    )
