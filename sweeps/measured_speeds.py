"""Speeds of shapes that were timed for a plan: `tokenlaw plan --calibrate`.

$TOKENLAW_HOME/calibration.json keeps, for each hardware, shape of run and precision, the newest
measurement: tokens/s or images/s with the slowest and the fastest piece, FLOP/s, peak memory.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results_db.durable import write_json
from ..results_db.record import now_text, provenance
from ..results_db.strict_json import read_json
from ..trainer.accounting.config import TRAINED_KINDS, to_tree
from .cost import Speed

if TYPE_CHECKING:
    from .planned import Plan, PlannedRun

FILE = "calibration.json"
SCHEME = 1

# Times a spec as trainer/calibrate.py describes it, somewhere, and gives the result.
Measure = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def speeds(home: str | os.PathLike[str]) -> list[Speed]:
    """Return the timings of this home, the newest last."""
    return [
        Speed(
            hardware=entry["hardware"],
            shape=tuple(entry["shape"]),
            precision=entry["precision"],
            rate=entry["flops_per_second"],
            low=entry["flops_per_second_low"],
            high=entry["flops_per_second_high"],
        )
        for entry in sorted(_entries(home), key=lambda entry: entry["at"])
    ]


def _entries(home: str | os.PathLike[str]) -> list[dict[str, Any]]:
    try:
        content = read_json(Path(home) / FILE)
    except FileNotFoundError:
        return []
    if not isinstance(content, dict) or content.get("scheme") != SCHEME:
        raise ValueError(f"{Path(home) / FILE}: is of another version; allowed: to remove it")
    return list(content["entries"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Result of timing one shape."""

    run: PlannedRun  # one that has it
    entry: dict[str, Any] | None  # as it is stored; None when it could not be timed
    error: str | None = None

    def text(self) -> str:
        """Describe the timing in a line for people."""
        name = f"{self.run.kind} {self.run.arm or ''} {self.run.id[:8]}".replace("  ", " ")
        if self.entry is None:
            return f"{name}: not timed: {self.error}"
        entry = self.entry
        memory = entry["peak_memory_bytes"]
        spread = f"{_digits(entry['rate_low'])} .. {_digits(entry['rate_high'])}"
        line = f"{name}: {_digits(entry['rate'])} {entry['unit']} ({spread})"
        return line if memory is None else f"{line}, {memory / 2**30:.2f} GiB"


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"


def calibrate(
    plan: Plan,
    measure: Measure,
    *,
    home: str | os.PathLike[str],
    settings: Mapping[str, Any],
    seconds: float,
    place: str,
    kinds: Collection[str] = TRAINED_KINDS,
) -> list[Timing]:
    """Time every shape of a plan that is still to be trained, and keep the speeds.

    `settings` are those of runs, with the device; `place` is the executor's name; `kinds` leaves
    the other kinds of runs out.
    """
    chosen = [run for run in shapes(plan) if run.kind in kinds]
    if not chosen:
        return []
    settings = dict(settings)
    device = settings.pop("device", "auto")
    by_id = {run.id: run for run in plan.runs}
    jobs = [_job(run, by_id, random_images=plan.missing_data is not None) for run in chosen]
    spec = {"device": device, "seconds": seconds, "settings": settings, "jobs": jobs}
    result = measure(spec)
    known = provenance()
    timings = []
    for run, found in zip(chosen, result["results"], strict=True):
        if "error" in found:
            timings.append(Timing(run=run, entry=None, error=found["error"]))
            continue
        made = {"hardware": result["hardware"], "executor": place, "at": now_text()}
        made |= {"commit": known["commit"], "versions": known["versions"]}
        timings.append(Timing(run=run, entry=made | _entry(run, found)))
    _store(home, [timing.entry for timing in timings if timing.entry is not None])
    return timings


def shapes(plan: Plan) -> list[PlannedRun]:
    """Choose one run of each shape that is still to be trained."""
    found: dict[Any, PlannedRun] = {}
    for run in plan.runs:
        if run.kind in TRAINED_KINDS and run.state not in ("done", "diverged"):
            found.setdefault(_key(run), run)
    return list(found.values())


def _key(run: PlannedRun) -> tuple[Any, ...]:
    return (run.shape, run.config.numerics.precision)


def _job(
    run: PlannedRun, by_id: Mapping[str, PlannedRun], *, random_images: bool
) -> dict[str, Any]:
    job: dict[str, Any] = {"kind": run.kind, "config": to_tree(run.config)}
    if run.kind == "tokenizer":
        return {**job, "random_images": random_images}
    codes = by_id[run.parents["codes"]]
    tokenizer = by_id[codes.parents["tokenizer"]]
    return {**job, "codes": to_tree(codes.config), "tokenizer": to_tree(tokenizer.config)}


def _entry(run: PlannedRun, found: Mapping[str, Any]) -> dict[str, Any]:
    seconds: Sequence[float] = found["seconds_per_step"]
    middle, slow, fast = statistics.median(seconds), max(seconds), min(seconds)
    units, work = found["units_per_step"], found["flops_per_step"]
    return {
        "kind": run.kind,
        "shape": list(run.shape),
        "precision": run.config.numerics.precision,
        "unit": found["unit"],
        "rate": units / middle,
        "rate_low": units / slow,
        "rate_high": units / fast,
        "flops_per_second": work / middle,
        "flops_per_second_low": work / slow,
        "flops_per_second_high": work / fast,
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def _store(home: str | os.PathLike[str], entries: Iterable[dict[str, Any]]) -> None:
    """Store speeds in place of older measurements of the same shape."""
    kept = {_identity(entry): entry for entry in [*_entries(home), *entries]}
    Path(home).mkdir(parents=True, exist_ok=True)
    write_json(Path(home) / FILE, {"scheme": SCHEME, "entries": list(kept.values())})


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return (entry["hardware"], entry["precision"], *entry["shape"])
