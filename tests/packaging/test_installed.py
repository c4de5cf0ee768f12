"""Install a wheel, a source archive and an editable checkout beside a user's own files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging
ROOT = Path(__file__).resolve().parents[2]
# Another project's names in a user's folder must not be taken for ours, nor ours for theirs.
OWN_FILES = ("analysis.py", "trainer.py", "slurm/__init__.py")
NOTEBOOK = """
import analysis, slurm, trainer
import tokenlaw
assert analysis.MINE and trainer.MINE and slurm.MINE
tokenlaw.Grid
from tokenlaw.trainer.accounting import flops
from tokenlaw.analysis.fitting.fit import fit
import sys
assert "torch" not in sys.modules
copies = [name for name in sys.modules if name.split(".")[0] in ("sweeps", "results_db")]
assert not copies, copies
print(tokenlaw.__file__)
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is tracked, as it stands in the working tree."""
    folder = tmp_path_factory.mktemp("sources")
    listed = run("git", "ls-files", cwd=ROOT).split()
    archive = folder / "tracked.tar"
    with tarfile.open(archive, "w") as tar:
        for name in listed:
            if (ROOT / name).exists() or (ROOT / name).is_symlink():
                tar.add(ROOT / name, name, recursive=False)
    clone = folder / "clone"
    with tarfile.open(archive) as tar:
        tar.extractall(clone, filter="tar")
    return clone


def environment(folder: Path) -> Path:
    """A virtual environment with this one's packages, without its tokenlaw."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    purelib = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
    )
    # Paths in a .pth file bring packages, but not the editable installs among them.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (Path(purelib.strip()) / "packages.pth").write_text("\n".join(packages) + "\n")
    return python


def install(python: Path, *words: object) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", *words, cwd=python.parent)


def check(python: Path, folder: Path, place: Path) -> None:
    """The command line, `import tokenlaw`, and a notebook beside the user's own modules."""
    mine = folder / "mine"
    for name in OWN_FILES:
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("MINE = True\n")
    (mine / "notebook.py").write_text(NOTEBOOK)
    assert str(place) in run(python, "notebook.py", cwd=mine)
    assert "quickstart" in run(python.with_name("tokenlaw"), "--help", cwd=mine)
    plan = run(python.with_name("tokenlaw"), "plan", "quickstart", "--json", cwd=mine)
    assert '"runs"' in plan
    assert (
        "usage"
        in subprocess.run(
            [python, "-m", "tokenlaw.trainer"], cwd=mine, capture_output=True, text=True
        ).stderr
    )


def test_a_wheel_and_a_source_archive(sources: Path, tmp_path: Path) -> None:
    build = (
        "import sys; from setuptools import build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
    )
    out = tmp_path / "dist"
    out.mkdir()
    run(sys.executable, "-c", build, "build_sdist", out, cwd=sources)
    (archive,) = out.glob("*.tar.gz")
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    (root,) = unpacked.iterdir()
    run(sys.executable, "-c", build, "build_wheel", out, cwd=root)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tracked = {
        path.relative_to(ROOT).as_posix()
        for package in ("sweeps", "slurm", "trainer", "results_db", "analysis")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {f"tokenlaw/{name}" for name in tracked} <= set(names)
    assert {"tokenlaw/py.typed", "tokenlaw/analysis/published/system.csv"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"tokenlaw", "tokenlaw-0.1.0.dist-info"}
    python = environment(tmp_path / "venv")
    install(python, wheel)
    check(python, tmp_path, tmp_path / "venv")


def test_an_editable_checkout(sources: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv")
    install(python, "--no-build-isolation", "--editable", sources)
    check(python, tmp_path, sources)
