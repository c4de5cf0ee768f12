"""The work of `tokenlaw figures`: a table in; PNG, PDF and CSV out, with an index of their runs.

The same table gives the same bytes, whatever the order of its rows: no dates, fixed fonts, fixed
settings. `figures.json` beside the pictures records, for each of them, its runs, a hash of every
run's row, the choices and the code, so that `check` can say what has changed since.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from ...trainer import parts
from ..cautions import cautions
from ..notebook_repr import Brief
from ..request import Request
from ..study_columns import named, study_table
from . import panels
from .picture import DPI, short_hash
from .picture import INDEX as INDEX
from .picture import Picture as Picture
from .picture import image as image

Vectors = Callable[
    [str, str], Any
]  # (run id, artifact name) -> array; see analysis/drawing/vectors.py

SCHEME = 1  # of figures.json
# Studies name their axes freely. What figures call a column, and what it may be called in a table.
ALIASES = {
    "crt_layers": ("crt_layers", "regularizer_layers", "layers"),
    "crt_weight": ("crt_weight", "regularizer_weight", "weight", "lambda"),
    "codebook_dim": ("codebook_dim", "code_dim", "dim"),
    "tokenizer_blocks": ("tokenizer_blocks", "encoder_blocks", "num_res_blocks", "blocks", "depth"),
    "num_train": ("num_train", "num_train_images", "dataset_size", "data_size", "images"),
    "schedule": ("schedule", "vcq_schedule"),
    "cfg_scale": ("cfg_scale", "cfg", "guidance"),
}
ASKED = ("x", "y", "n", "d", "group", "where", "direction")  # of a request, kept in the index
COMMON_OPTIONS = ("bootstrap", "seed")  # always allowed, also where nothing is fitted


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Drawn(Brief):
    """Outcome of drawing one figure."""

    name: str
    title: str
    status: str  # "drawn" or "not drawn"
    reason: str = ""  # why it was not drawn, one line
    files: tuple[str, ...] = ()  # names in the output folder: PNG, PDF, CSV
    run_ids: tuple[str, ...] = ()  # the runs that are in the picture
    data_hash: str = ""  # first 16 hex digits of sha256 over the columns it read


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Stale(Brief):
    """A figure that no longer shows what the table says, and why."""

    name: str
    reasons: tuple[str, ...]


def names() -> tuple[str, ...]:
    """List every figure there is, in alphabetic order."""
    return parts.names("figures")


def prepare(df: pd.DataFrame, asked: Request | None = None) -> pd.DataFrame:
    """Put `df` into a fixed order, with the columns that figures need; `asked` names its columns.

    Rows without a run id are called by their number; a table without arms is one arm.
    """
    df = study_table(df, asked).reset_index(drop=True)
    for name, others in ALIASES.items():
        found = [c for other in others for c in (other, f"axis_{other}") if c in df.columns]
        if name not in df.columns and found:
            df = df.assign(**{name: df[found[0]]})
    order = [c for c in ("study", "arm", "run_id") if c in df.columns]
    return df.sort_values(order, kind="stable").reset_index(drop=True)


def make(
    df: pd.DataFrame,
    name: str,
    *,
    config: Any = None,
    options: dict[str, Any] | None = None,
    vectors: Vectors | None = None,
    asked: Request | None = None,
) -> Picture:
    """Make the figure `name` of the table, in memory.

    `options` are fields of the figure's Config; those it does not have are ignored, so that one
    setting (draws of the bootstrap) can be given to all. Raises ValueError in one line when the
    table does not allow it.
    """
    module = parts.load("figures", name)
    df = prepare(df, asked)
    panels.refuse_missing(df, module.NEEDS, name)
    if config is None and "Config" in vars(module):
        config = _config(module, name, {"x": named(df, "flops_train"), **(options or {})})
    try:
        return _make(module, name, df, config, vectors)
    except ValueError as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: {error}") from error


def _make(
    module: ModuleType, name: str, df: pd.DataFrame, config: Any, vectors: Vectors | None
) -> Picture:
    from . import style

    given: dict[str, Any] = {"config": config, "vectors": vectors}
    if vectors is None and vars(module).get("USES_VECTORS"):
        raise ValueError(f"{name}: needs the vectors of the runs (a database or a folder of them)")
    table = None
    if "data" in vars(module):
        table = _call(module.data, df, given)
        if df.attrs["where"] is not None:
            table.attrs["note"] = f"{table.attrs['note']} Rows kept: {df.attrs['where']}."
        given["table"] = table
    columns = _columns(module, df, config)
    if table is not None and "note" in table.attrs:
        read = df.loc[df["run_id"].isin(_ids_shown(table, df)), list(columns)]
        told = [f"Caution: {text}." for text in cautions(read)]
        table.attrs["note"] = " ".join([table.attrs["note"], *told])
    with style.paper():
        figure = _call(module.draw, df, given)
        style.settle(figure)
    return Picture(
        name=name,
        title=_title(module, name, table),
        papers=tuple(vars(module).get("PAPERS", ())),
        figure=figure,
        table=table,
        run_ids=_ids_shown(table, df),
        columns=columns,
        rows=_row_hashes(df, columns),
        config=_plain(dataclasses.asdict(config)) if dataclasses.is_dataclass(config) else {},  # type: ignore[arg-type]
    )


def _title(module: ModuleType, name: str, table: pd.DataFrame | None) -> str:
    """Return the title of a table that has one, else the figure's."""
    own = None if table is None else table.attrs.get("title")
    return str(own or vars(module).get("TITLE", name))


