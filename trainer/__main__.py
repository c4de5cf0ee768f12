"""Do runs one after another: `python -m tokenlaw.trainer RUN_DIR...`.

With `-` for RUN_DIR the folders come from stdin, one a line. Each finished run prints a JSON line.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

from ..results_db.masking import mask_tracebacks
from ..results_db.processes import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_TRY_AGAIN,
    collector_paused,
    die_with_parent,
    leave_without_collection,
)
from .stop import Stop

STOP = Stop()
if __name__ == "__main__":
    STOP.listen()  # the imports below take seconds

with collector_paused():
    from .fast_start import compiler
    from .loop import distributed
    from .worker import execute, outcome_line

USAGE = "usage: python -m tokenlaw.trainer RUN_DIR...   (- for RUN_DIR: run folders on stdin)"


def main(arguments: list[str]) -> int:
    """Exit code: 0 all done, 75 preempted or fenced, 1 failed, 2 bad input."""
    if not arguments or arguments[0].startswith("--"):
        print(USAGE, file=sys.stderr)
        return EXIT_BAD_INPUT
    stop = STOP
    stop.listen()
    try:
        distributed.requested_rank()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    from_stdin = arguments == ["-"]
    die_with_parent()
    if compiler.worthwhile():
        compiler.start()
    worst = EXIT_DONE
    for line in _lines_from_parent() if from_stdin else iter(arguments):
        if stop.requested:
            return EXIT_TRY_AGAIN  # before the first claim
        # A launcher adds the newest attempt that it knows to be over, so that only one of several
        # wins.
        path, _, after = line.partition("\t") if from_stdin else (line, "", "")
        outcome = execute(path, stop, after=int(after) if after else None)
        if distributed.requested_rank() == 0:
            print(outcome_line(outcome), flush=True)
        if outcome.error:
            print(f"error: {outcome.run_dir.name}: {outcome.error}", file=sys.stderr, flush=True)
        worst = max(worst, outcome.exit_code)
        if stop.requested:
            return EXIT_TRY_AGAIN if worst in (EXIT_DONE, EXIT_TRY_AGAIN) else worst
        if worst != EXIT_DONE and distributed.requested_world_size() > 1:
            # The processes of a group may have parted ways: the next run would mix their messages.
            return worst
    distributed.stop()
    return worst


def _lines_from_parent() -> Iterator[str]:
    """Lines of stdin, read in a thread, so that the parent's end is noticed in the middle of a
    run."""
    ready = threading.Condition()
    lines: list[str | None] = []

    def read() -> None:
        for line in sys.stdin:
            with ready:
                lines.append(line.strip())
                ready.notify()
        with ready:
            lines.append(None)
            ready.notify()

    threading.Thread(target=read, daemon=True).start()
    while True:
        with ready:
            while not lines:
                ready.wait(1.0)
            line = lines.pop(0)
        if line is None:
            return
        if line:
            yield line


if __name__ == "__main__":
    mask_tracebacks()
    leave_without_collection()
    sys.exit(main(sys.argv[1:]))
