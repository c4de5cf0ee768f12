"""`results`: the tidy table. No torch; new results are taken into the database first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "csv", "parquet", "json")


def results(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study; default: all of them.")
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="One row per generator, its evaluations joined.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="table, csv, parquet or json.")] = "table",
    out: opt.Out = None,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """Print the tidy table of results."""
    import sys

    from ....results_db import read

    form = "json" if as_json else form
    if form not in FORMATS:
        raise ValueError(f"--format: {form!r}; allowed: {', '.join(FORMATS)}")
    name = None if study is None else opt.source_name(study)
    frame = read.endpoints(name, wide=wide, home=opt.there(home))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    if form == "table":
        _write(out, results_text(frame, wide=wide) + _hours_line(name, home))
    elif form == "csv":
        _write(out, read.flat(frame).to_csv(index=False, lineterminator="\n"))
    elif form == "json":
        _write(out, _json_text(read.flat(frame)))
    elif out is not None:
        read.flat(frame).to_parquet(out, index=False)
    elif sys.stdout.isatty():
        raise ValueError("--out: is required for parquet on a terminal; allowed: a file")
    else:
        read.flat(frame).to_parquet(sys.stdout.buffer, index=False)


def _json_text(frame: pd.DataFrame) -> str:
    """Format a table as a list of records; every digit kept, null for missing values."""
    import json

    records = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return json.dumps(records, allow_nan=False) + "\n"


def _hours_line(study: str | None, home: Path) -> str:
    """Compare the hours of a study's finished runs with its plan, in one line."""
    from ....slurm.follow import runs as watching

    if study is None:
        return ""
    spent = watching.spent_hours(watching.run_lines(home, watching.study_plan(home, study)))
    return "" if spent is None else f"{spent.text()}\n"


def _write(out: Path | None, text: str) -> None:
    if out is None:
        typer.echo(text, nl=not text.endswith("\n"))
    else:
        out.write_text(text)


# Columns of the terminal table, in this order, where they have any value.
WIDE_SHOWN: tuple[str, ...] = (
    "arm",
    "run_id",
    "status",
    "params",
    "flops_train",
    "val_loss",
    "gfcd",
    "gfcd_std",
)
WIDE_SHOWN += ("gfid", "rfcd", "rfid", "psnr", "ssim", "codebook_usage", "gpu_hours")
LONG_SHOWN: tuple[str, ...] = (
    "study",
    "arm",
    "kind",
    "run_id",
    "axes",
    "metric",
    "value",
    "unit",
    "extractor",
)
LONG_SHOWN += ("seed", "num_samples")


def results_text(frame: pd.DataFrame, *, wide: bool) -> str:
    """Format the table for a terminal: the columns that matter, three or four digits."""
    from rich.console import Console

    from ....analysis.cautions import cautions
    from .. import show

    shown: list[str] = []
    for name in WIDE_SHOWN if wide else LONG_SHOWN:
        if name in frame.columns and frame[name].notna().any():
            shown.append(name)
    if wide:
        from ....results_db.columns import WIDE_COLUMNS

        axes = [name for name in frame.columns if name not in WIDE_COLUMNS and "_" not in name]
        axes += [name for name in ("iterations", "codebook_size", "tokens_per_image")]
        varied = [n for n in axes if n in frame.columns and frame[n].nunique(dropna=True) > 1]
        shown[1:1] = [name for name in varied if name not in shown]
    columns = [(name, "right" if frame[name].dtype != object else "left") for name in shown]
    rows = [[_cell(value) for value in row] for row in frame[shown].itertuples(index=False)]
    console = Console(width=400, highlight=False, no_color=True)
    with console.capture() as capture:
        console.print(show.table(columns, rows))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    lines.append(f"{len(frame)} rows; --format csv has every column")
    return "\n".join([*lines, *(f"caution: {text}" for text in cautions(frame))]) + "\n"


def _cell(value: Any) -> str:
    import pandas as pd

    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
