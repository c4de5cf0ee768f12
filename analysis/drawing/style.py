"""Style of every picture of the project: sizes, fonts, colours, markers, log axes, labels.

matplotlib and seaborn are imported here, so this module is imported only by what draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from ..vocabulary import FLOPS_RULES, LABELS
from ..vocabulary import arm_order as arm_order
from ..vocabulary import natural as natural

# Column widths of the usual two-column paper, inches.
SINGLE = 3.4
DOUBLE = 7.0

# Okabe and Ito's colour-blind-safe set without yellow (too light on white). The first two arms of a
# study get the two that differ most.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
INK = "#222222"  # text and axes
MUTED = "#777777"  # notes, references, published numbers
FAINT = "#DDDDDD"  # grid lines

_RC: Any = {
    "text.parse_math": False,  # a $ in a name of the table is a $
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same bytes everywhere
    "mathtext.fontset": "dejavusans",
    "font.size": 7.0,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.6,
    "ytick.minor.size": 1.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType: text stays text, as journals ask
    "ps.fonttype": 42,
    "svg.fonttype": "path",  # a web page shows the same letters on every machine
    "svg.hashsalt": "tokenlaw",
    "path.simplify": True,
    "agg.path.chunksize": 0,
}


@cache
def _settings() -> dict[str, Any]:
    """Return seaborn's settings for papers and, over them, those of this module."""
    # Not sns.set_theme: it gives the letters "r", "g", "b" ... other colours, for good.
    cycle = {"axes.prop_cycle": cycler(color=sns.color_palette("deep"))}
    return {**sns.plotting_context("paper"), **sns.axes_style("ticks"), **cycle, **_RC}


@contextmanager
def paper() -> Iterator[None]:
    """Apply the look of the project's pictures, and nothing of the user's, while the block runs.

    Nothing global stays changed. The backend is the user's: figures are drawn without pyplot.
    """
    with matplotlib.style.context(["default", _settings()]):
        yield


def figure(
    width: float = SINGLE,
    height: float | None = None,
    panels: int = 1,
    rows: int = 1,
    width_ratios: Sequence[float] | None = None,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `width` inches with `panels` axes in `rows` rows.

    Unused cells of the grid are removed. `height` is that of the panels; a legend and a note make
    the figure taller instead of the panels smaller.
    """
    columns = math.ceil(panels / rows)
    if height is None:
        height = rows * min(width / columns * 0.72, 4.0)
    fig = Figure(figsize=(width, height), layout="constrained")
    engine = fig.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.04, h_pad=0.04, wspace=0.04, hspace=0.06)
    grid = fig.subplots(rows, columns, squeeze=False, width_ratios=width_ratios, **options)
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.remove()
    for ax in axes[:panels]:
        sns.despine(ax=ax)
    return fig, axes[:panels]


# ----------------------------------------------------------------------------- colours and markers


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Colour and marker of one line of a figure."""

    color: str
    marker: str


def arm_looks(arms: Iterable[object]) -> dict[str, Look]:
    """Look of every arm: colour and marker both differ, so that a grey print can still be read."""
    looks = {}
    for index, arm in enumerate(arm_order(arms)):
        looks[arm] = Look(color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)])
    return looks


def ordered_looks(values: Iterable[Any]) -> dict[Any, Look]:
    """Return the looks of an ordered axis (codebook size, tokens per image), light to dark."""
    distinct = sorted(set(values))
    ramp = matplotlib.colormaps["viridis"]
    spots = np.linspace(0.12, 0.82, len(distinct)) if len(distinct) > 1 else [0.3]
    return {
        value: Look(
            color=matplotlib.colors.to_hex(ramp(spot)), marker=MARKERS[index % len(MARKERS)]
        )
        for index, (value, spot) in enumerate(zip(distinct, spots, strict=True))
    }


# ---------------------------------------------------------------------------------------- log axes


