"""Opening the database: where it is, its schema, and what is refused."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from made_home import finish, make_run, value

from tokenlaw.results_db import engine, read, schema, store, sync
from tokenlaw.results_db.engine import StoreError, opened

SCHEMAS = Path(__file__).parent / "schemas"
VERSIONS = sorted(Path(engine.__file__).parent.glob("migrations/versions/[0-9]*_*.py"))


def rows(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_the_schema_is_what_the_tables_say(tmp_path):
    with opened(tmp_path) as opened_engine, opened_engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Base.metadata) == []
        assert context.get_current_revision() == engine.HEAD
    assert VERSIONS[-1].name.startswith(engine.HEAD)
    assert rows(tmp_path / "tokenlaw.db", "PRAGMA journal_mode") == [("wal",)]


def test_writers_wait_and_readers_do_not_stop_them(tmp_path):
    with opened(tmp_path) as opened_engine:
        with opened_engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        with engine.reading(opened_engine) as reader:
            before = reader.exec_driver_sql("SELECT count(*) FROM study").scalar()
            engine.transact(
                opened_engine,
                lambda connection: connection.exec_driver_sql(
                    "INSERT INTO study VALUES ('a', 'b', 'c')"
                ),
            )
            # One view for the whole of a reading.
            assert reader.exec_driver_sql("SELECT count(*) FROM study").scalar() == before == 0


def _count(home, barrier):
    def work(connection):
        now = connection.exec_driver_sql("SELECT plan FROM study").scalar()
        connection.exec_driver_sql(f"UPDATE study SET plan = '{int(now) + 1}'")

    with opened(home) as opened_engine:
        barrier.wait()
        for _ in range(20):
            engine.transact(opened_engine, work)


def test_reading_then_writing_in_one_transaction_loses_nothing(tmp_path):
    with opened(tmp_path) as opened_engine, opened_engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO study VALUES ('a', '0', '')")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    workers = [context.Process(target=_count, args=(tmp_path, barrier)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert rows(tmp_path / "tokenlaw.db", "SELECT plan FROM study") == [("120",)]


def _open(home, barrier, results):
    barrier.wait()
    try:
        with opened(home) as opened_engine, opened_engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO study VALUES ('p{os.getpid()}', '', '')")
        results.put("")
    except Exception as error:
        results.put(repr(error))


def test_sixteen_processes_create_one_schema(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(16), context.Queue()
    workers = [
        context.Process(target=_open, args=(tmp_path / "new", barrier, results)) for _ in range(16)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == [""] * 16
    database = tmp_path / "new" / "tokenlaw.db"
    assert rows(database, "SELECT count(*) FROM study") == [(16,)]
    assert rows(database, "SELECT version_num FROM alembic_version") == [(engine.HEAD,)]


def test_a_process_killed_in_a_migration_leaves_no_half_schema(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from alembic import op\n"
        "from tokenlaw.results_db import engine\n"
        "real = op.create_index\n"
        "def index(name, *arguments, **options):\n"
        "    real(name, *arguments, **options)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "op.create_index = index\n"
        "engine.open_engine(sys.argv[1])\n"
    )
    root = Path(engine.__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    assert killed.returncode == -9
    assert rows(tmp_path / "tokenlaw.db", "SELECT name FROM sqlite_master") == []
    with opened(tmp_path):
        pass
    assert rows(tmp_path / "tokenlaw.db", "SELECT count(*) FROM run") == [(0,)]


def test_a_newer_database_is_refused_untouched(tmp_path):
    with opened(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "tokenlaw.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(
        StoreError, match=f"its schema 9999 is newer than this code's {engine.HEAD}"
    ):
        engine.open_engine(tmp_path)
    assert rows(tmp_path / "tokenlaw.db", "SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "tokenlaw.db").write_text("no database")
    with pytest.raises(StoreError) as caught, opened(tmp_path):
        pass
    assert "cannot be written" not in str(caught.value)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(StoreError, match=f"; {tmp_path} cannot be written, so copy"):
        with opened(tmp_path):
            pass


def test_what_is_no_database_is_refused_in_one_line_and_left_alone(tmp_path):
    database = tmp_path / "tokenlaw.db"
    database.write_bytes(b"precious notes " * 1000)
    with pytest.raises(StoreError, match=r"tokenlaw\.db: file is not a database") as caught:
        read.endpoints(home=tmp_path)
    assert "\n" not in str(caught.value)
    assert database.read_bytes() == b"precious notes " * 1000
    database.unlink()
    database.mkdir()
    with pytest.raises(StoreError, match=r"tokenlaw\.db"):
        engine.open_engine(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        engine.open_engine(tmp_path / "file" / "home")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:hunter2@host/db",
        "postgresql://me:hunter2@host:port/db",
        "no url with hunter2",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_other_urls_are_bad_input(url, tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_DB", url)
    with pytest.raises(ValueError, match="TOKENLAW_DB: .*allowed are sqlite") as caught:
        engine.open_engine(tmp_path)
    assert ":hunter2" not in str(caught.value)


def test_an_explicit_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENLAW_DB", f"sqlite:///{tmp_path}/elsewhere/x.db")
    with opened(tmp_path / "home"):
        pass
    assert (tmp_path / "elsewhere" / "x.db").exists() and not (tmp_path / "home").exists()


def mounts(folder, *lines):
    path = folder / "mounts"
    path.write_text("".join(f"{line} rw 0 0\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "fuse.sshfs", "ceph"]
)
def test_a_home_on_a_network_file_system_keeps_its_database_local(kind, tmp_path, monkeypatch):
    shared = tmp_path / "shared disk"
    shared.mkdir()
    escaped = str(shared).replace(" ", "\\040")
    monkeypatch.setattr(
        engine, "_MOUNTS", mounts(tmp_path, "/dev/sda / ext4", f"server:/x {escaped} {kind}")
    )
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert engine.on_network_file_system(shared / "not" / "yet")
    assert not engine.on_network_file_system(tmp_path / "shared disk too")
    first, second = engine.sqlite_path(shared / "a"), engine.sqlite_path(shared / "b")
    assert first != second
    assert first.parent == second.parent == tmp_path / "data" / "tokenlaw"
    assert engine.sqlite_path(tmp_path / "home") == tmp_path / "home" / "tokenlaw.db"
    with opened(shared / "a"):
        pass
    assert rows(first, "PRAGMA journal_mode") == [("wal",)]
    # No local disk at all: a journal that needs no shared memory.
    monkeypatch.setenv("XDG_DATA_HOME", str(shared))
    with opened(shared / "a"):
        pass
    path = engine.sqlite_path(shared / "a")
    assert rows(path, "PRAGMA journal_mode") == [("delete",)]


def test_a_mount_below_a_network_file_system_is_what_it_is(tmp_path):
    table = mounts(
        tmp_path, "s:/h /home nfs4", "/dev/sdb /home/scratch xfs", "s:/h2 /home/scratch lustre"
    )
    assert engine.file_system_type("/home/scratch/x", table) == "lustre"  # mounted over the xfs
    assert engine.file_system_type("/home/me", table) == "nfs4"
    assert engine.file_system_type("/homes", table) is None
    assert engine.file_system_type("/x", str(tmp_path / "none")) is None


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name[:4])
def test_databases_of_every_version_are_brought_up_to_date(version, tmp_path):
    """schemas/NNNN.sql is a database as version NNNN left it: `python make_schema.py NNNN`."""
    connection = sqlite3.connect(tmp_path / "tokenlaw.db")
    connection.executescript((SCHEMAS / f"{version.name[:4]}.sql").read_text())
    connection.close()
    table = read.endpoints("old", wide=True, home=tmp_path)
    assert list(table["run_id"]) == ["gen-crt-S", "gen-vq-S"]
    assert list(table["val_loss"]) == [2.25, 2.5]
    told = version.name[:4] >= "0003"
    assert table.attrs["better"] == ({"val_loss": "lower"} if told else {})
    with opened(tmp_path) as opened_engine, opened_engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Base.metadata) == []
    # What it holds agrees with the files' later news; a direction is none.
    run = make_run(tmp_path, "generator", "gen-crt-S")
    finish(
        run, [value("val_loss", 2.25, "nats/token") | {"better": "lower"}], columns={"params": 7}
    )
    with opened(tmp_path) as opened_engine:
        assert not sync.ingest(tmp_path, opened_engine).quarantined
    run = make_run(tmp_path, "generator", "gen-vq-S")
    finish(run, [value("val_loss", 3.0)])
    with opened(tmp_path) as opened_engine:
        (replaced,) = sync.ingest(tmp_path, opened_engine).replaced
    assert (replaced.metric, replaced.old, replaced.new) == ("val_loss", 2.5, 3.0)


def test_values_refused_for_another_reason_than_their_key_raise(tmp_path):
    """INSERT OR IGNORE would lose them silently."""
    with opened(tmp_path) as opened_engine, opened_engine.connect() as connection:
        with pytest.raises(sqlalchemy.exc.IntegrityError, match="NOT NULL"):
            store._upsert(
                connection,
                schema.Run,
                [{"id": "a", "kind": None, "state": "planned"}],
                conflict=("id",),
                change=(),
            )