def csv_text(table: pd.DataFrame) -> str:
    """Write the table behind a picture as CSV.

    It has ten significant digits and empty cells for missing values.
    """
    used = table.loc[:, [c for c in table.columns if table[c].notna().any()]]
    text: str = used.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def draw_all(
    df: pd.DataFrame,
    out_dir: str | Path,
    names: Sequence[str] | None = None,
    *,
    options: dict[str, Any] | None = None,
    vectors: Vectors | None = None,
    asked: Request | None = None,
    dpi: int = DPI,
    progress: Callable[[str], None] | None = None,
) -> list[Drawn]:
    """Draw the figures into `out_dir` and bring its index up to date.

    Without `names` every figure is tried, and one that the table does not allow is reported with
    its reason. A figure asked for by name that cannot be drawn is a ValueError. `progress` is told
    the name of each figure once it is drawn.
    """
    out_dir = Path(out_dir)
    wanted = parts.names("figures") if names is None else tuple(names)
    for name in wanted:
        parts.load("figures", name)  # a wrong name is refused before anything is drawn
    _refuse_unknown(options or {}, wanted)
    df = prepare(df, asked)
    index = _read_index(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    done = []
    for name in wanted:
        title = str(vars(parts.load("figures", name)).get("TITLE", name))
        try:
            picture = make(df, name, options=options, vectors=vectors)
        except ValueError as error:
            if names is not None:
                raise
            index["not_drawn"][name] = str(error)
            index["figures"].pop(name, None)
            for form in ("png", "pdf", "csv"):
                (out_dir / f"{name}.{form}").unlink(missing_ok=True)
            done.append(Drawn(name=name, title=title, status="not drawn", reason=str(error)))
            continue
        contents = {f"{name}.{form}": image(picture, form, dpi) for form in ("png", "pdf")}
        if picture.table is not None:
            contents[f"{name}.csv"] = csv_text(picture.table).encode()
        for file, content in contents.items():
            _replace(out_dir / file, content)
        index["not_drawn"].pop(name, None)
        index["figures"][name] = {
            "title": picture.title,
            "files": {file: hashlib.sha256(b).hexdigest() for file, b in contents.items()},
            "data_hash": picture.data_hash,
            "run_ids": list(picture.run_ids),
            "columns": list(picture.columns),
            "rows": picture.rows,
            "options": _plain(options or {}),
            "asked": {key: getattr(asked, key) for key in ASKED if getattr(asked, key, None)},
            "config": picture.config,
            "code": code_hash(name),
            "matplotlib": version("matplotlib"),
        }
        done.append(
            Drawn(
                name=name,
                title=title,
                status="drawn",
                files=tuple(contents),
                run_ids=picture.run_ids,
                data_hash=picture.data_hash,
            )
        )
        _replace(out_dir / INDEX, _index_text(index))
        if progress is not None:
            progress(name)
    _replace(out_dir / INDEX, _index_text(index))
    return done


def check(frame: pd.DataFrame, out_dir: str | Path) -> list[Stale]:
    """List the figures of `out_dir` that are stale for the table `frame`, each with every reason.

    Nothing is drawn or fitted: rows are compared by the hashes in the index. An empty list means
    that every figure shows what the table says.
    """
    out_dir = Path(out_dir)
    if not (out_dir / INDEX).is_file():
        raise ValueError(f"figures: {str(out_dir)!r} has no {INDEX}; draw them first")
    index = _read_index(out_dir)
    tables: dict[str, pd.DataFrame] = {}
    stale = []
    known = parts.names("figures")
    for name, entry in sorted(index["figures"].items()):
        reasons = []
        if name not in known:
            stale.append(Stale(name=name, reasons=("there is no such figure any more",)))
            continue
        module = parts.load("figures", name)
        asked = entry.get("asked", {})
        try:
            table = tables.setdefault(str(asked), prepare(frame, Request(**asked)))
            panels.refuse_missing(table, module.NEEDS, name)
        except ValueError as error:
            reasons.append(str(error).removeprefix(f"{name}: "))
        else:
            config = module.Config(**_config_fields(module, entry)) if entry["config"] else None
            reasons += _row_reasons(entry, table, _columns(module, table, config))
        if entry["code"] != code_hash(name):
            reasons.append("the code that draws it has changed")
        if entry["matplotlib"] != version("matplotlib"):
            reasons.append(
                f"drawn with matplotlib {entry['matplotlib']}, now {version('matplotlib')}"
            )
        for file, digest in entry["files"].items():
            path = out_dir / file
            if not path.is_file():
                reasons.append(f"{file} is missing")
            elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                reasons.append(f"{file} was changed by another hand")
        if reasons:
            stale.append(Stale(name=name, reasons=tuple(reasons)))
    return stale


def code_hash(name: str) -> str:
    """Hash of the source that draws a figure: its own file and what all figures share."""
    from .. import vocabulary
    from . import style

    module = parts.load("figures", name)
    total = hashlib.sha256()
    for part in (module, panels, style, vocabulary):
        total.update(Path(str(part.__file__)).read_bytes())
    return total.hexdigest()[:16]


def _config(module: ModuleType, name: str, options: dict[str, Any]) -> Any:
    """Make the figure's Config with those of `options` that it has, checked by type."""
    known = {f.name for f in dataclasses.fields(module.Config)}
    given = {
        key: (value,) if isinstance(value, str) and _wants_tuple(module.Config, key) else value
        for key, value in options.items()
        if key in known
    }
    try:
        return TypeAdapter(module.Config).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field_name = ".".join(str(step) for step in first["loc"])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise ValueError(f"{name}: {field_name}: {first['input']!r}; {message}") from None


def _wants_tuple(cls: type, field_name: str) -> bool:
    """Tell if a lone text given for the field stands for a tuple of one."""
    return str(next(f.type for f in dataclasses.fields(cls) if f.name == field_name)).startswith(
        "tuple"
    )


def _refuse_unknown(options: dict[str, Any], wanted: Sequence[str]) -> None:
    """Raise ValueError for an option that no `wanted` figure has: a typo must not pass."""
    known: set[str] = set()
    for name in wanted:
        module = parts.load("figures", name)
        if "Config" in vars(module):
            known |= {f.name for f in dataclasses.fields(module.Config)}
    for option in options:
        if option not in known | set(COMMON_OPTIONS):
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"option: no figure drawn here has {option!r}{hint}; known: "
                f"{', '.join(sorted(known))}"
            )


