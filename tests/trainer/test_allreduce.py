import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import measure

from tokenlaw.trainer.loop.allreduce import logsumexp_over_processes, sum_over_processes

ROOT = Path(__file__).resolve().parents[2]


def test_alone_a_sum_is_the_value_itself() -> None:
    x = torch.randn(3)
    assert sum_over_processes(x) is x
    assert logsumexp_over_processes(x) is x


def test_two_processes_give_the_statistics_and_gradients_of_one(tmp_path: Path) -> None:
    script = Path(__file__).parent / "two_processes.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    found, alone = json.loads(outputs[0][0]), measure(0, 1)
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        assert any(v != 0 for v in values) or name == "wgan_gp average", name
        assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-5), name
    assert math.isfinite(found["penalty"][0])
