"""The command line `tokenlaw`: its verbs, and one style of error.

Bad input ends with 2, a store or disk that fails with 1, Ctrl-C with 130; always one line on
stderr, `error: FIELD: VALUE ...; allowed: ...`. TOKENLAW_DEBUG=1 shows the traceback instead.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from .verbs.analyse import figures, fit, frontier, report
from .verbs.launch import Told, launch, quickstart
from .verbs.plan import plan
from .verbs.results import results
from .verbs.runs import count, sample, schedule, train
from .verbs.store import doctor, sync
from .verbs.watch import cancel, logs, retry, status

# Whatever the parser raises: typer's public BadParameter is one of them, two levels below.
_USAGE_ERRORS: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="tokenlaw",
    help="Scaling-law studies of visual tokenizers and autoregressive image generation: "
    "plan, launch, train, record, analyse.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# In the order of the flow, which is how --help lists them.
VERBS: tuple[Callable[..., Any], ...] = (
    quickstart,
    plan,
    launch,
    status,
    logs,
    cancel,
    retry,
    results,
    fit,
    frontier,
    figures,
    report,
    train,
    sample,
    count,
    schedule,
    sync,
    doctor,
)
for verb in VERBS:
    app.command(no_args_is_help=False)(verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    from ...results_db.processes import leave_without_collection

    leave_without_collection()
    try:
        code = app(args=args, prog_name="tokenlaw", standalone_mode=False)
    except BrokenPipeError:
        # The reader, e.g. `head`, has seen enough. Python must not fail again when it flushes at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        return _report(error)
    # The parser turns Ctrl-C into 130; a launch that hears it by itself has said so already.
    if code == 130 and not isinstance(code, Told):
        print("interrupted: all is kept; the same command again goes on", file=sys.stderr)
    return int(code) if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Print the error, one line on stderr, and return the exit code."""
    from ...results_db.masking import mask_secrets

    if isinstance(error, _USAGE_ERRORS):
        message, code = error.format_message(), 2
    elif isinstance(error, ValueError):
        message, code = str(error), 2
    elif isinstance(error, OSError | RuntimeError) or _is_database_error(error):
        message, code = f"{error}", 1
    else:
        message, code = f"{type(error).__name__}: {error} (TOKENLAW_DEBUG=1 shows where)", 1
    if os.environ.get("TOKENLAW_DEBUG") == "1":
        trace = "".join(traceback.format_exception(error))
        print(mask_secrets(trace), end="", file=sys.stderr)
        return code
    line = " ".join(mask_secrets(message).split()) or type(error).__name__
    print(f"error: {line}", file=sys.stderr)
    return code


def _is_database_error(error: Exception) -> bool:
    # Only a command that imported SQLAlchemy can meet its errors.
    module = sys.modules.get("sqlalchemy.exc")
    return module is not None and isinstance(error, module.SQLAlchemyError)
