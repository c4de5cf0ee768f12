"""Numbers as people write them in tables: "4B", "125m", "28.06%", "1,000", "3.5 M", "1.2x10^21".

A value that could mean two numbers is refused; none is guessed.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pandas as pd

SCALES: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
MISSING: Final = (
    "",
    "-",
    "--",
    "\N{EN DASH}",
    "\N{EM DASH}",
    "?",
    "na",
    "n/a",
    "nan",
    "none",
    "null",
)
_WORDS: Final = r"(?:flops?|params?|parameters|tokens?|steps|images|iterations)"
_PLAIN: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.I)
_NUMBER: Final = re.compile(
    rf"(?P<number>[+-]?[\d.,_ ]*\d\.?(?:e[+-]?\d+)?) ?"
    rf"(?:(?P<scale>[kmbgt](?! ?e))?(?: ?{_WORDS})?|(?P<big>[kmgtpez])flops?|(?P<percent>%))",
    re.I,
)
_POWER: Final = re.compile(r"(?:(.*\d) ?(?:x|\*|\u00d7|\u00b7) ?)?10(?:\^|\*\*)\{?([+-]?\d+)\}?")
_SPACES: Final = re.compile(r"[\s\u00a0\u2009\u202f]+")
_GROUPS: Final = re.compile(
    r"[+-]?\d{1,3}(?P<sign>[,_ ])\d{3}(?:(?P=sign)\d{3})*(?:\.\d+)?(?:e.*)?", re.I
)
_SURE_GROUPS: Final = re.compile(
    r"[+-]?[1-9]\d{0,2}(?:(?:,\d{3}){2,}|(?:,\d{3})+\.\d+|(?:[_ ]\d{3})+)"
)
_DECIMAL_COMMA: Final = re.compile(r"[+-]?(?:\d{1,3}(?:\.\d{3})+|\d+),\d+(?:e[+-]?\d+)?", re.I)
_SURE_DECIMAL: Final = re.compile(
    r"[+-]?(?:0+,\d+|\d+,(?:\d{1,2}|\d{4,})|\d{4,},\d+|[\d.]+\.\d{3},\d+|\d+,\d+e[+-]?\d+)", re.I
)


class Unclear(ValueError):
    """A value that is no number, or could be two: its place in the column and the reason."""

    def __init__(self, place: int, value: object, reason: str) -> None:
        super().__init__(reason)
        self.place, self.value, self.reason = place, value, reason


def numbers(column: pd.Series, *, counts: bool = False, commas_group: bool = False) -> np.ndarray:
    """Return the column as floats, NaN where a value is missing.

    `counts`: the column counts things, so "125m" is 125 million. `commas_group`: the table has
    commas between its columns, so "1,000" is a thousand. Raises Unclear at the first value that has
    no single meaning.
    """
    if column.dtype.kind in "fiu":
        return np.asarray(column.to_numpy(dtype=float))
    if column.dtype.kind in "bmM":
        raise Unclear(0, column.iloc[0], "is no number")
    parsed = pd.to_numeric(column, errors="coerce")
    plain = np.asarray(parsed.to_numpy(dtype=float, na_value=np.nan))
    texts = [_clean(value) for value in column]
    open_places = [
        at for at, text in enumerate(texts) if np.isnan(plain[at]) and text.lower() not in MISSING
    ]
    if not open_places:
        return plain
    values = plain.copy()
    commas = [texts[at].rstrip("%kKmMbBgGtT ") for at in open_places if "," in texts[at]]
    decimal = any(_SURE_DECIMAL.fullmatch(text) for text in commas)
    # A value such as 2,000,000 makes the commas of its column thousands.
    commas_group |= any(_SURE_GROUPS.fullmatch(text) for text in commas)
    scales: dict[int, str] = {}
    for at in open_places:
        values[at], scales[at] = _read(at, column.iloc[at], texts[at], decimal, commas_group)
    _check_scales(column, texts, values, scales, counts)
    return values


def decimal_commas(texts: pd.Series) -> bool:
    """Tell if some text can only be a number with a decimal comma ("0,5", "3,14", "1.234,5")."""
    return bool(texts.dropna().astype(str).str.strip().map(_SURE_DECIMAL.fullmatch).notna().any())


def from_decimal_commas(column: pd.Series) -> pd.Series:
    """Return the column with points for decimal commas, if all its values are such numbers."""
    texts = column.dropna().astype(str).str.strip()
    group = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+")
    point = re.compile(r"[+-]?\d*\.\d+(?:e[+-]?\d+)?", re.I)
    points = texts[texts.map(point.fullmatch).notna()]
    if len(points) and not points.map(group.fullmatch).notna().all():
        return column  # decimal points beside commas: the values speak for themselves
    fits = texts.map(
        lambda text: bool(
            _DECIMAL_COMMA.fullmatch(text) or group.fullmatch(text) or _PLAIN.fullmatch(text)
        )
    )
    if not len(texts) or not fits.all():
        return column
    return pd.to_numeric(
        column.astype(str).str.strip().where(column.notna())
        .str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    )  # fmt: skip


def _clean(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    text = _SPACES.sub(" ", str(value)).strip()
    return text.replace("\N{MINUS SIGN}", "-")


def _read(
    at: int, value: object, text: str, decimal: bool, commas_group: bool
) -> tuple[float, str]:
    """Return the number of a text, and the letter or sign behind it."""
    power = _POWER.fullmatch(text)
    if power is not None and (power[1] is None or _PLAIN.fullmatch(power[1])):
        return float(power[1] or 1) * 10.0 ** int(power[2]), ""
    match = _NUMBER.fullmatch(text)
    if match is None:
        hint = (
            "; put the number and its error into two columns"
            if "\u00b1" in text or "+-" in text
            else ""
        )
        raise Unclear(at, value, f"is no number{hint}")
    digits = match["number"].strip()
    if "," in digits and (decimal or _SURE_DECIMAL.fullmatch(digits)):
        if not _DECIMAL_COMMA.fullmatch(digits):
            raise Unclear(at, value, "is unclear: a decimal comma or thousands?")
        digits = digits.replace(".", "").replace(",", ".")
    elif groups := _GROUPS.fullmatch(digits):
        sure = commas_group or _SURE_GROUPS.fullmatch(digits)
        if not sure:
            raise Unclear(
                at, value, "is unclear: 1,000 may be a thousand or one; write it without a comma"
            )
        digits = digits.replace(groups["sign"], "")
    if not _PLAIN.fullmatch(digits):
        raise Unclear(at, value, "is no number")
    scale = match["scale"] or match["big"] or ""
    return float(digits) * SCALES.get(scale.lower(), 1.0), match["percent"] or scale


def _check_scales(
    column: pd.Series, texts: list[str], values: np.ndarray, scales: dict[int, str], counts: bool
) -> None:
    """Raise Unclear where units are mixed so that a value has no single meaning."""
    used = {scale for scale in scales.values() if scale}
    known = np.flatnonzero(~np.isnan(values)).tolist()
    if "%" in used:
        for at in known:
            if scales.get(at) != "%":
                raise Unclear(at, column.iloc[at], "has no %, other values have")
        return
    for at, scale in scales.items():
        if scale == "m" and (not counts or "M" in used):
            raise Unclear(at, column.iloc[at], "is unclear: million or thousandth? write M or 1e6")
    if used:
        least = min(SCALES[scale.lower()] for scale in used)
        for at in known:
            bare = not scales.get(at) and 0 < abs(values[at]) < least
            if bare:
                raise Unclear(
                    at,
                    column.iloc[at],
                    f"has no unit, other values have ({', '.join(sorted(used))})",
                )
