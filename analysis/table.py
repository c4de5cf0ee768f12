"""From any table to the rows a law may use: columns by role, end points, a log of the rest."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from .notebook_repr import Brief
from .notices import LeftOut, Notice, notice
from .row_filter import keep
from .table_files import LINE
from .table_values import numeric_column, place, row_names, with_numbers
from .vocabulary import FLOPS_RULES

# Where a role is looked for when the user names no column: the study table first, then what papers
# call it.
KNOWN: Final[dict[str, tuple[str, ...]]] = {
    "x": (
        *("flops_train", "C", "flops", "compute", "budget", "flop", "train_flops", "train_flop"),
        *("training_flops", "training_flop", "total_flops"),
    ),
    "y": ("val_loss", "loss", "validation_loss", "eval_loss", "test_loss", "final_loss"),
    "n": (
        *("params", "N", "n_params", "num_params", "parameters", "num_parameters", "model_size"),
        "n_parameters",
    ),
    "d": (
        *("tokens_train", "D", "tokens", "num_tokens", "n_tokens", "train_tokens"),
        "training_tokens",
    ),
    "u": ("unique_tokens", "U"),
    "v": ("vocab_size", "V"),
    "p": ("parallel_size", "P"),
    "budget": (),
    "group": ("arm",),
}
MEANING: Final = {
    "x": "train FLOPs",
    "y": "metric",
    "n": "parameters",
    "d": "training tokens",
    "u": "unique training tokens",
    "v": "vocabulary size",
    "p": "parallel streams",
    "budget": "compute budget",
    "group": "arm",
}
# Together these name one row; the ones that a table has must be unique.
KEYS: Final = ("study", "arm", "run_id", "step", "sample_seed")
# Losses per token: comparable only between rows of one codebook size and one sequence length.
PER_TOKEN: Final = ("val_loss", "loss", "train_loss", "nll", "cross_entropy")
# What makes two losses per token different quantities.
TOKEN_COLUMNS: Final = ("codebook_size", "tokens_per_image")
# Words for a run that ended well, here and in other trackers. Rows with another word are left out
# and counted.
DONE: Final = (
    *("done", "finished", "completed", "complete", "ok", "success", "succeeded", "successful"),
    "terminated",  # Ray Tune: ended by itself
)
NOT_DONE: Final = (
    *("diverged", "failed", "failure", "error", "errored", "crashed", "crash", "killed"),
    *("preempted", "preempting", "cancelled", "canceled", "timeout", "oom", "running", "pending"),
    *("queued", "scheduled", "waiting", "stopped", "aborted", "interrupted"),
)
# Column names of runs in tables without `run_id`, and of the steps of their checkpoints.
RUN_NAMES: Final = ("Name", "name", "run", "run_name", "Run")
STEPS: Final = ("step", "Step", "_step", "steps", "current_steps")
SHOWN_ROWS: Final = 20  # how many removed rows the filter log names


ROW: Final = "row"  # name of an index that counts rows from 1
POOLED: Final = "none"  # `group`: one law for the rows of all arms


class NoRows(ValueError):
    """Nothing is left to fit: every row was filtered out or has no value."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Data(Brief):
    """The rows of one fit. Columns are by role; every value in them is finite and positive."""

    columns: dict[str, np.ndarray]  # role -> values; "group" holds texts
    roles: dict[str, str]  # role -> column name, or how it was derived
    frame: pd.DataFrame  # the same rows with all their columns, for clusters
    run_ids: tuple[str, ...]
    has_run_ids: bool  # False: the table has no run_id, a row stands for a run
    flops_rule: str | None
    left_out: tuple[LeftOut, ...]
    notices: tuple[Notice, ...]
    direction: str = "lower"  # whether "lower" or "higher" y is better; see direction.directed
    direction_reason: str = ""  # who says so

    @property
    def num_rows(self) -> int:
        return len(self.run_ids)

    @property
    def num_left_out(self) -> int:
        return sum(one.count for one in self.left_out)

    def take(self, rows: np.ndarray) -> Data:
        """The same table with only `rows` (numbers or a mask)."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows
        return dataclasses.replace(
            self,
            columns={role: values[at] for role, values in self.columns.items()},
            frame=self.frame.iloc[at],
            run_ids=tuple(self.run_ids[one] for one in at),
        )

    def digest(self) -> str:
        """First 16 hex digits of sha256 over the columns by role; the order of rows is ignored."""
        names = sorted(self.columns)
        order = np.lexsort([self.columns[name] for name in names])
        total = hashlib.sha256()
        for name in names:
            values = self.columns[name][order]
            total.update(name.encode())
            if values.dtype.kind == "f":
                total.update(values.astype("<f8").tobytes())
            else:
                total.update("\0".join(values.tolist()).encode())
        return total.hexdigest()[:16]


def column_for(frame: pd.DataFrame, role: str, asked: str | None) -> str | None:
    """The column of `role`: the one asked for, else the first known name in the table."""
    if asked is not None:
        if asked not in frame.columns:
            near = difflib.get_close_matches(asked, [str(one) for one in frame.columns], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            names = ", ".join(str(one) for one in frame.columns[:30])
            raise ValueError(f"--{role}: no column {asked!r}{hint}; the table has: {names}")
        return asked
    exact = next((name for name in KNOWN[role] if name in frame.columns), None)
    if exact is not None:
        return exact
    # "Training FLOP", "val/loss" and "Params" are the same names; one letter alone is not.
    plain = {re.sub(r"[^a-z0-9]+", "_", str(one).lower()): one for one in reversed(frame.columns)}
    return next((plain[name] for name in KNOWN[role] if len(name) > 1 and name in plain), None)


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its rows named as a person counts them: by line, or from 1.

    A part of a table keeps the numbers that its rows have in the whole.
    """
    if frame.index.name in (LINE, ROW):
        return frame
    whole = frame.index.dtype.kind not in "iu" or not frame.index.is_unique
    places = pd.RangeIndex(1, len(frame) + 1) if whole else frame.index + 1
    return frame.set_axis(places.rename(ROW))


