"""Tell homes apart that write to one database, so that none removes another's rows.

A database is meant for one home. Whoever writes rows registers its home in the same transaction,
and rows are removed only while no other home is registered. A home's own SQLite file stays its own
when the folder is restored or moved, which changes the id.
"""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select

from . import schema
from .durable import create_exclusive
from .endpoint import check_name
from .engine import sqlite_path
from .processes import host_name
from .strict_json import DamagedError, canonical_json, read_json

FILE = "home.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Describe a home as the database knows it."""

    id: str
    own: bool  # the database is this home's own SQLite file
    path: str


def identify(home: str | os.PathLike[str], engine: Engine) -> Home:
    """Identify a home by the token in its home.json, which is made when it is missing.

    The number of the folder's inode is part of the id, because a copy of a home has its token too.
    """
    folder = Path(os.path.realpath(home))
    name = engine.url.database
    own = (
        engine.dialect.name == "sqlite"
        and name is not None
        and os.path.realpath(name) == os.path.realpath(sqlite_path(home))
    )
    place = f"{host_name()}:{folder}"
    return Home(id=f"{_token(folder)}-{folder.stat().st_ino:x}", own=own, path=place)


def register(connection: Connection, home: Home) -> None:
    """Note that `home` writes to this database."""
    if connection.execute(select(schema.Home.id).where(schema.Home.id == home.id)).first() is None:
        row = {"id": home.id, "own": home.own, "path": home.path}
        connection.execute(insert(schema.Home), [row])


def others(connection: Connection, home: Home) -> list[str]:
    """Return the paths of the other homes that have, or may have, rows in this database."""
    rows = connection.execute(select(schema.Home.id, schema.Home.own, schema.Home.path)).all()
    return sorted(row.path for row in rows if row.id != home.id and not (row.own and home.own))


def _token(folder: Path) -> str:
    path = folder / FILE
    text = canonical_json({"id": secrets.token_hex(8)}).encode() + b"\n"
    try:
        if not path.exists():
            create_exclusive(path, text)
        return check_name("id", read_json(path, limit_bytes=4096)["id"])
    except (DamagedError, KeyError, TypeError, ValueError, OSError):
        # A home that may only be read, a full disk, a damaged file: the place is all there is. Then
        # nothing is lost but the right to remove rows, if the home was registered by its token.
        return hashlib.sha256(f"{host_name()}:{folder}".encode()).hexdigest()[:16]
