"""The interactive form of a figure: its tidy table as a plotly specification, for the report.

Only the script that draws it in the browser comes from plotly (extra `report`), embedded once per
page; without the extra the report has the printed figures alone.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from typing import Any

import pandas as pd

from ..drawing import style

# Layers drawn as points; every other layer is a line.
POINTS = ("run", "frontier", "published", "average", "user")
_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
    "p": "pentagon",
}
_DASHES = {"fit floor": "dot", "null": "dash", "reference": "dash"}


def library() -> str | None:
    """The script that draws specifications in a browser; None when plotly is not installed."""
    if find_spec("plotly") is None:
        return None
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def specification(table: pd.DataFrame) -> str | None:
    """The plotly JSON of a tidy table, or None when the table does not say what its axes are."""
    axes: dict[str, Any] = table.attrs.get("axes", {})
    if not axes or not len(table):
        return None
    looks = style.arm_looks(table["group"].dropna())
    if table.attrs.get("ordered"):
        order = sorted(looks, key=style.natural)
        ramp = style.ordered_looks(range(len(order)))
        looks = {key: ramp[index] for index, key in enumerate(order)}
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "grid": {"rows": 1, "columns": len(axes), "pattern": "independent"},
        "font": {"size": 12},
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "legend": {"orientation": "h", "y": 1.12},
        "hovermode": "closest",
        "plot_bgcolor": "white",
    }
    shown: set[str] = set()
    for index, (panel, (x_label, y_label, x_scale, y_scale)) in enumerate(axes.items()):
        number = "" if index == 0 else str(index + 1)
        for which, label, scale in (("x", x_label, x_scale), ("y", y_label, y_scale)):
            layout[f"{which}axis{number}"] = {
                "title": {"text": label},
                "type": scale,
                "gridcolor": style.FAINT,
                "linecolor": style.INK,
                "ticks": "outside",
                "exponentformat": "power",
            }
        part = table[table["panel"] == panel]
        for group, look in looks.items():
            mine = part[part["group"] == group]
            for layer in sorted(mine["layer"].unique(), key=lambda one: (one in POINTS, one)):
                rows = mine[mine["layer"] == layer]
                trace = _points(rows, look) if layer in POINTS else _line(rows, look, layer)
                trace.update(
                    name=group,
                    legendgroup=group,
                    showlegend=group not in shown,
                    xaxis=f"x{number}",
                    yaxis=f"y{number}",
                )
                if layer not in POINTS:
                    data += _band(rows, look, trace)
                data.append(trace)
                shown.add(group)
    return json.dumps({"data": data, "layout": layout}, allow_nan=False, sort_keys=True)


def _points(rows: pd.DataFrame, look: style.Look) -> dict[str, Any]:
    frontier = set(rows["layer"]) == {"frontier"}
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": _numbers(rows["x"]),
        "y": _numbers(rows["y"]),
        "text": [
            f"{text}<br>run {identity}" if identity else text
            for text, identity in zip(_texts(rows["text"]), _texts(rows["run_id"]), strict=True)
        ],
        "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.5g}<extra>%{fullData.name}</extra>",
        "marker": {
            "color": look.color,
            "symbol": _SYMBOLS.get(look.marker, "circle"),
            "size": 9 if frontier else 7,
            "opacity": 1.0 if frontier else 0.6,
        },
    }
    if rows["y_low"].notna().any() and rows["y_high"].notna().any():
        y, low, high = (_numbers(rows[c]) for c in ("y", "y_low", "y_high"))
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [
                None if h is None or v is None else h - v for v, h in zip(y, high, strict=True)
            ],
            "arrayminus": [
                None if lo is None or v is None else v - lo for v, lo in zip(y, low, strict=True)
            ],
            "thickness": 1,
            "width": 2,
        }
    return trace


def _line(rows: pd.DataFrame, look: style.Look, layer: str) -> dict[str, Any]:
    ordered = rows.sort_values("x", kind="stable")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(ordered["x"]),
        "y": _numbers(ordered["y"]),
        "line": {"color": look.color, "width": 2, "dash": _DASHES.get(layer, "solid")},
        "hovertemplate": f"{layer}<br>%{{x:.4g}}, %{{y:.5g}}<extra>%{{fullData.name}}</extra>",
    }


def _band(rows: pd.DataFrame, look: style.Look, line: dict[str, Any]) -> list[dict[str, Any]]:
    kept = rows[rows["y_low"].notna() & rows["y_high"].notna()].sort_values("x", kind="stable")
    if not len(kept):
        return []
    x, low, high = (_numbers(kept[c]) for c in ("x", "y_low", "y_high"))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": x + x[::-1],
            "y": high + low[::-1],
            "fill": "toself",
            "fillcolor": look.color,
            "opacity": 0.15,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "legendgroup": line["legendgroup"],
            "showlegend": False,
            "xaxis": line["xaxis"],
            "yaxis": line["yaxis"],
        }
    ]


def _numbers(values: pd.Series) -> list[float | None]:
    found = [None if pd.isna(value) else float(value) for value in values]
    return [value if value is not None and math.isfinite(value) else None for value in found]


def _texts(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in values]
