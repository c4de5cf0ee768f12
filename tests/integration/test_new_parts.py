"""One new file in every folder of parts, and no other edit: plan, train, fit and draw take them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

NEW = Path(__file__).parent / "new_parts"


class Project:
    """A copy of the code with the new files, and a home for it."""

    def __init__(self, folder: Path) -> None:
        self.code, self.home = folder / "code", folder / "home"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tiny.ROOT / "tokenlaw", self.code / "tokenlaw", ignore=ignored)
        shutil.copy(tiny.ROOT / "pyproject.toml", self.code)
        before = self.files()
        shutil.copytree(NEW, self.code / "tokenlaw", dirs_exist_ok=True)
        self.added = self.files() - before

    def files(self) -> set[Path]:
        return {path.relative_to(self.code) for path in self.code.rglob("*.py")}

    def command(self, *arguments: str) -> str:
        """stdout of `tokenlaw ARGUMENTS`; the test fails when it does."""
        environment = tiny.environment(PYTHONPATH=str(self.code), TOKENLAW_HOME=str(self.home))
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tokenlaw", *arguments],
            cwd=self.code,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"))


def test_one_new_file_in_every_folder(project):
    from tokenlaw.trainer.parts import FOLDERS

    folders = {".".join(path.parent.parts) for path in project.added}
    # The kinds of run are five and stay five.
    extended = {package for folder, (package, _) in FOLDERS.items() if folder != "kinds"}
    assert folders == {f"tokenlaw.{package}" for package in extended}
    assert len(project.added) == len(folders)


@pytest.fixture(scope="module")
def launched(project):
    planned = json.loads(project.command("plan", "all_new", "--json"))
    out = project.command(
        "launch", "all_new", "--on", "serial", "--yes", "--device", "cpu", "--quiet"
    )
    return planned, out


def test_it_is_planned_and_trained(launched):
    planned, out = launched
    kinds = [run["kind"] for run in planned["runs"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "tokenizer": 1, "codes": 1, "generator": 3, "evaluation": 4,
    }  # fmt: skip
    assert {run["state"] for run in planned["runs"]} == {"planned", "waiting"}
    assert "9 of 9 runs done" in out


def test_its_results_are_in_the_table(project, launched):
    table = project.command("results", "all_new", "--wide", "--format", "json")
    rows = json.loads(table)
    assert len(rows) == 3
    for row in rows:
        assert row["codebook_size"] == 27 and row["dataset"] == "stripes"
        assert 0 < row["gbrightness"] < 1 and 0 < row["rbrightness"] < 1
        assert row["val_loss"] > 0 and row["tokenizer_train_small"] > 0


def test_its_direction_is_known(project, launched):
    """BETTER = "higher" for the whole part: told by the table, and in a CSV by the part's name."""
    long = json.loads(project.command("results", "all_new", "--format", "json"))
    told = {row["metric"]: row["better"] for row in long}
    assert told["gbrightness"] == told["rbrightness"] == "higher" and told["val_loss"] == "lower"
    exported = project.home / "wide.csv"
    project.command("results", "all_new", "--wide", "--format", "csv", "--out", str(exported))
    fits = ("--law", "constant", "--loss", "l2", "--bootstrap", "0", "--y", "gbrightness", "--json")
    for source, reason in (("all_new", "by the table"), (exported, "declared by the part")):
        answer = json.loads(project.command("fit", str(source), *fits))
        assert (answer["direction"], answer["direction_reason"]) == ("higher", reason)


def test_its_law_is_fitted(project, launched):
    answer = json.loads(
        project.command(
            "fit", "all_new", "--law", "constant", "--loss", "l2", "--bootstrap", "20", "--json"
        )
    )
    assert "constant" in json.dumps(answer)
    assert '"m"' in json.dumps(answer)


def test_its_figure_is_drawn(project, launched):
    out = project.home / "figures"
    project.command("figures", "all_new", "--only", "brightness", "--out", str(out))
    assert {path.suffix for path in out.rglob("brightness.*")} >= {".png", ".pdf"}
