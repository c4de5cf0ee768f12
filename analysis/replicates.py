"""Tell the replicates of a table: rows of one configuration that differ in seeds alone.

The columns say it. Equal must be the compute (within `SAME_X`), parameters and tokens, and every
other column that is part of a configuration. Not part of it are seeds, names and ids, what a run
took, and measured values. The levels of replication are nested: tokenizer, generator, extractor,
sample. Only the first makes two arms comparable: an arm's tokenizers are its independent units.

Legend: n rows, C configurations, T tokenizers. Values: log y.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..trainer.accounting.directions import directions
from .metric_words import read_words
from .notebook_repr import Brief
from .table import Data

SAME_X: Final = 1e-9  # relative; what a table prints of one number
SEEDED_X: Final = 1e-3  # where a seed column tells the rows apart: FLOPs as measured
SEEDS: Final = frozenset("seed seeds replicate replica rep repeat repetition rerun trial".split())
NAMES: Final = frozenset(
    "id ids uuid name names run hash path url link notes note tags title display commit dirty host "
    "hostname hardware device user created started finished updated date time timestamp runtime "
    "seconds hours minutes attempts attempt status state reason job index idx unnamed row".split()
)
SETTINGS: Final = frozenset("weight lambda coef coefficient rate lr beta scale type kind".split())
OF_VALUES: Final = ("std", "sem", "se", "stderr", "seeds", "floor", "extractor", "reference")
LEVELS: Final = ("tokenizer", "generator", "extractor", "sample")


def words(column: object) -> list[str]:
    """Return the words of a column's name, lower case."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", str(column))
    return [one for one in re.split(r"[^a-z0-9]+", spaced.lower()) if one]


def level_of(column: object) -> str | None:
    """Return the level of replication that a column of seeds or ids numbers; None for others."""
    parts = words(column)
    seeded = bool(SEEDS & set(parts))
    if "tokenizer" in parts or "tokeniser" in parts:
        return (
            "tokenizer" if seeded or {"id", "run", "name"} & set(parts) or len(parts) == 1 else None
        )
    if not seeded:
        return None
    return next((level for level in ("extractor", "sample") if level in parts), "generator")


def is_outcome(column: object, y: str, values: pd.Series) -> bool:
    """Tell if a column holds measured values, or the error or provenance of some."""
    text, parts = str(column), words(column)
    if text == y:
        return True
    if SETTINGS & set(parts):
        return False
    if text.startswith(f"{y}_"):
        return True
    if parts and parts[-1] in OF_VALUES and len(parts) > 1:
        return True
    if not pd.api.types.is_numeric_dtype(values):
        return False
    return text in directions() or read_words(text) is not None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Replicates(Brief):
    """The configuration and the units of every row, and the columns that said so."""

    config_n: np.ndarray
    setting_n: np.ndarray | None  # the settings beside compute and sizes; None: all rows agree
    tokenizer_n: np.ndarray | None  # None: the table does not say
    levels: dict[str, np.ndarray]  # level -> number of the unit of each row, nested in config
    seeds: tuple[str, ...]  # columns of seeds
    ignored: tuple[str, ...]  # columns that may differ between replicates
    compared: tuple[str, ...]  # columns that may not

    doubt: str = ""  # why rows that look like replicates are none

    @property
    def num_repeated(self) -> int:
        """Count the rows that share a configuration with another."""
        count = np.bincount(self.config_n)
        return int(count[count > 1].sum())

    def told(self) -> str:
        """Return the sentence that says what was taken as a replicate; "" if nothing was."""
        if self.doubt or not self.num_repeated:
            return self.doubt
        differ = (
            f"differ in {', '.join(self.seeds)} alone" if self.seeds else "differ in no setting"
        )
        return (
            f"{self.num_repeated} rows {differ} (equal: {', '.join(self.compared)}): averaged to "
            f"{len(np.unique(self.config_n))} configurations before any is selected"
        )


