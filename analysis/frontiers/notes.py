"""The warnings and the checklist of a comparison, and the verdict on a gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from ..fitting import checklist
from ..fitting.fitted import Bootstrap
from ..notices import Item, Notice, notice
from ..result import Crossover, Frontier, Gain
from ..table import Data
from . import winners_curse
from .arms import Arm, Setup

MANY_RUNS: Final = 1.5  # ratio of runs per budget between arms that is a warning
FORM_FACTOR: Final = 1.5  # ratio of two forms' crossings or gains that is a warning
ONE_TOKENIZER: Final = "its interval leaves out how much tokenizers of one arm differ"


def of_frontiers(frontiers: Mapping[str, Frontier]) -> list[Notice]:
    """Return the warnings about single arms and their numbers of runs."""
    return _curse_notices(frontiers) + _envelope_notices(frontiers)


def of_pairs(crossovers: tuple[Crossover, ...], gains: tuple[Gain, ...]) -> list[Notice]:
    """Return the warnings about crossings and gains."""
    found = _crossing_notices(crossovers) + _form_notices(crossovers, gains)
    return found + _spread_notices(gains)


def of_tokenizers(arms: list[Arm]) -> list[Notice]:
    """Return a warning for arms whose tokenizers are no replicates."""
    found = []
    for arm in arms:
        number = arm.averaged.tokenizers
        if number is None or arm.averaged.tokenizer_free:
            continue
        what = "has one tokenizer"
        if number > 1:
            what = f"has {number} tokenizers that share no configuration, so none is repeated"
        text = f"{arm.name} {what}: {ONE_TOKENIZER}; repeat it with other tokenizer seeds"
        found.append(notice("W-ONE-TOKENIZER", text))
    return found


def verdict(gain: Gain, arm: Arm, reference: Arm) -> str:
    """Return what the interval at the middle shows; an arm of one tokenizer gets no such word."""
    middle = gain.middle
    if middle is None or not middle.interval:
        return ""
    for one in (arm, reference):
        if one.averaged.tokenizers is not None and not one.averaged.tokenizer_free:
            return f"not judged: {one.name} repeats no tokenizer"
    low, high = middle.ci95
    above = low is None or low > 1.0
    below = high is not None and high < 1.0
    return "significant" if above or below else "not significant"


def _curse_notices(frontiers: Mapping[str, Frontier]) -> list[Notice]:
    """Return the size of the winner's curse where arms differ in runs per budget."""
    count = {name: one.runs_per_budget or 1.0 for name, one in frontiers.items()}
    many, few = max(count, key=lambda one: count[one]), min(count, key=lambda one: count[one])
    if count[many] < MANY_RUNS * count[few]:
        return []
    text = f"{many} has {count[many]:g} runs per budget, {few} {count[few]:g}"
    noises = [one.noise for one in frontiers.values() if one.noise is not None]
    slopes = [abs(one.points.slope) for one in frontiers.values() if one.points.slope]
    if noises and slopes:
        noise, slope = float(np.median(noises)), float(np.median(slopes))
        lead = winners_curse.expected_lead(count[many]) - winners_curse.expected_lead(count[few])
        text += (
            f"; at a run-to-run noise of {noise:.2%} that alone lowers {many} by up to "
            f"{lead * noise:.2%}, a false compute gain of {np.exp(lead * noise / slope):.2f}x"
        )
    return [notice("W-WINNERS-CURSE", text)]


def _envelope_notices(frontiers: Mapping[str, Frontier]) -> list[Notice]:
    """Return a warning where another envelope's slope lies outside the chosen one's interval."""
    found = []
    for name, one in frontiers.items():
        low, high = one.fits["straight"].ci95.get("b", (None, None))
        if low is None or high is None:
            continue
        outside = [
            f"{key} {other.slope:.3f}"
            for key, other in one.envelopes.items()
            if other.slope is not None and not low <= other.slope <= high
        ]
        if outside:
            text = f"{name}: b {low:.3f} to {high:.3f} by {one.envelope}, but {', '.join(outside)}"
            found.append(notice("W-ENVELOPES", text))
    return found


def _crossing_notices(crossovers: tuple[Crossover, ...]) -> list[Notice]:
    found = []
    for one in crossovers:
        who = f"{one.arms[0]} and {one.arms[1]}, {one.form}"
        if one.outside_data:
            text = (
                f"{who}: the crossing at {one.x:.3g} is {one.decades_outside:.2f} decades outside"
            )
            found.append(notice("W-OUTSIDE", text))
        if one.crossings > 1:
            found.append(notice("W-MANY-CROSSINGS", f"{who}: {one.crossings} crossings"))
    return found


