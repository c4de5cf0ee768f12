"""Find a part by its file name: the one way in which a name in a config becomes code.

A part is a module. Its file name is the name that configs use, and the folder listing is the list
of allowed names, so a config can never name an arbitrary import. No torch here.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

# What a module of each folder must expose. `VERSION` is raised when a fix changes results.
EXPOSES: dict[str, tuple[str, ...]] = {
    "trainer.tokenizers": ("VERSION", "Config", "Tokenizer"),
    "trainer.quantizers": ("VERSION", "Config", "Quantizer"),
    "trainer.regularizers": ("VERSION", "Config", "Regularizer"),
    "trainer.losses": ("VERSION", "ROLE", "Config", "Loss"),
    "trainer.metrics": ("VERSION", "STAGES", "BETTER", "Config", "Metric"),
    "trainer.datasets": ("VERSION", "Config", "describe", "open_split"),
    "slurm.executors": ("Executor",),
    "analysis.fits": (),
    "analysis.figures": ("NEEDS", "draw"),
    "sweeps.studies": ("study",),
}

DIRECTIONS = ("lower", "higher")  # what BETTER may say of a metric
# A part that gives one metric may call it after what it measures: rfid of reconstructions, gfid of
# generated images.
STAGE_LETTERS = ("", "r", "g")


@cache
def names(folder: str) -> tuple[str, ...]:
    """Names of all parts in `folder` (an import path such as `trainer.quantizers`), sorted."""
    spec = importlib.util.find_spec(folder)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"part folder: {folder!r} does not exist; allowed: {', '.join(EXPOSES)}")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """` (did you mean 'x'?)` or an empty string: the tail of an error message."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@cache
def load(folder: str, name: str) -> ModuleType:
    """The module of part `name`. Raises ValueError with the known names when there is none."""
    known = names(folder)
    if name not in known:
        kind = folder.rsplit(".", 1)[-1]
        raise ValueError(
            f"{kind}: {name!r} is unknown{nearest(name, known)}; allowed: {', '.join(known)}"
        )
    module = importlib.import_module(f"{folder}.{name}")
    missing = [word for word in EXPOSES.get(folder, ()) if word not in vars(module)]
    if missing:
        raise ValueError(f"{folder}.{name}: the part does not expose {', '.join(missing)}")
    if "BETTER" in EXPOSES.get(folder, ()):
        directions()  # refuses a wrong declaration when a study is planned, not when a run ends
    return module


def better(declared: str | Mapping[str, str | None], metric: str) -> str | None:
    """Return the direction of `metric` by the `BETTER` of the module that records it, or None."""
    return declared if isinstance(declared, str) else declared.get(metric)


@cache
def directions() -> Mapping[str, str | None]:
    """Return what each recorded metric is better: "lower", "higher", or None for neither.

    Every module of this package that records metrics declares them in a constant `BETTER`. The
    source is read, nothing is imported. ValueError: a declaration that is no literal or holds
    another word, or two that differ.
    """
    found: dict[str, str | None] = {}
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for metric, direction in declared_in(path).items():
            if found.setdefault(metric, direction) != direction:
                raise ValueError(
                    f"{path.name}: BETTER: {metric!r} is {direction!r}, but another part declares "
                    f"{found[metric]!r}; allowed: one direction for a name"
                )
    return MappingProxyType(found)


def declared_in(path: Path) -> dict[str, str | None]:
    """Return metric -> direction as the module at `path` declares it; empty without `BETTER`."""
    source = path.read_text()
    if "\nBETTER" not in source:
        return {}
    value: Any = None
    for statement in ast.parse(source).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == "BETTER" for target in targets):
            try:
                value = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
            except ValueError:
                raise ValueError(
                    f"{path.name}: BETTER: is computed; allowed: a literal, read without importing"
                ) from None
    allowed = f"{' or '.join(DIRECTIONS)}, or a dict of these (None: neither) by metric"
    if isinstance(value, str):
        value = {f"{letter}{path.stem}": value for letter in STAGE_LETTERS}
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path.name}: BETTER: {value!r}; allowed: {allowed}")
    for metric, direction in value.items():
        if not isinstance(metric, str) or direction not in (*DIRECTIONS, None):
            raise ValueError(f"{path.name}: BETTER: {metric!r}: {direction!r}; allowed: {allowed}")
    return value
