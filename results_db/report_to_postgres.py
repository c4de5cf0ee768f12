"""Tell a PostgreSQL database of news as soon as a job has it."""

import os

from .rundir import RunDir
from .spool import log


def record_remote(home: str | os.PathLike[str], run_dir: str | os.PathLike[str] | RunDir) -> bool:
    """Record a run's news in PostgreSQL at once, from a job; return True if it was recorded.

    With SQLite a job does nothing here, because only the process on the user's machine writes it.
    A failure is logged and leaves the marker, which the next command's ingest takes: a database
    that is away never fails a run.
    """
    if not os.environ.get("TOKENLAW_DB", "").startswith("postgresql"):
        return False
    # The database's packages are heavy, and most jobs get no further than the line above.
    from . import engine, sync

    run = RunDir(run_dir)
    try:
        with engine.opened(home) as opened:
            report = sync.ingest_run(home, opened, run)
    except (engine.StoreError, OSError, ValueError) as error:
        log.warning("%s: not recorded in the database now: %s", run.path, error)
        return False
    for line in report.lines():
        log.warning("%s", line)
    return report.ok
