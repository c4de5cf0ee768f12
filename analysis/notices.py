"""The warning codes: what each means in a few words; docs/analysis.md explains them at length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .notebook_repr import Brief

CODES: Final[dict[str, str]] = {
    "W-DIVERGED": "diverged runs were left out; the survivors may be the lucky ones",
    "W-CHECKPOINTS": "several rows of one run are used, or rows before the end of a schedule",
    "W-REPEATS": "rows that repeat another row in every column were counted once",
    "W-UNITS": "values with a unit, such as 4B, were read as numbers",
    "W-POOLED": "one law was fitted to the rows of several arms",
    "W-FLOPS-RULE": "the FLOPs on the x axis do not agree with 6 N D",
    "W-MACS": "the x axis looks like multiply-adds; one multiply-add is two FLOPs",
    "W-DELTA": "the knee of the Huber loss is far below the noise: the fit is L1 in effect",
    "W-LOSS-FORM": "Huber, L1 and L2 disagree by more than the interval",
    "W-NO-DOF": "as many parameters as points: no interval can be given",
    "W-FEW-CLUSTERS": "few independent units were resampled; the interval is rough",
    "W-CLUSTER": "runs share a trunk or a tokenizer but were resampled as if independent",
    "W-DRAWS": "many resamples could not be fitted",
    "W-RANGE": "the data span too little for this law; its exponent may be far off",
    "W-RIDGE": "tokens per parameter hardly vary: the two exponents cannot be told apart",
    "W-FLOOR-ZERO": "the fitted floor is zero: the data do not show one",
    "W-BOUND": "a parameter ended on the edge of its search box",
    "W-GRADIENT": "the objective is not at a minimum",
    "W-STARTS": "most starts end in another minimum",
    "W-LACK-OF-FIT": "the law misses the means of repeated runs by more than their spread",
    "W-HOLD-OUT": "the law fitted without the largest runs misses them",
    "W-INFLUENCE": "one run makes more than half of a parameter's jackknife variance",
    "W-BREAK": "the change of slope is not distinguishable from zero",
    "W-EDGE": "a minimum lies outside its data or there is none; that budget is left out",
    "W-BUDGETS": "the exponents of N* and D* do not add up to 1: a budget is not one compute",
    "W-PARABOLA": "parabola, cubic and approach 3 put the optimum at different sizes",
    "W-ENVELOPES": "the slope depends on how the envelope is drawn",
    "W-WINNERS-CURSE": "the arms have different numbers of runs per budget",
    "W-SPREAD": "the gain or the crossing depends on how the envelope is drawn",
    "W-ONE-TOKENIZER": "an arm has one tokenizer; its intervals leave out how tokenizers differ",
    "W-RATES": "losses of different tokenizers' codes are rates of different tasks, no quality",
    "W-COLLAPSE": "a tokenizer uses hardly any of its codes; its loss is low because of that",
    "W-FORM": "crossover or gain depends on whether the law has a floor",
    "W-OUTSIDE": "the crossing lies outside the compute that both arms cover",
    "W-MANY-CROSSINGS": "the fitted curves cross more than once",
    "W-DIRECTION": "nobody says which direction of the metric is better, or two sayings differ",
    "W-BIAS": "the entropy estimate is dominated by the finite sample",
}


def notice(code: str, message: str) -> Notice:
    """Make the warning `code` with the facts of this case."""
    assert code in CODES, code
    return Notice(code=code, message=message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One warning: a code that docs/analysis.md explains, and what was seen here."""

    code: str  # W-...
    message: str


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class LeftOut(Brief):
    """One entry of the filter log: how many rows one rule removed, and which."""

    reason: str  # the rule, in words
    count: int  # rows removed by it
    rows: tuple[str, ...] = ()  # run ids (or row numbers) removed, the first 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One line of the reporting checklist."""

    name: str
    text: str
