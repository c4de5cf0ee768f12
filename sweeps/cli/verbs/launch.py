"""`launch` and `quickstart`: do what is missing of a study."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from ....slurm.base import BaseExecutor
    from ....slurm.run_states import Summary
    from ...planned import Plan


class Told(int):
    """An exit code whose reason has been printed."""


INTERRUPTED = Told(130)
_PLANS = 10  # in a row that other launches may overtake: each time they began one more segment

Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs at once; default: one per GPU, else per core."),
]
Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs to use; default: all.")]
CheckpointSeconds = Annotated[
    float | None, typer.Option("--checkpoint-seconds", min=0, help="Time between checkpoints.")
]


def launch(
    study: opt.Study,
    on: Annotated[str, typer.Option("--on", help="local, slurm or ray.")] = "local",
    sets: opt.Set = None,
    data: opt.Data = None,
    accept_counts: opt.AcceptCounts = False,
    options: opt.Options = None,
    scale: opt.Scale = None,
    sharing: opt.Sharing = True,
    device: opt.Device = "auto",
    workers: Workers = None,
    gpus: Gpus = None,
    resources: opt.Resources = None,
    address: opt.Address = None,
    hold: Annotated[bool, typer.Option("--hold", help="Submit to SLURM on hold.")] = False,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="FILE=PATH", help="Path of a pretrained file."),
    ] = None,
    checkpoint_seconds: CheckpointSeconds = None,
    compile_models: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Default: on GPUs only.")
    ] = None,
    activation_memory: Annotated[
        float | None,
        typer.Option(
            "--activation-memory",
            metavar="SHARE",
            min=0.0,
            max=1.0,
            help="Share of a step's activations held at once: less memory, slower.",
        ),
    ] = None,
    any_world_size: Annotated[
        bool,
        typer.Option(
            "--any-world-size",
            help="Go on with another number of processes than saved a run: its bits differ.",
        ),
    ] = False,
    max_gpu_hours: opt.MaxHours = None,
    max_flops: opt.MaxFlops = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress until done; local always does.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before submitting.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> int:
    """Submit what is missing of a study, once.

    What is done, running or queued is left alone, wherever it was started.
    """
    from ...cost import check_budget, local_device
    from ...plan import make_plan

    grid = opt.grid_of(study, options, scale)
    settings = settings_of(device, weights, checkpoint_seconds, compile_models, activation_memory)
    settings["any_world_size"] = any_world_size
    plan = partial(
        make_plan,
        grid,
        home=home,
        data=data,
        overrides=sets or (),
        hardware=local_device(device) if on == "local" else None,
        sharing=sharing,
        accept_counts=accept_counts,
    )
    asked = opt.asked_resources(resources, address)
    if hold:
        asked["hold"] = True
    with beginning(on, home, device, workers, gpus, asked):
        made = plan()
        check_budget(made.totals(), max_gpu_hours, max_flops)
        summary = launched(
            made,
            home,
            settings,
            on=on,
            workers=workers,
            gpus=gpus,
            wait=wait,
            yes=yes,
            progress=not quiet,
            resources=asked,
            replan=plan,
        )
    if as_json:
        import dataclasses

        opt.print_json(dataclasses.asdict(summary))
    else:
        opt.say(summary.text())
    return INTERRUPTED if summary.interrupted else summary.exit_code


def settings_of(
    device: str,
    weights: list[str] | None = None,
    checkpoint_seconds: float | None = None,
    compile_models: bool | None = None,
    activation_memory: float | None = None,
) -> dict[str, Any]:
    """Build settings.json of every run: how and where it runs, never what it computes."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device: {device!r} is unknown; allowed: auto, cpu, cuda, cuda:N")
    settings: dict[str, Any] = {"device": device, "locations": {}}
    if found := given_weights(weights):
        settings["locations"] = {"weights": found}
    if checkpoint_seconds is not None:
        settings["checkpoint_seconds"] = checkpoint_seconds
    if compile_models is not None:
        settings["compile"] = compile_models
    if activation_memory is not None:
        settings["activation_memory"] = activation_memory
    return settings


def given_weights(weights: list[str] | None) -> dict[str, str]:
    """Return the paths of pretrained files by name, from FILE=PATH."""
    found = opt.pairs("--weights", weights)
    return {name: str(Path(str(path)).absolute()) for name, path in found.items()}


