"""`sync` and `doctor`: the database and the machine."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt


def sync(home: opt.Home = opt.HOME, as_json: opt.Json = False) -> int:
    """Rebuild the database from the files."""
    import dataclasses

    from ....results_db.engine import opened
    from ....results_db.sync import sync as rebuild

    with opened(opt.there(home)) as engine:
        report = rebuild(home, engine)
    if as_json:
        opt.print_json(dataclasses.asdict(report))
    else:
        opt.say(f"{report.studies} plans, {report.runs} run folders, {report.values} new values")
        for line in report.lines():
            opt.say(line)
    return 0 if report.ok else 1


def doctor(
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file of all runs instead; report damage.")
    ] = False,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> int:
    """Check devices, disk, database, clusters and weights."""
    import dataclasses

    from ..doctor import examine

    if verify:
        return _verify(opt.there(home), as_json)

    checks = examine(home)
    if as_json:
        opt.print_json([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            opt.say(f"{check.status:7} {check.name}: {check.finding}")
    return 1 if any(check.status == "failed" for check in checks) else 0


def _verify(home: Path, as_json: bool) -> int:
    """Print a line for each damaged file, as it is found; return 1 if there is any."""
    import sys

    from ....results_db.find_damage import damages, folders
    from ....trainer.accounting import stored_config

    found, runs = [], folders(home)
    with opt.ticking("verifying") if sys.stderr.isatty() else nullcontext() as tick:
        for number, folder in enumerate(runs, 1):
            for line in damages(folder, stored_config.read):
                found.append(line)
                if not as_json:
                    opt.say(f"damaged {line}")
            if tick is not None:
                tick(f"{number} of {len(runs)} runs")
    if as_json:
        opt.print_json({"runs": len(runs), "damaged": found})
    else:
        opt.say(f"{len(runs)} runs read, {len(found)} files damaged")
    return 1 if found else 0
