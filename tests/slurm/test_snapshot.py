"""Code that jobs run: the commit, read-only, whatever happens to the working tree."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tokenlaw.results_db.provenance import SNAPSHOT_COMMIT, provenance
from tokenlaw.slurm import snapshot


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "tokenlaw").mkdir(parents=True)
    (root / "tokenlaw" / "__init__.py").write_text("")
    for package in ("slurm", "trainer"):
        (root / package).mkdir()
        (root / package / "__init__.py").write_text("WORD = 'first'\n")
        (root / "tokenlaw" / package).symlink_to(f"../{package}")
    (root / "secret.txt").write_text("not code")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_it_is_the_commit(repository: Path, tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "home", root=repository)
    assert taken.commit == git(repository, "rev-parse", "HEAD") == taken.path.name
    assert taken.warning is None and taken.dirty is False
    assert [path.name for path in taken.path.iterdir() if path.is_dir()] == ["tokenlaw"]
    folders = sorted(path for path in (taken.path / "tokenlaw").glob("[a-z]*") if path.is_dir())
    assert [path.name for path in folders] == ["slurm", "trainer"]
    assert not any(path.is_symlink() for path in folders), "a copy that needs nothing beside it"
    assert not (taken.path / "secret.txt").exists()
    known = provenance(taken.path)
    assert (known["commit"], known["dirty"]) == (taken.commit, False)


def test_later_edits_do_not_reach_it(repository: Path, tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "home", root=repository)
    (repository / "slurm" / "__init__.py").write_text("WORD = 'second'\n")
    again = snapshot.take(tmp_path / "home", root=repository)
    assert again.path == taken.path
    assert "slurm/__init__.py" in (again.warning or "") and (taken.commit or "")[:12] in (
        again.warning or ""
    )
    code = "from tokenlaw import slurm; print(slurm.WORD)"
    environment = {**os.environ, "PYTHONPATH": str(again.path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "first", done.stderr


def test_it_cannot_be_written(repository: Path, tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "home", root=repository)
    for path in [taken.path, *taken.path.rglob("*")]:
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    snapshot.remove(taken.path)
    assert not taken.path.exists()


def test_the_working_tree_on_request(repository: Path, tmp_path: Path) -> None:
    (repository / "trainer" / "new.py").write_text("x = 1\n")
    taken = snapshot.take(tmp_path / "home", root=repository, working_tree=True)
    assert (taken.path / "tokenlaw" / "trainer" / "new.py").exists()
    assert taken.dirty is True and taken.path.name != taken.commit
    assert json.loads((taken.path / SNAPSHOT_COMMIT).read_text())["dirty"] is True


def test_an_installed_package_is_copied(tmp_path: Path) -> None:
    root = tmp_path / "site-packages"
    (root / "tokenlaw" / "slurm").mkdir(parents=True)
    (root / "tokenlaw" / "slurm" / "__init__.py").write_text("")
    first = snapshot.take(tmp_path / "home", root=root)
    assert first.commit is None and snapshot.take(tmp_path / "home", root=root).path == first.path
    (root / "tokenlaw" / "slurm" / "__init__.py").write_text("x = 1\n")
    assert snapshot.take(tmp_path / "home", root=root).path != first.path


def test_a_snapshot_is_its_own(repository: Path, tmp_path: Path) -> None:
    taken = snapshot.take(tmp_path / "home", root=repository)
    assert snapshot.take(tmp_path / "other", root=taken.path).path == taken.path
