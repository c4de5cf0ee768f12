"""Opens the database, brings its schema up to date, and runs transactions on it.

An engine belongs to the process that opened it: open it after a fork, not before.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .database_url import Address, describe, read_address, reason
from .masking import mask_secrets
from .rundir import default_home

HEAD = "0004"  # the schema that this code reads and writes: the newest file in migrations/versions
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"
_LOCK_NUMBER = 0x746F6B656E6C6177  # PostgreSQL's advisory lock for schema changes: "tokenlaw"
_BUSY_SECONDS = 60.0
_TRIES = 6
_MOUNTS = "/proc/mounts"
_NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 lustre gpfs beegfs beegfs_nodev cifs smb3 smbfs ceph glusterfs afs pvfs2 orangefs"
    " panfs wekafs acfs ocfs2 gfs2 fuse.sshfs fuse.ceph fuse.ceph-fuse fuse.glusterfs"
    " fuse.gpfs fuse.juicefs fuse.s3fs fuse.rclone fuse.gcsfuse fuse.goofys fuse.mfs"
    " fuse.quobyte fuse.dfuse".split()
)

_Result = TypeVar("_Result")


class StoreError(RuntimeError):
    """The database cannot be used; one line that says which and why, without secrets."""


def database_address(home: str | os.PathLike[str] | None = None) -> Address:
    """Return the address of the database of `home`.

    $TOKENLAW_DB if set; else SQLite in `home`, or, when that is on a network file system, where
    SQLite's locks and shared memory do not work, under the user's local data folder.

    Raises:
        StoreError: the driver that TOKENLAW_DB needs is not installed.
        ValueError: TOKENLAW_DB names no database file or PostgreSQL server.
    """
    if not os.environ.get("TOKENLAW_DB"):
        return Address(URL.create("sqlite", database=str(sqlite_path(home))))
    try:
        return read_address(os.environ["TOKENLAW_DB"])
    except ModuleNotFoundError as error:
        missing = error.name
    raise StoreError(f"TOKENLAW_DB: needs the package {missing}; install tokenlaw[postgres]")


def sqlite_path(home: str | os.PathLike[str] | None = None) -> Path:
    """Return the SQLite file of `home` when TOKENLAW_DB is not set."""
    folder = Path(os.path.realpath(default_home() if home is None else home))
    if not on_network_file_system(folder):
        return folder / "tokenlaw.db"
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return base / "tokenlaw" / f"{digest}.db"


def on_network_file_system(path: str | os.PathLike[str], mounts: str | None = None) -> bool:
    """Tell if several hosts share the file system of `path`, which need not exist yet."""
    return file_system_type(path, mounts) in _NETWORK_FILE_SYSTEMS


def file_system_type(path: str | os.PathLike[str], mounts: str | None = None) -> str | None:
    """Return the type of the file system that holds `path`; None without a /proc/mounts."""
    try:
        lines = Path(mounts or _MOUNTS).read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    real = os.path.realpath(path)
    best, found = "", None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # a later mount on the same point hides the earlier
            best, found = point, fields[2]
    return found


def open_engine(home: str | os.PathLike[str] | None = None) -> Engine:
    """Open the database of `home`; create it or bring it to the newest schema if need be.

    Any number of processes may call this at once.

    Raises:
        StoreError: it cannot be opened, is no database, or was made by newer code.
        ValueError: TOKENLAW_DB is no such URL.
    """
    address = database_address(home)
    engine = _make_engine(address)
    try:
        _bring_up_to_date(engine, address.url)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        engine.dispose()
        raise _store_error(address.url, error) from None
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextlib.contextmanager
def opened(home: str | os.PathLike[str] | None = None) -> Iterator[Engine]:
    """Open the database of `home` for a block and close it at its end."""
    engine = open_engine(home)
    try:
        yield engine
    finally:
        engine.dispose()


def transact(engine: Engine, work: Callable[[Connection], _Result]) -> _Result:
    """Run `work` in one transaction and return its result.

    On PostgreSQL it runs again, up to six times, when the server breaks it off (a lost connection,
    a deadlock, a serialization failure). `work` must have the same effect twice as once, because
    the reply to a commit may be lost after the commit.

    Raises:
        StoreError: it could not be done.
    """
    for trial in range(_TRIES):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if trial == _TRIES - 1 or not _may_pass(engine, error):
                raise _store_error(engine.url, error) from None
        time.sleep(min(2.0, 0.05 * 2**trial) * (0.5 + random.random()))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection for reading: one consistent view, no lock that keeps writers out."""
    options: dict[str, Any] = {"read_only": True}
    if engine.dialect.name == "postgresql":  # whose default is a new view for each statement
        options["isolation_level"] = "REPEATABLE READ"
    try:
        with engine.connect() as connection:
            yield connection.execution_options(**options)
    except DBAPIError as error:
        raise _store_error(engine.url, error) from None