def _call(function: Callable[..., Any], df: pd.DataFrame, given: dict[str, Any]) -> Any:
    """Call `function(df, ...)` with those of the keywords that it takes."""
    taken = inspect.signature(function).parameters
    return function(df, **{k: v for k, v in given.items() if k in taken and v is not None})


def _columns(module: ModuleType, df: pd.DataFrame, config: Any) -> tuple[str, ...]:
    """List the columns of `df` that the figure reads.

    These are its needs, its options, those that its config names, and the cautions of all.
    """
    named_columns = [*module.NEEDS, *vars(module).get("OPTIONAL", ()), "arm", "status"]
    if dataclasses.is_dataclass(config):
        for one in dataclasses.fields(config):
            value = getattr(config, one.name)
            named_columns += [value] if isinstance(value, str) else []
    named_columns += [f"{column}_caution" for column in named_columns]
    names = {column for name in named_columns for column in (name, named(df, name))}
    return tuple(sorted({column for column in names if column in df.columns} - {"run_id"}))


def _row_hashes(df: pd.DataFrame, columns: Sequence[str]) -> dict[str, str]:
    """Run id -> hash of its values in `columns`. A run with several rows has one hash over them."""
    texts: dict[str, list[str]] = {}
    values = df.loc[:, list(columns)].to_numpy(dtype=object)
    for identity, row in zip(df["run_id"].astype(str), values, strict=True):
        texts.setdefault(identity, []).append("|".join(_text(value) for value in row))
    return {identity: short_hash("\n".join(sorted(found))) for identity, found in texts.items()}


