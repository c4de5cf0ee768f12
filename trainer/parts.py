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
    return module
