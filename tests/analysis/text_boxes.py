"""Where the texts of a picture lie: do any two overlap, does one leave the picture?"""

from __future__ import annotations

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tokenlaw.analysis.drawing import style

SLACK = 0.6  # pixels at 100 dpi by which boxes may touch: a box is taller than its letters


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """(text, box in pixels) of every text that is seen."""
    with style.paper():  # ticks made late take their size from the settings of that moment
        figure.draw_without_rendering()
        renderer = FigureCanvasAgg(figure).get_renderer()
        return _boxes(figure, renderer)


def _boxes(figure: Figure, renderer: RendererAgg) -> list[tuple[str, Bbox]]:
    found: list[Text] = list(figure.texts)
    for ax in figure.axes:
        if not ax.get_visible():
            continue
        found += ax.texts
        found += [ax.title, ax._left_title, ax._right_title]  # type: ignore[attr-defined]
        if not ax.axison:
            continue
        for axis in (ax.xaxis, ax.yaxis):
            found.append(axis.label)
            found += _tick_labels(axis)
    out = []
    for text in found:
        if text.get_visible() and text.get_text().strip():
            out.append((text.get_text(), text.get_window_extent(renderer)))
    return out


def _tick_labels(axis: Axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    labels = []
    for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
        inside = low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
        if inside and tick.label1.get_visible():
            labels.append(tick.label1)
    return labels


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other."""
    return [
        (a, b)
        for (a, one), (b, two) in combinations(boxes(figure), 2)
        if one.x0 + SLACK < two.x1
        and two.x0 + SLACK < one.x1
        and one.y0 + SLACK < two.y1
        and two.y0 + SLACK < one.y1
    ]


def outside(figure: Figure) -> list[str]:
    """Texts that are cut off at the edge."""
    width, height = figure.get_size_inches() * figure.dpi
    return [
        text
        for text, box in boxes(figure)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
