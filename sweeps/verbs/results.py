"""`results`, `fit`, `frontier`, `figures` and `report`: from finished runs to numbers and pictures.

None of them imports torch. Each takes new results into the database first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "csv", "parquet", "json")

X = Annotated[str | None, typer.Option("--x", help="Column of compute; default flops_train.")]
Y = Annotated[str | None, typer.Option("--y", help="Column of the metric; default val_loss.")]
N = Annotated[str | None, typer.Option("--n", help="Column of parameters.")]
D = Annotated[str | None, typer.Option("--d", help="Column of training tokens.")]
Keep = Annotated[
    str | None,
    typer.Option("--where", help="Rows to keep, e.g. \"arm == 'crt'\"."),
]
By = Annotated[str, typer.Option("--by", help="Resampled: auto, run, point, residual, COLUMN.")]
Loss = Annotated[str, typer.Option("--loss", help="huber or l2, on log residuals.")]
Delta = Annotated[float, typer.Option("--delta", help="Where Huber's loss becomes linear.")]
Names = Annotated[
    list[str] | None, typer.Option("--only", help="A figure by name; repeat for several.")
]
Vectors = Annotated[
    Path | None, typer.Option("--vectors", help="For a FILE: folder of arrays, RUN_ID/NAME.npy.")
]


def results(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A study; without, all of them.")
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="One row per generator, its evaluations joined.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="table, csv, parquet or json.")] = "table",
    out: opt.Out = None,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """The tidy table of results."""
    import sys

    from results_db import read

    form = "json" if as_json else form
    if form not in FORMATS:
        raise ValueError(f"--format: {form!r}; allowed: {', '.join(FORMATS)}")
    name = None if study is None else opt.source_name(study)
    frame = read.endpoints(name, wide=wide, home=home)
    if form == "table":
        _write(out, results_text(frame, wide=wide))
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
    """A list of records; every digit kept, null for what is missing."""
    import json

    records = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return json.dumps(records, allow_nan=False) + "\n"


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
    """The table for a terminal: the columns that matter, three or four digits."""
    from rich.console import Console

    from .. import show

    shown: list[str] = []
    for name in WIDE_SHOWN if wide else LONG_SHOWN:
        if name in frame.columns and frame[name].notna().any():
            shown.append(name)
    if wide:
        from results_db.columns import WIDE_COLUMNS

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
    return "\n".join([*lines, f"{len(frame)} rows; --format csv has every column"]) + "\n"


def _cell(value: Any) -> str:
    import pandas as pd

    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items())
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def fit(
    source: opt.Source,
    law: Annotated[
        str, typer.Option("--law", help="power_law, chinchilla or another of analysis/fits.")
    ] = "power_law",
    x: X = None,
    y: Y = None,
    n: N = None,
    d: D = None,
    where: Keep = None,
    group: Annotated[
        str | None, typer.Option("--group", help="One fit for each value of this column.")
    ] = None,
    bootstrap: opt.Bootstrap = 1000,
    by: By = "auto",
    loss: Loss = "huber",
    delta: Delta = 1e-3,
    floor: Annotated[
        str | None, typer.Option("--floor", help="How the floor E is found, or its value.")
    ] = None,
    predict: Annotated[
        Path | None, typer.Option("--predict", help="Table of points to predict, with intervals.")
    ] = None,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """A scaling law, with intervals and what was left out."""
    from analysis import command, table

    from ..grid import parse_value

    answer = command.fit(
        opt.load_table(source, home),
        law=law,
        x=x,
        y=y,
        n=n,
        d=d,
        where=where,
        group=group,
        bootstrap=bootstrap,
        by=by,
        loss=loss,
        delta=delta,
        seed=seed,
        floor=None if floor is None else parse_value(floor),
        predict=None if predict is None else table.read(predict),
    )
    _show(answer, as_json)


def frontier(
    source: opt.Source,
    x: X = None,
    y: Y = None,
    n: N = None,
    d: D = None,
    group: Annotated[str, typer.Option("--group", help="Column that tells the arms.")] = "arm",
    where: Keep = None,
    direction: Annotated[
        str | None, typer.Option("--direction", help="lower or higher is better.")
    ] = None,
    envelope: Annotated[
        str, typer.Option("--envelope", help="pareto, binned, hull, isoflop or model.")
    ] = "pareto",
    reference: Annotated[
        str | None, typer.Option("--reference", help="The arm that gains are against.")
    ] = None,
    bootstrap: opt.Bootstrap = 1000,
    by: By = "auto",
    loss: Loss = "l2",
    delta: Delta = 1e-3,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """Frontiers of the arms, crossovers and gains, with intervals."""
    from analysis import command

    answer = command.frontier(
        opt.load_table(source, home),
        x=x,
        y=y,
        n=n,
        d=d,
        group=group,
        where=where,
        direction=direction,
        envelope=envelope,
        reference=reference,
        bootstrap=bootstrap,
        by=by,
        loss=loss,
        delta=delta,
        seed=seed,
    )
    _show(answer, as_json)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    from analysis import command

    if as_json:
        opt.print_json(answer)
    else:
        opt.say(command.render_text(answer))


def figures(
    source: opt.Source,
    only: Names = None,
    out: opt.Out = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say which figures are stale, and why.")
    ] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of the figures: envelope=binned."),
    ] = None,
    vectors: Vectors = None,
    bootstrap: opt.Bootstrap = 1000,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> int:
    """The figures: PNG, PDF and the CSV behind each.

    An index beside them names the runs of each figure, so that --check can say what is stale.
    """
    import dataclasses

    from analysis import figures_command

    frame = opt.load_table(source, home)
    folder = figures_folder(source, home) if out is None else out
    if check:
        stale = figures_command.check(frame, folder)
        if as_json:
            opt.print_json([dataclasses.asdict(entry) for entry in stale])
        else:
            for entry in stale:
                opt.say(f"stale: {entry.name}: {'; '.join(entry.reasons)}")
            opt.say(f"{folder}: {len(stale)} stale")
        return 1 if stale else 0
    with opt.ticking("drawing") as tick:
        drawn = figures_command.draw_all(
            frame,
            folder,
            only,
            options={"bootstrap": bootstrap, "seed": seed, **opt.pairs("--option", options)},
            vectors=_vectors(source, vectors, home),
            progress=tick,
        )
    if as_json:
        opt.print_json({"folder": str(folder), "figures": [dataclasses.asdict(d) for d in drawn]})
        return 0
    for one in drawn:
        if one.status == "drawn":
            opt.say(f"{one.name}: {', '.join(one.files)}")
        else:
            opt.say(f"{one.name}: not drawn: {one.reason}")
    opt.say(f"figures in {folder}")
    return 0


def report(
    source: opt.Source,
    only: Names = None,
    out: opt.Out = None,
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    vectors: Vectors = None,
    bootstrap: opt.Bootstrap = 1000,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
) -> None:
    """One self-contained HTML page about a study or a table."""
    from analysis import report as page

    of_table = opt.is_table(source)
    name = opt.source_name(source)
    path = out
    if path is None:
        path = Path(f"{name}-report.html") if of_table else home / "studies" / name / "report.html"
    with opt.ticking("drawing for the report") as tick:
        written = page.write(
            opt.load_table(source, home) if of_table else name,
            path,
            title=title,
            home=home,
            vectors=_vectors(source, vectors, home) if of_table else None,
            bootstrap=bootstrap,
            seed=seed,
            only=only,
            progress=tick,
        )
    opt.say(f"report in {written}")


def draw(study: str, home: Path) -> None:
    """All figures that a study's results allow, into its folder; says which were drawn."""
    from analysis import figures_command

    with opt.ticking("drawing") as tick:
        drawn = figures_command.draw_all(
            opt.load_table(study, home),
            figures_folder(study, home),
            vectors=_vectors(study, None, home),
            progress=tick,
        )
    opt.say(f"drawn: {', '.join(one.name for one in drawn if one.status == 'drawn')}")


def figures_folder(source: str, home: Path) -> Path:
    """Where figures go by default."""
    name = opt.source_name(source)
    if opt.is_table(source):
        return Path(f"{name}-figures")
    return home / "studies" / name / "figures"


def _vectors(source: str, folder: Path | None, home: Path) -> Any:
    from analysis import vectors

    if folder is not None:
        return vectors.from_folder(folder)
    return None if opt.is_table(source) else vectors.from_home(home)


def is_fresh(study: str, home: Path) -> bool:
    """Whether figures and report show the results that are there now."""
    from analysis import figures_command

    folder = figures_folder(study, home)
    index = folder / figures_command.INDEX
    page = folder.parent / "report.html"
    if not index.is_file() or not page.is_file():
        return False
    if page.stat().st_mtime < index.stat().st_mtime:
        return False
    return not figures_command.check(opt.load_table(study, home), folder)
