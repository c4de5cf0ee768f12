"""Pretrained files that a plan's runs will ask for, looked for before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..planned import PlannedRun


def missing_weights(runs: Iterable[PlannedRun], locations: Mapping[str, str] | None) -> list[str]:
    """Return a line for each file of weights that runs to be done need and this machine lacks.

    `locations`: paths by file name, as --weights gives them.
    """
    from ...trainer.models import pretrained

    needed: dict[tuple[str, str], str] = {}
    for run in runs:
        if run.state in ("done", "diverged"):
            continue
        for part in _loading(run):
            weights = getattr(part.config, "weights", dict)
            for file, sha256 in weights().items():
                needed.setdefault((file, sha256), f"{part.name} of {run.kind} {run.id} needs it")
    found = []
    for (file, sha256), why in needed.items():
        try:
            pretrained.find(file, sha256, locations, why)
        except ValueError as error:
            found.append(str(error))
    return found


def _loading(run: PlannedRun) -> list[Any]:
    """Return the parts of a run's config that may load files."""
    if run.kind == "tokenizer":
        losses = (run.config.perceptual, run.config.adversarial)
        return [part for part in losses if part is not None]
    return list(run.config.metrics) if run.kind == "evaluation" else []
