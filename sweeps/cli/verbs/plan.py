"""`plan`: what a study would run, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from ...measured_speeds import Timing
    from ...planned import Plan

CALIBRATION_SECONDS = 3.0  # of each shape


def plan(
    study: opt.Study,
    sets: opt.Set = None,
    data: opt.Data = None,
    accept_counts: opt.AcceptCounts = False,
    options: opt.Options = None,
    scale: opt.Scale = None,
    sharing: opt.Sharing = True,
    hardware: Annotated[
        str | None,
        typer.Option("--hardware", help="Device to estimate hours for, e.g. 'NVIDIA H100' or cpu."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few iterations of every shape first.")
    ] = False,
    on: Annotated[
        str, typer.Option("--on", help="Place to calibrate: local, slurm or ray.")
    ] = "local",
    device: opt.Device = "auto",
    resources: opt.Resources = None,
    address: opt.Address = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="FILE=PATH", help="Path of a pretrained file."),
    ] = None,
    max_gpu_hours: opt.MaxHours = None,
    max_flops: opt.MaxFlops = None,
    runs: Annotated[bool, typer.Option("--runs", help="One line per run, however many.")] = False,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """List the runs of a study, their state, FLOPs and GPU-hours.

    Shared runs count once; cells that a filter drops are listed with the reason. With --calibrate
    the hours rest on the speed of the place that --on names, which later plans use too.
    """
    from ...cost import PEAKS, check_budget, local_device, local_gpu
    from ...plan import make_plan
    from ..weight_files import missing_weights
    from .launch import given_weights

    grid = opt.grid_of(study, options, scale)
    if hardware is not None and hardware.lower() == "cpu":
        hardware = local_device("cpu")

    def made_for(hardware: str | None) -> Plan:
        return make_plan(
            grid,
            home=home,
            data=data,
            overrides=sets or (),
            hardware=hardware,
            sharing=sharing,
            accept_counts=accept_counts,
        )

    made = made_for(hardware or local_gpu())
    if hardware is not None and not made.hardware_known:
        raise ValueError(
            f"--hardware: {hardware!r} is unknown; allowed: cpu, a name with one of "
            f"{', '.join(PEAKS)} in it, or hardware that runs of this home were timed on"
        )
    if calibrate:
        asked = opt.asked_resources(resources, address)
        timings = _calibrated(made, on, device, weights, asked, home)
        for timing in timings:
            opt.say(timing.text(), error=True)
        entries = [timing.entry for timing in timings if timing.entry is not None]
        made = made_for(hardware or (entries[0]["hardware"] if entries else local_gpu()))
    missing = missing_weights(made.runs, given_weights(weights))
    if as_json:
        opt.print_json(made.to_json() | {"missing_weights": missing})
    else:
        from .. import show

        show.plan(made, each_run=runs, missing_weights=missing)
    check_budget(made.totals(), max_gpu_hours, max_flops)


def _calibrated(
    made: Plan,
    on: str,
    device: str,
    weights: list[str] | None,
    asked: dict[str, Any],
    home: Path,
) -> list[Timing]:
    """Time the shapes of a plan where its runs would train.

    They run at once, or kind by kind where the kinds ask for different resources.
    """
    from functools import partial

    from ....slurm.base import Context
    from ....slurm.timing import measure_on, one_process
    from ....trainer import parts
    from ... import measured_speeds
    from .launch import options_for, settings_of

    executor = parts.load("executors", on).Executor
    settings: dict[str, Any] = settings_of(device, weights)
    settings["locations"] = {**made.locations, **settings["locations"]}
    shapes = measured_speeds.shapes(made)
    context = Context(
        home=Path(home).resolve(),
        study=made.study,
        token="",
        use_gpu=device != "cpu",
        threads=max((run.config.numerics.cpu_threads for run in shapes), default=1),
        say=partial(opt.say, error=True),
        options=options_for(executor, made, asked) or None,
    )
    executor.check(context)
    if not shapes:
        return []
    place = executor(context)
    try:
        kinds: dict[Any, list[str]] = {}
        for kind in dict.fromkeys(run.kind for run in shapes):
            kinds.setdefault(one_process(place.resources(kind)), []).append(kind)
        timings = []
        for alike in kinds.values():
            timings += measured_speeds.calibrate(
                made,
                measure_on(place, alike[0]),
                home=home,
                settings=settings,
                seconds=CALIBRATION_SECONDS,
                place=on,
                kinds=alike,
            )
        return timings
    finally:
        place.close()
