"""Real daemons for the whole session, each started when a test first asks for it and stopped at the
end.

They are private: own ports, own folders under /tmp, no files elsewhere. As root on Debian or Ubuntu
the packages are installed where they are missing; otherwise the tests are skipped, each with the
reason.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import TOYS, Place, Postgres, Project, end_launches, make_project, run_script

sys.path.insert(0, str(TOYS))  # the stand-in trainer and its plan
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def no_launch_left() -> Iterator[None]:
    """Ends what a failed test started."""
    yield
    end_launches()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the code whose trainer is the stand-in of tests/slurm."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Place]:
    """A SLURM with accounting, two fake GPUs, 8 CPUs, arrays of at most 101 tasks."""
    yield from _slurm("--accounting")


@pytest.fixture(scope="module")
def slurm_without_accounting() -> Iterator[Place]:
    """The same without accounting: `sacct` and `sacctmgr` fail there."""
    yield from _slurm()


@pytest.fixture(scope="module")
def slurm_of_two_nodes() -> Iterator[Place]:
    """The same on two nodes, which are two daemons of this machine."""
    yield from _slurm(NODES="2")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server on loopback."""
    _need("postgres", "PostgreSQL", any(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    base = Path(tempfile.mkdtemp(prefix="tlpg", dir="/tmp"))
    environment = {**os.environ, "PG_BASE": str(base), "PG_PORT": str(_free_port())}
    server = Postgres(base=base, script=HERE / "pg_up.sh", environment=environment)
    try:
        server.start()
        yield server
    finally:
        subprocess.run(["bash", str(server.script), "wipe"], env=environment, check=False)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Place]:
    """A Ray head with 4 CPUs and two pretended GPUs."""
    base = Path(tempfile.mkdtemp(prefix="tlr", dir="/tmp"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_BASE": str(base),
        "RAY_PORT": str(_free_port()),
        "RAY_DASH": "false",
    }
    try:
        run_script(["bash", str(HERE / "ray_head.sh"), "up"], environment)
        exports = run_script(["bash", str(HERE / "ray_head.sh"), "env"], environment)
        pairs = (word.split("=", 1) for word in exports.split() if "=" in word)
        yield Place(base=base, environment=dict(pairs))
    finally:
        subprocess.run(["bash", str(HERE / "ray_head.sh"), "down"], env=environment, check=False)
        shutil.rmtree(base, ignore_errors=True)


def _slurm(*arguments: str, **more: str) -> Iterator[Place]:
    daemons = ["slurmctld", "slurmd", *(["slurmdbd", "mariadbd"] if arguments else [])]
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    _need("slurm", "SLURM", all(shutil.which(name, path=path) for name in daemons))
    base = Path(tempfile.mkdtemp(prefix="tls", dir="/tmp"))
    names = ("CTLD_PORT", "SLURMD_PORT", "SLURMD_B_PORT", "DBD_PORT", "MYSQL_PORT")
    ports = {name: str(_free_port()) for name in names}
    environment = {**os.environ, "SLURM_BASE": str(base), **ports, **more}
    try:
        run_script(["bash", str(HERE / "slurm_up.sh"), *arguments], environment)
        yield Place(base=base, environment={"SLURM_CONF": str(base / "etc/slurm.conf")})
    finally:
        command = ["bash", str(HERE / "slurm_down.sh"), "--wipe"]
        subprocess.run(command, env=environment, check=False, timeout=120)


def _need(script: str, what: str, installed: bool) -> None:
    if installed:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"{what} is not installed here, and installing it needs root and apt-get")


def _free_port() -> int:
    # Below the range that the kernel hands out by itself and outside Ray's own.
    for port in range(21000 + os.getpid() % 5000, 32000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no free port")


_given: set[int] = set()