def beginning(
    on: str,
    home: Path,
    device: str,
    workers: int | None,
    gpus: int | None = None,
    asked: Mapping[str, Any] | None = None,
) -> AbstractContextManager[None]:
    """Prepare the executor while the plan is made and launched."""
    from ....slurm.base import Context
    from ....trainer import parts

    executor = parts.load("executors", on).Executor
    prepared: AbstractContextManager[None] = executor.prepared(
        Context(
            home=Path(home).resolve(),
            study="",
            token="",
            workers=workers,
            gpus=gpus,
            use_gpu=device != "cpu",
            options=asked,
        )
    )
    return prepared


def launched(
    made: Plan,
    home: Path,
    settings: dict[str, Any],
    *,
    on: str = "local",
    workers: int | None = None,
    gpus: int | None = None,
    wait: bool = True,
    yes: bool = True,
    progress: bool = True,
    resources: dict[str, Any] | None = None,
    replan: Callable[[], Plan],
) -> Summary:
    """Launch a plan and wait for it if its jobs end with this command.

    Only a place that costs money or other people's time asks first. `replan` makes the plan anew
    when another launch has begun its trunks in another way since.
    """
    from ....slurm.launch import launch as run_launch
    from ....trainer import parts
    from ...plan import Overtaken
    from ..weight_files import missing_weights

    executor = parts.load("executors", on).Executor
    runs = () if made.missing_data else made.runs
    for line in missing_weights(runs, settings.get("locations", {}).get("weights")):
        if on == "local":
            raise ValueError(line)
        opt.say(f"note: {line}, where it runs", error=True)  # other places have files of their own
    for plans_left in reversed(range(_PLANS)):
        try:
            return run_launch(
                made,
                executor=on,
                home=home,
                settings=settings,
                workers=workers,
                gpus=gpus,
                wait=wait or executor.attached,
                yes=yes or on == "local",
                progress=progress,
                options=options_for(executor, made, resources or {}) or None,
            )
        except Overtaken:
            if not plans_left:
                raise
            made, yes = replan(), True
    raise AssertionError("unreachable")


def options_for(
    executor: type[BaseExecutor], made: Plan, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Collect the options of an executor: those asked for, and those of the study that it knows.

    A study may name options of several places; each takes its own.
    """
    known = executor.option_names()
    study = {
        name: value
        for name, value in made.resources.items()
        if name.rpartition(".")[2] in known or (name.startswith("extra.") and "extra" in known)
    }
    return {**study, **asked}


def quickstart(
    study: Annotated[str, typer.Argument(metavar="[STUDY]", help="Any study.")] = "quickstart",
    sets: opt.Set = None,
    data: opt.Data = None,
    accept_counts: opt.AcceptCounts = False,
    options: opt.Options = None,
    scale: opt.Scale = None,
    device: opt.Device = "auto",
    workers: Workers = None,
    home: opt.Home = opt.HOME,
) -> int:
    """Run the whole flow on this machine, from plan to report.

    Plans, launches, waits; then prints the table of endpoints and the frontiers with their
    intervals, draws the figures and writes the report. Again: launches nothing, ends in seconds.
    """
    from ...cost import local_device
    from ...plan import make_plan
    from . import analyse, results

    grid = opt.grid_of(study, options, scale)
    settings = settings_of(device)
    hardware = local_device(device)
    plan = partial(
        make_plan,
        grid,
        home=home,
        data=data,
        overrides=sets or (),
        hardware=hardware,
        accept_counts=accept_counts,
    )
    with beginning("local", home, device, workers):
        made = plan()
        totals = made.totals()
        opt.say(
            f"{made.study}: {totals['runs']} runs, {totals['done']} done; "
            f"results go to {Path(home).absolute()}"
        )
        summary = launched(made, home, settings, workers=workers, replan=plan)
    opt.say(summary.text())
    if summary.exit_code:
        return INTERRUPTED if summary.interrupted else summary.exit_code
    opt.say()
    results.results(made.study, wide=True, home=home)
    opt.say()
    analyse.frontier(made.study, home=home)
    opt.say()
    folder = home / "studies" / made.study
    page = folder / "report.html"
    if not analyse.is_fresh(made.study, home):
        analyse.draw(made.study, home)
        analyse.report(made.study, home=home)
    opt.say(f"figures  {(folder / 'figures').absolute()}")
    opt.say(f"report   {page.absolute()}")
    return 0