def status_column(frame: pd.DataFrame) -> str | None:
    """Return the column that says how each run ended: `status`, or a `state` of a tracker."""
    if "status" in frame.columns:
        return "status"
    for name in frame.columns:
        if str(name).lower() in ("status", "state", "run_status", "run_state", "run state"):
            words = {word for word in states(frame[name]) if word != "missing"}
            if words and words & {*DONE, *NOT_DONE}:
                return str(name)
    return None


def states(column: pd.Series) -> pd.Series:
    """Return the words of a column of states in small letters, `missing` where there is none.

    Each word for a run that ended well becomes `done`.
    """
    words = column.astype("string").str.strip().str.lower().fillna("missing").replace("", "missing")
    return words.where(~words.isin(DONE), "done").astype(object)


def prepare(
    frame: pd.DataFrame,
    asked: Mapping[str, str | None],
    needs: Sequence[str],
    *,
    where: str | None = None,
    end_points: bool = True,
    negative_y: bool = False,
) -> Data:
    """The rows of `frame` that a law with the roles `needs` may use.

    `asked` maps roles (x, y, n, d, group) to column names or None. Left out, and logged: rows that
    `where` drops, runs whose `status` is not done, rows before the end of a schedule, checkpoints
    that are not a run's last (unless `end_points` is False), rows without a finite value.
    ValueError: a missing column, duplicate keys, values that are not numbers or not positive, mixed
    FLOP rules.
    """
    if not len(frame):
        raise NoRows("table: no rows")
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"table: column {str(twice[0])!r} appears twice")
    frame = counted(frame)
    roles = _roles(frame, asked, needs)
    frame, notices = with_numbers(frame, roles)
    log: list[LeftOut] = []

    def drop(mask: np.ndarray, reason: str) -> None:
        nonlocal frame
        if mask.any():
            gone = frame[mask]
            log.append(
                LeftOut(reason=reason, count=int(mask.sum()), rows=row_names(gone.head(SHOWN_ROWS)))
            )
            frame = frame[~mask]

    if where is not None:
        drop(~keep(frame, where), f"where: not ({where})")
    ended = status_column(frame)
    if ended is not None:
        words = states(frame[ended])
        num_diverged = int((words == "diverged").sum())
        for word in sorted(set(words) - {"done"}):
            drop((states(frame[ended]) == word).to_numpy(), f"{ended} is {word}")
        if num_diverged:
            notices.append(
                notice("W-DIVERGED", f"{num_diverged} diverged runs were left out and counted")
            )
    if end_points:
        for name in ("schedule_done", "is_final"):
            if name in frame.columns:
                drop(~_true(frame[name]), f"{name} is not true (not an end point)")
    elif "schedule_done" in frame.columns and not _true(frame["schedule_done"]).all():
        notices.append(notice("W-CHECKPOINTS", "rows before the end of their schedule are used"))

    frame = _named_runs(frame, notices)
    keys = [name for name in KEYS if name in frame.columns]
    if "run_id" in keys:
        _unique(frame, keys)
    else:
        # Without a key two rows that are equal in every column are one run twice.
        objects = any(kind == np.dtype(object) for kind in frame.dtypes)
        texts = frame.astype(str) if objects else frame
        again = texts.duplicated().to_numpy()
        if again.any():
            notices.append(
                notice("W-REPEATS", f"{int(again.sum())} rows repeat another in every column")
            )
        drop(again, "repeats another row in every column")
    if "run_id" in frame.columns and "step" in frame.columns:
        by_run = [name for name in keys if name != "step"]
        last = frame.groupby(by_run, dropna=False)["step"].transform("max")
        early = (frame["step"] < last).to_numpy()
        if end_points:
            drop(early, "not the last checkpoint of its run")
        elif early.any():
            notices.append(
                notice("W-CHECKPOINTS", f"{int(early.sum())} rows are not their run's last")
            )

    if not len(frame):
        reasons = "; ".join(f"{entry.count} rows: {entry.reason}" for entry in log)
        raise NoRows(f"table: no row is left after the filters ({reasons})")
    columns: dict[str, np.ndarray] = {}
    for role, name in roles.items():
        if role == "group":
            drop(frame[name].isna().to_numpy(), f"{name} is missing")
        else:
            drop(np.isnan(numeric_column(frame, name, role)), f"{name} is missing (NaN)")
            drop(np.isinf(numeric_column(frame, name, role)), f"{name} is infinite")
        if not len(frame):
            raise NoRows(f"--{role}: column {name!r} has no finite value in the rows that are left")
    for role, name in roles.items():
        if role == "group":
            columns[role] = frame[name].astype(str).to_numpy(dtype=str)
            continue
        values = numeric_column(frame, name, role)
        bad = np.flatnonzero((values <= 0) & (role != "y" or not negative_y))
        if len(bad):
            raise ValueError(
                f"--{role}: column {name!r} ({MEANING[role]}) must be positive, but is "
                f"{values[bad[0]]:g} in {place(frame, int(bad[0]))}"
            )
        columns[role] = values
    rule = _flops_rule(frame, roles.get("x"))
    _derive(columns, roles, needs)
    notices += _counting_notices(columns, roles) + _pooled_notices(frame, roles.get("group"))
    return Data(
        columns=columns,
        roles=roles,
        frame=frame,
        run_ids=row_names(frame),
        has_run_ids="run_id" in frame.columns,
        flops_rule=rule,
        left_out=tuple(log),
        notices=tuple(notices),
    )


