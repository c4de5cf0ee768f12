"""The options that name columns and rows of a table, once for all verbs that take a table."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

Asked = dict[str, Any]  # option -> its text or None; fields of analysis.request.Request

COLUMNS: Final[dict[str, Any]] = {
    "x": Annotated[str | None, typer.Option("--x", help="Column of compute; default flops_train.")],
    "y": Annotated[str | None, typer.Option("--y", help="Column of the metric; default val_loss.")],
    "n": Annotated[str | None, typer.Option("--n", help="Column of parameters.")],
    "d": Annotated[str | None, typer.Option("--d", help="Column of training tokens.")],
    "group": Annotated[
        str | None,
        typer.Option("--group", help="Column that tells the arms; default arm; none pools."),
    ],
    "where": Annotated[
        str | None,
        typer.Option("--where", help="Rows to keep, e.g. \"arm == 'crt' and D/N < 100\"."),
    ],
    "direction": Annotated[
        str | None, typer.Option("--direction", help="lower or higher is better.")
    ],
}


def takes_columns(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of COLUMNS, after its first argument, in its parameter `asked`."""

    @functools.wraps(verb)
    def called(*source: Any, **given: Any) -> Any:
        asked: Asked = {name: given.pop(name, None) for name in COLUMNS}
        return verb(*source, **given, asked=asked)

    kind = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=None, annotation=annotation)
        for name, annotation in COLUMNS.items()
    ]
    own = inspect.signature(verb, eval_str=True).parameters.values()
    source, *rest = [one.replace(kind=kind) for one in own if one.name != "asked"]
    signature = inspect.Signature([source, *options, *rest])
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return called
