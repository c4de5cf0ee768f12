"""The answers of `tokenlaw fit` and `tokenlaw frontier` as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

WIDTH = 100


def render(answer: Mapping[str, Any]) -> str:
    """Render the lines of an answer of `command.fit` or `command.frontier`."""
    if "frontiers" in answer:
        lines = _frontiers(answer)
    elif "groups" in answer:
        lines = [_grouping(answer)]
        for name, one in answer["groups"].items():
            lines += [f"{answer['group']} = {name}", *_indented(_fit(one)), ""]
    else:
        lines = _fit(answer)
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _grouping(answer: Mapping[str, Any]) -> str:
    """Return the line that says how the rows were grouped, and what is not in a fit."""
    groups = answer["groups"]
    text = f"by {answer['group']} ({len(groups)} group{'s' if len(groups) != 1 else ''})"
    failed = [name for name, one in groups.items() if one["status"] != "ok"]
    if failed:
        text += f", not fitted: {', '.join(failed)}"
    without = answer["n_left_out"] - sum(one["n_left_out"] for one in groups.values())
    if without:
        text += f", {without} rows without {answer['group']} left out"
    return f"{text}; --group none pools"


def _fit(one: Mapping[str, Any]) -> list[str]:
    if one["status"] != "ok":
        return [f"{one['law']}: {one['status']}: {one['reason']}"]
    objective = f"{one['loss']} objective {_number(one['objective'], 6)}"
    lines = [f"{one['law']} on {one['n']} rows ({one['n_left_out']} left out), {objective}"]
    lines.append(f"  {one['roles']['y']}: {one['direction']} is better, {one['direction_reason']}")
    lines += numbers({**one["params"], **one["derived"]}, one["ci95"], one["at_bound"])
    if one["bootstrap"]:
        made = one["bootstrap"]
        lines.append(
            f"  intervals: 95%, {made['draws']} draws by {made['by']}, {made['clusters']} clusters"
        )
    for loss, params in one["beside"].items():
        shown = ", ".join(f"{name} {_number(value)}" for name, value in params.items())
        lines.append(f"  beside, {loss}: {shown}")
    lines += _predictions(one.get("predictions", []))
    if one["checks"]:
        lines.append("checks")
        marks = {True: "ok", False: "LOOK", None: "-"}
        lines += [
            f"  {marks[one['passed']]:<5}{one['name']}: {one['text']}" for one in one["checks"]
        ]
    return [*lines, *_warnings(one["warnings"]), *_checklist(one["checklist"])]


def numbers(
    values: Mapping[str, float],
    ci95: Mapping[str, Sequence[float | None]],
    at_bound: Collection[str],
) -> list[str]:
    """Return a line for each parameter with its interval."""
    width = max(len(name) for name in values) if values else 0
    lines = []
    for name, value in values.items():
        line = f"  {name:<{width}}  {_number(value, 5):>11}"
        if name in at_bound:
            line += "  at the edge of its search box: no interval"
        elif name in ci95:
            line += f"  [{_number(ci95[name][0])}, {_number(ci95[name][1])}]"
        lines.append(line)
    return lines


def _predictions(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["predictions (95% of the law; 95% of a new run)"] if entries else []
    for one in entries:
        at = ", ".join(
            f"{role} {one[role] if role == 'group' else _number(one[role])}"
            for role in ("x", "n", "d", "u", "v", "p", "group")
            if role in one
        )
        line = f"  {at}: {_number(one['y'])}"
        if one["ci95"][0] is not None:
            line += f"  {interval(one['ci95'])}; {interval(one['ci95_new_run'])}"
        if one["decades_outside"]:
            line += f"  {one['decades_outside']:.2f} decades outside the data"
        lines.append(line)
        if "n_optimal" in one:
            best = [
                f"{role.upper()}* {_number(one[f'{role}_optimal'])}"
                + (f" {interval(one[key])}" if (key := f"{role}_optimal_ci95") in one else "")
                for role in "nd"
            ]
            lines.append(f"    optimal there: {', '.join(best)}")
    return lines


def _frontiers(answer: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{answer['y']} ({answer['direction']} is better, {answer['direction_reason']}) "
        f"against {answer['x']}: {answer['n']} rows, {answer['n_left_out']} left out"
    ]
    if answer["replicates"]:
        lines += _wrapped("  ", answer["replicates"])
    for name, one in answer["frontiers"].items():
        lines += _frontier(name, one)
    if answer["crossovers"]:
        low, high = answer["crossovers"][0]["searched"]
        window = _number(answer["crossovers"][0]["window"])
        many = "" if len(answer["frontiers"]) > 2 else f" ({_number(low)} to {_number(high)})"
        lines.append(f"crossovers, searched to {window} decades beyond the data{many}")
    for one in _leading_first(answer, "crossovers"):
        lines += _crossover(one)
    if answer["gains"]:
        lines.append(f"compute gain over {answer['reference']}")
    for one in _leading_first(answer, "gains"):
        lines += _gain(one)
    return [*lines, *_warnings(answer["warnings"]), *_checklist(answer["checklist"])]


def _leading_first(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the pairs of arms in their order, the leading form of each before the other."""
    pairs: dict[Any, list[Mapping[str, Any]]] = {}
    for one in answer[key]:
        pairs.setdefault(tuple(one["arms"]) if "arms" in one else one["arm"], []).append(one)
    return [
        one
        for forms in pairs.values()
        for one in sorted(forms, key=lambda one: one["form"] != answer["leading"])
    ]


