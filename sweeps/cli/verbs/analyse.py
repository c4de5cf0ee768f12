"""`fit`, `frontier`, `figures` and `report`: from finished runs to laws and pictures.

None of them imports torch. A study's new results are taken into the database first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt
from .columns import Asked, takes_columns

U = Annotated[str | None, typer.Option("--u", help="Column of unique training tokens.")]
V = Annotated[str | None, typer.Option("--v", help="Column of vocabulary size.")]
P = Annotated[str | None, typer.Option("--p", help="Column of parallel streams.")]
Budget = Annotated[str | None, typer.Option("--budget", help="isoflop: column of the budgets.")]
Gap = Annotated[float | None, typer.Option("--gap", help="isoflop: decades between two budgets.")]
Degree = Annotated[int | None, typer.Option("--degree", help="isoflop: 2 parabola, 3 cubic.")]
By = Annotated[str, typer.Option("--by", help="Resampled: auto, run, point, residual, COLUMN.")]
Loss = Annotated[str, typer.Option("--loss", help="huber, l1 or l2, on log residuals.")]
Delta = Annotated[float, typer.Option("--delta", help="Where Huber's loss becomes linear.")]
Noise = Annotated[
    float | None,
    typer.Option("--noise", help="Known standard deviation of log y between runs, e.g. 0.013."),
]
Names = Annotated[
    list[str] | None, typer.Option("--only", help="A figure by name; repeat for several.")
]
Vectors = Annotated[
    Path | None, typer.Option("--vectors", help="For a FILE: folder of arrays, RUN_ID/NAME.npy.")
]


@takes_columns
def fit(
    source: opt.Source,
    asked: Asked,
    law: Annotated[
        str, typer.Option("--law", help="power_law, chinchilla or another of analysis/laws.")
    ] = "power_law",
    u: U = None,
    v: V = None,
    p: P = None,
    budget: Budget = None,
    gap: Gap = None,
    degree: Degree = None,
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
    from ....analysis import command, request, table_files
    from ...overrides import parse_value

    number = None if floor is None else parse_value(floor)
    given = {"floor": number, "gap": gap, "degree": degree}
    wanted = request.FitRequest(
        **asked,
        law=law,
        u=u,
        v=v,
        p=p,
        budget=budget,
        bootstrap=bootstrap,
        by=by,
        loss=loss,
        delta=delta,
        seed=seed,
        options={key: value for key, value in given.items() if value is not None},
    )
    points = None if predict is None else table_files.read(predict, points=True)
    _show(command.fit(opt.load_table(source, home), wanted, points), as_json)


@takes_columns
def frontier(
    source: opt.Source,
    asked: Asked,
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
    noise: Noise = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share of compute within which runs compete.")
    ] = 0.05,
    bins: Annotated[
        float, typer.Option("--bins", help="Bins per decade of the binned envelope.")
    ] = 4.0,
    window: Annotated[
        float, typer.Option("--window", help="Decades beyond the data searched for a crossing.")
    ] = 2.0,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """Frontiers of the arms, crossovers and gains, with intervals."""
    from ....analysis import command, request

    wanted = request.FrontierRequest(
        **(asked | {"group": asked["group"] or "arm"}),
        envelope=envelope,
        reference=reference,
        bootstrap=bootstrap,
        by=by,
        loss=loss,
        delta=delta,
        noise=noise,
        tolerance=tolerance,
        bins=bins,
        window=window,
        seed=seed,
    )
    _show(command.frontier(opt.load_table(source, home), wanted), as_json)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    from ....analysis import command

    if as_json:
        opt.print_json(answer)
    else:
        opt.say(command.render_text(answer))


@takes_columns
def figures(
    source: opt.Source,
    asked: Asked,
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

    from ....analysis.drawing import index as figures_command
    from ....analysis.request import Request

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
            asked=Request(**asked),
            progress=tick,
        )
    done = any(one.status == "drawn" for one in drawn)
    if as_json:
        opt.print_json({"folder": str(folder), "figures": [dataclasses.asdict(d) for d in drawn]})
        return 0 if done else 1
    for one in drawn:
        if one.status == "drawn":
            opt.say(f"{one.name}: {', '.join(one.files)}")
        else:
            reason = one.reason.removeprefix(f"{one.name}: ")
            opt.say(f"{one.name}: not drawn: {reason}")
    if not done:
        opt.say("error: no figure can be drawn from this table; see above", error=True)
        return 1
    opt.say(f"figures in {folder}")
    return 0


@takes_columns
def report(
    source: opt.Source,
    asked: Asked,
    only: Names = None,
    out: opt.Out = None,
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    vectors: Vectors = None,
    bootstrap: opt.Bootstrap = 1000,
    seed: opt.Seed = 0,
    home: opt.Home = opt.HOME,
) -> None:
    """One self-contained HTML page about a study or a table."""
    from ....analysis.report import sections as page
    from ....analysis.request import ReportRequest, Request

    of_table = opt.is_table(source)
    name = opt.source_name(source)
    path = out
    if path is None:
        path = Path(f"{name}-report.html") if of_table else home / "studies" / name / "report.html"
    with opt.ticking("drawing for the report") as tick:
        written = page.write(
            opt.load_table(source, home) if of_table else name,
            path,
            ReportRequest(title=title, only=only, bootstrap=bootstrap, seed=seed),
            home=home if of_table else opt.there(home),
            vectors=_vectors(source, vectors, home) if of_table else None,
            asked=Request(**asked),
            progress=tick,
        )
    opt.say(f"report in {written}")


def draw(study: str, home: Path) -> None:
    """All figures that a study's results allow, into its folder; says which were drawn."""
    from ....analysis.drawing import index as figures_command

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
    from ....analysis.drawing import vectors

    if folder is not None:
        return vectors.from_folder(folder)
    return None if opt.is_table(source) else vectors.from_home(home)


def is_fresh(study: str, home: Path) -> bool:
    """Whether figures and report show the results that are there now."""
    from ....analysis.drawing import index as figures_command

    folder = figures_folder(study, home)
    index = folder / figures_command.INDEX
    page = folder.parent / "report.html"
    if not index.is_file() or not page.is_file():
        return False
    if page.stat().st_mtime < index.stat().st_mtime:
        return False
    return not figures_command.check(opt.load_table(study, home), folder)