def find(data: Data, extra: tuple[str, ...] = ()) -> Replicates:
    """Return the replicates among the rows; `extra` names more columns to compare."""
    frame, roles = data.frame, data.roles
    y = roles.get("y", "")
    used = {name for name in roles.values() if name in frame.columns}
    seeds, ignored, compared = [], [], []
    tokenizer: list[str] = []
    for column in frame.columns:
        name = str(column)
        if name in used and name != y:
            continue
        level = level_of(column)
        if name in extra:
            compared.append(name)
        elif level == "tokenizer":
            tokenizer.append(name)
        elif level is not None and not is_text_setting(frame[column]):
            seeds.append(name)
        elif (
            is_outcome(column, y, frame[column])
            or NAMES & set(words(column))
            or is_label(frame[column])
        ):
            ignored.append(name)
        elif frame[column].nunique(dropna=False) > 1:
            compared.append(name)
    inputs = [role for role in ("x", "n", "d") if role in data.columns]
    keys = [_numbers(frame[name]) for name in compared]
    setting = _joint(keys) if keys else None
    if "group" in data.columns:
        keys.append(np.unique(data.columns["group"], return_inverse=True)[1].ravel())
    near = SEEDED_X if any(frame[name].nunique(dropna=False) > 1 for name in seeds) else SAME_X
    keys += [_near(data.columns[role], near) for role in inputs]
    config = _joint(keys)
    levels = {
        level: _joint([_numbers(frame[name]) for name in seeds if level_of(name) == level])
        for level in LEVELS[1:]
        if any(level_of(name) == level for name in seeds)
    }
    ids = _tokenizers(data, tokenizer)
    return Replicates(
        config_n=config,
        setting_n=setting,
        tokenizer_n=ids,
        levels=levels,
        seeds=tuple(seeds + (tokenizer if ids is not None else [])),
        ignored=tuple(ignored),
        compared=tuple([roles[role] for role in inputs] + compared),
    )


def is_label(values: pd.Series) -> bool:
    """Tell if a column only names its rows: nothing, texts or counts that are all different."""
    if not values.notna().any():
        return True
    if len(values) < 3 or not values.is_unique:
        return False
    if not pd.api.types.is_numeric_dtype(values):
        return True
    numbers = np.sort(values.to_numpy(dtype=float))
    return bool((np.diff(numbers) == 1).all())


def is_text_setting(values: pd.Series) -> bool:
    """Tell if a column named like a seed holds words, such as the name of a trial design."""
    return not pd.api.types.is_numeric_dtype(values) and values.nunique() == 1


def _tokenizers(data: Data, columns: list[str]) -> np.ndarray | None:
    """Return the tokenizer of each row, numbered within the table; None if nothing says it."""
    frame = data.frame
    usable = [
        name for name in columns if frame[name].notna().all() and name not in data.roles.values()
    ]
    ids = [name for name in usable if "id" in words(name)]
    chosen = ids[:1] or usable
    if not chosen:
        return None
    keys = [_numbers(frame[name]) for name in chosen]
    if not ids and "group" in data.columns:  # seeds are numbered anew in every arm
        keys.append(np.unique(data.columns["group"], return_inverse=True)[1].ravel())
    return _joint(keys)


