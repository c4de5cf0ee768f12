"""Write the section of frontiers and laws: parameters, crossovers, gains, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import terminal_text
from ..as_json import encode
from ..drawing import style
from ..notices import CODES
from ..result import Comparison
from ..vocabulary import heading
from .page import Html, head_cell, html, interval, number, table

GAIN_POINTS = 3  # compute budgets at which the table of gains is given


def fits_section(
    comparisons: dict[str, Comparison], refused: dict[str, str], x_name: str = "train FLOPs"
) -> Html:
    parts: list[str] = []
    for metric, comparison in comparisons.items():
        parts.append(
            f"<h3>{html(heading(style.name_of(metric)))} against {html(style.short(x_name))}</h3>"
        )
        parts += [_laws(comparison), _crossovers(comparison)]
        parts.append(_gains(comparison))
        parts.append(_warnings(comparison))
    for metric, reason in refused.items():
        parts.append(
            f"<h3>{html(heading(style.name_of(metric)))}</h3><p>No frontier: {html(reason)}</p>"
        )
    return Html("".join(parts))


def _laws(comparison: Comparison) -> Html:
    rows = []
    for arm in style.arm_order(comparison.frontiers):
        front = comparison.frontiers[arm]
        for form, fit in front.fits.items():
            name = "power law" if form == "straight" else "power law with floor"
            if fit.status != "ok":
                rows.append([arm, name, None, None, None, len(front.points.x), fit.reason])
                continue
            row: list[Any] = [arm, name]
            for parameter in ("a", "b", "E"):
                value = fit.params.get(parameter)
                ends = fit.ci95.get(parameter)
                text = "&ndash;" if value is None else str(number(value))
                row.append(
                    Html(f"{text} {interval(*ends)}" if ends and value is not None else text)
                )
            codes = ", ".join(sorted({one.code for one in fit.warnings}))
            rows.append([*row, fit.n, codes or "none"])
    caption = f"Laws of the frontier ({comparison.direction} is better) with 95% intervals: "
    caption += "y = a C^-b; with a floor, y = E + a C^-b"
    made = comparison.bootstrap
    if made is not None:
        how = "over residuals" if made.by == "residual" else f"by {made.by}"
        caption += f" ({made.draws} bootstrap draws {how}, {made.clusters} units)"
    heads = ["arm", "law", "a", "b", "E", "points", "warnings"]
    made_of = table(heads, rows, caption=f"{caption}.", text_columns=(6,))
    return Html(f"{made_of}{_replication(comparison)}")


def _replication(comparison: Comparison) -> Html:
    """Say what was averaged, and how log y spreads by level of replication."""
    lines = [comparison.replicates] if comparison.replicates else []
    for arm, front in comparison.frontiers.items():
        text = terminal_text.components(encode(front.components))
        lines += [f"{arm}: {text}"] if text else []
    return Html("".join(f"<p class=quiet>{html(line)}.</p>" for line in lines))


def _crossovers(comparison: Comparison) -> Html:
    if not comparison.crossovers:
        return Html("")
    rows = []
    for one in comparison.crossovers:
        better = "" if one.better_below is None else f"{one.better_below} below"
        if one.better_above is not None and one.better_above != one.better_below:
            better += f", {one.better_above} above"
        elif one.better_below is not None:
            better = f"{one.better_below} everywhere"
        rows.append(
            [
                " and ".join(one.arms),
                "with floor" if one.form == "floor" else "straight",
                one.x if one.x is not None else one.status,
                interval(*one.ci95) if one.x is not None else None,
                None if one.p_no_crossing is None else Html(f"{one.p_no_crossing:.2f}"),
                _outside(one.outside_data, one.decades_outside),
                better,
            ]
        )
    heads = ["arms", "law", "cross at", "95%", "P(no crossing)", "outside the data", "better"]
    return table(heads, rows, caption="Where two frontiers cross.", text_columns=(6,))


def _outside(outside: bool | None, decades: float | None) -> str | None:
    if outside is None:
        return None
    return f"by {decades:.2g} decades" if outside and decades is not None else "no"


def _gains(comparison: Comparison) -> Html:
    usable = [gain for gain in comparison.gains if gain.status == "ok" and gain.x]
    if not comparison.gains:
        return Html("")
    rows: list[list[Any]] = []
    budgets = _budgets(usable)
    for gain in comparison.gains:
        law = "with floor" if gain.form == "floor" else "straight"
        if gain not in usable:
            rows.append([gain.arm, law, *[None] * len(budgets), gain.status])
            continue
        cells: list[Any] = []
        why = gain.verdict
        for budget in budgets:
            i = min(range(len(gain.x)), key=lambda k: abs(gain.x[k] - budget))
            value = gain.gain[i]
            text = "not reachable" if value is None else f"{number(value, 3)}&times;"
            mark = "*" if gain.outside_data[i] else ""
            ends = interval(gain.low[i], gain.high[i]) if gain.low else ""
            cells.append(Html(f'{text}{mark}<span class="unit">{ends}</span>'))
        rows.append([gain.arm, law, *cells, why])
    heads: list[Any] = ["arm", "law"]
    heads += [head_cell("gain", Html(f"at {number(budget, 3)}")) for budget in budgets]
    if all(row[-1] == "" for row in rows):
        rows = [row[:-1] for row in rows]
    else:
        heads.append("in the middle")
    caption = (
        f"Compute gain over {comparison.reference}: how many times the compute "
        f"{comparison.reference} needs for what the arm reaches with this many train FLOPs, with "
        "95% intervals. * The runs of one of the two arms do not reach so far."
    )
    return table(heads, rows, caption=caption)


def _budgets(gains: Sequence[Any]) -> list[float]:
    """A few budgets, from lowest to highest, among those inside the data where there are any."""
    if not gains:
        return []
    inside = sorted(
        {x for gain in gains for x, out in zip(gain.x, gain.outside_data, strict=True) if not out}
    )
    known = inside or sorted({x for gain in gains for x in gain.x})
    last = len(known) - 1
    return (
        [known[round(k * last / (GAIN_POINTS - 1))] for k in range(GAIN_POINTS)] if last else known
    )


def _warnings(comparison: Comparison) -> Html:
    found: dict[tuple[str, str], list[str]] = {}
    repeated = set()  # the comparison says again what its fits say, with their names in front
    for arm in style.arm_order(comparison.frontiers):
        for form, fit in comparison.frontiers[arm].fits.items():
            for one in fit.warnings:
                repeated.add(f"{arm}, {form}: {one.message}")
                arms = found.setdefault((one.code, one.message), [])
                if arm not in arms:
                    arms.append(arm)
    for one in comparison.warnings:
        if one.message not in repeated:
            found.setdefault((one.code, one.message), [])
    parts = []
    for (code, message), arms in sorted(found.items()):
        whose = f" ({', '.join(arms)})" if arms else ""
        parts.append(
            f'<div class="warn"><b>{html(code)}</b>{html(whose)}: {html(message)}. '
            f"<span class=quiet>{html(_sentence(CODES.get(code, '')))}</span></div>"
        )
    return Html("".join(parts))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""
