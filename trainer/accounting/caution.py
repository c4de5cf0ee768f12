"""Reasons to distrust a Frechet distance, which stand beside it wherever it is shown. No torch."""

from __future__ import annotations

import math

NEAR_SHARE = 0.1  # of the way from chance to certainty


def few_samples(num: int, features: int, of: str = "samples") -> str | None:
    """Return the caution for a covariance of fewer images than features; None where it holds."""
    if num >= features:
        return None
    return f"{num} {of} for {features} features: too few, the distance is biased"


def near_chance(accuracy: float, chance: float, num: int) -> str | None:
    """Return the caution for a classifier that learned next to nothing; None for a better one.

    `chance`: accuracy of always saying the largest class; `num`: images that it was measured on.
    Near is within three standard errors, or a tenth of the way from chance to certainty.
    """
    error = math.sqrt(chance * (1 - chance) / max(1, num))
    if accuracy > chance + max(3 * error, NEAR_SHARE * (1 - chance)):
        return None
    return f"the classifier is near chance: accuracy {accuracy:.3f}, chance {chance:.3f}"


def caution(*reasons: str | None) -> dict[str, str]:
    """Return the provenance entry of a value; empty without a reason."""
    given = [reason for reason in reasons if reason is not None]
    return {"caution": "; ".join(given)} if given else {}
