"""A process of a user's with settings of their own: what calls of the analysis leave changed.

Run by test_notebook.py: `in_a_notebook.py FOLDER FIGURE...`. Prints the settings that differ
afterwards and the hash of one picture, as JSON.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import locale
import logging
import os
import pkgutil
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

# The libraries first: some of them change the process when they are imported.
import fixture_table
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.offline
import pyarrow.parquet
import pydantic
import scipy.optimize
import seaborn as sns
import sqlalchemy

LIBRARIES = (plotly.offline, pyarrow.parquet, pydantic, scipy.optimize, sqlalchemy)


def settings() -> dict[str, Any]:
    """Return all that a library can change behind a user's back, without settling anything."""
    rc = {key: repr(matplotlib.rcParams._get(key)) for key in matplotlib.rcParams}
    return {
        **{f"rcParams {key}": value for key, value in rc.items()},
        "colours": repr(
            sorted((k, v) for k, v in matplotlib.colors.get_named_colors_mapping().items())
        ),
        "figures": plt.get_fignums(),
        "warnings": repr(warnings.filters),
        "numpy errors": np.geterr(),
        "numpy print": repr(np.get_printoptions()),
        "numpy seed": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),
        "seed": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "pandas": {key: repr(pd.get_option(key)) for key in pd._config.config._registered_options},
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": (logging.root.level, repr(logging.root.handlers), logging.root.manager.disable),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": (
            repr(sys.excepthook),
            repr(sys.displayhook),
            repr(signal.getsignal(signal.SIGINT)),
        ),
    }


def differences(before: dict[str, Any]) -> list[str]:
    after = settings()
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def main(folder: Path, names: list[str]) -> None:
    sns.set_style("darkgrid")
    matplotlib.rcParams.update({"font.family": "serif", "lines.linewidth": 7, "axes.grid": False})
    matplotlib.rcParams.update({"savefig.transparent": True, "axes.formatter.use_locale": True})
    warnings.filterwarnings("once", "a filter of the user's")
    np.seterr(under="raise")
    pd.set_option("display.max_rows", 7)
    before = settings()

    from tokenlaw import analysis

    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        importlib.import_module(module.name)
    after_import = differences(before)

    from tokenlaw.analysis.drawing import index, style
    from tokenlaw.analysis.fitting.fit import fit
    from tokenlaw.analysis.report import sections as report
    from tokenlaw.analysis.request import FitRequest, ReportRequest
    from tokenlaw.trainer import parts

    one = None
    for name in names:
        df = fixture_table.table(fixture_table.STUDY_OF.get(name, "main"))
        options = {"bootstrap": 5}
        picture = index.make(df, name, options=options, vectors=fixture_table.vectors(df))
        assert picture._repr_png_().startswith(b"\x89PNG")
        one = picture if name == "loss_vs_flops" else one
    assert one is not None
    df = fixture_table.table()
    index.draw_all(df, folder, ("distance_vs_loss",), dpi=40)
    report.write(df, folder / "report.html", ReportRequest(bootstrap=5, only=("loss_vs_flops",)))
    fit(df, FitRequest(law="power_law", y="gfcd", bootstrap=20))
    after_calls = differences(before)

    def broken(df: pd.DataFrame) -> None:
        with style.paper():
            style.figure()
            raise ValueError("drawing fails half way")

    parts.load("figures", "distance_vs_loss").draw = broken
    try:
        index.make(df, "distance_vs_loss")
    except ValueError as error:
        assert "half way" in str(error)
    after_failure = differences(before)

    plain = hashlib.sha256(index.image(one, "png", 60)).hexdigest()
    changed = {"import": after_import, "calls": after_calls, "failure": after_failure}
    print(json.dumps({"changed": changed, "loss_vs_flops": plain}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