def _named_runs(frame: pd.DataFrame, notices: list[Notice]) -> pd.DataFrame:
    """Take the name of a run as its id where a table without ids has several steps of one name.

    A name and a step must then tell all rows of an arm apart; else the name is no run's.
    """
    step = next((one for one in STEPS if one in frame.columns), None)
    name = next((one for one in RUN_NAMES if one in frame.columns), None)
    if "run_id" in frame.columns or step is None or name is None or frame[name].isna().any():
        return frame
    within = [one for one in ("study", "arm", name) if one in frame.columns]
    several = frame.groupby(within, dropna=False)[step].nunique().max() > 1
    if not several or frame.duplicated([*within, step]).any():
        return frame
    text = f"rows of one {name} with several values of {step} are taken as checkpoints of one run"
    notices.append(notice("W-CHECKPOINTS", text))
    return frame.assign(run_id=frame[name].astype(str), step=frame[step])


def refuse_mixed_losses(data: Data, what: str, role: str = "y") -> None:
    """ValueError if `role` is a loss per token and the rows differ in codebook or length."""
    name = data.roles[role]
    if name not in PER_TOKEN:
        return
    for column in TOKEN_COLUMNS:
        if column not in data.frame.columns:
            continue
        found = sorted(set(data.frame[column].dropna().tolist()))
        if len(found) > 1:
            shown = ", ".join(
                f"{one:g}" if isinstance(one, float) else str(one) for one in found[:6]
            )
            offer = (
                f"use --{role} val_bits_per_image"
                if "val_bits_per_image" in data.frame.columns
                else f"use bits per image: {name} x tokens_per_image / ln 2"
            )
            raise ValueError(
                f"--{role}: {name} is a loss per token and {what} differ in {column} ({shown}), "
                f"so it is not one quantity; {offer}, or pick one value with --where"
            )


def _roles(
    frame: pd.DataFrame, asked: Mapping[str, str | None], needs: Sequence[str]
) -> dict[str, str]:
    """Role -> column for the roles needed and those asked for by name."""
    roles: dict[str, str] = {}
    for role in KNOWN:
        if role not in needs and asked.get(role) is None:
            continue
        name = column_for(frame, role, asked.get(role))
        if name is not None:
            roles[role] = name
    for role in needs:
        if role in roles:
            continue
        # Tokens follow from FLOPs and parameters, C = 6 N D, and the other way round.
        if role in ("d", "x", "n"):
            others = {"d": ("x", "n"), "x": ("n", "d"), "n": ("x", "d")}[role]
            found = {other: column_for(frame, other, asked.get(other)) for other in others}
            if all(found.values()):
                roles.update({other: str(name) for other, name in found.items()})
                continue
        names = ", ".join(str(one) for one in frame.columns[:30])
        raise ValueError(
            f"--{role}: name the column of the {MEANING[role]}; none of {', '.join(KNOWN[role])} "
            f"is in the table, which has: {names}"
        )
    return {role: roles[role] for role in KNOWN if role in roles}


