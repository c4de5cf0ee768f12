"""Finds parts by listing a folder of this package: a law or a figure is one file.

The file's name is the name users type.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

# What a module in each folder must expose to be a part.
EXPOSES = {
    "fits": ("Config", "REQUIRES", "Law"),
    "figures": ("NEEDS", "draw"),
}


def names(folder: str) -> tuple[str, ...]:
    """The sorted names of the parts in `analysis/FOLDER` (a file that starts with _ is no part)."""
    package = importlib.import_module(f"{__package__}.{folder}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def load(folder: str, name: str) -> ModuleType:
    """The module of the part `name` in `analysis/FOLDER`; ValueError with the known names."""
    known = names(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{folder}: {name!r} is not known{hint}; known: {', '.join(known)}")
    module = importlib.import_module(f"{__package__}.{folder}.{name}")
    missing = [needed for needed in EXPOSES.get(folder, ()) if needed not in vars(module)]
    if missing:
        raise ValueError(f"{folder}: {name!r} does not expose {', '.join(missing)}")
    return module
