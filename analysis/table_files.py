"""Read tables from files: .csv, .tsv, .txt, .jsonl, .json and .parquet.

Compression, encoding, separator, comment lines and decimal commas are found in the file. A file
that cannot be read in one way only is a ValueError of one line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from .quantities import decimal_commas, from_decimal_commas

TEXT: Final = (".csv", ".tsv", ".txt")
KNOWN: Final = (*TEXT, ".jsonl", ".json", ".parquet")
PACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
SHEETS: Final = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "|"}
LINE: Final = "line"  # name of the index that holds each row's line in its file
SAMPLE: Final = 200  # lines that the separator is found in


def is_table(source: str) -> bool:
    """Tell if a text names a file of a table, or what a user may take for one."""
    if source.endswith(".py"):
        return False
    if "://" in source or suffix(source) in (*KNOWN, *SHEETS):
        return True
    path = Path(source)
    return (path.is_file() and bool(suffix(source))) or (path.is_dir() and len(path.parts) > 1)


def stem(source: str) -> str:
    """Return the name of a table's file without its endings."""
    name = Path(source).name
    for ending in (*PACKED, suffix(source)):
        name = name[: -len(ending)] if ending and name.lower().endswith(ending) else name
    return name


def suffix(source: str | Path) -> str:
    """Return the ending of a table's file in small letters, without that of a compression."""
    path = Path(source)
    if path.suffix.lower() in PACKED:
        path = path.with_suffix("")
    return path.suffix.lower()


def read(path: str | Path, *, points: bool = False) -> pd.DataFrame:
    """Return the table of a file; the index of a text file's rows is their line.

    With `points`, which may be values of compute alone, one column is enough.

    Raises ValueError for what is no file, has no known ending, or cannot be read in one way only.
    """
    shown, kind = repr(str(path)), suffix(path)
    if "://" in str(path):
        raise ValueError(f"table: {shown} is an address; download it and give the file")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"table: {shown} is a folder; allowed: a file ({', '.join(KNOWN)})")
    if kind in SHEETS:
        raise ValueError(f"table: {shown} is a spreadsheet; save the sheet as .csv and give that")
    if not path.is_file():
        raise ValueError(f"table: {shown} is not a file")
    if kind not in KNOWN:
        raise ValueError(f"table: {shown} ends in {kind!r}; known: {', '.join(KNOWN)}")
    try:
        content = path.read_bytes()
        packed = PACKED.get(path.suffix.lower())
        content = packed(content) if packed else content
        if not content.strip():
            raise ValueError("it is empty")
        if kind == ".parquet":
            frame = pd.read_parquet(io.BytesIO(content))
        elif kind in TEXT:
            frame = _read_text(decode(content), points)
        else:
            frame = _read_json(decode(content), lines=kind == ".jsonl")
        _check(frame, points)
    # pandas, pyarrow, gzip and lzma raise these for a broken file.
    except (ValueError, OSError, EOFError, lzma.LZMAError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"table: {shown} cannot be read: {text}") from error
    return frame


