"""Two processes do a run together, on one node of SLURM or two, on Ray and on this machine: the
curve is that of one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from daemons import ROOT, Place, kept, until

from tokenlaw.results_db.record import RunDir, read_endpoint
from tokenlaw.results_db.state import read_attempts

pytestmark = pytest.mark.cluster

_MARK = "TOKENLAW_TEST_HOME"  # by which the processes of a launch are known
STUDY = str(ROOT / "tests" / "cluster" / "together_study.py")


COMMAND = ("-m", "tokenlaw")
# Lets sbatch options contradict the resources, which a launch refuses.
UNGUARDED = (
    "-c",
    "import sys; from tokenlaw.slurm import resources; del resources._TAKEN['nodes']; "
    "from tokenlaw.sweeps.cli.app import main; sys.exit(main())",
)


def start(
    home: Path,
    environment: Mapping[str, str],
    *options: str,
    command: tuple[str, str] = COMMAND,
) -> subprocess.Popen[str]:
    common = ["--home", str(home), "--device", "cpu", "--yes", "--quiet"]
    return kept(
        subprocess.Popen(
            [sys.executable, "-P", *command, "launch", STUDY, *common, *options],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT), _MARK: str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )


def finish(process: subprocess.Popen[str]) -> None:
    text = process.communicate(timeout=280)[0]
    assert process.returncode == 0, text[-4000:]


def the_run(home: Path, kind: str) -> RunDir:
    (path,) = (home / kind).iterdir()
    return RunDir(path)


def lose_one(home: Path) -> dict[str, str]:
    """Kills the second process of the generator once there is a checkpoint; returns the environment
    that it had.
    """
    pattern = "generator/*/checkpoints/step-*/manifest.json"
    until(lambda: list(home.glob(pattern)), "a checkpoint", 240)
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_text(errors="replace").split("\0")
        except OSError:
            continue  # it has ended, or is another user's
        environment = dict(word.split("=", 1) for word in words if "=" in word)
        if (environment.get(_MARK), environment.get("RANK")) == (str(home), "1"):
            os.kill(int(path.parent.name), signal.SIGKILL)
            return environment
    raise AssertionError("no second process")


def losses(home: Path, kind: str) -> list[float]:
    lines = the_run(home, kind).log_path.read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


POINTS = {"tokenizer": 1, "generator": 3}  # logged by a run


def check(
    home: Path, alone: Path, place: str, *, lost: str | None = None, kinds: Iterable[str] = POINTS
) -> None:
    """Two processes did the runs, the `lost` one in two attempts, with the curves of one."""
    for kind in kinds:
        claims = read_attempts(the_run(home, kind))
        assert {(claim["executor"], claim["world_size"]) for claim in claims} == {(place, 2)}
        ends = [claim["end"]["error_class"] for claim in claims]
        assert ends == (["WorkerLost", None] if kind == lost else [None]), "no fault of the run"
        mine, expected = losses(home, kind), losses(alone, kind)
        assert len(mine) == POINTS[kind] and mine == pytest.approx(expected, rel=1e-4), place
        assert mine != expected, "rounding apart, not the same arithmetic"
    both = [read_endpoint(the_run(folder, "generator")) for folder in (home, alone)]
    first, second = ([value["value"] for value in found["values"]] for found in both if found)
    assert first == pytest.approx(second, rel=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs by one process."""
    home = tmp_path_factory.mktemp("alone")
    finish(start(home, {}, "--workers", "1"))
    return home


def begun(alone: Path, home: Path, *kinds: str) -> Path:
    """`home` with runs of another one."""
    for kind in kinds:
        shutil.copytree(alone / kind, home / kind)
    return home


TWO = ["--resource", "processes=2", "--workers", "1"]
QUEUE = ["--wait", "--resource", "poll_seconds=1", "--resource", "working_tree=true"]


@pytest.mark.timeout(600)
def test_two_processes_everywhere_give_the_curve_of_one(
    alone: Path, slurm: Place, ray_head: Place, tmp_path: Path
) -> None:
    # The same codes for all: those of weights that differ by rounding differ here and there.
    places = ("slurm", "ray", "local")
    homes = {place: begun(alone, tmp_path / place, "codes") for place in places}
    cluster = ["--address", ray_head.environment["RAY_ADDRESS"], "--resource", "gpus=0"]
    launches = [
        start(homes["slurm"], slurm.environment, "--on", "slurm", *TWO, *QUEUE),
        start(homes["ray"], ray_head.environment, "--on", "ray", *TWO, *cluster, *QUEUE[3:]),
    ]
    for launch in launches:
        finish(launch)
    here = start(homes["local"], {}, "--on", "local", *TWO, "--checkpoint-seconds", "0")
    lose_one(homes["local"])
    finish(here)
    for place, home in homes.items():
        check(home, alone, place, lost="generator" if place == "local" else None)


@pytest.mark.timeout(300)
def test_two_nodes_give_the_curve_of_one_process(
    alone: Path, slurm_of_two_nodes: Place, tmp_path: Path
) -> None:
    environment = slurm_of_two_nodes.environment
    home, short = begun(alone, tmp_path / "home", "tokenizer", "codes"), tmp_path / "short"
    options = ["--on", "slurm", "--workers", "1", *QUEUE, "--resource", "nodes=2"]
    launch = start(home, environment, *options, "--checkpoint-seconds", "0")
    # To these runs the cluster gives one node less than they were to have.
    fewer = (*options, "--resource", "extra.nodes=1")
    refused = start(short, environment, *fewer, command=UNGUARDED)
    second = lose_one(home)
    first_node, second_node = slurm_of_two_nodes.ask(
        "scontrol", "show", "hostnames", second["SLURM_JOB_NODELIST"]
    ).split()
    assert (second["SLURMD_NODENAME"], second["MASTER_ADDR"]) == (second_node, first_node)
    assert second["LOCAL_RANK"] == "0"
    finish(launch)
    check(home, alone, "slurm", lost="generator", kinds=["generator"])
    text = refused.communicate(timeout=100)[0]
    assert "WORLD_SIZE: 1 is what the environment announces; allowed is what was asked" in text
    (claim,) = read_attempts(the_run(short, "tokenizer"))
    assert (claim["end"]["outcome"], claim["end"]["step"]) == ("failed", 0)
