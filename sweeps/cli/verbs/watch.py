"""`status`, `logs`, `cancel` and `retry`: what goes on, and a say in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as opt

if TYPE_CHECKING:
    from ....results_db.record import RunDir

WATCH_SECONDS = 2.0
QUEUE_SECONDS = 30.0  # between two looks when a scheduler has to be asked
MOST_LINES = 40


def status(
    study: opt.Study,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until all is done.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="One line for every run.")] = False,
    home: opt.Home = opt.HOME,
    as_json: opt.Json = False,
) -> None:
    """Count the runs by state; list running ones with step, speed, time left."""
    import time

    from ....slurm.follow import runs as watching
    from ....slurm.follow.status import study_status

    name = opt.source_name(study)
    while True:
        made = watching.study_plan(home, name)
        found = study_status(home, made)
        lines = list(found.lines)
        if as_json:
            opt.print_json(_status_json(name, lines) | {"data": list(made.data)})
        else:
            opt.say(_status_text(name, lines, each_run=runs))
            for text in made.data_lines():
                opt.say(f"data: {text}")
        for note in found.notes:
            opt.say(f"note: {note}", error=True)
        if not watch or found.over:
            return
        # A queue is not asked more often than an administrator would like.
        time.sleep(QUEUE_SECONDS if any(line.job for line in lines) else WATCH_SECONDS)


def _status_json(study: str, lines: list[Any]) -> dict[str, Any]:
    import dataclasses

    from ....slurm.follow import runs as watching
    from ....slurm.follow import status as statuses

    spent = watching.spent_hours(lines)
    return {
        "study": study,
        "counts": statuses.counts(lines),
        "hours": None if spent is None else dataclasses.asdict(spent),
        "runs": [dataclasses.asdict(line) for line in lines],
    }


def _status_text(study: str, lines: list[Any], *, each_run: bool) -> str:
    from ....slurm.follow import runs as watching
    from ....slurm.follow import status as statuses
    from ..text_table import columns

    numbers = statuses.counts(lines)
    states = [
        state for state in statuses.STATES if any(state in found for found in numbers.values())
    ]
    text = columns(
        [(study, "left"), *((state, "right") for state in states)],
        [
            [kind, *(str(found.get(state, "")) for state in states)]
            for kind, found in numbers.items()
        ],
    )
    shown = lines if each_run else [line for line in lines if line.state in ("running", "stale")]
    bad = [line for line in lines if line.state in ("failed", "lost", "diverged")]
    shown = shown if each_run else shown + bad[:MOST_LINES]
    if shown:
        text += "\n\n" + columns(_COLUMNS, [_row(line) for line in shown])
    spent = watching.spent_hours(lines)
    return text if spent is None else f"{text}\n{spent.text()}"


_COLUMNS = [("run", "left"), ("kind", "left"), ("arm", "left"), ("axes", "left")]
_COLUMNS += [("state", "left"), ("try", "right"), ("step", "right"), ("speed", "right")]
_COLUMNS += [("left", "right"), ("", "left")]


def _row(line: Any) -> list[str]:
    from ....slurm.progress import duration

    return [
        line.id,
        line.kind,
        line.arm,
        " ".join(f"{name}={value}" for name, value in line.axes.items()),
        line.state,
        str(line.attempt or ""),
        "" if line.step is None else f"{line.phase} {line.step}/{line.steps}",
        f"{line.unit_per_second:.3g}/s" if line.unit_per_second else "",
        "" if line.eta_seconds is None else duration(line.eta_seconds),
        " ".join((line.error or line.job or "").split())[:120],
    ]


def logs(
    run: opt.RunId,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Lines from the end.")] = 20,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow until the run ends.")
    ] = False,
    home: opt.Home = opt.HOME,
) -> None:
    """Print the log of a run and the course of its attempts."""
    import time

    from ....results_db.record import run_state
    from ....slurm.follow.logs import output_files
    from ..find_run import run_folder

    folder = run_folder(home, run)
    opt.say(_attempts_text(folder))
    for path in output_files(home, folder):
        found = path.read_text(errors="replace").splitlines()[-lines:] if lines else []
        opt.say(f"--- {path}")
        for line in found:
            opt.say(line)
    opt.say(f"--- {folder.log_path}")
    printed = _print_log(folder, 0, last=lines)
    while follow and run_state(folder) in ("running", "planned", "waiting", "preempted"):
        time.sleep(WATCH_SECONDS / 2)
        printed = _print_log(folder, printed)
    if follow:
        opt.say(f"{folder.kind} {folder.id}: {run_state(folder)}")


def _attempts_text(folder: RunDir) -> str:
    from ....results_db.record import run_state
    from ....results_db.state import read_attempts

    text = [f"{folder.kind} {folder.id}: {run_state(folder)}; {folder.path}"]
    for attempt in read_attempts(folder):
        end = attempt.get("end") or {}
        outcome = end.get("outcome", "no end")
        error = f": {end['error']}" if end.get("error") else ""
        started = attempt.get("started_at", "")
        host = attempt.get("host", "")
        text.append(f"attempt {attempt['attempt']}, {host}, {started}: {outcome}{error}")
    return "\n".join(text)


def _print_log(folder: RunDir, start: int, last: int | None = None) -> int:
    """Print log.jsonl from byte `start` (or its last lines); return the end's position.

    A line that is still being written waits for the next call.
    """
    try:
        content = folder.log_path.read_bytes()
    except FileNotFoundError:
        return 0
    end = content.rfind(b"\n") + 1
    found = content[start:end].decode(errors="replace").splitlines()
    if last is not None:
        found = found[-last:] if last else []
    for line in found:
        opt.say(line)
    return end


def cancel(study: opt.Study, home: opt.Home = opt.HOME) -> int:
    """Stop a study's launches; running runs save and end.

    What they have done is kept: the next launch goes on from there.
    """
    from ....slurm.follow import cancel as control
    from ....slurm.follow import runs as watching

    name = opt.source_name(study)
    watching.study_plan(home, name)
    done = control.cancel(home, name)
    for note in done.notes:
        opt.say(f"note: {note}")
    opt.say(
        f"{done.launches} launches asked to stop, {done.jobs} jobs taken out of queues; "
        f"tokenlaw status {study} follows them"
    )
    return 0 if done.complete else 1


def retry(
    study: opt.Study,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="RUN", help="Only this run; repeatable.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed runs; the default.")] = False,
    home: opt.Home = opt.HOME,
) -> None:
    """Let failed runs be tried again by the next launch.

    Their past failures no longer count.
    """
    from ....slurm import retry as retrying
    from ....slurm.follow import runs as watching
    from ..find_run import run_folder

    name = opt.source_name(study)
    lines = watching.run_lines(home, watching.study_plan(home, name))
    wanted = {run_folder(home, text).id for text in run or ()}
    chosen = [line for line in lines if line.state in ("failed", "lost") and not wanted]
    chosen += [line for line in lines if line.id in wanted]
    for line in chosen:
        from ....results_db.record import RunDir as Folder

        retrying.forgive(Folder.of(home, line.kind, line.id))
        opt.say(f"{line.kind} {line.id}: will be tried again")
    opt.say(f"{len(chosen)} runs; tokenlaw launch {study} does them")
