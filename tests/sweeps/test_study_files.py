"""Study files with dataclasses, neighbours, prints, numpy values and integers of any size."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tokenlaw.results_db.read import _axis_column
from tokenlaw.slurm.resources import Resources
from tokenlaw.sweeps.cli.app import main

HEAD = """from __future__ import annotations
import functools
from tokenlaw import Axis, Grid, part, where
grid = functools.partial(
    Grid,
    data={"dataset": part("digits"), "resolution": 16},
    tokenizer={"tokenizer": part("vqgan", ch=8, ch_mult=[1, 1], num_res_blocks_encoder=1,
               num_res_blocks_decoder=1, z_channels=8),
               "quantizer": part("vq", codebook_size=32, dim=4), "iterations": 2, "batch_size": 8},
)
def seeds(*values):
    return (Axis("seed", values, path="tokenizer.seed"),)
"""
GOOD = {
    "a dataclass": "from dataclasses import dataclass\n@dataclass\nclass P:\n    w: int = 1\n"
    "def study(): return grid()",
    "a neighbour": "from beside import WIDTH\ndef study():\n    import beside\n    return grid()",
    "a print": "print('hello')\ndef study():\n    print('there')\n    return grid()",
    "a print in a filter": "def study():\n    return grid(axes=seeds(1, 2),"
    " where=(where(lambda cell: print('x') is None, 'all'),))",
    "numpy": "import numpy as np\ndef study(): return grid(axes=seeds(*np.arange(3)))",
    "an array": "import numpy as np\ndef study():\n"
    "    return grid(axes=(Axis('seed', np.arange(3), path='tokenizer.seed'),))",
    "a large label": "def study():\n    return grid(axes=(Axis('budget',"
    " {10**18: {'tokenizer.seed': 1}, 10**20: {'tokenizer.seed': 2}}),))",
}
BAD = {
    "a slip in study()": ("def study():\n    return {}['x']", "mine.py line 14: KeyError: 'x'"),
    "a refusal of its own": (
        "def study():\n    raise ValueError('odd')",
        "mine.py line 14: ValueError: odd",
    ),
    "a slip in a filter": (
        "def study():\n    return grid(axes=seeds(1, 2),\n"
        "        where=(where(lambda cell: {}['x'], 'few'),))",
        "mine.py line 15: KeyError: 'x'",
    ),
    "a name that is not the file's": ("def study(): return grid(name='other')", "name: 'other'"),
    "a seed beyond 63 bits": ("def study(): return grid(axes=seeds(1, 2**63))", "seed"),
    "a label with a line break": (
        "def study(): return grid(axes=(Axis('a', {'x\\ny': {'tokenizer.seed': 1}}),))",
        r"axes.a: 'x\ny' cannot be a label",
    ),
    "a label that turns": (
        "def study(): return grid(axes=(Axis('a', {'x\\u202ey': {'tokenizer.seed': 1}}),))",
        r"axes.a: 'x\u202ey' cannot be a label",
    ),
    "a formula": (
        "def study(): return grid(axes=(Axis('a', {'=HYPERLINK(1)': {'tokenizer.seed': 1}}),))",
        "axes.a: '=HYPERLINK(1)' cannot be a label",
    ),
}


@pytest.fixture
def plan(tmp_path, capsys):
    def run(text: str) -> tuple[int, str, str]:
        (tmp_path / "beside.py").write_text("WIDTH = 1\n")
        (tmp_path / "mine.py").write_text(HEAD + text + "\n")
        arguments = ["plan", str(tmp_path / "mine.py"), "--json", "--home", str(tmp_path / "home")]
        code = main(arguments)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", GOOD)
def test_a_study_file_may_hold(plan, name):
    code, out, err = plan(GOOD[name])
    assert code == 0, err
    assert json.loads(out)["study"] == "mine"


@pytest.mark.parametrize("name", BAD)
def test_a_slip_is_one_line_with_its_place(plan, name):
    text, words = BAD[name]
    code, out, err = plan(text)
    assert code == 2 and words in err and len(err.splitlines()) == 1 and not out


def test_name_in_the_file_is_the_studys(plan):
    assert json.loads(plan("NAME = 'fancy'\ndef study(): return grid(name='fancy')")[1])[
        "study"
    ] == ("fancy")


def test_integers_of_any_size_are_a_column():
    assert _axis_column([10**18, None]).dtype == "Int64"
    column = _axis_column([10**18, 10**20, None])
    assert column.dtype == "float64" and list(column[:2]) == [1e18, 1e20] and pd.isna(column[2])


@pytest.mark.parametrize("name", ["array", "dependency", "job-name", "output", "time", "chdir"])
def test_what_a_launch_sets_itself_is_refused(name):
    with pytest.raises(ValueError, match=f"extra.{name}: is not allowed; "):
        Resources(extra=((name, "1"),))


def test_flags_and_paths_reach_sbatch():
    Resources(extra=(("exclusive", True), ("container", "/images/torch.sqsh")))
