"""Arguments and options that several verbs share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from ...grid import Grid

Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="A built-in study or a file my_study.py.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|FILE", help="A study, or a table: .csv, .tsv, .txt, .jsonl, .json, .parquet."
    ),
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, its first digits, or its folder.")
]


def _checked_home(home: Path) -> Path:
    if home.exists() and not home.is_dir():
        raise ValueError(f"--home: {str(home)!r} is a file; allowed: a folder, there or not yet")
    return home


Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="TOKENLAW_HOME",
        show_envvar=True,
        callback=_checked_home,
        help="Folder of all runs and results.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for machines.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set a field, e.g. generator.seed=1, axes.size='[\"S\"]', arms.crt.PATH=VALUE.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME:FOLDER", help="Data set to use, e.g. parquet:FOLDER."),
]
AcceptCounts = Annotated[
    bool,
    typer.Option("--accept-counts", help="Take images whose counts are not the study's."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Keyword argument of the study function."),
]
Scale = Annotated[
    str | None, typer.Option("--scale", help="Short for --option scale=..., e.g. tiny or gpu.")
]
Device = Annotated[
    str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N.")
]
Resources = Annotated[
    list[str] | None,
    typer.Option("--resource", metavar="NAME=VALUE", help="Ask the executor, e.g. partition=gpu."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Address of a Ray cluster; default: one of this machine."),
]
MaxHours = Annotated[
    float | None, typer.Option("--max-gpu-hours", help="Refuse a plan that needs more.")
]
MaxFlops = Annotated[
    float | None, typer.Option("--max-flops", help="Refuse a plan that needs more train FLOPs.")
]
Sharing = Annotated[
    bool,
    typer.Option("--sharing/--no-sharing", help="Train common trunks of wsd schedules once."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Path to write; the default is printed.")]
Bootstrap = Annotated[int, typer.Option("--bootstrap", help="Draws for the intervals.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random numbers.")]
HOME = Path("runs")


def grid_of(study: str, options: list[str] | None, scale: str | None) -> Grid:
    """Make the study's grid with the options of the command line."""
    from ...study import load_study

    given = pairs("--option", options)
    if scale is not None:
        given["scale"] = scale
    return load_study(study, given)


def pairs(flag: str, texts: list[str] | None) -> dict[str, Any]:
    """Parse `name=value` options into a dictionary; values are JSON literals or text."""
    from ...overrides import parse_value

    given: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{flag}: {text!r}; allowed: name=value")
        given[name.strip()] = parse_value(value)
    return given


def asked_resources(resources: list[str] | None, address: str | None) -> dict[str, Any]:
    """Collect the resources that --resource and --address ask an executor for."""
    asked = pairs("--resource", resources)
    if address is not None:
        asked["address"] = address
    return asked


def there(home: Path) -> Path:
    """Return `home` for verbs that only read; ValueError where it is missing.

    Opening it would make it. A database server may hold results of a home that is missing here.
    """
    if not home.exists() and not os.environ.get("TOKENLAW_DB"):
        raise ValueError(
            f"--home: nothing is there: {str(home)!r}; allowed: the folder of a launch, by --home "
            "or TOKENLAW_HOME"
        )
    return home


def is_table(source: str) -> bool:
    """Tell if a user means a table of his own rather than a study."""
    from ....analysis import table_files

    return table_files.is_table(source)


def source_name(source: str) -> str:
    """Return the study's name, or the file's without its ending."""
    from ....analysis import table_files
    from ...study import study_name

    return table_files.stem(source) if is_table(source) else study_name(source)


def load_table(source: str, home: Path) -> pd.DataFrame:
    """Load the study's wide table, with news taken in first, or the file's."""
    if is_table(source):
        from ....analysis import table_files

        return table_files.read(source)
    from ....results_db import read

    return read.endpoints(source_name(source), wide=True, home=there(home))


@contextlib.contextmanager
def ticking(title: str) -> Iterator[Callable[[str], None]]:
    """Give a function to call with the name of each finished step.

    It writes to stderr: one changing line with the time on a terminal, plain lines elsewhere.
    """
    import sys

    if not sys.stderr.isatty():
        yield lambda name: say(f"{title}: {name} done", error=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda name: progress.update(task, description=f"{title}: {name} done")


def say(text: str = "", *, error: bool = False) -> None:
    """Print a line for people, on stdout or stderr."""
    typer.echo(text, err=error)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; NaN and infinity are refused."""
    import json

    typer.echo(json.dumps(document, allow_nan=False))
