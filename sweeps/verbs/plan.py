"""`plan`: what a study would run, and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt


def plan(
    study: opt.Study,
    sets: opt.Set = None,
    data: opt.Data = None,
    options: opt.Options = None,
    scale: opt.Scale = None,
    sharing: opt.Sharing = True,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Device to estimate hours for, e.g. 'NVIDIA H100'."),
    ] = None,
    max_gpu_hours: opt.MaxHours = None,
    max_flops: opt.MaxFlops = None,
    runs: Annotated[bool, typer.Option("--runs", help="One line per run, however many.")] = False,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """Runs of a study, their state, FLOPs and GPU-hours.

    Shared runs count once; cells that a filter drops are listed with the reason.
    """
    from ..cost import check_budget, local_gpu
    from ..plan import make_plan

    grid = opt.grid_of(study, options, scale)
    made = make_plan(
        grid,
        home=home,
        data=data,
        overrides=sets or (),
        hardware=hardware or local_gpu(),
        sharing=sharing,
    )
    if as_json:
        opt.print_json(made.to_json())
    else:
        from .. import show

        show.plan(made, each_run=runs)
    check_budget(made.totals(), max_gpu_hours, max_flops)