def _near(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Number values so that sorted neighbours within `tolerance` (relative) share a number."""
    log = np.log(values)
    order = np.argsort(log, kind="stable")
    number = np.empty(len(log), dtype=int)
    number[order] = np.cumsum(np.diff(log[order], prepend=log[order[0]]) > tolerance)
    return number


def _numbers(values: pd.Series) -> np.ndarray:
    return np.asarray(pd.factorize(values, use_na_sentinel=False)[0])


def _joint(keys: list[np.ndarray]) -> np.ndarray:
    ids = np.zeros(len(keys[0]) if keys else 0, dtype=np.int64)
    for key in keys:
        ids = np.unique(ids * (int(key.max()) + 1) + key, return_inverse=True)[1].ravel()
    return ids


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Components(Brief):
    """Standard deviations of log y of one arm by level of replication, and what they rest on."""

    tokenizers: int | None  # None: the table does not name tokenizers
    # Level -> standard deviation; None where nothing is repeated at that level.
    sd: dict[str, float | None] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)  # level -> degrees of freedom


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Averaged(Brief):
    """The configurations of one arm: means over what is replicated, and what they scatter by."""

    row_C: np.ndarray  # a row of each configuration, the first
    setting_C: np.ndarray | None  # its settings beside compute and sizes, as a number
    log_y_C: np.ndarray  # tokenizers weigh equally
    seeds_C: np.ndarray  # rows averaged
    members: tuple[np.ndarray, ...]  # the rows of each configuration
    noise_square: float  # within configurations, in units of one averaged row; see noise_free
    noise_free: int
    tokenizers: int | None
    tokenizer_square: float  # between tokenizers' means over configurations
    tokenizer_free: int
    components: Components


def average(
    log_y: np.ndarray, of: Replicates, rows: np.ndarray, errors: np.ndarray | None
) -> Averaged:
    """Average the rows of one arm (row numbers of the table) by configuration.

    `errors` are the standard deviations of log y over sample seeds, per row.
    """
    v = log_y[rows]
    config, first = np.unique(of.config_n[rows], return_index=True)
    ids = np.searchsorted(config, of.config_n[rows])
    token = None if of.tokenizer_n is None else _joint([of.tokenizer_n[rows]])
    cell = ids if token is None else _joint([ids, token])
    count_cell = np.bincount(cell)
    mean_cell = np.bincount(cell, v) / count_cell
    seed_square = float(((v - mean_cell[cell]) ** 2).sum())
    seed_free = len(v) - len(count_cell)
    of_cell = np.zeros(len(count_cell), dtype=int)
    of_cell[cell] = ids
    seeds = np.bincount(ids).astype(float)
    num, token_square, token_free = None, 0.0, 0
    square, free = seed_square, seed_free
    mean = np.bincount(of_cell, mean_cell) / np.bincount(of_cell)
    if token is not None:
        token_cell = np.zeros(len(count_cell), dtype=int)
        token_cell[cell] = token
        num = int(token.max()) + 1
        effect = np.zeros(num)
        for _ in range(50 if num > 1 and len(mean_cell) > len(mean) else 0):  # incomplete tables
            before = effect
            mean = np.bincount(of_cell, mean_cell - effect[token_cell]) / np.bincount(of_cell)
            effect = np.bincount(token_cell, mean_cell - mean[of_cell]) / np.bincount(token_cell)
            effect = effect - effect.mean()
            if np.abs(effect - before).max() < 1e-12:
                break
        token_free = num - _components(of_cell, token_cell, num)
        token_square = float((effect**2).sum()) if token_free else 0.0
        rest = mean_cell - mean[of_cell] - effect[token_cell]
        rest_free = len(mean_cell) - len(mean) - token_free
        if rest_free > 0:
            # A tokenizer's own departure at one configuration, in units of one run.
            square, free = float((count_cell * rest**2).sum()), rest_free
    sd, frees = _sds(
        (seed_square, seed_free),
        (token_square, token_free),
        (square, free),
        len(v) / (num or 1),
    )
    if errors is not None and np.isfinite(errors).any():
        sd["sample"] = float(np.sqrt(np.nanmean(errors[rows] ** 2)))
    for name, units in of.levels.items():
        if name != "generator":
            found = _between(v, _joint([cell, units[rows]]), cell)
            if found is not None:
                sd[name], frees[name] = found
    ends = np.cumsum(np.bincount(ids))[:-1]
    members = tuple(np.split(rows[np.argsort(ids, kind="stable")], ends))
    return Averaged(
        row_C=rows[first],
        setting_C=None if of.setting_n is None else of.setting_n[rows[first]],
        log_y_C=mean,
        seeds_C=seeds,
        members=members,
        noise_square=square,
        noise_free=free,
        tokenizers=num,
        tokenizer_square=token_square,
        tokenizer_free=token_free,
        components=Components(tokenizers=num, sd=sd, free=frees),
    )


def _components(first: np.ndarray, second: np.ndarray, num_second: int) -> int:
    """Count the groups of tokenizers that are linked by shared configurations."""
    size = int(first.max()) + 1 + num_second
    links = (np.ones(len(first)), (first, second + int(first.max()) + 1))
    return int(connected_components(coo_array(links, shape=(size, size)), directed=False)[0])


def _sds(
    seeds: tuple[float, int],
    tokenizer: tuple[float, int],
    rest: tuple[float, int],
    rows_per_tokenizer: float,
) -> tuple[dict[str, float | None], dict[str, int]]:
    """Return the standard deviations of the two outer levels and their degrees of freedom.

    What the level below adds to the means of a level is taken off; a variance is 0 at least.
    """
    sd: dict[str, float | None] = {}
    free = {"tokenizer": tokenizer[1], "generator": seeds[1] or rest[1]}
    noise = seeds if seeds[1] else rest
    variance = noise[0] / noise[1] if noise[1] else None
    sd["generator"] = None if variance is None else float(np.sqrt(variance))
    sd["tokenizer"] = None
    if tokenizer[1]:
        below = (rest[0] / rest[1] if rest[1] else variance or 0.0) / rows_per_tokenizer
        sd["tokenizer"] = float(np.sqrt(max(0.0, tokenizer[0] / tokenizer[1] - below)))
    return sd, free


def _between(v: np.ndarray, unit: np.ndarray, cell: np.ndarray) -> tuple[float, int] | None:
    """Return the standard deviation between units of one cell, and its degrees of freedom."""
    mean = np.bincount(unit, v) / np.bincount(unit)
    cell_of = np.zeros(len(mean), dtype=int)
    cell_of[unit] = cell
    count = np.bincount(cell_of)
    free = int((count - 1)[count > 0].sum())
    if free < 1:
        return None
    middle = np.bincount(cell_of, mean) / np.maximum(count, 1)
    return float(np.sqrt(((mean - middle[cell_of]) ** 2).sum() / free)), free
