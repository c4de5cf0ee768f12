"""`tokenlaw quickstart STUDY` from plan to report, and again, with a study of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenlaw.sweeps.cli.app import main

STUDY = """
from tokenlaw import Axis, Grid, part
ADAM = {"lr_peak": 1e-3, "beta1": 0.9, "beta2": 0.95}
def study():
    return Grid(
        data={"dataset": part("digits"), "resolution": 16},
        tokenizer={
            "tokenizer": part(
                "vqgan", ch=8, ch_mult=[1, 1, 1], num_res_blocks_encoder=1,
                num_res_blocks_decoder=1, z_channels=8,
            ),
            "quantizer": part("vq", codebook_size=32, dim=4),
            "iterations": 4, "batch_size": 8, "optim": {"name": "adam", **ADAM},
        },
        codes={"crops": "center", "num_train": 64},
        generator={
            "model": {"width": 16, "layers": 1, "heads": 1, "hidden_multiple": 16},
            "batch_size": 8, "optim": {**ADAM, "schedule": "cosine"},
        },
        axes=(Axis("iterations", (4, 8, 16, 32), path="generator.iterations"),),
    )
"""


def test_from_plan_to_report_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.py").write_text(STUDY)
    home = tmp_path / "home"
    words = ["quickstart", str(tmp_path / "small.py"), "--device", "cpu", "--home", str(home)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "6 of 6 runs done" in out and "base" in out and "report.html" in out
    assert (home / "studies" / "small" / "report.html").stat().st_size > 10_000
    assert main(words) == 0
    assert "0 submitted now" in capsys.readouterr().out