def decode(content: bytes) -> str:
    """Return the text of UTF-8 or, with a byte order mark, UTF-16 bytes; ValueError otherwise."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it holds zero bytes (UTF-16 without a mark?); save it as UTF-8")
    return text


def _read_text(text: str, points: bool) -> pd.DataFrame:
    lines, comments = _content_lines(text)
    if not lines:
        raise ValueError("it holds comment lines alone")
    separator = _separator([line for _, line in lines[:SAMPLE]])
    if separator is None and points:
        separator = ","
    if separator is None:
        first = lines[0][1].strip()
        known = ", ".join(SEPARATORS.values())
        raise ValueError(f"it has one column ({first[:60]!r}); separators: {known} or spaces")
    if separator == " ":  # columns set in spaces
        lines = [(number, " ".join(line.split())) for number, line in lines]
    rows = _rows(lines, separator)
    header, start = _header(rows, comments, separator)
    for number, row in rows[start:]:
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            raise ValueError(f"line {number} has {len(row)} fields, the header has {len(header)}")
    if start == len(rows):
        raise ValueError("it has a header and no rows")
    numbers = pd.Index([number for number, _ in rows[start:]], name=LINE)
    body = "\n".join(line for number, line in lines if number >= rows[start][0])

    def parsed(kind: type | None) -> pd.DataFrame:
        return pd.read_csv(
            io.StringIO(body), sep=separator, header=None, names=header, usecols=range(len(header)),
            dtype=kind, index_col=False, skipinitialspace=True, low_memory=False,
        ).set_axis(numbers)  # fmt: skip

    _refuse_twice(header)
    frame = parsed(None)
    if separator != "," and any(
        decimal_commas(frame[name])
        for name in frame.columns
        if frame[name].dtype.kind not in "fiub"
    ):
        texts = parsed(str)
        changed = {name: from_decimal_commas(texts[name]) for name in header}
        frame = frame.assign(
            **{name: column for name, column in changed.items() if column.dtype.kind in "fiu"}
        )
    frame.attrs["commas_group"] = separator == ","
    return frame


def _content_lines(text: str) -> tuple[list[tuple[int, str]], list[str]]:
    """Return (number, line) of the lines that hold data, and the comments before them."""
    lines: list[tuple[int, str]] = []
    comments: list[str] = []
    quoted = False
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not quoted and line.lstrip().startswith("#"):
            if not lines:
                comments.append(line.lstrip("# \t"))
            continue
        if not quoted and not line.strip():
            continue
        if not quoted and not lines and line.lower().startswith("sep="):
            continue  # a spreadsheet's own hint
        quoted ^= line.count('"') % 2 == 1
        lines.append((number, line))
    return lines, comments


def _separator(sample: list[str]) -> str | None:
    """Return the sign that cuts the lines into equally many fields; None for one column."""
    best: tuple[float, int, str] | None = None
    for sign in SEPARATORS:
        counts = Counter(len(row) for row in csv.reader(sample, delimiter=sign))
        fields, times = counts.most_common(1)[0]
        header = len(next(csv.reader(sample[:1], delimiter=sign)))
        if fields > 1 and header > 1:
            found = (times / sum(counts.values()) + (header == fields), fields, sign)
            best = found if best is None or found[:2] > best[:2] else best
    if best is not None:
        return best[2]
    spaced = {len(line.split()) for line in sample}
    return " " if len(spaced) == 1 and spaced != {1} else None


def _rows(lines: list[tuple[int, str]], separator: str) -> list[tuple[int, list[str]]]:
    """Return (number of the first line, cells) of each row; a quoted cell may span lines."""
    reader = csv.reader(
        (line + "\n" for _, line in lines), delimiter=separator, skipinitialspace=True
    )
    rows = []
    begin = 0
    for row in reader:
        rows.append((lines[begin][0], row))
        begin = reader.line_num
    return rows


def _header(
    rows: list[tuple[int, list[str]]], comments: list[str], separator: str
) -> tuple[list[str], int]:
    """Return the names of the columns and the number of the first row below them.

    The header may be the last comment (`# C,N,loss`), as numpy writes it.
    """
    first = rows[0][1]
    if all(_is_number(cell) for cell in first if cell.strip()):
        cells = comments[-1:] and next(
            csv.reader(
                [" ".join(comments[-1].split()) if separator == " " else comments[-1]],
                delimiter=separator,
            )
        )
        if not cells or len(cells) != len(first):
            raise ValueError(f"line {rows[0][0]} holds numbers where the names of columns belong")
        return [cell.strip() for cell in cells], 0
    while len(first) > 1 and not first[-1].strip():  # a separator at the end of each line
        if any(len(row) >= len(first) and row[len(first) - 1].strip() for _, row in rows[1:]):
            break
        first = first[:-1]
    return [cell.strip() or f"Unnamed: {at}" for at, cell in enumerate(first)], 1


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _read_json(text: str, *, lines: bool) -> pd.DataFrame:
    """Return the table of JSON records, or of JSON columns (lists, or values by row)."""
    tree: Any
    places = None
    if lines:
        kept = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
        tree = [_json(line, f"line {at}") for at, line in kept]
        places = pd.Index([at for at, _ in kept], name=LINE)
    else:
        tree = _json(text, "it")
    if isinstance(tree, list):
        for at, record in enumerate(tree, 1):
            if not isinstance(record, dict):
                raise ValueError(f"record {at} is no object with columns")
        return pd.DataFrame((_flat(record) for record in tree), index=places)
    if isinstance(tree, dict) and set(tree) == {"columns", "index", "data"}:
        return pd.DataFrame(tree["data"], columns=tree["columns"])
    if isinstance(tree, dict) and tree and all(isinstance(one, list) for one in tree.values()):
        if len({len(one) for one in tree.values()}) > 1:
            raise ValueError("its columns differ in length")
        return pd.DataFrame(tree)
    if isinstance(tree, dict) and tree and all(isinstance(one, dict) for one in tree.values()):
        return pd.DataFrame(tree).reset_index(drop=True)
    raise ValueError("it is neither a list of records nor an object of columns")


def _json(text: str, place: str) -> Any:
    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_twice)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(f"{place} is nested too deep") from error


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return a record with its nested objects as columns `config.lr`, as trackers export them."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _refuse_twice(names: list[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            places = ", ".join(str(at) for at, one in enumerate(names, 1) if one == name)
            raise ValueError(
                f"column {name!r} appears {times} times (columns {places}); rename one"
            )


def _check(frame: pd.DataFrame, points: bool) -> None:
    if not len(frame.columns):
        raise ValueError("it has no columns and no rows")
    if len(frame.columns) < 2 and not points:
        raise ValueError(f"it has one column ({frame.columns[0]!r}); a table has two or more")
    if not len(frame):
        raise ValueError("it has a header and no rows")
