"""Aligned columns of plain text: a table for terminals takes seconds for hundreds of lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def columns(titles: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """Format the lines of a table, the titles first; `titles` are (title, "left" or "right")."""
    cells = [[title for title, _ in titles], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            text.rjust(width) if side == "right" else text.ljust(width)
            for text, width, (_, side) in zip(row, widths, titles, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
