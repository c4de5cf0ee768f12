"""Every verb and a job with a marked secret in TOKENLAW_DB: it is in nothing that they print or
write. `tests/results_db/test_secrets.py` has all the places that a secret may stand in."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import tiny
from sqlalchemy.exc import SQLAlchemyError

from tokenlaw.results_db import read
from tokenlaw.results_db.engine import StoreError
from tokenlaw.results_db.record import Fenced, RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts
from tokenlaw.sweeps.cli.app import main
from tokenlaw.trainer import run as running
from tokenlaw.trainer import worker
from tokenlaw.trainer.loop.optim import Diverged

STUDY = str(tiny.ROOT / "tests" / "tiny_study.py")
SECRET, RAW = "mark/7Q@9z", "mark7Q9z"
CODED = quote(SECRET, safe="")
FORMS = (SECRET, RAW, CODED, CODED.replace("2F", "2f"), "7Q@9z")

AWAY = f"postgresql://{CODED}:{RAW}@127.0.0.1:9/none?sslpassword={CODED}&options=-c%20x%3D{RAW}"
UNREADABLE = {
    "raw @ and /": f"postgresql://me:p@{RAW}/{RAW}@127.0.0.1:9/none",
    "no scheme": f"me:{RAW}@127.0.0.1/none",
    "key=value": f"host=127.0.0.1 port=9 user=u password={RAW}",
}


@pytest.fixture
def run(home: Path) -> RunDir:
    """A run that nobody has begun, in a home with a table of its own."""
    (home / "table.csv").write_text("flops,loss\n1,3\n10,2\n100,1.5\n1000,1.25\n")
    return tiny.lay_out(home, "tokenizer", tiny.tokenizer(iterations=2), device="cpu")


def check_clean(text: str, home: Path) -> None:
    """Search a text, and the names and the content of all files of a home."""
    assert not [form for form in FORMS if form in text]
    for path in home.rglob("*"):
        assert not [form for form in FORMS if form in str(path)]
        if path.is_file():
            content = path.read_bytes()
            assert not [form for form in FORMS if form.encode() in content], path


def verbs(run: RunDir, home: Path) -> dict[str, int | None]:
    """Return command lines with their exit codes when no database answers; None: any."""
    study, out = shlex.quote(STUDY), home / "out"
    asked = {f"{verb} {study}": 1 for verb in ("results", "fit", "frontier", "report")}
    asked |= {f"{line} --json": 1 for line in asked if not line.startswith("report")}
    asked |= {f"figures {study} --out {out}": 1, "sync": 1, "sync --json": 1}
    asked |= {f"launch {study} --device cpu --quiet --yes": 1, "doctor": 1, "doctor --json": 1}
    told = {f"{verb} {study}": None for verb in ("plan", "status", "cancel", "retry")}
    told |= {f"logs {run.id}": None, f"report {home / 'table.csv'} --out {out}.html": None}
    return asked | told


@pytest.mark.parametrize("case", ["away", "debug", *UNREADABLE])
def test_no_verb_tells_it(
    case: str, run: RunDir, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("TOKENLAW_DB", UNREADABLE.get(case, AWAY))
    monkeypatch.setenv("PGPASSWORD", SECRET)
    for line, code in verbs(run, home).items():
        if case == "debug":
            monkeypatch.setenv("TOKENLAW_DEBUG", "1")
        elif case != "away" and code and "--json" in line:
            continue  # seen once
        found = main([*shlex.split(line), "--home", str(home)])
        out, err = capfd.readouterr()
        check_clean(out + err, home)
        if code is None:
            continue
        reads = case in UNREADABLE and not line.startswith("doctor")
        assert found == (2 if reads else code), line + err
        said = out if line.startswith("doctor") else err
        assert ("TOKENLAW_DB: " if case in UNREADABLE else "postgresql://127.0.0.1:9/none") in said
        if case == "away" and not line.startswith("doctor"):
            assert err.count("error: ") == 1 and "Traceback" not in err, err


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("kind", [StoreError, ValueError, KeyError, SQLAlchemyError])
def test_an_error_from_deep_inside(
    kind: type[Exception], debug: str, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        try:
            raise OSError(f"connect({AWAY!r})")
        except OSError as error:
            raise kind(f"cannot use {os.environ['TOKENLAW_DB']}, {SECRET!r}") from error

    monkeypatch.setenv("TOKENLAW_DB", AWAY)
    monkeypatch.setenv("TOKENLAW_DEBUG", debug)
    monkeypatch.setattr(read, "endpoints", broken)
    assert main(["results", STUDY, "--home", str(home)]) in (1, 2)
    out, err = capfd.readouterr()
    check_clean(out + err, home)
    assert "cannot use ***, " in err and ("OSError: connect('***')" in err) == (debug == "1")


ENDS = {
    "tokenlaw.slurm.worker.group": ([RAW], ""),
    "tokenlaw.slurm.worker.payload": (["token", "ray", "job", "1", RAW], ""),
    "tokenlaw.trainer": (["-"], f"folder\t{RAW}\n"),
    "tokenlaw.trainer.calibrate": ([f"/nowhere/{RAW}.json", "result.json"], ""),
}


@pytest.mark.parametrize("module", ENDS)
def test_a_process_that_ends_by_an_error(module: str) -> None:
    arguments, words = ENDS[module]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=tiny.ROOT,
        env=tiny.environment(PGPASSWORD=RAW),
        input=words,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" in done.stderr and "***" in done.stderr
    assert RAW not in done.stdout + done.stderr


def test_a_job_tells_its_log_and_its_record_nothing(run: RunDir, home: Path, tmp_path) -> None:
    """`python -m tokenlaw.trainer` finds no database: the run is done all the same."""
    said, lines = tmp_path / "said", set()
    place = tiny.environment(TOKENLAW_DB=AWAY, PGPASSWORD=SECRET)
    with said.open("wb") as log:
        process = subprocess.Popen(
            tiny.command(run), cwd=tiny.ROOT, env=place, stdout=log, stderr=log
        )
        while process.poll() is None:
            lines |= command_lines()
            time.sleep(0.2)
    assert process.returncode == 0, said.read_text()
    assert "postgresql://127.0.0.1:9/none: connection refused" in said.read_text()
    assert read_endpoint(run)["status"] == "done" and len(lines) > 1
    check_clean(said.read_text() + "\n".join(lines), home)


def command_lines() -> set[str]:
    """Return the command lines of all processes that may be read."""
    lines = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return lines


ERRORS = {
    "ValueError": ValueError,
    "OSError": OSError,
    "Diverged": lambda what: Diverged(3, what),
    "RuntimeError": RuntimeError,
    "Fenced": Fenced,
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_a_part_of_the_users_raises(
    name: str, run: RunDir, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("TOKENLAW_DB", AWAY)
    monkeypatch.setenv("HF_TOKEN", SECRET)

    def broken(claimed: running.Run) -> None:
        environment = {key: os.environ[key] for key in ("TOKENLAW_DB", "HF_TOKEN")}
        claimed.warn(f"goes on with {environment}")
        try:
            raise KeyError(json.dumps(environment))
        except KeyError as error:
            raise ERRORS[name](f"cannot reach {environment}") from error

    monkeypatch.setattr(worker, "stage_function", lambda _kind: broken)
    outcome = worker.execute(run.path, running.Stop())
    print(worker.outcome_line(outcome), flush=True)
    out, err = capfd.readouterr()
    check_clean(out + err, home)
    assert "goes on with {'TOKENLAW_DB': '***'" in run.log_path.read_text()
    (attempt,) = read_attempts(run)
    if name == "Diverged":
        assert read_endpoint(run)["reason"].startswith("cannot reach {'TOKENLAW_DB': '***'")
    else:
        assert attempt["end"]["error"].startswith("cannot reach {'TOKENLAW_DB': '***'")
        assert "cannot reach" in out and (name == "Fenced" or "KeyError" in err)
