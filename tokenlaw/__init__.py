"""Plan, launch, train, record and analyse scaling-law studies of visual tokenizers.

The names below are loaded when they are first used, so `import tokenlaw` costs nothing and does
not need torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.drawing.index import make as figure
    from .analysis.fitting.fit import fit
    from .analysis.frontiers.compare import compare as frontier
    from .results_db.read import artifact
    from .results_db.read import endpoints as results
    from .sweeps.grid import Arm, Axis, Grid, part, where
    from .sweeps.plan import make_plan as plan
    from .sweeps.study import load_study as study

_HOMES = {
    "Arm": "sweeps.grid:Arm",
    "Axis": "sweeps.grid:Axis",
    "Grid": "sweeps.grid:Grid",
    "part": "sweeps.grid:part",
    "where": "sweeps.grid:where",
    "study": "sweeps.study:load_study",
    "plan": "sweeps.plan:make_plan",
    "results": "results_db.read:endpoints",
    "artifact": "results_db.read:artifact",
    "figure": "analysis.drawing.index:make",
    "fit": "analysis.fitting.fit:fit",
    "frontier": "analysis.frontiers.compare:compare",
}

__all__ = [
    "Arm",
    "Axis",
    "Grid",
    "artifact",
    "figure",
    "fit",
    "frontier",
    "part",
    "plan",
    "results",
    "study",
    "where",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenlaw' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
