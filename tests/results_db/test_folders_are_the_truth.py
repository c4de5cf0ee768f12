"""Tables follow the folders: after a sync as if made anew, after an ingest in all that was done."""

import errno
import logging
import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest
from changed_home import ChangedHome, check_writers_at_once, done_again, dump
from made_home import finish, make_run, make_study, planned, value, write_plan

from tokenlaw.results_db import home_registry, read, record, rows, spool, sync
from tokenlaw.results_db.engine import opened

SCHEMAS = Path(__file__).parent / "schemas"


def losses(home):
    table = read.endpoints(home=home)
    return dict(zip(table["run_id"], table["value"], strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_a_sync_gives_what_a_new_database_has(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only time
    changed = ChangedHome(tmp_path, random.Random(seed))
    story = []
    with opened(changed.home) as engine:
        for number in range(3):
            for _ in range(changed.random.randrange(1, 9)):
                story.append(changed.change())
                if changed.random.random() < 0.3:
                    story.append("ingest")
                    sync.ingest(changed.home, engine)
            monkeypatch.setenv("TOKENLAW_DB", f"sqlite:///{tmp_path}/new{number}.db")
            with opened(changed.home) as rebuilt:
                assert changed.differences(engine, rebuilt) == {}, story
            monkeypatch.delenv("TOKENLAW_DB")


def test_a_run_done_again_shows_its_new_values_without_a_sync(tmp_path, caplog):
    write_plan(tmp_path, "s", [planned("g", "generator", [("vq", {})])])
    run = make_run(tmp_path, "generator", "g")
    finish(
        run,
        [value("val_loss", 3.377), value("extra", 1.0), value("gfcd", 2.0, seed=0)],
        columns={"params": 7, "gpu_hours": 1.0},
        artifacts=[{"name": "a", "file": "a.npy", "sha256": "0" * 64, "bytes": 1}],
    )
    record.claim(run, executor="local").finish("fenced")
    assert len(read.endpoints("s", home=tmp_path)) == 3
    done_again(
        tmp_path,
        "generator",
        "g",
        [value("val_loss", 4.377), value("gfcd", 2.5, seed=1)],
        columns={"params": 7},
    )
    with caplog.at_level(logging.WARNING):
        table = read.endpoints("s", home=tmp_path)
    assert list(zip(table["metric"], table["value"], strict=True)) == [
        ("val_loss", 4.377),
        ("gfcd", 2.5),
    ]
    assert list(table["attempts"]) == [1, 1] and table["gpu_hours"].isna().all()
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line == ("1 run done again, 3 values replaced; the first is g: val_loss 3.377 -> 4.377")
    with opened(tmp_path) as engine:
        assert dump(engine)["artifact"] == []


def test_a_run_that_is_being_done_again_shows_no_old_values(tmp_path):
    write_plan(tmp_path, "s", [planned("g", "generator", [("vq", {})])])
    run = make_run(tmp_path, "generator", "g")
    finish(run, [value("val_loss", 3.0)])
    assert list(read.endpoints("s", wide=True, home=tmp_path)["status"]) == ["done"]
    shutil.rmtree(run.path)
    record.claim(make_run(tmp_path, "generator", "g"), executor="local")
    (row,) = read.endpoints("s", wide=True, home=tmp_path).to_dict(orient="records")
    assert row["status"] == "started" and row["val_loss"] != row["val_loss"]


def test_a_sync_says_what_it_replaced_and_removed(tmp_path):
    make_study(tmp_path)
    finish(make_run(tmp_path, "tokenizer", "alone"), [value("psnr", 1.0)])
    with opened(tmp_path) as engine:
        assert sync.sync(tmp_path, engine).ok
        done_again(tmp_path, "generator", "gen-vq-S", [value("val_loss", 9.5, "nats/token")])
        for path in (tmp_path / "tokenizer" / "alone", tmp_path / "codes" / "codes-crt"):
            shutil.rmtree(path)
        write_plan(tmp_path, "more", [planned("x", "tokenizer", [("vq", {})])])
        sync.ingest(tmp_path, engine)
        shutil.rmtree(tmp_path / "studies" / "more")
        done_again(tmp_path, "generator", "gen-crt-S", [value("val_loss", 8.5, "nats/token")])
        spool.clear(next(m for m in spool.pending(tmp_path) if m.run_id == "gen-crt-S"))
        report = sync.sync(tmp_path, engine)
        again = sync.sync(tmp_path, engine)
    assert report.ok and sorted(report.removed) == ["alone", "codes-crt", "study more", "x"]
    assert report.lines() == [
        "replaced: gen-crt-S: val_loss 2.5 -> 8.5",
        "removed, because no readable file has them: 4 (study more, alone, codes-crt and 1 more)",
    ]
    assert again.lines() == [] and again.values == 0


def test_a_damaged_run_is_named_until_it_is_mended_and_costs_no_other(tmp_path, caplog):
    make_study(tmp_path)
    read.endpoints("toy", home=tmp_path)
    run = record.RunDir.of(tmp_path, "generator", "gen-vq-S")
    good = run.endpoint_path.read_text()
    run.endpoint_path.write_text(good[:50])
    with opened(tmp_path) as engine:
        report = sync.sync(tmp_path, engine)
        assert [name for name, _ in report.problems] == ["generator-gen-vq-S"]
        assert "not strict JSON" in report.problems[0][1]
        assert len(dump(engine)["endpoint"]) == 19
    for _ in range(2):  # every time, in one line
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read.endpoints("toy", home=tmp_path)
        (line,) = [entry.getMessage() for entry in caplog.records]
        assert line.startswith("1 run in quarantine, so values may be missing or old; the first is")
        assert "generator-gen-vq-S: " in line and "not strict JSON" in line
        assert line.endswith("; mend or remove it, then `tokenlaw sync`")
    run.endpoint_path.write_text(good)
    with opened(tmp_path) as engine:
        assert sync.sync(tmp_path, engine).ok
        assert len(dump(engine)["endpoint"]) == 20
    assert spool.quarantined(tmp_path) == []


@pytest.mark.parametrize("cure", ["mended", "removed", "done again"])
def test_what_was_quarantined_by_its_marker_is_released(cure, tmp_path):
    write_plan(tmp_path, "s", [planned("t", "tokenizer", [("vq", {})])])
    run = make_run(tmp_path, "tokenizer", "t")
    finish(run, [value("psnr", 1.0)])
    good = run.endpoint_path.read_text()
    run.endpoint_path.write_text("{")
    (spool.spool_path(tmp_path) / "rubbish").write_text("?")
    with opened(tmp_path) as engine:
        assert len(sync.ingest(tmp_path, engine).quarantined) == 2
        assert [held.name for held in spool.quarantined(tmp_path)] == ["rubbish", "tokenizer-t"]
        if cure == "done again":
            done_again(tmp_path, "tokenizer", "t", [value("psnr", 2.0)])
            assert sync.ingest(tmp_path, engine).ok
            assert [held.name for held in spool.quarantined(tmp_path)] == ["rubbish"]
        elif cure == "removed":
            shutil.rmtree(run.path)
        else:
            run.endpoint_path.write_text(good)
        assert sync.sync(tmp_path, engine).ok
    assert list((tmp_path / "spool" / "quarantine").iterdir()) == []


def test_a_reason_that_cannot_be_read_is_an_entry_all_the_same(tmp_path):
    run = make_run(tmp_path, "tokenizer", "t")
    run.endpoint_path.write_text("{")
    spool.mark(tmp_path, run)
    with opened(tmp_path) as engine:
        sync.ingest(tmp_path, engine)
    (held,) = spool.quarantined(tmp_path)
    held.path.write_text("{")
    (held,) = spool.quarantined(tmp_path)
    assert (held.name, held.reason) == ("tokenizer-t", "its reason cannot be read")


def test_a_run_of_another_kind_than_stored_is_named_and_a_sync_settles_it(tmp_path):
    run = make_run(tmp_path, "tokenizer", "x")
    finish(run, [value("psnr", 1.0)])
    finish(make_run(tmp_path, "tokenizer", "y"), [value("psnr", 1.0)])
    with opened(tmp_path) as engine:
        sync.ingest(tmp_path, engine)
        finish(make_run(tmp_path, "generator", "x"), [value("val_loss", 2.0)])
        report = sync.ingest(tmp_path, engine)
        assert report.quarantined == [("generator-x", "x: stored as tokenizer, found as generator")]
        report = sync.sync(tmp_path, engine)
        assert report.problems == [("generator-x", "x: known as tokenizer, found as generator")]
        assert losses(tmp_path) == {"x": 1.0, "y": 1.0}
        shutil.rmtree(run.path)
        assert sync.sync(tmp_path, engine).ok
    assert losses(tmp_path) == {"x": 2.0, "y": 1.0}


def test_a_run_that_no_folder_has_is_of_the_kind_that_a_plan_says(tmp_path):
    write_plan(tmp_path, "first", [planned("x", "tokenizer", [("vq", {})])])
    with opened(tmp_path) as engine:
        sync.ingest(tmp_path, engine)
        shutil.rmtree(tmp_path / "studies" / "first")
        write_plan(tmp_path, "second", [planned("x", "generator", [("vq", {})])])
        sync.sync(tmp_path, engine)
        (row,) = dump(engine)["run"]
    assert row.startswith('["x", "generator", "planned"')


# --------------------------------------------------------------------------------------- at once


@pytest.mark.parametrize("step", [sync.ingest, sync.sync])
def test_an_older_reading_never_takes_the_place_of_a_newer_one(step, tmp_path, monkeypatch):
    """A writer waits for the lock with its reading, while another stores what came since."""
    run = make_run(tmp_path, "generator", "g")
    attempt = record.claim(run, executor="local")
    reader = rows.read_run

    def slow(run_dir):
        monkeypatch.setattr(sync, "read_run", reader)
        files = reader(run_dir)
        attempt.write_endpoint({"status": "done", "values": [value("p", 1.0)], "columns": {}})
        attempt.finish("done")
        with opened(tmp_path) as other:
            assert sync.ingest(tmp_path, other).values == 1
        return files

    monkeypatch.setattr(sync, "read_run", slow)
    with opened(tmp_path) as engine:
        step(tmp_path, engine)
        assert [row.split(",")[4] for row in dump(engine)["endpoint"]] == [" 1.0"]
    assert spool.pending(tmp_path) == []


def test_a_run_that_appears_while_a_sync_removes_stays(tmp_path, monkeypatch):
    run = make_run(tmp_path, "generator", "g")
    finish(run, [value("p", 1.0)])
    with opened(tmp_path) as engine:
        sync.ingest(tmp_path, engine)
        shutil.move(run.path, tmp_path / "aside")
        remove = sync._remove_gone

        def late(*arguments):
            shutil.move(tmp_path / "aside", run.path)
            remove(*arguments)

        monkeypatch.setattr(sync, "_remove_gone", late)
        sync.sync(tmp_path, engine)
    assert losses(tmp_path) == {"g": 1.0}


def test_ingests_and_syncs_at_once_end_as_one_sync(tmp_path):
    check_writers_at_once(tmp_path)


# --------------------------------------------------------------------- several homes, one database


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Two homes and a database beside them."""
    monkeypatch.setenv("TOKENLAW_DB", f"sqlite:///{tmp_path}/shared.db")
    made = [tmp_path / name for name in ("first", "second")]
    for home in made:
        home.mkdir()
    return made


def test_a_sync_never_removes_what_another_home_stored(shared, tmp_path):
    first, second = shared
    for home, name in ((first, "a"), (first, "b"), (second, "c")):
        finish(make_run(home, "generator", name), [value("p", 1.0)])
    write_plan(second, "s", [planned("c", "generator", [("vq", {})])])
    with opened(first) as engine:
        sync.sync(first, engine)
        sync.sync(second, engine)
        shutil.rmtree(first / "generator" / "a")
        done_again(first, "generator", "b", [value("p", 2.0)])
        report = sync.sync(first, engine)
        assert report.removed == [] and report.kept == ["study s", "a", "c"]
        (line,) = [line for line in report.lines() if line.startswith("kept")]
        assert line.endswith("second") and "3 (study s, a, c)" in line
    assert losses(first) == {"a": 1.0, "b": 2.0, "c": 1.0}


def test_a_copied_home_is_another_home_and_an_empty_one_is_none(shared):
    first, second = shared
    finish(make_run(first, "generator", "a"), [value("p", 1.0)])
    finish(make_run(first, "generator", "b"), [value("p", 1.0)])
    with opened(first) as engine:
        sync.sync(first, engine)
        assert sync.sync(second, engine).kept == ["a", "b"]  # a wrong folder, or one not mounted
        with pytest.raises(ValueError, match="home: nothing is there"):
            sync.sync(second / "none", engine)
        shutil.rmtree(first / "generator" / "b")
        assert sync.sync(first, engine).removed == ["b"]  # the empty one has stored nothing
        shutil.rmtree(second)
        shutil.copytree(first, second)
        finish(make_run(second, "generator", "c"), [value("p", 1.0)])
        sync.sync(second, engine)
        assert sync.sync(first, engine).kept == ["c"]


def test_rows_of_an_older_version_may_be_anyones(shared, tmp_path):
    home, _ = shared
    connection = sqlite3.connect(tmp_path / "shared.db")
    connection.executescript((SCHEMAS / "0002.sql").read_text())
    connection.close()
    finish(make_run(home, "codes", "codes"), [value("p", 1.0)])
    with opened(home) as engine:
        report = sync.sync(home, engine)
    assert report.kept == ["study old", "gen-crt-S", "gen-vq-S"] and report.removed == []
    assert report.homes == ["a home of an older version"]


def test_a_home_whose_folder_was_restored_still_owns_its_database(tmp_path):
    home = tmp_path / "home"
    finish(make_run(home, "generator", "a"), [value("p", 1.0)])
    finish(make_run(home, "generator", "b"), [value("p", 1.0)])
    with opened(home) as engine:
        sync.sync(home, engine)
    shutil.copytree(home, tmp_path / "backup")
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)
    (home / home_registry.FILE).write_text("{")  # of no use any more
    shutil.rmtree(home / "generator" / "b")
    with opened(home) as engine:
        assert sync.sync(home, engine).removed == ["b"]


def test_a_home_that_may_only_be_read_is_taken_every_time(shared, monkeypatch):
    home, _ = shared
    finish(make_run(home, "generator", "a"), [value("p", 1.0)])
    run = make_run(home, "generator", "bad")
    run.endpoint_path.write_text("{")
    spool.mark(home, run)

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "rename", "replace", "link", "mkdir"):  # root may write anywhere else
        monkeypatch.setattr(os, name, refused)
    with opened(home) as engine:
        for step in (sync.ingest, sync.sync, sync.ingest):
            report = step(home, engine)
            assert {name for name, _ in report.quarantined + report.problems} == {"generator-bad"}
    assert losses(home) == {"a": 1.0}
    assert len(spool.pending(home)) == 2
