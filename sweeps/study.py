"""Find a study by its name or its file, and call it with the options of the command line."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..trainer import parts
from ..trainer.renamed_imports import new_import
from .grid import Grid, Where

FOLDER = "studies"


def names() -> tuple[str, ...]:
    """Return the names of the built-in studies as users type them."""
    return parts.names(FOLDER)


def load_study(text: str, options: Mapping[str, Any] | None = None) -> Grid:
    """Load the grid of a built-in study or of a file `my_study.py`.

    In the names of built-in studies `-` and `_` are the same. A file's study is named after the
    file, or as its `NAME` says.

    `options` are keyword arguments of the study function. ValueError names what is unknown and what
    is allowed.
    """
    with _users_slips(text):
        module, name = _module(text)
        grid = _function(module, text)(**_checked(module, text, dict(options or {})))
    if not isinstance(grid, Grid):
        raise ValueError(f"study: {text}: study() returned {type(grid).__name__}; allowed: a Grid")
    if grid.name not in ("", name):
        raise ValueError(
            f"name: {grid.name!r} of the Grid is not the study's, {name!r}; allowed: none there, "
            f"and NAME = {grid.name!r} in the file"
        )
    where = tuple(_guarded(condition, text) for condition in grid.where)
    return dataclasses.replace(grid, name=name, where=where)


def _guarded(condition: Where, text: str) -> Where:
    """Report an error in a study's filter with its place in the study's file."""

    def keep(cell: Mapping[str, Any]) -> bool:
        with _users_slips(text):
            return bool(condition.keep(cell))

    return dataclasses.replace(condition, keep=keep)


@contextlib.contextmanager
def _users_slips(text: str) -> Iterator[None]:
    """Turn an error in a user's own file into bad input: one line with its place.

    The file may import its neighbours, and what it prints goes to stderr.
    """
    path = str(Path(text).resolve())
    beside = str(Path(path).parent)
    try:
        if is_file(text):
            sys.path.insert(0, beside)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        ours = isinstance(error, ValueError) and not _raised_in(error, path)
        if ours or not is_file(text):
            raise
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else None
        line = frames[-1].lineno if line is None and frames else line
        place = text if line is None else f"{text} line {line}"
        hint = new_import(error) if isinstance(error, ImportError) else None
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        what = hint or f"{type(error).__name__}: {message}"
        raise ValueError(f"study: {place}: {what}") from error
    finally:
        if is_file(text):
            sys.path.remove(beside)


def _raised_in(error: BaseException, path: str) -> bool:
    """Tell if the last frame of an error is in the user's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename == path


def study_name(text: str) -> str:
    """Return the name of a study's plans and results without calling the study."""
    if is_file(text):
        return _name_in(Path(text)) or Path(text).stem
    module = text.replace("-", "_")
    if module not in names():
        return text
    return str(vars(parts.load(FOLDER, module)).get("NAME", module))


def _name_in(path: Path) -> str | None:
    """Return the text that a study's file assigns to NAME; None where it does not."""
    try:
        statements = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None  # loading it says what is wrong
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id="NAME")], value=ast.Constant(value=str(name))):
                return name
    return None


def is_file(text: str) -> bool:
    """Tell if a user means a file: it ends in .py or holds a path separator."""
    return text.endswith(".py") or "/" in text


def _module(text: str) -> tuple[ModuleType, str]:
    if not is_file(text):
        name = text.replace("-", "_")
        if name not in names():
            raise ValueError(
                f"study: {text!r} is unknown{parts.nearest(name, names())}; "
                f"allowed: {', '.join(names())}, or a path to a file my_study.py"
            )
        return parts.load(FOLDER, name), study_name(text)
    path = Path(text)
    if not path.is_file():
        raise ValueError(f"study: {text!r} is not a file; allowed: a Python file with study()")
    spec = importlib.util.spec_from_file_location(f"tokenlaw_study_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"study: {text!r} is not Python; allowed: a file my_study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module, study_name(text)


def _function(module: ModuleType, text: str) -> Callable[..., Any]:
    function = vars(module).get("study")
    if not callable(function):
        raise ValueError(f"study: {text}: has no function study(); allowed: study() -> Grid")
    build: Callable[..., Any] = function
    return build


def _checked(module: ModuleType, text: str, options: dict[str, Any]) -> dict[str, Any]:
    known = tuple(inspect.signature(_function(module, text)).parameters)
    for option in options:
        if option not in known:
            allowed = ", ".join(known) or "none, this study has no options"
            raise ValueError(
                f"--option: the study {text} has no option {option!r}"
                f"{parts.nearest(option, known)}; allowed: {allowed}"
            )
    return options