def _derive(columns: dict[str, np.ndarray], roles: dict[str, str], needs: Sequence[str]) -> None:
    """Adds the roles that follow from C = 6 N D."""
    if "d" in needs and "d" not in columns:
        columns["d"] = columns["x"] / (6.0 * columns["n"])
        roles["d"] = f"{roles['x']} / (6 {roles['n']})"
    if "n" in needs and "n" not in columns:
        columns["n"] = columns["x"] / (6.0 * columns["d"])
        roles["n"] = f"{roles['x']} / (6 {roles['d']})"
    if "x" in needs and "x" not in columns:
        columns["x"] = 6.0 * columns["n"] * columns["d"]
        roles["x"] = f"6 {roles['n']} {roles['d']}"


def _flops_rule(frame: pd.DataFrame, x: str | None) -> str | None:
    """How x was counted; ValueError if the rows were counted in different ways."""
    if x is None:
        return None
    for name in ("flops_rule", f"{x}_rule", "flops_counting"):
        if name in frame.columns:
            found = sorted({str(one) for one in frame[name].dropna()})
            if len(found) > 1:
                raise ValueError(
                    f"--x: the rows count FLOPs by different rules ({name}: {', '.join(found)}); "
                    "pick one with --where"
                )
            if found:
                return found[0]
    if _is_macs(x):
        return "multiply-adds (half of FLOPs)"
    known = FLOPS_RULES.get(x)
    return known.rule if known else None


def _is_macs(name: str) -> bool:
    """Tell if a column counts multiply-adds: forward_gmacs, MACs, trainMACs; not machine_hours."""
    words = re.split(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])", name)
    macs = any(re.fullmatch(r"[kmgtp]?macs|[gtp]mac|madds", word.lower()) for word in words)
    return macs or "MAC" in words or name.lower() == "mac" or "multiply_add" in name.lower()


def _counting_notices(columns: Mapping[str, np.ndarray], roles: Mapping[str, str]) -> list[Notice]:
    found = []
    if _is_macs(roles.get("x", "")):
        found.append(
            notice("W-MACS", f"column {roles['x']!r}: one multiply-add is two FLOPs; double it")
        )
    given = all(role in columns and "/" not in roles[role] for role in ("x", "n", "d"))
    if given and roles["x"] != f"6 {roles['n']} {roles['d']}":
        ratio = columns["x"] / (6.0 * columns["n"] * columns["d"])
        middle = float(np.median(ratio))
        spread = float(np.ptp(np.log(ratio)))
        if abs(np.log(middle)) > 0.25 or spread > 0.5:
            half = "; one half: multiply-adds?" if abs(middle - 0.5) < 0.1 else ""
            found.append(
                notice(
                    "W-FLOPS-RULE",
                    f"{roles['x']} / (6 {roles['n']} {roles['d']}) is {middle:.3g} in the middle, "
                    f"{ratio.min():.3g} to {ratio.max():.3g}{half}",
                )
            )
    return found


def _pooled_notices(frame: pd.DataFrame, group: str | None) -> list[Notice]:
    """A warning where rows of several arms, in one group, are fitted as one."""
    arm = column_for(frame, "group", None)
    if arm is None or arm == group:
        return []
    parts = [frame] if group is None else [part for _, part in frame.groupby(group)]
    pooled = max((sorted(set(part[arm].dropna().astype(str))) for part in parts), key=len)
    if len(pooled) < 2:
        return []
    shown = ", ".join(pooled[:6]) + (", ..." if len(pooled) > 6 else "")
    return [notice("W-POOLED", f"{len(pooled)} arms ({shown}) are fitted as one")]


def _true(column: pd.Series) -> np.ndarray:
    """Where the column says true (True, 1, "true", "yes")."""
    true = column.map(lambda one: str(one).strip().lower() in ("true", "1", "1.0", "yes"))
    return np.asarray(true, dtype=bool)


def _unique(frame: pd.DataFrame, keys: list[str]) -> None:
    twice = frame.duplicated(keys, keep=False).to_numpy()
    if twice.any():
        first = frame[twice].iloc[0]
        same = frame[(frame[keys] == first[keys]).all(axis=1)]
        named = ", ".join(f"{key}={first[key]!r}" for key in keys)
        raise ValueError(
            f"table: {len(same)} rows share the key {named}; one row per run (and step) is needed"
        )
