import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from two_averagers import alone

ROOT = Path(__file__).resolve().parents[2]


def of_two_processes(meeting: Path) -> list[dict[str, Any]]:
    """What each of two processes printed."""
    script = Path(__file__).parent / "two_averagers.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(meeting)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    return [json.loads(output) for output, _ in outputs]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return of_two_processes(tmp_path_factory.mktemp("first") / "meeting")


def test_each_gradient_is_the_mean_over_processes(found: list[dict[str, Any]]) -> None:
    first, second = (alone(rank) for rank in (0, 1))
    assert second["first_only"] is None and first["first_only"] is not None
    # A process without a gradient counts as zeros; where none has one, there is none.
    expected = {
        name: None
        if first[name] is None and second[name] is None
        else (np.array(first[name]) + np.array(second[name] or np.zeros_like(first[name]))) / 2
        for name in first
    }
    assert expected["never"] is None and expected["frozen"] is None
    for name, value in expected.items():
        mine = found[0]["step 0"][name]
        if value is None:
            assert mine is None, name
        else:
            np.testing.assert_allclose(np.array(mine), value, rtol=1e-6, atol=1e-8, err_msg=name)
    assert found[0]["other"]["weight"] == [[1.5, 1.5, 1.5]]


def test_all_processes_and_all_steps_have_the_same_bits(
    found: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert found[0] == found[1]
    assert found[0]["step 0"] == found[0]["step 1"]
    assert of_two_processes(tmp_path / "meeting") == found


def test_only_the_last_backward_pass_sends_and_before_it_is_over(
    found: list[dict[str, Any]],
) -> None:
    for before, at_the_end, after in (found[0]["sent"][:3], found[0]["sent"][3:]):
        assert before == 0 < at_the_end < after
