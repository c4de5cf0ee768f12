"""The reporting checklist of a result, filled in by the tool (after arXiv:2502.18969)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..notices import Item, LeftOut
from ..table import Data
from .fitted import Bootstrap, Check

OPTIMISER = (
    "variable projection (grid of exponents, non-negative least squares) and a damped Newton polish"
)


def data_items(data: Data) -> list[Item]:
    """Range and filter, counting rules, schedule: what the table says about itself."""
    ranges = [
        f"{role} = {data.roles[role]}: {values.min():.4g} to {values.max():.4g}"
        for role, values in data.columns.items()
        if role != "group"
    ]
    rule = data.flops_rule or "not stated by the table"
    return [
        Item(name="data", text=f"{data.num_rows} rows; " + "; ".join(ranges)),
        Item(name="filter", text=filter_text(data.left_out)),
        Item(name="counting", text=f"FLOPs: {rule}; columns: {_columns(data)}"),
        Item(name="schedule", text=_schedule(data)),
        Item(name="tuning", text=_tuning(data)),
    ]


def fit_items(
    *, law: str, options: dict[str, object], loss: str, delta: float, num_starts: str
) -> list[Item]:
    """Form, objective and optimiser."""
    chosen = ", ".join(f"{key}={value}" for key, value in options.items())
    shape = (
        f"huber on log residuals, delta {delta:g}, summed"
        if loss == "huber"
        else (f"{loss} on log residuals, summed")
    )
    return [
        Item(name="form", text=f"{law}{f' ({chosen})' if chosen else ''}"),
        Item(name="objective", text=shape),
        Item(name="optimiser", text=f"{OPTIMISER}; {num_starts}"),
    ]


def uncertainty_item(bootstrap: Bootstrap | None, why: str = "") -> Item:
    """How the draws were made, and from how many independent units."""
    if bootstrap is None:
        return Item(name="uncertainty", text=f"none{f': {why}' if why else ' was asked for'}")
    text = (
        f"{bootstrap.draws} draws by {bootstrap.by} over {bootstrap.clusters} clusters, seed "
        f"{bootstrap.seed}, 95% percentile intervals"
    )
    if bootstrap.by == "residual":
        text += f"; residuals inflated by sqrt(n/(n-p)) and Student t ({bootstrap.stretch:.2f})"
    if bootstrap.failed:
        text += f"; {bootstrap.failed} resamples could not be fitted"
    return Item(name="uncertainty", text=text)


def validation_item(checks: Iterable[Check]) -> Item:
    """The held-out largest runs."""
    text = next((one.text for one in checks if one.name == "hold_out"), "not done")
    return Item(name="validation", text=text)


def code_item(digest: str) -> Item:
    """What would let another reader repeat this."""
    return Item(name="code and data", text=f"tokenlaw analysis; data hash {digest}")


def filter_text(left_out: Sequence[LeftOut]) -> str:
    """The filter log on one line."""
    if not left_out:
        return "nothing left out"
    return "; ".join(f"{one.count} left out: {one.reason}" for one in left_out)


def _columns(data: Data) -> str:
    return ", ".join(f"{role} from {name}" for role, name in data.roles.items())


def _schedule(data: Data) -> str:
    if "schedule_done" in data.frame.columns or "is_final" in data.frame.columns:
        return "end points of complete schedules"
    if "status" in data.frame.columns:
        return "end points of runs that are done"
    return (
        "not stated by the table (no status or schedule_done column); rows are taken as end points"
    )


def _tuning(data: Data) -> str:
    """Whether the learning rate was tuned per size, as far as the table shows."""
    for name in ("lr_peak", "peak_lr", "learning_rate"):
        if name in data.frame.columns:
            num = len(np.unique(data.frame[name].dropna()))
            return f"{name}: {num} value{'s' if num != 1 else ''} in the table"
    return "not stated by the table (no learning rate column)"
