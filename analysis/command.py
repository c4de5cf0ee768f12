"""What `tokenlaw fit` and `tokenlaw frontier` do: a table and the flags in, JSON-able answers out.

`render_text` turns an answer into lines for a terminal. All bad input is a ValueError of one line.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from ..trainer import parts
from . import terminal_text
from .as_json import encode, number
from .direction import told
from .fitting.fit import fit as fit_table
from .fitting.fitted import Fit, law_of, outside, predict
from .frontiers.compare import compare
from .request import FitRequest, FrontierRequest
from .table import POOLED, column_for, counted
from .table_values import numeric_column, row_names

# Long arrays that a JSON answer leaves out; `Fit.to_json` keeps them.
LONG = ("draws", "names", "residuals", "run_ids")


def fit(
    frame: pd.DataFrame, request: FitRequest, predict: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Return the dictionary `tokenlaw fit --json` prints; ValueError (one line) on bad input.

    With a `group`, or several arms in the table, there is one answer per group under "groups";
    the group "none" pools the arms (laws that take the arm as an input, such as gfid_from_loss, fit
    all groups at once instead).
    """
    law, group = request.law, request.group
    groups = fit_table(frame, request)
    if isinstance(groups, Fit):
        if groups.status != "ok":
            raise ValueError(f"{law}: {groups.reason} (status {groups.status})")
        return _answer(groups, predict, group)
    group = groups.group
    if all(one.status != "ok" for one in groups.values()):
        name, first = next(iter(groups.items()))
        raise ValueError(f"{law}: {group} {name}: {first.reason} (status {first.status})")
    if predict is not None and group in predict.columns:
        others = sorted(set(predict[group].dropna().astype(str)) - set(groups))
        if others:
            raise ValueError(
                f"--predict: {group} {others[0]!r} is not in the fit; it has: {', '.join(groups)}"
            )
    answers = {name: _answer(one, predict, group) for name, one in groups.items()}
    return {
        "law": law,
        "group": group,
        "groups": answers,
        "n": sum(one.n for one in groups.values()),
        "n_left_out": groups.num_without + sum(one.n_left_out for one in groups.values()),
        "warnings": [
            {**warning, "message": f"{name}: {warning['message']}"}
            for name, answer in answers.items()
            for warning in answer["warnings"]
        ],
    }


def frontier(frame: pd.DataFrame, request: FrontierRequest) -> dict[str, Any]:
    """Return the dictionary `tokenlaw frontier --json` prints; ValueError (one line) on bad input.

    The group "none" pools the arms.
    """
    group = request.group
    if group == POOLED or (group == "arm" and "arm" not in frame.columns):
        request = dataclasses.replace(request, group=None)  # a table without arms is one arm
    found = compare(frame, request)
    if all(one.status != "ok" for arm in found.frontiers.values() for one in arm.fits.values()):
        arm, first = next(iter(found.frontiers.items()))
        reason = "; ".join([first.fits["straight"].reason, *told(found)])
        raise ValueError(f"frontier: no arm can be fitted; {arm}: {reason}")
    answer = found.to_dict()
    for one in answer["frontiers"].values():
        one["fits"] = {form: _short(fit) for form, fit in one["fits"].items()}
    return answer


def render_text(answer: dict[str, Any]) -> str:
    """The same answer (of `fit` or `frontier`) as lines for a terminal, with the checklist."""
    return terminal_text.render(answer)


def _short(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in LONG}


def _answer(one: Fit, table: pd.DataFrame | None, group: str | None) -> dict[str, Any]:
    """One fit as the command prints it."""
    answer = _short(encode(one))
    if table is not None:
        part = table
        if one.group is not None and group in table.columns:
            part = table[table[group].astype(str) == one.group]
        answer["predictions"] = _predictions(one, part) if one.status == "ok" else []
    return answer


def _predictions(one: Fit, table: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry per row of `table`: inputs, y, intervals, how far outside the data it is."""
    columns = _inputs(one, table)
    if not len(table):
        return []
    found = predict(one, columns)
    law = law_of(one)
    params = {name: np.array([value]) for name, value in one.params.items()}
    best = law.optimum(params, columns["x"]) if "x" in columns else None
    spread = _optimum_intervals(one, columns) if best is not None else []
    far = outside(one, columns)
    answer = []
    for at in range(len(table)):
        entry: dict[str, Any] = {
            role: str(values[at]) if role == "group" else float(values[at])
            for role, values in columns.items()
        }
        entry["y"] = number(found.y[at])
        entry["ci95"] = [number(found.low[at]), number(found.high[at])]
        entry["ci95_new_run"] = [number(found.low_new[at]), number(found.high_new[at])]
        entry["decades_outside"] = number(far[at])
        if best is not None:
            entry["n_optimal"], entry["d_optimal"] = number(best[0][0, at]), number(best[1][0, at])
            for role, ends in zip("nd", spread, strict=False):
                entry[f"{role}_optimal_ci95"] = [number(end) for end in ends[:, at]]
        answer.append(entry)
    return answer


def _optimum_intervals(one: Fit, columns: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the 95% intervals [2, n] of N* and D* at the FLOPs x; nothing without draws."""
    if not len(one.draws):
        return []
    draws = {name: one.draws[:, at] for at, name in enumerate(one.names)}
    best = law_of(one).optimum(draws, columns["x"])
    assert best is not None
    # A draw whose optimum no float can hold lies beyond every other one.
    return [np.quantile(np.where(np.isfinite(b), b, np.inf), [0.025, 0.975], axis=0) for b in best]


def _inputs(one: Fit, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns of a table of points by role; ValueError if the law cannot be evaluated on it."""
    columns: dict[str, np.ndarray] = {}
    for role in ("x", "n", "d", "u", "v", "p", "group"):
        name = one.roles.get(role)
        if name is None or name not in table.columns:
            # The fitted table may have called it otherwise, or derived it.
            name = column_for(table, role, None)
        if name is None:
            continue
        if role == "group":
            columns[role] = table[name].astype(str).to_numpy(dtype=str)
            continue
        values = numeric_column(counted(table), name, role)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            row = row_names(counted(table))[bad[0]]
            raise ValueError(f"--predict: column {name!r} has no positive number in {row}")
        columns[role] = values
    needed = parts.load("laws", one.law).REQUIRES
    sizes = sum(role in columns for role in ("n", "d", "x")) >= 2
    optimal = "x" in columns and law_of(one).optimum(
        {name: np.array([value]) for name, value in one.params.items()}, np.ones(1)
    )
    if "x" in needed and "n" not in needed and "x" not in columns:
        raise ValueError(f"--predict: the table needs the column {one.roles['x']!r}")
    if "n" in needed and "d" not in needed and "n" not in columns:
        raise ValueError(f"--predict: the table needs the column {one.roles['n']!r}")
    if {"n", "d"} <= set(needed) and not sizes and not optimal:
        raise ValueError("--predict: the table needs two of parameters, tokens and FLOPs")
    for role in ("u", "v", "p", "group"):
        if role in needed and role not in columns:
            raise ValueError(f"--predict: the table needs the column {one.roles[role]!r}")
    return columns