LEAST_DECADES = 0.12  # a log axis is no shorter: equal budgets should look equal
_MULTIPLES: tuple[tuple[tuple[float, ...], int], ...] = (
    ((1, 2, 3, 4, 5, 6, 7, 8, 9), 1),
    ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), 1),
    ((1, 1.5, 2, 3, 4, 5, 6, 8), 1),
    ((1, 1.5, 2, 3, 5, 7), 1),
    ((1, 2, 3, 5), 1),
    ((1, 2, 5), 1),
    ((1, 3), 1),
    ((1,), 1),
    ((1,), 2),
    ((1,), 3),
    ((1,), 5),
    ((1,), 10),
)  # multiples of powers of ten, and the step between the powers


def log_ticks(low: float, high: float, gap: float = 0.1) -> tuple[list[float], list[float]]:
    """Labelled and unlabelled ticks of a log axis from `low` to `high`.

    Of the customary sets (powers of ten, 1-2-5, evenly spaced numbers ...) the one that leaves the
    smallest hole without a label, among those whose labels stay `gap` of the axis apart. So a loss
    from 2.1 to 2.6 gets 2.1, 2.2, ..., and FLOPs over five decades get powers of ten.
    """
    if not (0 < low < high and math.isfinite(high)):
        raise ValueError(f"log axis: limits {low!r} to {high!r} must be positive and increasing")
    span = math.log(high / low)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def within(multiples: Sequence[float], step: int) -> list[float]:
        found = [
            m * 10.0**e for e in range(first - first % step, last + 1, step) for m in multiples
        ]
        return [x for x in found if low * (1 - 1e-9) <= x <= high * (1 + 1e-9)]

    candidates = [within(multiples, step) for multiples, step in _MULTIPLES]
    if span < math.log(10):
        for bins in (3, 4, 5, 6, 7):
            even = MaxNLocator(nbins=bins, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            candidates.append([float(x) for x in even if low <= x <= high])
    best: list[float] = []
    best_hole = math.inf
    for ticks in candidates:
        places = [math.log(x / low) / span for x in ticks]
        steps = [b - a for a, b in zip(places, places[1:], strict=False)]
        if not ticks or (steps and min(steps) < gap):
            continue
        hole = max([*steps, places[0], 1 - places[-1]])
        if hole < best_hole - 0.02:
            best, best_hole = ticks, hole
    minor = within(range(1, 10), 1) if span <= 6 * math.log(10) else within([1], 1)
    return best, [x for x in minor if not any(math.isclose(x, m) for m in best)]


def number(value: float) -> str:
    """Format a tick label: plain digits for everyday numbers, powers of ten beyond them."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -4 <= exponent <= 4:
        return f"{value:.6g}"
    mantissa = value / 10.0**exponent
    power = f"10{str(exponent).translate(_RAISED)}"
    if math.isclose(mantissa, 1.0, rel_tol=1e-6):
        return power
    return f"{mantissa:.3g}{TIMES}{power}"


TIMES = "\u00d7"
# Raised digits as letters: mathtext would cost a parser run for every label.
_RAISED = str.maketrans(
    "0123456789-", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b"
)


def numbers(values: Sequence[float]) -> list[str]:
    """Format labels of one axis; numbers of one size get equally many decimals (3.0, 3.5, 4.0)."""
    texts = [number(value) for value in values]
    everyday = all(1e-4 <= abs(value) < 1e5 for value in values)
    if len(values) > 1 and everyday and max(values) < 10 * min(values):
        decimals = max(len(text.partition(".")[2]) for text in texts)
        texts = [f"{value:.{decimals}f}" for value in values]
    return texts


def count(value: float) -> str:
    """Format a count in few letters, powers of two as in papers: 1024 is 1k, 131072 is 131k."""
    if value >= 1e9:
        return f"{value / 1e9:.3g}B"
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e3:
        if value % 1024 == 0:
            return f"{value / 1024:.3g}k" if value < 16384 else f"{value / 1e3:.0f}k"
        return f"{value / 1e3:.3g}k"
    return f"{value:.4g}"


def log_axis(ax: Axes, which: str, pad: float = 0.05) -> None:
    """Make the `which` ("x" or "y") axis logarithmic with readable ticks for the data so far.

    Call it last: limits are set here, `pad` of the log span beyond the data on each side.
    """
    low, high = _data_range(ax, which)
    span = math.log10(high / low)
    beyond = 10 ** max(pad * span, (LEAST_DECADES - span) / 2)
    low, high = low / beyond, high * beyond
    # Limits of matplotlib's own would warn where all runs have one budget.
    getattr(ax, f"set_autoscale{which}_on")(False)
    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}lim")(low, high)
    fix_log_ticks(ax, which)


def fix_log_ticks(ax: Axes, which: str) -> None:
    """Set the ticks of a log axis whose limits are final."""
    low, high = getattr(ax, f"get_{which}lim")()
    axis = ax.xaxis if which == "x" else ax.yaxis
    fig = ax.get_figure()
    assert isinstance(fig, Figure)
    inches = fig.get_size_inches()[0 if which == "x" else 1]
    grid = ax.get_gridspec()
    assert grid is not None
    cells = grid.ncols if which == "x" else grid.nrows
    room = max(0.75 * inches / cells, 0.5)
    wide = max(low, high) >= 1e5 or min(low, high) < 1e-4
    letters = 0.16 if which == "y" else 0.33 if wide else 0.24  # inches one label takes, with air
    major, minor = log_ticks(min(low, high), max(low, high), min(letters / room, 0.45))
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(FixedFormatter(numbers(major)))
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(FixedFormatter([]))


def value_axis(ax: Axes, which: str, values: Sequence[float], log: bool = True) -> None:
    """Set a labelled tick for each of the few `values` of a swept axis, such as codebook sizes."""
    values = sorted(set(values))
    if log and all(v > 0 for v in values):
        getattr(ax, f"set_{which}scale")("log")
        span = max(math.log10(values[-1] / values[0]), 0.3)
        limits = (values[0] / 10 ** (0.1 * span), values[-1] * 10 ** (0.1 * span))
    else:
        span = max(values[-1] - values[0], 1e-9)
        limits = (values[0] - 0.1 * span, values[-1] + 0.1 * span)
    getattr(ax, f"set_{which}lim")(*limits)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FixedFormatter([count(v) for v in values]))
    axis.set_minor_locator(FixedLocator([]))


def name_axis(ax: Axes, names: Sequence[str]) -> None:
    """Make an x axis of names, at 0, 1, 2 ..."""
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.xaxis.set_major_locator(FixedLocator([float(i) for i in range(len(names))]))
    ax.xaxis.set_major_formatter(FixedFormatter(list(names)))
    ax.xaxis.set_minor_locator(FixedLocator([]))


def position_axis(ax: Axes, last: int, first: int = 1) -> None:
    """Make a linear x axis over whole positions, `first` to `last`."""
    pad = 0.03 * max(last - first, 1)
    ax.set_xlim(first - pad, last + pad)
    if last - first <= 10:
        ticks = list(range(first, last + 1))
    else:
        step = next(
            s for s in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if (last - first) / s <= 8
        )
        ticks = [t for t in range(0, last + 1, step) if t >= first]
    ax.xaxis.set_major_locator(FixedLocator([float(t) for t in ticks]))
    ax.xaxis.set_major_formatter(FixedFormatter([str(t) for t in ticks]))


def _data_range(ax: Axes, which: str) -> tuple[float, float]:
    """Return the smallest and largest positive finite number of the points and curves of an axis.

    Reference lines and bands do not count: an open interval would leave no room for the data. A
    curve beyond the runs counts up to as many decades as the rest spans, on each side.
    """
    index = 0 if which == "x" else 1
    found: list[np.ndarray] = []
    beyond: list[np.ndarray] = []
    for line in ax.lines:
        if line.get_transform().contains_branch(ax.transData) and line.get_gid() != "reference":
            part = beyond if line.get_gid() == "curve" else found
            part.append(np.asarray(line.get_data()[index], dtype=float))
    for collection in ax.collections:
        if collection.get_gid() in ("reference", "band"):
            continue
        offsets = np.ma.getdata(collection.get_offsets())
        paths = collection.get_paths()
        if len(offsets) and collection.get_offset_transform().contains_branch(ax.transData):
            found.append(np.asarray(offsets, dtype=float)[:, index])
        else:
            found.extend(np.asarray(path.vertices)[:, index] for path in paths)
    values = np.concatenate([np.ravel(v) for v in found]) if found else np.array([])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise ValueError(f"{which} axis: nothing positive to draw on a log scale")
    low, high = float(values.min()), float(values.max())
    if beyond:
        curves = np.concatenate([np.ravel(v) for v in beyond])
        curves = curves[np.isfinite(curves) & (curves > 0)]
        reach = max(high / low, 1.25)
        if len(curves):
            low = min(low, max(float(curves.min()), low / reach))
            high = max(high, min(float(curves.max()), high * reach))
    return (low, high) if high > low else (low / 1.1, high * 1.1)


# ------------------------------------------------------------------------------ labels and legends


def name_of(column: str) -> str:
    """Return a column's name for readers: known names in full, others as written."""
    flops = FLOPS_RULES.get(column)
    return flops.label if flops else LABELS.get(column, column.replace("_", " "))


def short(label: str) -> str:
    """Cut the brackets off a label, for narrow panels whose note has it in full."""
    return label.split(" (")[0]


def word_of(column: str) -> str:
    """Return one or two words for a metric."""
    return {"val_loss": "loss", "val_bits_per_image": "loss"}.get(column) or short(name_of(column))


def legend(
    fig: Figure,
    looks: dict[Any, Look],
    *,
    title: str = "",
    names: dict[Any, str] | None = None,
    extra: Sequence[tuple[Any, str]] = (),
    line: bool = True,
) -> None:
    """Draw the key above all panels, where it cannot cover data.

    Lines come first, then `extra` (handle, text) on a new row. Entries flow into as many rows as
    the width asks for, and the figure grows by their height.
    """
    lines = [
        (_line_key(look.color, look.marker, line), (names or {}).get(key, str(key)))
        for key, look in looks.items()
    ]
    room = fig.get_size_inches()[0] * 72 - 6.0
    rows: list[list[tuple[float, Any, str]]] = []
    for part in (lines, list(extra)):
        at = 0.0
        for index, (handle, text) in enumerate(part):
            lead = (
                text_width(title, _KEY_SIZE) + 8.0
                if index == 0 and title and part is lines
                else 0.0
            )
            wide = lead + _HANDLE + 3.5 + text_width(text, _KEY_SIZE)
            if index == 0 or at + wide > room:
                rows.append([])
                at = 0.0
            rows[-1].append((at + lead, handle, text))
            at += wide + 10.0
    grow(fig, top=(_KEY_ROW * len(rows) + 4.0) / 72)
    figure_box: Any = fig.transFigure
    from_top = fig.dpi_scale_trans + ScaledTranslation(0, 1, figure_box)
    if title:
        fig.text(
            4.0 / 72,
            -(2.0 + _KEY_ROW / 2) / 72,
            title,
            transform=from_top,
            fontsize=_KEY_SIZE,
            va="center_baseline",
            color=MUTED,
            in_layout=False,
        )
    for index, row in enumerate(rows):
        y = -(2.0 + _KEY_ROW * (index + 0.5)) / 72
        for left, handle, text in row:
            x = (4.0 + left) / 72
            _place_key(fig, handle, x, y, from_top)
            fig.text(
                x + (_HANDLE + 3.5) / 72,
                y,
                text,
                transform=from_top,
                fontsize=_KEY_SIZE,
                va="center_baseline",
                in_layout=False,
            )


_KEY_SIZE = 6.5  # points: letters of the key
_KEY_ROW = 10.0  # points from row to row
_HANDLE = 15.0  # points: length of a line in the key


def _line_key(color: str, marker: str, line: bool) -> Line2D:
    return Line2D([], [], color=color, marker=marker, lw=1.1 if line else 0, ms=3.6, mew=0)


def _place_key(fig: Figure, handle: Any, x: float, y: float, transform: Any) -> None:
    """Draw the sample of one entry.

    A patch becomes a small box; a line gets the handle's length; a marker sits in its middle.
    """
    wide = _HANDLE / 72
    if isinstance(handle, Patch):
        box = Rectangle((x, y - 2.5 / 72), wide, 5.0 / 72, transform=transform, lw=0)
        box.set_facecolor(handle.get_facecolor())
        box.set_in_layout(False)
        fig.add_artist(box)
        return
    for part in ("line", "marker"):
        copy = Line2D(
            [x, x + wide] if part == "line" else [x + wide / 2], [y, y] if part == "line" else [y]
        )
        copy.update_from(handle)
        copy.set_transform(transform)
        copy.set_in_layout(False)
        if part == "line":
            copy.set_marker("")
        else:
            copy.set_linestyle("")
        if part == "marker" or handle.get_linewidth() > 0:
            fig.add_artist(copy)


@cache
def text_width(text: str, size: float) -> float:
    """Width of `text` in points at font size `size`, without a renderer."""
    font = get_font(findfont("DejaVu Sans"))
    font.set_size(size, 72)
    font.set_text(text, 0.0, flags=LoadFlags.NO_HINTING)
    return float(font.get_width_height()[0]) / 64


def settle(fig: Figure) -> None:
    """Lay the figure out once and for all: saved twice, at any resolution, it is the same."""
    engine = fig.get_layout_engine()
    if engine is not None:
        for _ in range(2):  # one pass leaves labels a little outside
            engine.execute(fig)
        fig.set_layout_engine("none")


def grow(fig: Figure, *, top: float = 0.0, bottom: float = 0.0) -> None:
    """Make the figure taller by margins (inches) that its panels do not enter."""
    engine = fig.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    width, height = fig.get_size_inches()
    _, low, _, tall = engine.get()["rect"]
    low_inches, top_inches = low * height + bottom, (1 - low - tall) * height + top
    height += top + bottom
    fig.set_size_inches(width, height)
    engine.set(rect=(0, low_inches / height, 1, 1 - (low_inches + top_inches) / height))


def line_key(dash: Any = "-", width: float = 1.1, color: str = MUTED, alpha: float = 1.0) -> Line2D:
    """Make a legend key for a kind of line, whatever the arm."""
    return Line2D([], [], color=color, linestyle=dash, lw=width, alpha=alpha)


def point_key(
    marker: str = "o", hollow: bool = False, faint: bool = False, color: str = MUTED
) -> Line2D:
    """Make a legend key for a kind of point."""
    return Line2D(
        [],
        [],
        color=color,
        marker=marker,
        lw=0,
        ms=2.6 if faint else 3.6,
        mfc="none" if hollow else color,
        mew=0.7 if hollow else 0,
        alpha=0.45 if faint else 1.0,
    )


def band_key(color: str = MUTED) -> Patch:
    """Make a legend key for an interval."""
    return Patch(facecolor=color, alpha=0.2, linewidth=0)


def panel_letter(ax: Axes, index: int, title: str = "") -> None:
    """Write `a  title` above a panel, the way journals letter them."""
    letter = "abcdefghijklmnopqrstuvwxyz"[index]
    ax.set_title(f"{letter}  {title}" if title else letter, fontsize=7.5, pad=4)


def label_points(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    colors: Sequence[str],
    size: float = 4.6,
) -> None:
    """Write a text beside every point, where it covers no point and no text.

    The place is the nearest of a fixed set.

    Call it after the legend and the note, when the layout is final. A text far from its point is
    joined to it.
    """
    fig = ax.get_figure()
    assert isinstance(fig, Figure)
    settle(fig)
    points = ax.transData.transform(np.column_stack([x, y]))
    scale = fig.dpi / 72.0
    box = ax.get_window_extent()
    taken: list[tuple[float, ...]] = [
        (px - 2.4 * scale, py - 2.4 * scale, px + 2.4 * scale, py + 2.4 * scale)
        for px, py in points
    ]
    for index in np.lexsort((points[:, 1], points[:, 0])):
        px, py = points[index]
        w, h = (text_width(texts[index], size) + 2) * scale, 1.25 * size * scale
        spot = (px + 3 * scale, py + 3 * scale)
        far = False
        for reach in (3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0, 48.0):
            free = _free_spot(px, py, w, h, reach * scale, taken, box)
            if free is not None:
                spot, far = free, reach > 6
                break
        taken.append((spot[0], spot[1], spot[0] + w, spot[1] + h))
        label = ax.annotate(
            texts[index],
            xy=(x[index], y[index]),
            xytext=((spot[0] - px) / scale, (spot[1] - py) / scale),
            textcoords="offset points",
            fontsize=size,
            color=colors[index],
            ha="left",
            va="bottom",
            arrowprops={
                "arrowstyle": "-",
                "lw": 0.3,
                "color": colors[index],
                "shrinkA": 0,
                "shrinkB": 1,
            }
            if far
            else None,
            path_effects=[withStroke(linewidth=1.3, foreground="white")],
            zorder=6,
        )
        label.set_in_layout(False)


def _free_spot(
    px: float, py: float, w: float, h: float, reach: float, taken: list[tuple[float, ...]], box: Any
) -> tuple[float, float] | None:
    for angle in (45, 315, 135, 225, 0, 180, 90, 270, 22, 338, 158, 202, 68, 292, 112, 248):
        ux, uy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        left = px + ux * reach - (w if ux < -0.3 else w / 2 if abs(ux) <= 0.3 else 0)
        low = py + uy * reach - (h if uy < -0.3 else h / 2 if abs(uy) <= 0.3 else 0)
        if left < box.x0 or low < box.y0 or left + w > box.x1 or low + h > box.y1:
            continue
        if all(left >= b[2] or left + w <= b[0] or low >= b[3] or low + h <= b[1] for b in taken):
            return left, low
    return None


def text_table(
    ax: Axes,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    bold: Sequence[int] = (),
    left: int = 1,
    same_rows: bool = False,
    size: float = 6.2,
) -> None:
    """Draw a table of text in an axis: rules above and below, the first `left` columns flush left.

    Columns are as wide as their text. With `same_rows` row i lies at y = i + 1 of the axis, so that
    a panel beside it can share the rows; else rows are as close as lines of text.
    """
    widths = [
        max(text_width(text, size) for text in [head, *[row[i] for row in rows]])
        for i, head in enumerate(heads)
    ]
    gap = 9.0
    total = sum(widths) + gap * (len(widths) - 1)
    ax.set_axis_off()
    ax.grid(False)
    if same_rows:
        ax.set_ylim(len(rows) + 0.6, -0.8)
        transform = ax.get_yaxis_transform()
        places = [float(i + 1) for i in range(len(rows))]
        head_at, rules = 0.0, (-0.62, 0.5, len(rows) + 0.5)
    else:
        fig = ax.get_figure()
        assert isinstance(fig, Figure)
        pitch = min(size * 1.75 / 72 / (0.8 * fig.get_size_inches()[1]), 1 / (len(rows) + 2))
        transform = ax.transAxes
        top = 0.96
        places = [top - pitch * (i + 1.65) for i in range(len(rows))]
        head_at = top - pitch * 0.5
        rules = (top, top - pitch * 1.05, places[-1] - pitch * 0.6 if places else 0.0)
    at = 0.0
    for i, head in enumerate(heads):
        flush = "left" if i < left else "right"
        x = (at if i < left else at + widths[i]) / total
        common: dict[str, Any] = {
            "transform": transform,
            "ha": flush,
            "va": "center",
            "fontsize": size,
        }
        ax.text(x, head_at, head, color=MUTED, **common)
        for index, (row, y) in enumerate(zip(rows, places, strict=True)):
            weight = "bold" if index in bold else "normal"
            ax.text(x, y, row[i], weight=weight, **common)
        at += widths[i] + gap
    for y in rules:
        ax.plot([0, 1], [y, y], transform=transform, color=INK, lw=0.6, clip_on=False)


def note(fig: Figure, text: str) -> None:
    """Small grey lines under the panels: counting rules, what was left out, sources. The figure
    grows by them.
    """
    size, pitch = 5.2, 6.4
    lines = wrap(text, 0.97 * fig.get_size_inches()[0] * 72 - 8.0, size)
    grow(fig, bottom=(pitch * len(lines) + 3.0) / 72)
    for index, line in enumerate(lines):
        y = 3.0 + pitch * (len(lines) - 1 - index)
        fig.text(
            4.0 / 72,
            y / 72,
            line,
            transform=fig.dpi_scale_trans,
            fontsize=size,
            color=MUTED,
            in_layout=False,
        )


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break `text` at spaces into lines of at most `width` points."""
    space = text_width("n n", size) - text_width("nn", size)
    lines: list[list[str]] = [[]]
    used = 0.0
    for word in text.split():
        more = text_width(word, size)
        if lines[-1] and used + space + more > width:
            lines.append([])
        used = more if not lines[-1] else used + space + more
        lines[-1].append(word)
    return [" ".join(line) for line in lines]
