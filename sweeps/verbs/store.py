"""`sync` and `doctor`: the database and the machine."""

from __future__ import annotations

from . import options as opt


def sync(home: opt.Home = opt.HOME, as_json: opt.Json = False) -> int:
    """Rebuild the database from the files."""
    import dataclasses

    from results_db.engine import opened
    from results_db.sync import sync as rebuild

    with opened(opt.there(home)) as engine:
        report = rebuild(home, engine)
    if as_json:
        opt.print_json(dataclasses.asdict(report))
    else:
        opt.say(f"{report.studies} plans, {report.runs} run folders, {report.values} new values")
        for line in report.lines():
            opt.say(line)
    return 0 if report.ok else 1


def doctor(home: opt.Home = opt.HOME, as_json: opt.Json = False) -> int:
    """Check devices, disk, database, clusters and weights."""
    import dataclasses

    from ..doctor import examine

    checks = examine(home)
    if as_json:
        opt.print_json([dataclasses.asdict(check) for check in checks])
    else:
        for check in checks:
            opt.say(f"{check.status:7} {check.name}: {check.finding}")
    return 1 if any(check.status == "failed" for check in checks) else 0
