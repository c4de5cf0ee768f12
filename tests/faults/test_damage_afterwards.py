"""One file of every role of a finished study is damaged: no verb hangs, shows a trace or a wrong
number; the next launch makes anew what it can and names in one line what it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_of_seconds import STUDY

from tokenlaw.sweeps.cli.app import main

RUN = ("config.json", "settings.json", "endpoint.json", "heartbeat", "log.jsonl")
ATTEMPTS = ("attempts/001.json", "attempts/001.end.json")
WEIGHTS = ("final/manifest.json", "final/state.json")
ROLES = {
    "tokenizer": (*RUN, *ATTEMPTS, *WEIGHTS, "final/autoencoder.safetensors"),
    "codes": (*RUN[:4], *ATTEMPTS, "codes/manifest.json", "codes/train-00000.npy", "codes/*.json"),
    "generator": (*RUN, *ATTEMPTS, *WEIGHTS, "final/generator.safetensors"),
    "evaluation": (*RUN, *ATTEMPTS),
    "studies/*": ("current.json", "plan-*.json"),
    "launches": ("tl-*.json", "home-id"),
    ".": ("tokenlaw.db",),
}
FILES = [f"{kind}/{role}" for kind, roles in ROLES.items() for role in roles]
DAMAGES = ("empty", "half", "garbage", "object", "folder", "FIFO", "link", "loop", "another's")
# Files that the next launch writes anew, from the study or by doing their run again.
REBUILT = {
    *(f"{kind}/endpoint.json" for kind in ("tokenizer", "codes", "generator", "evaluation")),
    *("studies/*/current.json", "studies/*/plan-*.json", "launches/tl-*.json", "launches/home-id"),
}


def do(*arguments: str, seconds: int = 60) -> tuple[int, str]:
    """Run a verb in a forked child; return its exit code and all it printed."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writes, 1), os.dup2(writes, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
        signal.alarm(seconds)  # a hang ends with SIGALRM
        try:
            code = main([*arguments]) or 0
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    os.close(writes)
    with os.fdopen(reads, errors="replace") as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def launch(home: Path, study: Path) -> tuple[int, str]:
    return do("launch", str(study), "--quiet", "--yes", "--device", "cpu", "--home", str(home))


def values(home: Path) -> tuple[int, set[str], str]:
    """Return the exit code of `results`, its rows without times, and what it said beside them."""
    code, text = do("results", "tiny", "--format", "csv", "--home", str(home))
    lines = text.splitlines()
    head = next((line for line in lines if line.startswith("study,")), "")
    place = head.split(",").index("seconds_train") if head else 0
    rows = {",".join(line.split(",")[:12]) for line in lines if line.startswith("tiny,")}
    assert not head or place > 12
    return code, rows, "\n".join(line for line in lines if not line.startswith(("tiny,", "study,")))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("calm")
    (folder / "tiny.py").write_text(STUDY)
    code, text = launch(folder / "home", folder / "tiny.py")
    assert code == 0, text
    import tokenlaw.results_db.read  # noqa: F401  (loaded once for all children)

    return folder / "home", folder / "tiny.py"


def damaged(home: Path, role: str, damage: str) -> Path:
    """Damage one file of the role and return its path."""
    kind, _, rest = role.partition("/")
    if kind in ("studies", "launches", "."):
        path = sorted(home.glob(role))[0]
    else:
        path = sorted((sorted((home / kind).iterdir())[0]).glob(rest))[-1]
    content = path.read_bytes()
    others = sorted(home.glob("generator/*/config.json"))
    if damage in ("folder", "FIFO", "link", "loop"):
        path.unlink()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "garbage":
            path.write_bytes(bytes(range(256)) * 4)
        case "object":
            path.write_bytes(b"{}")
        case "folder":
            path.mkdir()
        case "FIFO":
            os.mkfifo(path)
        case "link":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to(path.name)
        case _:
            path.write_bytes(others[-1].read_bytes())
    return path


def checked(code: int, text: str) -> None:
    assert code in (0, 1, 2), (code, text)  # a hang is -14, a trace 99
    assert "Traceback" not in text and "TOKENLAW_DEBUG" not in text, text
    if code:
        errors = [line for line in text.splitlines() if line.startswith("error:")]
        assert len(errors) <= 1, text


@pytest.fixture
def home(calm: tuple[Path, Path], tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(calm[0], tmp_path / "home", symlinks=True)
    yield tmp_path / "home"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("role", FILES)
def test_r22_readers_say_it_in_a_line(calm, home, role, damage):
    _, good, _ = values(calm[0])
    path = damaged(home, role, damage)
    checked(*do("status", "tiny", "--home", str(home), seconds=30))
    code, rows, said = values(home)
    checked(code, said)
    assert rows == good or (code and not rows), said  # no wrong number, none that is lost unsaid
    if code:
        assert path.name in said or "tokenlaw.db" in said, said


@pytest.mark.parametrize("damage", ["empty", "folder", "FIFO", "garbage"])
@pytest.mark.parametrize("role", sorted(REBUILT))
def test_r22_the_next_launch_rebuilds(calm, home, role, damage):
    _, good, _ = values(calm[0])
    damaged(home, role, damage)
    code, text = launch(home, calm[1])
    assert code == 0 and "5 of 5 runs done" in text, text
    assert do("status", "tiny", "--home", str(home))[0] == 0
    code, rows, said = values(home)
    assert (code, rows) == (0, good), said
    assert launch(home, calm[1])[1].count("0 submitted now") == 1
