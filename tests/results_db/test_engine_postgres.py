"""The same on PostgreSQL, on a private server of its own; skipped where it is not installed."""

import contextlib
import glob
import logging
import multiprocessing
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from changed_home import ChangedHome, check_writers_at_once, done_again
from made_home import finish, make_run, make_study, value
from sqlalchemy import select

from tokenlaw.results_db import (
    engine,
    read,
    record,
    report_to_postgres,
    schema,
    spool,
    sync,
)
from tokenlaw.results_db.engine import StoreError, opened
from tokenlaw.sweeps.cli import doctor

pytestmark = pytest.mark.cluster


class Server:
    """A PostgreSQL server on loopback with a password that must not show up anywhere."""

    password = "hunter2"

    def __init__(self, bin_folder, base):
        self._bin = bin_folder
        self._base = base
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._as = []
        if os.getuid() == 0:  # the server refuses to be root
            owner = pwd.getpwnam("postgres")
            os.chown(base, owner.pw_uid, owner.pw_gid)
            self._as = ["runuser", "-u", "postgres", "--"]
        (base / "pw").write_text(self.password)
        os.chmod(base / "pw", 0o644)
        self._run(
            "initdb", "-D", f"{base}/data", "-U", "postgres", "-A", "scram-sha-256",
            f"--pwfile={base}/pw", "--locale=C", "-E", "UTF8", "--no-sync",
        )  # fmt: skip

    def _run(self, program, *arguments):
        subprocess.run(
            [*self._as, f"{self._bin}/{program}", *arguments],
            cwd=self._base,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self):
        options = (
            f"-c listen_addresses=127.0.0.1 -p {self.port}"
            f" -c unix_socket_directories={self._base} -c fsync=off -c max_connections=60"
        )
        log = f"{self._base}/log"
        self._run("pg_ctl", "-D", f"{self._base}/data", "-w", "-l", log, "-o", options, "start")

    def stop(self):
        self._run("pg_ctl", "-D", f"{self._base}/data", "-w", "-m", "fast", "stop")

    def url(self, database):
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="module")
def server():
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    found = shutil.which("initdb")
    if not folders and found is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql")
    bin_folder = folders[-1] if folders else os.path.dirname(found)
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        made = Server(bin_folder, Path(base))
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                made.stop()


@pytest.fixture
def home(server, tmp_path, monkeypatch, request):
    """A home whose database is a new one on the server."""
    name = f"db{abs(hash(request.node.name))}"
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    monkeypatch.setenv("TOKENLAW_DB", server.url(name))
    return tmp_path


def test_the_tables_are_those_of_sqlite(home, monkeypatch):
    make_study(home)
    frames = [read.endpoints("toy", wide=wide, home=home) for wide in (False, True)]
    with opened(home) as opened_engine:
        assert opened_engine.dialect.name == "postgresql"
        place = engine.database_address(home)
        assert str(place).startswith("postgresql://127.0.0.1:")
        assert doctor._database(home).finding == f"postgresql, {place}"
        for step in (sync.ingest, sync.sync, sync.sync):
            assert step(home, opened_engine).values == 0
    monkeypatch.delenv("TOKENLAW_DB")
    assert not (home / "tokenlaw.db").exists()
    for wide, table in zip((False, True), frames, strict=True):
        again = read.endpoints("toy", wide=wide, home=home)
        pd.testing.assert_frame_equal(again, table)


def _write(home, own, barrier, results):
    barrier.wait()
    try:
        for name in (*own, "common"):
            told = report_to_postgres.record_remote(home, record.RunDir.of(home, "tokenizer", name))
            assert told, name
        results.put("")
    except BaseException as error:
        results.put(repr(error))
        raise


def test_16_jobs_make_the_schema_and_record_at_once(home):
    names = [[f"r{w}-{n}" for n in range(4)] for w in range(16)]
    for name in ("common", *(name for own in names for name in own)):
        finish(make_run(home, "tokenizer", name), [value("psnr", 1.5)])
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(16), context.Queue()
    workers = [context.Process(target=_write, args=(home, own, barrier, results)) for own in names]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == [""] * 16
    assert spool.pending(home) == []
    table = read.endpoints(home=home)
    assert len(table) == len(set(table["run_id"])) == 65