def _frontier(name: str, one: Mapping[str, Any]) -> list[str]:
    """Return the lines of an arm: its points, its spread by level, its laws, the better first."""
    status = "" if one["points"]["status"] == "ok" else f": {one['points']['status']}"
    averaged = one["configurations"] != one["n"]
    of = f"{one['n']} runs" + (f" in {one['configurations']} configurations" if averaged else "")
    lines = [f"{name}: {len(one['points']['x'])} points of {of} on the {one['envelope']} envelope"]
    lines[0] += status
    spread = components(one["components"])
    if spread:
        lines.append(f"  {spread}")
    for form in sorted(one["fits"], key=lambda form: form != one["leading"]):
        fit = one["fits"][form]
        if fit["status"] != "ok":
            lines.append(f"  {form}: {fit['status']}: {fit['reason']}")
            continue
        head = f"  {form}"
        if one["scatter"].get(form) is not None:
            head += f", scatter {one['scatter'][form]:.2%}"
        if one["aicc"].get(form) is not None:
            head += f", AICc {one['aicc'][form]:.1f}"
        lines.append(head)
        lines += _indented(numbers(fit["params"], fit["ci95"], fit["at_bound"]))
    return lines


def components(one: Mapping[str, Any] | None) -> str:
    """Return the spread of log y by level of replication; "" where nothing is repeated."""
    known = {} if one is None else {key: sd for key, sd in one["sd"].items() if sd is not None}
    if one is None or not known:
        return ""
    shown = [
        f"{level} {sd:.2%}" + (f" ({one['free'][level]} df)" if one["free"].get(level) else "")
        for level, sd in known.items()
    ]
    return f"spread (sd of log): {', '.join(shown)}"


def _crossover(one: Mapping[str, Any]) -> list[str]:
    who = f"  {one['arms'][0]} and {one['arms'][1]}, {one['form']}: "
    if one["x"] is None:
        text = one["status"]
        if one["better_below"]:
            text += f"; {one['better_below']} is better from {_number(one['searched'][0])}"
            text += f" to {_number(one['searched'][1])}"
    else:
        text = f"{_number(one['x'])}"
        if one["p_no_crossing"] is not None:
            text += f" {interval(one['ci95'])}, P(no crossing) {one['p_no_crossing']:.0%}"
        text += f"; {one['better_below']} below, {one['better_above']} above"
        if one["outside_data"]:
            text += f"; {one['decades_outside']:.2f} decades outside the data"
    lines = [who + text]
    if any(x is not None for x in one["by_envelope"].values()):
        shown = [
            f"{name} {'none' if x is None else _number(x)}"
            for name, x in one["by_envelope"].items()
        ]
        lines.append(f"    by envelope: {', '.join(shown)}")
    return lines


def _gain(one: Mapping[str, Any]) -> list[str]:
    lines = [f"  {one['arm']}, {one['form']}" + ("" if one["x"] else f": {one['status']}")]
    step = max(1, (len(one["x"]) - 1) // 4)
    for at in range(0, len(one["x"]), step):
        text = times(one["gain"][at])
        if one["low"]:
            text += f"  {interval((one['low'][at], one['high'][at]))}"
        if one["outside_data"][at]:
            text += "  outside the data"
        lines.append(f"    at {_number(one['x'][at])}: {text}")
    middle = one["middle"]
    if middle is not None:
        ends = f" {interval(middle['ci95'])}" if middle["interval"] else ""
        verdict = f", {one['verdict']}" if one["verdict"] else ""
        lines.append(
            f"    in the middle, {_number(middle['x'])}: {times(middle['gain'])}{ends}{verdict}"
        )
        shown = [f"{name} {times(value)}" for name, value in one["by_envelope"].items()]
        lines.append(f"    by envelope: {', '.join(shown)}")
    return lines


def times(value: float | None) -> str:
    """Return a gain with its sign; None is beyond what the reference reaches."""
    return "beyond the reference" if value is None else f"{value:.3g}x"


def _warnings(entries: Sequence[Mapping[str, str]]) -> list[str]:
    lines = ["warnings (docs/analysis.md explains the codes)"] if entries else []
    for one in entries:
        lines += _wrapped(f"  {one['code']}: ", one["message"])
    return lines


def _checklist(entries: Sequence[Mapping[str, str]]) -> list[str]:
    lines = ["reporting checklist"] if entries else []
    for one in entries:
        lines += _wrapped(f"  {one['name']}: ", one["text"])
    return lines


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        head + text,
        WIDTH,
        subsequent_indent="      ",
        break_long_words=False,
        initial_indent="",
        drop_whitespace=True,
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def interval(ends: Sequence[float | None]) -> str:
    """Return an interval in brackets; an end that is None is open."""
    shown = ["open" if one is None else _number(one) for one in ends]
    return f"[{shown[0]}, {shown[1]}]"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
