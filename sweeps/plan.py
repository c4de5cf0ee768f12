"""From a grid to a plan: its runs with ids, costs and states, and the files of a plan."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..results_db.durable import MisplacedError, create_exclusive, write_bytes, write_json
from ..results_db.endpoint import KINDS
from ..results_db.processes import collector_paused
from ..results_db.record import RunDir
from ..results_db.strict_json import DamagedError, canonical_json
from ..trainer.accounting.config import to_tree
from ..trainer.accounting.identity import SCHEME
from . import cost
from .cautions import cautions
from .data_changes import changes
from .data_facts import DataFacts
from .graph import Draft, Graph
from .grid import Grid
from .overrides import overridden, parse_set
from .planned import Plan, PlannedRun
from .states import found, rates_of


class Overtaken(RuntimeError):
    """A segment of a trunk begins elsewhere than planned: another launch, of other lengths, made
    its folder since the plan was. A new plan takes it as it is.
    """


def write_run(home: str | os.PathLike[str], run: PlannedRun, settings: Mapping[str, Any]) -> Path:
    """Write the run's folder: config.json, once, and settings.json; return the folder.

    Raises Overtaken, before settings.json is touched.
    """
    run_dir = RunDir.of(home, run.kind, run.id)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    content = {
        "scheme": SCHEME,
        "id": run.id,
        "kind": run.kind,
        "config": to_tree(run.config),
        "parents": run.parents,
    }
    data = canonical_json(content, check_keys=False).encode() + b"\n"
    if not create_exclusive(run_dir.config_path, data):
        try:
            run_dir.config()
        except MisplacedError:
            raise
        except DamagedError:
            write_bytes(run_dir.config_path, data)
        check_written(home, run)
    write_json(run_dir.settings_path, dict(settings))
    return run_dir.path


def check_written(home: str | os.PathLike[str], run: PlannedRun) -> None:
    """Raise Overtaken when a run's folder lists other parents than the plan.

    Only a segment's id leaves open where it begins.
    """
    if not run.is_segment:
        return
    written = RunDir.of(home, run.kind, run.id).config()["parents"]
    if written != run.parents:
        raise Overtaken(f"{run.kind} {run.id}: another launch began it elsewhere; launch again")


# ----------------------------------------------------------------------------------------- the plan


def make_plan(
    grid: Grid,
    *,
    home: str | os.PathLike[str],
    data: str | None = None,
    overrides: Iterable[str | tuple[str, Any]] = (),
    hardware: str | None = None,
    sharing: bool = True,
    accept_counts: bool = False,
) -> Plan:
    """Make the plan of a study.

    `data` is NAME:FOLDER and replaces the study's data set; `overrides` are `path=value` or pairs,
    as `--set`; `hardware` names the device that hours are estimated for; without `sharing` every
    run with the wsd schedule is trained alone; `accept_counts` takes images whose counts are not
    those that the study states. Raises ValueError in one line on bad input.
    """
    pairs = [parse_set(entry) if isinstance(entry, str) else entry for entry in overrides]
    grid = overridden(grid, pairs)
    if not sharing:
        grid = dataclasses.replace(grid, share_trunks=False)
    facts = DataFacts(data, accept_counts=accept_counts)
    with collector_paused():
        graph = Graph(grid, facts, home)
        drafts = sorted(graph.drafts.items(), key=lambda item: KINDS.index(item[1].kind))
        there = found(home, drafts)
        rates = rates_of(home, drafts, there, hardware)
        runs = tuple(
            _planned(run_id, draft, there.states[run_id], rates) for run_id, draft in drafts
        )
    study = grid.name or "study"
    changed = None
    if any(run.state not in ("done", "diverged") for run in runs):
        changed = changes(home, study, {run.id for run in runs}, facts.sets)
    return Plan(
        study=study,
        runs=runs,
        dropped=tuple(graph.dropped),
        warnings=(
            *graph.warnings,
            *facts.warnings,
            *cautions(graph.drafts, facts),
            *([changed["text"]] if changed is not None else []),
        ),
        data=facts.sets,
        data_changes=changed,
        arms=tuple(grid.arms),
        axes=tuple(axis.name for axis in grid.flat_axes()),
        primary=graph.primary,
        locations={"data": facts.folder},
        hardware=rates.device()[0],
        hardware_known=rates.device()[1],
        missing_data=facts.missing,
        resources=dict(grid.resources),
    )


def _planned(run_id: str, draft: Draft, state: str, rates: cost.Rates) -> PlannedRun:
    hours = rates.hours(draft.kind, draft.work)
    return PlannedRun(
        id=run_id,
        kind=draft.kind,
        config=draft.config,
        parents=draft.parents,
        members=tuple(draft.members),
        params=draft.work.params,
        params_non_embedding=draft.work.params_non_embedding,
        flops_train=draft.work.flops_train,
        flops_shared=draft.work.flops_shared,
        flops_paper=draft.work.flops_paper,
        gpu_hours=hours.value,
        gpu_hours_interval=hours.interval,
        hours_source=hours.source,
        shape=draft.work.shape,
        state=state,
    )
