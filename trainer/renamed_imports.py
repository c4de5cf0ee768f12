"""Name the new import of a module that a study, a figure or a law imports by its former name.

The five packages were once imported by flat names (`sweeps.grid`), and some modules had other
places. No torch here.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

_TOP = Path(__file__).parent.parent  # the package tokenlaw
_PACKAGES = ("sweeps", "slurm", "trainer", "results_db", "analysis")
_RENAMED = {
    "sweeps.cli": "sweeps.cli.app",
    "trainer.stage1": "trainer.kinds.tokenizer",
    "trainer.encode": "trainer.kinds.codes",
    "trainer.stage2": "trainer.kinds.generator",
    "trainer.evaluate": "trainer.kinds.evaluation",
    "trainer.generator": "trainer.models.llama",
    "trainer.dist": "trainer.loop.distributed",
    "trainer.state": "trainer.loop.checkpoints",
    "trainer.sampling": "trainer.sampling.draw",
    "analysis.fit": "analysis.fitting.fit",
    "analysis.figures_command": "analysis.drawing.index",
    "analysis.frontier": "analysis.frontiers.compare",
    "analysis.report": "analysis.report.sections",
    "analysis.codes": "analysis.notices",
}
_LINE = re.compile(
    r"^\s*(?:from\s+(?P<base>\.*[\w.]*)\s+import\s+(?P<names>[\w, ]+)|import\s+(?P<module>[\w.]+))"
)


def new_import(error: ImportError) -> str | None:
    """Return a sentence with the import to write instead; None for any other failure."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        match = _LINE.match(frame.line or "")
        if match is None:
            continue
        if match["module"]:
            wanted = [(match["module"], "")]
        elif match["base"].startswith("."):
            package = Path(frame.filename).parent.parent.name
            wanted = [(f"{package}.{name.split()[0]}", "") for name in match["names"].split(",")]
        else:
            wanted = [(match["base"], match["names"].strip())]
        for module, names in wanted:
            place = _place(module)
            if place is None or (match["base"] or "").startswith(".") and place == module:
                continue
            parent, _, base = f"tokenlaw.{place}".rpartition(".")
            source, names = (f"tokenlaw.{place}", names) if names else (parent, base)
            return f"{module} is imported as tokenlaw.{place}: write `from {source} import {names}`"
    return None


def _place(module: str) -> str | None:
    """Return where a module is now, below tokenlaw; None for one that was never ours."""
    package, _, _ = module.partition(".")
    if package not in _PACKAGES:
        return None
    if module in _RENAMED:
        return _RENAMED[module]
    if (_TOP / module.replace(".", "/")).with_suffix(".py").exists() or module == package:
        return module
    found = sorted((_TOP / package).rglob(f"{module.rpartition('.')[2]}.py"))
    if len(found) != 1:
        return package
    return found[0].relative_to(_TOP).with_suffix("").as_posix().replace("/", ".")