def test_a_broken_connection_is_made_again(home):
    with opened(home) as opened_engine:
        tries = []

        def work(connection):
            tries.append(1)
            connection.exec_driver_sql(f"INSERT INTO study VALUES ('s{len(tries)}', '', '')")
            if len(tries) == 1:
                pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
                with opened_engine.connect() as other:
                    other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
            connection.exec_driver_sql("SELECT 1")

        engine.transact(opened_engine, work)
        assert len(tries) == 2
        with engine.reading(opened_engine) as reader:
            assert reader.exec_driver_sql("SELECT name FROM study").scalars().all() == ["s2"]


def test_a_newer_schema_is_refused(home):
    with opened(home) as opened_engine, opened_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999 is newer"):
        engine.open_engine(home)


@pytest.mark.parametrize("place", ["me:{}@", "{}:x@", "{}@", "postgres:{}@"])
def test_a_server_that_refuses_is_told_without_the_secret(place, home, server, monkeypatch):
    place = f"{place.format('mark%2F7Q')}127.0.0.1:{server.port}/none"
    monkeypatch.setenv("TOKENLAW_DB", f"postgresql://{place}")
    monkeypatch.setenv("PGPASSWORD", "mark/7Q")
    with pytest.raises(StoreError) as caught:
        engine.open_engine(home)
    said = f"database postgresql://127.0.0.1:{server.port}/none: password authentication failed"
    assert str(caught.value) == said


def test_a_server_that_is_away_costs_nothing(home, server, caplog):
    run = make_run(home, "tokenizer", "abc")
    finish(run, [value("psnr", 1.5)])
    server.stop()
    try:
        with caplog.at_level(logging.WARNING):
            assert report_to_postgres.record_remote(home, run) is False
        assert "not recorded in the database now" in caplog.text
        assert server.password not in caplog.text
        assert record.run_state(run) == "done" and len(spool.pending(home)) == 1
        with pytest.raises(StoreError) as caught:
            read.endpoints(home=home)
        assert server.password not in str(caught.value)
    finally:
        server.start()
    assert list(read.endpoints(home=home)["value"]) == [1.5]
    assert spool.pending(home) == []


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_sync_gives_what_a_new_sqlite_file_has(seed, home, monkeypatch):
    changed = ChangedHome(home, random.Random(seed))
    with opened(changed.home) as engine_here:
        for number in range(2):
            for _ in range(8):
                changed.change()
                if changed.random.random() < 0.3:
                    sync.ingest(changed.home, engine_here)
            with monkeypatch.context() as patch:
                patch.setenv("TOKENLAW_DB", f"sqlite:///{home}/new{number}.db")
                with opened(changed.home) as rebuilt:
                    assert changed.differences(engine_here, rebuilt) == {}
        last = sync.sync(changed.home, engine_here)
        assert not last.values and not last.replaced and not last.removed and not last.kept


def test_writers_at_once(home):
    check_writers_at_once(home)


def test_a_reader_sees_all_old_or_all_new(home):
    run = make_run(home, "generator", "g")
    finish(run, [value("p", 1.0)], columns={"params": 1})
    params, values = select(schema.Run.params), select(schema.Endpoint.value)
    with opened(home) as writer, opened(home) as reader:
        sync.ingest(home, writer)
        with engine.reading(reader) as connection:
            assert connection.execute(params).scalar_one() == 1
            done_again(home, "generator", "g", [value("p", 2.0)], columns={"params": 2})
            assert sync.ingest(home, writer).replaced
            assert connection.execute(values).scalar_one() == 1.0, "of the other statement's time"
        with engine.reading(reader) as connection:
            assert connection.execute(params).scalar_one() == 2
            assert connection.execute(values).scalar_one() == 2.0


def test_homes_that_share_a_server_remove_nothing_of_each_other(home):
    first, second = home / "first", home / "second"
    for folder, name in ((first, "a"), (first, "b"), (second, "c")):
        finish(make_run(folder, "tokenizer", name), [value("psnr", 1.0)])
        assert report_to_postgres.record_remote(folder, record.RunDir.of(folder, "tokenizer", name))
    shutil.rmtree(first / "tokenizer" / "a")
    with opened(first) as opened_engine:
        assert sync.sync(first, opened_engine).kept == ["a", "c"]
    assert list(read.endpoints(home=first)["run_id"]) == ["a", "b", "c"]