def _form_notices(crossovers: tuple[Crossover, ...], gains: tuple[Gain, ...]) -> list[Notice]:
    """Return a warning where the floor term decides about a crossing or a gain."""
    found = []
    for arms in dict.fromkeys(one.arms for one in crossovers):
        both = {one.form: one for one in crossovers if one.arms == arms}
        straight, floor = both["straight"], both["floor"]
        known = ("ok", "no crossing")
        if straight.status not in known or floor.status not in known:
            continue
        if straight.x is None and floor.x is None:
            if straight.better_below != floor.better_below:
                text = f"{arms[0]} and {arms[1]}: the better arm differs with and without a floor"
                found.append(notice("W-FORM", text))
        elif straight.x is None or floor.x is None:
            one, other = (straight, floor) if straight.x else (floor, straight)
            text = (
                f"{arms[0]} and {arms[1]} cross at {one.x:.3g} by {one.form}, not by {other.form}"
            )
            found.append(notice("W-FORM", text))
        elif abs(np.log(straight.x / floor.x)) > np.log(FORM_FACTOR):
            text = (
                f"{arms[0]} and {arms[1]} cross at {straight.x:.3g} by straight lines and at "
                f"{floor.x:.3g} with a floor"
            )
            found.append(notice("W-FORM", text))
    for arm in dict.fromkeys(one.arm for one in gains):
        pair = {one.form: one for one in gains if one.arm == arm}
        if any(one.status != "ok" for one in pair.values()):
            continue
        at = len(pair["straight"].x) // 2
        straight_gain, floor_gain = pair["straight"].gain[at], pair["floor"].gain[at]
        where = pair["straight"].x[at]
        differ = (straight_gain is None) != (floor_gain is None)
        if straight_gain and floor_gain:
            differ = abs(np.log(straight_gain / floor_gain)) > np.log(FORM_FACTOR)
        if differ:
            shown = [
                "unreachable" if one is None else f"{one:.3g}x"
                for one in (straight_gain, floor_gain)
            ]
            text = f"gain of {arm} at {where:.3g}: {shown[0]} straight, {shown[1]} with a floor"
            found.append(notice("W-FORM", text))
    return found


def items(
    setup: Setup, data: Data, made: Bootstrap | None, arms: list[Arm], told: str
) -> tuple[Item, ...]:
    """Return the reporting checklist."""
    request = setup.request
    agree = [
        check.values["starts_agreeing"]
        for arm in arms
        for fit in arm.fits.values()
        for check in fit.checks
        if check.name == "minimum"
    ]
    lowest = min((one for one in agree if one is not None), default=1.0)
    return (
        *checklist.fit_items(
            law="power_law",
            options={"floor": "none and free, both reported"},
            loss=request.loss,
            delta=request.delta,
            num_starts=f"{'all' if lowest == 1 else f'at least {lowest:.0%}'} of the starts agree",
        ),
        *checklist.data_items(data),
        Item(
            name="selection",
            text=f"{request.envelope} envelope ({data.direction} is better), selected again in "
            f"every draw; runs within {request.tolerance:.0%} of compute compete",
        ),
        Item(name="replicates", text=told or "no rows differ in seeds alone"),
        _uncertainty(made),
        Item(name="validation", text="see `tokenlaw fit --group` for the held-out largest runs"),
        checklist.code_item(data.digest()),
    )


def _uncertainty(made: Bootstrap | None) -> Item:
    """Return how the draws were made."""
    if made is None or made.by != "residual":
        return checklist.uncertainty_item(made)
    text = (
        f"{made.draws} draws of the runs' true values, seed {made.seed}, 95% intervals; noise from "
        "the scatter about the law and of repeated runs, with Student's t"
    )
    if made.failed:
        text += f"; {made.failed} draws could not be fitted"
    return Item(name="uncertainty", text=text)


def _spread_notices(gains: tuple[Gain, ...]) -> list[Notice]:
    """Return a warning where another envelope puts the gain outside the interval."""
    found = []
    for one in gains:
        if one.middle is None or not one.middle.interval:
            continue
        low, high = one.middle.ci95
        outside = [
            f"{name} {value:.3g}x"
            for name, value in one.by_envelope.items()
            if value is not None
            and ((low is not None and value < low) or (high is not None and value > high))
        ]
        if outside:
            shown = "open" if one.middle.gain is None else f"{one.middle.gain:.3g}x"
            text = f"gain of {one.arm}, {one.form}: {shown}, but {', '.join(outside)}"
            found.append(notice("W-SPREAD", text))
    return found
