"""A real PostgreSQL: many jobs write at once, and a server that dies costs nothing."""

import multiprocessing
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import endpoint
from sqlalchemy import func, select, text

from tokenlaw.results_db import report_to_postgres, schema, spool, sync
from tokenlaw.results_db.engine import StoreError, opened, reading
from tokenlaw.results_db.record import RunDir, claim

pytestmark = pytest.mark.cluster

WRITERS, EACH = 32, 50
HERE = Path(__file__).parent


@pytest.fixture
def database(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new database on the server, named by TOKENLAW_DB."""
    import psycopg

    name = f"t{time.monotonic_ns()}"
    plain = postgres.url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = f"{postgres.url.rpartition('/')[0]}/{name}"
    monkeypatch.setenv("TOKENLAW_DB", url)
    yield url


def finished(home: Path, number: int) -> RunDir:
    """A generator run that has just ended."""
    run = RunDir.of(home, "generator", f"{number:016x}")
    run.path.mkdir(parents=True)
    attempt = claim(run, executor="local")
    attempt.write_endpoint(endpoint(run, "done"))
    attempt.finish("done")
    return run


def copies(home: Path, model: RunDir, numbers: range) -> list[RunDir]:
    """Run folders like `model`, written without a sync: there are many."""
    texts = {path.relative_to(model.path): path.read_text() for path in model.path.rglob("*.json")}
    made = []
    for number in numbers:
        run = RunDir.of(home, "generator", f"{number:016x}")
        for name, content in texts.items():
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            (run.path / name).write_text(content.replace(model.id, run.id))
        marker = spool.spool_path(home) / f"generator-{run.id}"
        marker.write_text(f'{{"id":"{run.id}","kind":"generator"}}\n')
        made.append(run)
    return made


def write(home: Path, runs: list[RunDir], barrier: Any, waits: Any) -> None:
    """One job after another, as a worker does them."""
    longest = 0.0
    barrier.wait()
    with opened(home) as engine:
        for run in runs:
            began = time.monotonic()
            assert sync.ingest_run(home, engine, run).ok
            longest = max(longest, time.monotonic() - began)
    waits.put(longest)


def rows(home: Path) -> tuple[int, int]:
    """(rows, different runs) of endpoint values."""
    with opened(home) as engine, reading(engine) as connection:
        runs = schema.Endpoint.run_id
        found = connection.execute(select(func.count(), func.count(runs.distinct()))).one()
        counted = connection.execute(select(func.count()).select_from(schema.Endpoint)).scalar_one()
        return counted, found[1]


def test_32_writers_of_50_endpoints(database: str, tmp_path: Path) -> None:
    model = finished(tmp_path / "model", 0)
    spool.spool_path(tmp_path).mkdir()
    runs = [copies(tmp_path, model, range(EACH * n, EACH * (n + 1))) for n in range(WRITERS)]
    context = multiprocessing.get_context("fork")
    barrier, waits = context.Barrier(WRITERS + 1), context.Queue()
    writers = [context.Process(target=write, args=(tmp_path, own, barrier, waits)) for own in runs]
    for writer in writers:
        writer.start()
    barrier.wait()
    seen = [0]
    while any(writer.is_alive() for writer in writers):  # a reader all the while
        seen.append(rows(tmp_path)[0])
        time.sleep(0.2)
    longest = max(waits.get(timeout=10) for _ in writers)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert rows(tmp_path) == (WRITERS * EACH, WRITERS * EACH)
    assert seen == sorted(seen), "rows never vanish"
    assert spool.pending(tmp_path) == []
    assert longest < 60, f"one job waited {longest:.0f} s"


def test_a_server_that_dies_in_mid_commit(database: str, postgres: Any, tmp_path: Path) -> None:
    runs = [finished(tmp_path, number) for number in range(40)]
    context = multiprocessing.get_context("fork")
    ready, killed = context.Event(), context.Event()

    def jobs() -> None:
        for number, run in enumerate(runs):
            # Never an error, whether it was told or not.
            report_to_postgres.record_remote(tmp_path, run)
            if number == 3:
                ready.set()
                killed.wait(30)
                return

    writer = context.Process(target=jobs)
    writer.start()
    assert ready.wait(60)
    postgres.kill()
    killed.set()
    writer.join(60)
    assert writer.exitcode == 0
    began = time.monotonic()
    assert report_to_postgres.record_remote(tmp_path, runs[10]) is False
    assert time.monotonic() - began < 60
    with pytest.raises(StoreError), opened(tmp_path):
        pass
    postgres.start()
    with opened(tmp_path) as engine:
        assert sync.ingest(tmp_path, engine).ok
        assert sync.sync(tmp_path, engine).ok and sync.sync(tmp_path, engine).values == 0
    assert rows(tmp_path) == (40, 40)


def test_a_backend_that_dies_in_mid_transaction(database: str, tmp_path: Path) -> None:
    run = finished(tmp_path, 1)
    with opened(tmp_path) as engine:
        with pytest.raises(Exception, match="terminat|closed|lost"), engine.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert sync.ingest_run(tmp_path, engine, run).ok
    assert rows(tmp_path) == (1, 1)


def test_the_password_is_nowhere(database: str, tmp_path: Path) -> None:
    run = finished(tmp_path, 1)
    secret = database.replace("postgres@", "postgres:hunter2@")
    environment = {**os.environ, "TOKENLAW_DB": secret, "PYTHONPATH": str(HERE.parent.parent)}
    code = (
        "import sys; from tokenlaw.results_db.report_to_postgres import record_remote; "
        "record_remote(*sys.argv[1:])"
    )
    command = ["python", "-c", code, str(tmp_path), str(run.path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "hunter2" not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes()
