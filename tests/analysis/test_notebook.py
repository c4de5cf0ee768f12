"""A notebook's own settings stay as they are, and results are shown on one screen."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fixture_table
import numpy as np
import pandas as pd
import pytest

from tokenlaw import analysis
from tokenlaw.analysis import code_entropy
from tokenlaw.analysis.drawing import index
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.notebook_repr import Brief
from tokenlaw.analysis.request import FitRequest, FrontierRequest
from tokenlaw.analysis.table import prepare

ROOT = Path(__file__).resolve().parents[2]
INLINE = "module://matplotlib_inline.backend_inline"
# No backend named: drawing must not choose one for the user either.
BACKENDS = (("", False), (INLINE if find_spec("matplotlib_inline") else "svg", True))


@pytest.mark.parametrize(("backend", "all_figures"), BACKENDS)
def test_calls_change_nothing_of_the_users_process(
    backend: str, all_figures: bool, tmp_path: Path
) -> None:
    tests = ROOT / "tests" / "analysis"
    named = {"MPLBACKEND": backend} if backend else {}
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    environment |= named | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tests)])}
    names = index.names() if all_figures else ("loss_vs_flops",)
    done = subprocess.run(
        [sys.executable, tests / "in_a_notebook.py", tmp_path, *names],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=280,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["changed"] == {"import": [], "calls": [], "failure": []}
    plain = index.make(fixture_table.table(), "loss_vs_flops", options={"bootstrap": 5})
    ours = hashlib.sha256(index.image(plain, "png", 60)).hexdigest()
    assert answer["loss_vs_flops"] == ours, "a theme of the user's moved the bytes"


# ------------------------------------------------------------------------------ one screen of text


def many_runs(num: int = 10_000, num_arms: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n, d = 10 ** rng.uniform(6, 9, num), 10 ** rng.uniform(9, 11, num)
    loss = (1.7 + 400 * n**-0.34 + 2000 * d**-0.36) * np.exp(rng.normal(0, 0.01, num))
    return pd.DataFrame(
        {
            "run_id": [f"{at:016x}" for at in range(num)],
            "arm": [f"arm-{at % num_arms:02d}" for at in range(num)],
            "status": np.where(np.arange(num) % 7, "done", "failed"),
            "C": 6 * n * d,
            "N": n,
            "D": d,
            "loss": loss,
        }
    )


def results() -> dict[str, Any]:
    """Return one of every kind of result, of many rows, draws and arms."""
    frame = many_runs()
    groups = fit(frame, FitRequest(law="power_law", bootstrap=1000, with_checks=False))
    one = groups["arm-00"]
    pooled = fit(frame, FitRequest(law="chinchilla", group="none", bootstrap=0))
    compared = compare(many_runs(3000, 30), FrontierRequest(group="arm", bootstrap=20))
    two = compare(many_runs(200), FrontierRequest(group="arm", bootstrap=1000))
    front = two.frontiers["arm-00"]
    codes = np.random.default_rng(0).integers(0, 64, (500, 64))
    table = fixture_table.table()
    picture = index.make(table, "loss_vs_flops", options={"bootstrap": 20})
    return {
        "fits": groups,
        "many fits": fit(
            many_runs(2000, 40), FitRequest(law="power_law", bootstrap=0, with_checks=False)
        ),
        "fit": one,
        "pooled": pooled,
        "prediction": one.predict({"x": np.geomspace(1e16, 1e22, 1000)}),
        "data": prepare(frame, {}, ("x", "y", "n", "d", "group")),
        "comparison": two,
        "many arms": compared,
        "frontier": front,
        "envelope": front.points,
        "gain": two.gains[0],
        "crossover": two.crossovers[0],
        "left out": one.left_out,
        "checks": pooled.checks,
        "positions": code_entropy.positions(codes, 64),
        "picture": picture,
    }


def test_a_result_is_shown_on_one_screen() -> None:
    for name, result in results().items():
        text = repr(result)
        assert len(text) < 2000, name
        assert len(text.splitlines()) <= 24, name
        assert "array(" not in text and "DataFrame" not in text, f"{name}: {text}"


def test_what_a_fit_shows() -> None:
    frame = many_runs(120)
    text = repr(fit(frame, FitRequest(law="power_law", bootstrap=50))["arm-01"])
    assert text.startswith("Fit: power_law, arm-01: 51 rows (9 left out)")
    assert "\n  b " in text and "[" in text
    assert "50 draws" in text and "warnings: W-" in text
    failed = fit(frame.iloc[1:2], FitRequest(law="power_law", bootstrap=0))
    assert repr(failed) == f"Fit: power_law: {failed.status}: {failed.reason}"
    assert failed.status != "ok"


def holds_much(cls: type) -> bool:
    """Return if a field can be long: an array, a table, a collection of any length."""
    kinds = ("ndarray", "DataFrame", "Series", "dict[", "Mapping[", "...]")
    return any(kind in str(one.type) for one in dataclasses.fields(cls) for kind in kinds)


def test_every_class_that_holds_arrays_has_a_short_form() -> None:
    seen = 0
    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        for cls in vars(importlib.import_module(module.name)).values():
            if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
                continue
            if cls.__name__ == "Config" or not cls.__module__.startswith(analysis.__name__):
                continue
            if holds_much(cls):
                seen += 1
                assert cls.__repr__ is Brief.__repr__, f"{cls.__module__}.{cls.__name__}"
    assert seen > 20


def test_a_picture_shows_itself() -> None:
    picture = index.make(fixture_table.table(), "distance_vs_loss")
    assert repr(picture).startswith("Picture: distance_vs_loss: ")
    assert picture._repr_png_().startswith(b"\x89PNG")
