"""Keep the keys of `--json`: programs of users read them. Keys may be added, none goes away.

`python tests/golden/test_json_keys.py > tests/golden/json_keys.json` writes the file anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tokenlaw.sweeps.cli.app import main

HERE = Path(__file__).parent
TABLE = str(HERE.parents[1] / "docs/images/vq-cifar10.csv")
ARMS = ("vq-seed1", "vq-seed2")
FEW = ("--bootstrap", "20")
POINTS = "flops_train\n1e16\n"
VERBS: dict[str, tuple[str, ...]] = {
    "plan": ("plan", "quickstart", "--runs"),
    "count": ("count",),
    "fit": ("fit", TABLE, "--group", "arm", "--predict", "POINTS", *FEW),
    "frontier": ("frontier", TABLE, "--y", "gfcd", *FEW),
}


def key_paths(value: Any, place: str = "") -> set[str]:
    """Return the paths of all keys: items of a list are [], names of runs and arms are *."""
    if isinstance(value, list):
        return set().union(*(key_paths(item, f"{place}[]") for item in value))
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, item in value.items():
        name = "*" if key in ARMS or len(key) == 16 and set(key) <= set("0123456789abcdef") else key
        found |= {f"{place}.{name}", *key_paths(item, f"{place}.{name}")}
    return found


def answer(verb: str, folder: Path) -> Any:
    points = folder / "points.csv"
    points.write_text(POINTS)
    words = [str(points) if word == "POINTS" else word for word in VERBS[verb]]
    home = [] if verb == "count" else ["--home", str(folder)]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words, "--json", *home]) == 0
    return json.loads(out.getvalue())


@pytest.mark.parametrize("verb", VERBS)
def test_no_key_goes_away(verb: str, tmp_path: Path) -> None:
    golden = json.loads((HERE / "json_keys.json").read_text())[verb]
    assert set(golden) - key_paths(answer(verb, tmp_path)) == set()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        keys = {verb: sorted(key_paths(answer(verb, Path(temporary)))) for verb in VERBS}
    json.dump(keys, sys.stdout, indent=1)
    print()
