"""Find a part by its file name: the one way in which a name in a config becomes code.

A part is a module. Its file name is the name that configs use, and the folder listing is the list
of allowed names, so a config can never name an arbitrary import. No torch here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from functools import cache
from types import ModuleType

from .accounting.directions import directions
from .renamed_imports import new_import

# Each folder of parts: its package below tokenlaw, and the names that a module of it must define.
# `VERSION` is raised when a fix changes results.
FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "kinds": ("trainer.kinds", ("main",)),
    "tokenizers": ("trainer.tokenizers", ("VERSION", "Config", "Tokenizer")),
    "quantizers": ("trainer.quantizers", ("VERSION", "Config", "Quantizer")),
    "regularizers": ("trainer.regularizers", ("VERSION", "Config", "Regularizer")),
    "losses": ("trainer.losses", ("VERSION", "ROLE", "Config", "Loss")),
    "metrics": ("trainer.metrics", ("VERSION", "STAGES", "BETTER", "Config", "Metric")),
    "datasets": ("trainer.datasets", ("VERSION", "Config", "describe", "open_split")),
    "executors": ("slurm.executors", ("Executor",)),
    "laws": ("analysis.laws", ("Config", "REQUIRES", "Law")),
    "figures": ("analysis.figures", ("NEEDS", "draw")),
    "studies": ("sweeps.studies", ("study",)),
}
_TOP = __package__.partition(".")[0]  # tokenlaw


@cache
def names(folder: str) -> tuple[str, ...]:
    """Return the sorted names of the parts in a folder; a file that starts with _ is no part."""
    if folder not in FOLDERS:
        raise ValueError(f"part folder: {folder!r} is unknown; allowed: {', '.join(FOLDERS)}")
    spec = importlib.util.find_spec(f"{_TOP}.{FOLDERS[folder][0]}")
    assert spec is not None and spec.submodule_search_locations is not None
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def nearest(name: str, known: tuple[str, ...] | list[str]) -> str:
    """Return ` (did you mean 'x'?)` or an empty string: the tail of an error message."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@cache
def load(folder: str, name: str) -> ModuleType:
    """Return the module of a part. Raises ValueError with the known names when there is none."""
    known = names(folder)
    if name not in known:
        raise ValueError(
            f"{folder}: {name!r} is unknown{nearest(name, known)}; allowed: {', '.join(known)}"
        )
    package, needed = FOLDERS[folder]
    try:
        module = importlib.import_module(f"{_TOP}.{package}.{name}")
    except ImportError as error:
        hint = new_import(error)
        if hint is None:
            raise
        raise ValueError(f"{folder}: {name}: {hint}") from error
    missing = [word for word in needed if word not in vars(module)]
    if missing:
        raise ValueError(f"{package}.{name}: the part does not expose {', '.join(missing)}")
    if "BETTER" in needed:
        directions()  # refuses a wrong declaration when a study is planned, not when a run ends
    return module
