"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..grid import Grid

Study = Annotated[
    str, typer.Argument(metavar="STUDY", help="A built-in study or a file my_study.py.")
]
Home = Annotated[
    Path,
    typer.Option(
        "--home", envvar="TOKENLAW_HOME", show_envvar=True, help="Folder of all runs and results."
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
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Keyword argument of the study function."),
]
Scale = Annotated[
    str | None, typer.Option("--scale", help="Short for --option scale=..., e.g. tiny or gpu.")
]
HOME = Path("runs")


def grid_of(study: str, options: list[str] | None, scale: str | None) -> Grid:
    """The study's grid, called with the options of the command line."""
    from ..grid import parse_value
    from ..study import load_study

    given: dict[str, Any] = {}
    for text in options or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option: {text!r}; allowed: name=value")
        given[name.strip()] = parse_value(value)
    if scale is not None:
        given["scale"] = scale
    return load_study(study, given)


def print_json(document: Any) -> None:
    """One JSON document on stdout; NaN and infinity are refused."""
    import json

    typer.echo(json.dumps(document, allow_nan=False))