def _make_engine(address: Address) -> Engine:
    connect = address.connect
    if connect is not None:
        # No pool: runs hold no connection while they train, and a server has few to give.
        engine = sqlalchemy.create_engine(address.url, poolclass=sqlalchemy.NullPool)

        @event.listens_for(engine, "do_connect")
        def on_do_connect(_dialect: Any, _record: Any, _args: Any, more: dict[str, Any]) -> Any:
            return connect(more)

        return engine
    engine = sqlalchemy.create_engine(address.url, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # sqlite3 would open transactions late, by itself, and lose updates: ours begin below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        # A plain BEGIN fails at its first write if another process wrote since, and the busy
        # timeout does not apply to that.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _bring_up_to_date(engine: Engine, url: URL) -> None:
    database = url.database
    if url.get_backend_name() == "sqlite":
        assert database is not None
        os.makedirs(os.path.dirname(os.path.abspath(database)), exist_ok=True)
        if _has_content(database) and _version(engine) == HEAD:
            return
        with _file_lock(f"{database}.lock"):
            if not _has_content(database):
                _choose_journal(database)
            _migrate(engine, url)
        return
    if _version(engine) == HEAD:
        return
    with engine.connect() as connection:
        # Held by the session, so it goes when the process dies.
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK_NUMBER})")
        try:
            _migrate(engine, url)
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK_NUMBER})")


def _migrate(engine: Engine, url: URL) -> None:
    version = _version(engine)
    if version == HEAD:
        return
    known = {path.name.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py")}
    if version is not None and version not in known:
        raise StoreError(
            f"database {describe(url)}: its schema {version} is newer than this code's {HEAD};"
            " update tokenlaw, or move the database away and run `tokenlaw sync`"
        )
    # Imported here, because most openings find the schema as it should be.
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Config reads % as the start of a reference.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version(engine: Engine) -> str | None:
    """Return the schema's revision; None when there is no schema yet."""
    with engine.connect().execution_options(read_only=True) as connection:
        if not sqlalchemy.inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _has_content(database: str) -> bool:
    try:
        return os.stat(database).st_size > 0
    except FileNotFoundError:
        return False


def _choose_journal(database: str) -> None:
    """Set write-ahead logging, which the file remembers, or else the rollback journal.

    The rollback journal is for file systems on which write-ahead logging does not work.
    """
    network = on_network_file_system(os.path.dirname(os.path.abspath(database)))
    connection = sqlite3.connect(database, timeout=_BUSY_SECONDS)
    try:
        mode = "delete"
        if not network:
            try:
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            except sqlite3.OperationalError:
                mode = "refused"
        if mode != "wal":
            connection.execute("PRAGMA journal_mode=DELETE")
    finally:
        connection.close()


@contextlib.contextmanager
def _file_lock(path: str) -> Iterator[None]:
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed or the process dies
        yield


def _may_pass(engine: Engine, error: DBAPIError) -> bool:
    if engine.dialect.name != "postgresql":
        return False
    state = getattr(error.orig, "sqlstate", None)
    # serialization failure, deadlock, unique violation of a simultaneous insert, server going
    # down or starting; no state at all: the connection broke.
    return state is None or state in ("40001", "40P01", "23505") or state.startswith(("08", "57P"))


def _is_damaged(database: str, words: str) -> bool:
    if not os.path.lexists(database):
        return False
    return not os.path.isfile(database) or any(
        sign in words for sign in ("malformed", "not a database", "disk I/O error")
    )


def _store_error(url: URL, error: BaseException) -> StoreError:
    cause = getattr(error, "orig", None) or error
    if url.get_backend_name() == "sqlite":
        words = mask_secrets(str(cause)).strip().splitlines() or [type(cause).__name__]
    else:
        words = [reason(cause)]
    hint = ""
    if url.get_backend_name() == "sqlite" and url.database:
        folder = os.path.dirname(os.path.abspath(url.database))
        if os.path.isdir(folder) and not os.access(folder, os.W_OK):
            # Reading takes in news and keeps a log beside the file.
            hint = f"; {folder} cannot be written, so copy what is there to where it can"
        elif _is_damaged(url.database, words[0]):
            hint = "; move it away and run `tokenlaw sync`, which makes it anew from the runs"
    return StoreError(f"database {describe(url)}: {words[0]}{hint}")
