"""Row filters typed by users: a small language, checked on its syntax tree and run by us, never by
eval.

Allowed: column names (in backticks when they hold spaces), numbers, strings, True, False, None,
arithmetic (+ - * / ** %), the functions log, log10, sqrt, abs, min and max of numbers, comparisons
(chained too), `and`, `or`, `not`, and `in` / `not in` with a list of literals.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd

from .quantities import Unclear, numbers

COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Any]]]] = {  # name -> (arguments, function)
    "log": (1, np.log),
    "log10": (1, np.log10),
    "sqrt": (1, np.sqrt),
    "abs": (1, np.abs),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
}
ALLOWED: Final = (
    f"names, literals, + - * / ** %, {', '.join(FUNCTIONS)}, comparisons, and, or, not, in"
)
MAX_LENGTH: Final = 2000  # characters; nobody types more, and deep nesting is cut off


def keep(frame: pd.DataFrame, expression: str) -> np.ndarray:
    """Return a boolean for each row of `frame`; ValueError names the fault of `expression`."""
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"where: longer than {MAX_LENGTH} characters")
    names: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        stand_in = f"_quoted_{len(names)}_"
        names[stand_in] = match.group(2)
        return stand_in

    # Strings are matched first so that a backtick inside one stays what it is.
    text = re.sub(
        r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`([^`]+)`""",
        lambda match: match.group(1) or plain(match),
        expression,
    )
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown = _shown(expression)
        raise ValueError(f"where: {shown} is not an expression; allowed: {ALLOWED}") from error
    return np.asarray(_Evaluate(frame, names, expression).truth(tree.body).to_numpy())


def _shown(expression: str) -> str:
    """Quote the expression on one line, cut to the length of an error message."""
    return repr(expression if len(expression) <= 80 else expression[:77] + "...")


