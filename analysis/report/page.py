"""The HTML of the report: one page, no network, dark on white, on a wide screen, a phone and A4.

Functions here turn plain values into escaped HTML; what the report says is decided in sections.py.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

CSS = """
:root { --ink: #1b1b1b; --muted: #666; --line: #d9d9d9; --soft: #f6f6f4; --accent: #0072b2; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; color: var(--ink); background: #fff; font-size: 16px; line-height: 1.55;
  font-family: "Source Sans 3", Inter, "Segoe UI", Roboto, Arial, "Liberation Sans", Helvetica,
    sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2.2rem 1.4rem 5rem; }
h1, h2, h3 { line-height: 1.2; font-weight: 650; text-wrap: balance; }
h1 { font-size: 2rem; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.3rem; margin: 3rem 0 .9rem; padding-top: .7rem; border-top: 2px solid var(--ink);
}
h3 { font-size: 1.02rem; margin: 1.8rem 0 .4rem; }
p, li { max-width: 46rem; }
a { color: var(--accent); text-underline-offset: .15em; }
sup { line-height: 0; font-size: .75em; }
.lead { font-size: 1.08rem; color: #333; }
.quiet, .quiet a { color: var(--muted); font-size: .86rem; }
nav {
  margin: 1.3rem 0 0; padding: .55rem 0; border-top: 1px solid var(--line);
  border-bottom: 1px solid var(--line); font-size: .92rem;
  display: flex; flex-wrap: wrap; gap: .2rem 1.1rem;
}
nav a { text-decoration: none; }
.wide { overflow-x: auto; margin: .5rem 0 1.2rem; }
.cap { color: var(--muted); font-size: .86rem; margin: .7rem 0 0; max-width: 54rem; }
table {
  border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 40%;
}
th, td {
  padding: .32rem .7rem .32rem 0; text-align: left; vertical-align: baseline; white-space: nowrap;
}
td.text { white-space: normal; min-width: 12rem; }
th { font-weight: 600; border-bottom: 1px solid var(--ink); vertical-align: bottom; }
td { border-bottom: 1px solid #ececec; }
th.n, td.n { text-align: right; padding-left: .5rem; }
tr:last-child td { border-bottom: 1px solid var(--ink); }
tr.ref td { background: var(--soft); }
table.sortable th { cursor: pointer; user-select: none; }
table.sortable th:hover .h { text-decoration: underline dotted; text-underline-offset: .2em; }
table.sortable th[aria-sort=ascending] .h::after { content: " \\2191"; }
table.sortable th[aria-sort=descending] .h::after { content: " \\2193"; }
.unit { color: var(--muted); font-weight: 400; display: block; font-size: .92em; }
.figures {
  display: grid; grid-template-columns: 1fr 1fr; grid-auto-flow: dense; gap: 0 2.4rem;
  align-items: start;
}
.figures > figure, .figures > details { grid-column: 1 / -1; min-width: 0; }
.figures > figure.narrow { grid-column: auto; }
.figures > figure.narrow.open { grid-column: 1 / -1; }
figure { margin: 1.2rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { max-width: 46rem; margin-top: .5rem; font-size: .92rem; }
figcaption b { font-weight: 650; }
.plot { width: 100%; height: 30rem; }
button {
  font: inherit; font-size: .84rem; color: var(--accent); background: #fff; cursor: pointer;
  border: 1px solid #bcd; border-radius: 4px; padding: .14rem .6rem; margin-top: .5rem;
}
button:hover, button:focus-visible { border-color: var(--accent); }
code, pre {
  font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace;
  font-size: .86em;
}
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; }
td code { font-size: .94em; }
details { margin: .7rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl {
  display: grid; grid-template-columns: minmax(9rem, 13rem) 1fr; gap: .35rem 1.4rem;
  font-size: .92rem;
}
dt { color: var(--muted); }
dd { margin: 0; max-width: 46rem; overflow-wrap: anywhere; }
.warn { border-left: 3px solid #d55e00; padding: .1rem 0 .1rem .9rem; margin: .7rem 0; }
.warn b { font-weight: 650; }
.ids { font-size: .8rem; line-height: 1.7; overflow-wrap: anywhere; color: #444; }
@media (max-width: 46rem) {
  body { font-size: 15px; }
  main { padding: 1.2rem .9rem 3rem; }
  h1 { font-size: 1.55rem; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .6rem; }
  .figures { grid-template-columns: minmax(0, 1fr); }
  .figures > figure.narrow img { width: 100% !important; }
  .scroll { overflow-x: auto; }
  .scroll img { max-width: none; width: 44rem !important; }
}
@page { size: A4; margin: 16mm 15mm 18mm; }
@media print {
  body { font-size: 9.5pt; line-height: 1.4; }
  main { max-width: none; padding: 0; }
  nav, button, .plot { display: none !important; }
  .still { display: block !important; }
  h1 { font-size: 19pt; }
  h2 { font-size: 13pt; margin-top: 1.6rem; }
  h2, h3, .cap, summary { break-after: avoid; }
  p, li, figcaption, dd, .cap { max-width: none; }
  figure, tr, .warn { break-inside: avoid; }
  figure { margin: .9rem 0 1.3rem; }
  .figures { gap: 0 1.2rem; }
  .wide { overflow: visible; }
  table { font-size: 7.4pt; }
  th, td { padding: .16rem .5rem .16rem 0; }
  th { white-space: normal; }
  td.n, th.n { padding-left: 0; }
  .dense table { font-size: 5.8pt; }
  .screen { display: none; }
  thead { display: table-header-group; }
  table.sortable th .h::after { content: none !important; }
  a { color: inherit; text-decoration: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""

JS = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = table.querySelectorAll("thead th");
  heads.forEach(function (head, column) {
    head.tabIndex = 0;
    function sort() {
      var up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(function (h) { h.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var body = table.tBodies[0];
      var rows = Array.prototype.slice.call(body.rows);
      function key(row) { return row.cells[column].getAttribute("data-v"); }
      rows.sort(function (a, b) {
        var x = key(a), y = key(b), nx = parseFloat(x), ny = parseFloat(y);
        if (x === "" || y === "") { return x === y ? 0 : x === "" ? 1 : -1; }
        var order = isNaN(nx) || isNaN(ny) ? (x < y ? -1 : x > y ? 1 : 0) : nx - ny;
        return up ? order : -order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    }
    head.addEventListener("click", sort);
    head.addEventListener("keydown", function (e) { if (e.key === "Enter") { sort(); } });
  });
});
function explore(name) {
  var figure = document.getElementById("figure-" + name);
  var still = figure.querySelector(".still"), plot = figure.querySelector(".plot");
  var button = figure.querySelector("button");
  var open = plot.hidden;
  plot.hidden = !open;
  figure.classList.toggle("open", open);
  still.style.display = open ? "none" : "";
  button.textContent = open ? "Show the printed figure" : "Zoom and hover";
  if (open && !plot.dataset.drawn) {
    var spec = JSON.parse(document.getElementById("data-" + name).textContent);
    Plotly.newPlot(plot, spec.data, spec.layout, {
      responsive: true, displaylogo: false, modeBarButtons: [
        ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d", "toImage"]
      ]
    });
    plot.dataset.drawn = "yes";
  }
}
document.querySelectorAll("button[data-explore]").forEach(function (button) {
  button.hidden = false;
  button.addEventListener("click", function () { explore(button.dataset.explore); });
});
if (location.hash.indexOf("#explore=") === 0) { explore(location.hash.slice(9)); }
window.addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (d) { d.open = true; });
});
"""


class Html(str):
    """Text that is HTML already; every other string is escaped where it enters the page."""

    __slots__ = ()


def html(value: Any) -> str:
    """`value` as HTML: numbers in readable form, None and NaN as a dash, text escaped."""
    if isinstance(value, Html):
        return str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "&ndash;"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "&#8239;") if value < 1e7 else number(float(value))
    if isinstance(value, float):
        return number(value)
    return escape(str(value))


def number(value: float, digits: int = 4) -> Html:
    """Four significant digits; large and small numbers with a power of ten."""
    if not math.isfinite(value):
        return Html("&ndash;")
    if value == 0:
        return Html("0")
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 5:
        places = max(digits - 1 - exponent, 0)
        return Html(f"{value:.{places}f}".replace("-", "&minus;"))
    mantissa = f"{value / 10.0**exponent:.{digits - 2}f}"
    power = str(exponent).replace("-", "&minus;")
    return Html(f"{mantissa}&times;10<sup>{power}</sup>")


def interval(low: float | None, high: float | None) -> Html:
    """A 95% interval; an end that does not exist is said to be unbounded."""
    if low is None and high is None:
        return Html("&ndash;")
    ends = ["unbounded" if end is None else number(end, 3) for end in (low, high)]
    return Html(f"[{ends[0]}, {ends[1]}]")


def table(
    heads: Sequence[str | Html],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str = "",
    sortable: bool = False,
    text_columns: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> Html:
    """A table; columns of numbers are set flush right, `marked` rows are shaded."""
    numeric = [
        bool(rows)
        and all(isinstance(row[i], int | float | None) or _numeric_html(row[i]) for row in rows)
        for i in range(len(heads))
    ]
    parts = [f'<p class="cap">{html(caption)}</p>' if caption else ""]
    parts.append(f'<div class="wide"><table{" class=sortable" if sortable else ""}>')
    parts.append("<thead><tr>")
    for index, head in enumerate(heads):
        kind = " class=n" if numeric[index] else ""
        text = head if isinstance(head, Html) else f'<span class="h">{html(head)}</span>'
        parts.append(f"<th{kind}>{text}</th>")
    parts.append("</tr></thead><tbody>")
    for line, row in enumerate(rows):
        parts.append('<tr class="ref">' if line in marked else "<tr>")
        for index, value in enumerate(row):
            kind = "n" if numeric[index] else "text" if index in text_columns else ""
            key = f' data-v="{escape(_sort_key(value), quote=True)}"' if sortable else ""
            parts.append(f"<td{f' class={kind}' if kind else ''}{key}>{html(value)}</td>")
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return Html("".join(parts))


def _numeric_html(value: Any) -> bool:
    plain = re.sub(r"<[^>]*>|&[#a-z0-9]+;", "", str(value))
    return (
        isinstance(value, Html)
        and re.fullmatch(r"(not reachable|unbounded|[\d.,*\[\] ])*", plain) is not None
    )


def _sort_key(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Html):
        return re.sub(r"<[^>]*>|&[#a-z0-9]+;", "", value)
    return repr(float(value)) if isinstance(value, int | float) else str(value)


def definitions(pairs: Sequence[tuple[str, Any]]) -> Html:
    """A list of names and texts."""
    rows = "".join(f"<dt>{html(name)}</dt><dd>{html(text)}</dd>" for name, text in pairs)
    return Html(f"<dl>{rows}</dl>")


def figure(
    name: str,
    title: str,
    image: bytes,
    kind: str,
    *,
    caption: str | Html = "",
    share: float = 1.0,
    plot: str | None = None,
) -> Html:
    """A figure with its caption; `plot` is the JSON of its interactive form.

    `share`: its width as a share of a two-column picture's; one-column pictures stand in pairs, so
    that letters have one size in all of them.
    """
    narrow = share < 0.55
    width = round(100 * min(1.0, 2 * share if narrow else share))
    data = base64.b64encode(image).decode()
    parts = [
        f'<figure id="figure-{name}"{" class=narrow" if narrow else ""}>'
        f'<div class="still{"" if narrow else " scroll"}">'
        f'<img style="width:{width}%" alt="{escape(title, quote=True)}" '
        f'src="data:image/{kind};base64,{data}"></div>'
    ]
    if plot is not None:
        parts.append('<div class="plot" hidden></div>')
    parts.append(f"<figcaption><b>{html(title)}.</b> {html(caption)}</figcaption>")
    if plot is not None:
        safe = plot.replace("<", "\\u003c")  # JSON may say < so; no text can end the script
        parts.append(f'<button type="button" data-explore="{name}" hidden>Zoom and hover</button>')
        parts.append(f'<script type="application/json" id="data-{name}">{safe}</script>')
    parts.append("</figure>")
    return Html("".join(parts))


def details(summary: str, body: Html, *, dense: bool = False, paper: bool = True) -> Html:
    """A part that is closed on the screen and, if `paper`, open there; `dense`: in small print."""
    kind = " ".join(["dense"] * dense + ["screen"] * (not paper))
    mark = f' class="{kind}"' if kind else ""
    return Html(f"<details{mark}><summary>{html(summary)}</summary>{body}</details>")


def page(
    title: str, sections: Sequence[tuple[str, str, Html]], head: Html, library: str = ""
) -> str:
    """The whole document. `sections`: (id, heading, body); `library`: a script to embed."""
    links = "".join(f'<a href="#{key}">{html(heading)}</a>' for key, heading, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{html(heading)}</h2>{part}</section>'
        for key, heading, part in sections
    )
    script = f"<script>{library}</script>" if library else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main><header>{head}<nav>{links}</nav></header>\n{body}</main>\n"
        f"{script}<script>{JS}</script></body></html>\n"
    )


def head_cell(name: str, unit: str = "") -> Html:
    tail = f'<span class="unit">{html(unit)}</span>' if unit else ""
    return Html(f'<span class="h">{html(name)}</span>{tail}')
