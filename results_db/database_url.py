"""Reads TOKENLAW_DB: the address of a database, which may be printed, and a way to connect to it,
which is kept apart and cannot be.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

_ALLOWED = (
    "allowed are sqlite:////absolute/file.db and postgresql://user@host:port/name,"
    " with special characters of user and password as %XX (%40 for @)"
)
# make_url's own: where it takes the user and the password to end.
_CREDENTIALS = re.compile(r"[^:/]*(?::[^@]*)?@")
# Anything else in the place of a host or a database may be a piece of a password.
_HOST = re.compile(r"[\w.-]*(:[0-9]{1,5})?|[0-9A-Fa-f:.]*|/[\w./+-]*")
_DATABASE = re.compile(r"[\w.$+~-]*")

# What a driver's words are known by -> what is said in their place: they may quote a secret. Each
# sentence is known by itself again.
_REASONS = (
    ("connection refused", "connection refused"),
    ("resolve host|translate host|name or service not known", "cannot resolve host"),
    ("no such file or directory", "no such file or directory: there is no server at this socket"),
    ("timeout|timed out", "timeout: no answer"),
    ("no route to host|network is unreachable", "no route to host"),
    ("password authentication failed", "password authentication failed"),
    ("no password supplied", "no password supplied, by ~/.pgpass, PGPASSWORD or TOKENLAW_DB"),
    (r"pg_hba\.conf", "pg_hba.conf of the server does not let this user in from here"),
    ('database "?.*does not exist', "database does not exist"),
    ('role "?.*does not exist', "role does not exist"),
    ("authentication failed", "authentication failed"),
    ("permission denied|not permitted", "permission denied"),
    ("too many|remaining connection slots", "too many connections"),
    ("starting up|shutting down|recovery mode", "starting up or shutting down"),
    ("definition of service|service file", "definition of service not found"),
    ("certificate|ssl|tls", "SSL fails"),
    ("invalid .*value|invalid .*number|could not match", "invalid value of a parameter"),
    ("unrecognized", "unrecognized configuration parameter in the options"),
    ("closed|lost|terminat|broken", "connection lost"),
)


@dataclass(frozen=True, slots=True)
class Address:
    """The place of a database; as text, and in all that SQLAlchemy says, `describe` of it."""

    url: URL  # backend, host, port and database, and nothing else
    connect: Callable[[dict[str, Any]], Any] | None = None  # None: the URL is enough

    def __str__(self) -> str:
        return describe(self.url)


def describe(url: URL) -> str:
    """Return the printable address of a database: its host, port and name, or its file."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        return f"sqlite:///{url.database}"
    host = url.host or ""
    if host.count(":") > 1 and "," not in host:
        host = f"[{host}]"
    port = "" if url.port is None else f":{url.port}"
    return f"{backend}://{host}{port}/{url.database or ''}"


def read_address(text: str) -> Address:
    """Return the address in `text`, the value of TOKENLAW_DB.

    Raises:
        ValueError: it names no database file or PostgreSQL server; the message does not quote it.
        ModuleNotFoundError: the driver of PostgreSQL is not installed.
    """
    address = _parsed(text)
    if isinstance(address, Address):
        return address
    del text  # a traceback may show the variables
    raise ValueError(f"TOKENLAW_DB: {address} (not shown), {_ALLOWED}")


def _parsed(text: str) -> Address | str:
    """Return the address, or in words why there is none. Errors that quote it stay in here."""
    fault = "cannot be read as a database URL"
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):  # the latter for a port that is no number
        return fault
    if re.fullmatch(r"sqlite(\+\w+)?", url.drivername):
        clean = URL.create("sqlite", database=url.database)
        is_file = url.database not in (None, "", ":memory:")
        # No more than a path: parameters and passwords mean nothing there.
        more = url != clean.set(drivername=url.drivername)
        return fault if more or not is_file else Address(clean)
    if not re.fullmatch(r"postgresql(\+\w+)?", url.drivername):
        return fault
    place = _server(text, url)
    if place is None:
        return fault
    connector = _Connector(url.set(drivername=place.drivername))
    return connector.fault or Address(place, connector)


def _server(text: str, url: URL) -> URL | None:
    """Return host, port and database of a URL; None when a password may be among them."""
    rest = text.partition("://")[2]
    credentials = _CREDENTIALS.match(rest)
    end = credentials.end() if credentials else 0
    if "@" in rest[end:] or "?" in rest[:end]:  # the latter: an @ in a parameter
        return None
    names = ("host", "port", "dbname")
    given = {name: ",".join(url.normalized_query.get(name, ())) for name in names}
    host = given["host"] or url.host or ""
    database = given["dbname"] or url.database or ""
    port = given["port"] or ("" if url.port is None else str(url.port))
    if not all(_HOST.fullmatch(name) for name in host.split(",")):
        return None
    if not _DATABASE.fullmatch(database) or not re.fullmatch(r"([0-9]{1,5}(,|$))*", port):
        return None
    if "," in port:  # several servers: SQLAlchemy's URL has one number for a port
        host, port = f"{host}:{port}", ""
    return URL.create(
        "postgresql+psycopg", host=host, port=int(port) if port else None, database=database
    )


class _Connector:
    """Connects to a PostgreSQL server. It alone holds the secrets of a URL, and has no text."""

    __slots__ = ("_parameters", "fault")

    def __init__(self, url: URL) -> None:
        from psycopg import Error, conninfo

        _, self._parameters = url.get_dialect()().create_connect_args(url)
        self._parameters["connect_timeout"] = 15
        self.fault: str | None = None  # of the URL, in words
        try:
            conninfo.make_conninfo(**self._parameters)
            if not self._parameters.get("password"):
                self.fault = _wrong_passfile(self._parameters.get("passfile"))
        except (Error, ValueError):
            self.fault = "has a parameter that libpq does not take"

    def __call__(self, more: dict[str, Any]) -> Any:
        """Return a connection made with `more`, SQLAlchemy's own parameters, too."""
        import psycopg

        try:
            return psycopg.connect(**{**more, **self._parameters})
        except (psycopg.Error, ValueError) as error:
            failure = psycopg.OperationalError(reason(error))
        # Raised out here: the driver's error, whose words and frames hold secrets, is let go.
        raise failure


def _wrong_passfile(path: Any) -> str | None:
    """Return the fault of a password file for which libpq itself would print its path."""
    try:
        mode = os.stat(path).st_mode if path else None
    except OSError:
        return None  # a file that is not there is passed over by libpq in silence
    if mode is None or (stat.S_ISREG(mode) and not mode & 0o077):
        return None
    return "passfile: must be a plain file that its owner alone may read"


def reason(error: BaseException) -> str:
    """Return a sentence about an error of a PostgreSQL driver that quotes none of its words."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return f"{type(error).__name__} (SQLSTATE {state})"
    words = str(error)
    for pattern, sentence in _REASONS:
        if re.search(pattern, words, re.IGNORECASE):
            return sentence
    return f"{type(error).__name__} of the driver"