def _text(value: Any) -> str:
    """Return one value as text; a number is the same text from a CSV and from a database."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool):
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return "" if math.isnan(number) else f"{number:.12g}"


def _row_reasons(entry: dict[str, Any], df: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    reasons = []
    now = _row_hashes(df, columns)
    then = entry["rows"]
    if list(columns) != entry["columns"]:
        gone = sorted(set(entry["columns"]) - set(columns))
        new = sorted(set(columns) - set(entry["columns"]))
        if gone:
            reasons.append(f"columns gone from the table: {', '.join(gone)}")
        if new:
            reasons.append(f"columns new in the table: {', '.join(new)}")
    for what, ids in (
        ("new", sorted(set(now) - set(then))),
        ("gone", sorted(set(then) - set(now))),
    ):
        if ids:
            reasons.append(f"{_some(ids)} {what}")
    if list(columns) == entry["columns"]:
        changed = sorted(i for i in set(now) & set(then) if now[i] != then[i])
        if changed:
            reasons.append(f"{_some(changed)} changed")
    return reasons


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} run{'s' if len(ids) > 1 else ''} ({shown})"


def _ids_shown(table: pd.DataFrame | None, df: pd.DataFrame) -> tuple[str, ...]:
    """Return the run ids in the picture; for a picture of averages, those of the table."""
    if table is not None and "run_id" in table.columns:
        found = {str(i) for i in table["run_id"].dropna() if str(i)}
        if "runs" in table.columns:  # points that are averages name all their runs
            found |= {i for ids in table["runs"].dropna() for i in str(ids).split(",") if i}
        if found:
            return tuple(sorted(found))
    return tuple(sorted(set(df["run_id"].astype(str))))


def _config_fields(module: ModuleType, entry: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in dataclasses.fields(module.Config)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry["config"].items()
        if name in known
    }


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _read_index(out_dir: Path) -> dict[str, Any]:
    path = out_dir / INDEX
    if not path.is_file():
        return {"scheme": SCHEME, "figures": {}, "not_drawn": {}}
    try:
        index = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"figures: {str(path)!r} is not JSON ({error}); delete it") from error
    if not isinstance(index, dict) or index.get("scheme") != SCHEME:
        raise ValueError(f"figures: {str(path)!r} has another scheme; delete it and draw again")
    return index


def _index_text(index: dict[str, Any]) -> bytes:
    return (json.dumps(index, sort_keys=True, indent=1) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once: it is the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    os.replace(temporary, path)
