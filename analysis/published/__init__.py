"""Numbers from the papers, one CSV per table: facts with their source and what we doubt about them.

Every CSV has the columns `source` (paper or repository and place in it) and `doubt` (a suspected
error, or how the number must not be used; empty where there is none).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd


def names() -> tuple[str, ...]:
    """List the published tables."""
    return tuple(
        sorted(
            f.name.removesuffix(".csv")
            for f in files(__package__).iterdir()
            if f.name.endswith(".csv")
        )
    )


def read(name: str) -> pd.DataFrame:
    """Read the published table `name`; ValueError with the known names when there is none."""
    if name not in names():
        raise ValueError(f"published: {name!r} is unknown; allowed: {', '.join(names())}")
    return _read(name).copy()


@cache
def _read(name: str) -> pd.DataFrame:
    with files(__package__).joinpath(f"{name}.csv").open("r", encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=True)