class _Evaluate:
    """Walks the tree; every node type that is not named here is refused."""

    def __init__(self, frame: pd.DataFrame, names: dict[str, str], expression: str) -> None:
        self.frame = frame
        self.names = names
        self.expression = _shown(expression)

    def refuse(self, what: str) -> ValueError:
        return ValueError(f"where: {what} is not allowed in {self.expression}; use {ALLOWED}")

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name():
                return self.column(self.names.get(node.id, node.id))
            case ast.Constant(value=value):
                if isinstance(value, bool | int | float | str) or value is None:
                    return value
                raise self.refuse(f"the literal {value!r}")
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                value = self.number(operand, "a sign before something that is no number")
                return -value if isinstance(node.op, ast.USub) else value
            case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
                word = "arithmetic with something that is no number"
                return self.computed(
                    ARITHMETIC[type(op)], [self.number(left, word), self.number(right, word)]
                )
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                count, function = FUNCTIONS[name]
                if len(args) != count:
                    raise self.refuse(f"{name} of {len(args)} values (it takes {count})")
                return self.computed(
                    function, [self.number(arg, f"{name} of a text") for arg in args]
                )
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.truth(operand)
            case ast.BoolOp(op=op, values=values):
                answer = self.truth(values[0])
                for one in values[1:]:
                    other = self.truth(one)
                    answer = answer & other if isinstance(op, ast.And) else answer | other
                return answer
            case ast.Compare():
                return self.comparison(node)
            case _:
                raise self.refuse(type(node).__name__.lower())

    def number(self, node: ast.expr, otherwise: str) -> float | pd.Series:
        """Return a value as numbers; texts such as "4B" are read, what is unclear is missing."""
        value = self.value(node)
        if isinstance(value, pd.Series):
            return self.as_numbers(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(otherwise)
        try:
            return float(value)
        except OverflowError as error:
            raise self.refuse("a number beyond 1e308") from error

    def as_numbers(self, column: pd.Series) -> pd.Series:
        if column.dtype.kind in "fiu":
            return column.astype(float)
        try:
            commas = bool(self.frame.attrs.get("commas_group"))
            values = numbers(column, counts=True, commas_group=commas)
        except Unclear as error:
            raise ValueError(
                f"where: column {str(column.name)!r} holds {str(error.value)!r}, which "
                f"{error.reason}; it cannot stand in {self.expression}"
            ) from error
        return pd.Series(values, index=column.index)

    def computed(self, function: Callable[..., Any], values: list[float | pd.Series]) -> Any:
        # A division by zero or a logarithm of nothing keeps no row; it is no fault of the filter.
        with np.errstate(all="ignore"):
            answer = function(*(np.asarray(value, dtype=float) for value in values))
        answer = np.where(np.isfinite(answer), answer, np.nan)
        return pd.Series(np.broadcast_to(answer, len(self.frame)), index=self.frame.index)

    def column(self, name: str) -> pd.Series:
        if name not in self.frame.columns:
            near = difflib.get_close_matches(name, [str(one) for one in self.frame.columns], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"where: no column {name!r}{hint}")
        return self.frame[name]

    def truth(self, node: ast.expr) -> pd.Series:
        value = self.value(node)
        if isinstance(value, bool):
            return pd.Series(value, index=self.frame.index)
        if isinstance(value, pd.Series):
            if value.dtype == bool:
                return value
            if value.dropna().map(lambda one: one is True or one is False).all():
                return value.map(lambda one: one is True).astype(bool)  # a missing value is false
        shown = _shown(ast.unparse(node))
        raise ValueError(f"where: {shown} in {self.expression} is not true or false")

    def comparison(self, node: ast.Compare) -> pd.Series:
        answer = pd.Series(True, index=self.frame.index)
        left_node = node.left
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            answer = answer & self.one_comparison(left_node, op, right_node)
            left_node = right_node
        return answer

    def one_comparison(self, left_node: ast.expr, op: ast.cmpop, right_node: ast.expr) -> pd.Series:
        left = self.value(left_node)
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right_node, ast.List | ast.Tuple | ast.Set):
                raise self.refuse("'in' with something that is not a list of literals")
            among = [self.value(one) for one in right_node.elts]
            if any(isinstance(one, pd.Series) for one in among):
                raise self.refuse("a column inside a list")
            if not isinstance(left, pd.Series):
                raise self.refuse("'in' without a column on its left")
            found = left.isin(among)
            return ~found if isinstance(op, ast.NotIn) else found
        if type(op) not in COMPARE:
            raise self.refuse("'is'")
        right = self.value(right_node)
        if left is None or right is None:
            other = right if left is None else left
            if not isinstance(other, pd.Series) or not isinstance(op, ast.Eq | ast.NotEq):
                raise self.refuse("None other than in COLUMN == None")
            return other.isna() if isinstance(op, ast.Eq) else other.notna()
        try:
            left, right = self.alike(left, right)
        except ValueError:
            # A text that is no number equals none, and has no order.
            if not isinstance(op, ast.Eq | ast.NotEq):
                raise
        try:
            answer = COMPARE[type(op)](left, right)
        except TypeError as error:
            raise ValueError(
                f"where: {ast.unparse(left_node)} and {ast.unparse(right_node)} cannot be compared"
                f" in {self.expression} (a number with a text?)"
            ) from error
        if isinstance(answer, pd.Series):
            return answer.fillna(False).astype(bool)
        return pd.Series(bool(answer), index=self.frame.index)

    def alike(self, left: Any, right: Any) -> tuple[Any, Any]:
        """Return two sides with texts such as "4B" as numbers, where the other side is numbers."""

        def numeric(side: Any) -> bool:
            if isinstance(side, pd.Series):
                return side.dtype.kind in "fiu"
            return isinstance(side, int | float) and not isinstance(side, bool)

        def text(side: Any) -> bool:
            return isinstance(side, pd.Series) and side.dtype.kind not in "fiub"

        if text(left) and numeric(right):
            return self.as_numbers(left), right
        if numeric(left) and text(right):
            return left, self.as_numbers(right)
        return left, right
