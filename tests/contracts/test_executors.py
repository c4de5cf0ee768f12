"""What every file in slurm/executors must keep to. A new executor joins by existing."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tokenlaw.slurm.base import BaseExecutor, Context
from tokenlaw.trainer import parts

FOLDER = Path(__file__).resolve().parent.parent.parent / "slurm" / "executors"
NAMES = parts.names("executors")
VERBS = ("submit", "poll", "cancel", "close")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def executor(name: str) -> type[BaseExecutor]:
    found = parts.load("executors", name).Executor
    assert isinstance(found, type)
    return found


def test_the_known_ones_are_there() -> None:
    assert set(NAMES) >= {"local", "ray", "slurm"}


def test_it_is_a_final_executor(name: str) -> None:
    found = executor(name)
    assert issubclass(found, BaseExecutor) and found.__bases__ == (BaseExecutor,)
    assert getattr(found, "__final__", False), "written once, not inherited from"
    assert not inspect.isabstract(found)
    assert found.__name__ == "Executor" and found.__doc__


def test_it_says_what_it_can(name: str) -> None:
    found = executor(name)
    assert isinstance(found.attached, bool) and isinstance(found.chains, bool)


def test_its_verbs_are_those_of_the_base(name: str) -> None:
    for verb in VERBS:
        mine, base = getattr(executor(name), verb), getattr(BaseExecutor, verb)
        parameters = list(inspect.signature(mine).parameters)
        assert parameters == list(inspect.signature(base).parameters), verb


def test_its_module_can_be_read_without_heavy_packages(name: str) -> None:
    code = (
        f"import sys, tokenlaw.slurm.executors.{name}; "
        "print([m for m in ('torch', 'submitit', 'ray', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_its_module_begins_with_what_it_is(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    assert ast.get_docstring(tree)


def test_unknown_options_are_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever the place is, an option is judged before anything is started or asked.
    monkeypatch.setenv("PATH", str(tmp_path))
    context = Context(
        home=tmp_path, study="toy", token="tl-0", use_gpu=False, options={"colour": "red"}
    )
    with pytest.raises(ValueError, match="colour") as caught:
        executor(name)(context)
    assert "\n" not in str(caught.value) and "allowed" in str(caught.value)


def test_it_knows_the_names_of_its_options(name: str) -> None:
    found = executor(name).option_names()
    assert "colour" not in found
    assert found == {"processes"} or {"gpus", "cpus", "processes"} <= found


def test_without_a_launch_its_queue_is_empty(name: str, tmp_path: Path) -> None:
    from tokenlaw.slurm.follow import queue

    assert queue.look(tmp_path).runs == {}
