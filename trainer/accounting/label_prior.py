"""Class counts of samples: equal, or those of the real images that they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

UNEVEN = 1.5  # largest class of a reference over its smallest, from which equal counts mislead


def reference_of(metrics: Iterable[Any]) -> tuple[str, int | None]:
    """Return the real images that the metrics compare samples with: split, how many (None: all).

    ValueError where they name different images, or a file without labels.
    """
    named = {}
    for metric in metrics:
        images = getattr(metric.config, "reference_images", None)
        if images is not None:
            named[images()] = metric.name
    if None in named:
        raise ValueError(
            f"label_prior: 'as_reference' needs labels; the reference file of {named[None]} has "
            "none; allowed: balanced, or a reference of the data set's images"
        )
    if len(named) != 1:
        texts = ", ".join(f"{name} {images}" for images, name in named.items()) or "none"
        raise ValueError(
            f"label_prior: 'as_reference' needs one reference for all metrics; they have {texts}"
        )
    reference: tuple[str, int | None] = next(iter(named))
    return reference


def sample_labels(num: int, counts: Sequence[int]) -> list[int]:
    """Return the classes of `num` samples in proportion to `counts`, evenly mixed.

    Shares are rounded by largest remainder, the lower class first of equals. Equal counts give
    class i mod the number of classes, up to the last, incomplete round.
    """
    total = sum(counts)
    quotas = [num * count // total for count in counts]
    rest = sorted(range(len(counts)), key=lambda label: (-(num * counts[label] % total), label))
    for label in rest[: num - sum(quotas)]:
        quotas[label] += 1
    places = [
        ((2 * rank + 1) / (2 * quota), label)
        for label, quota in enumerate(quotas)
        for rank in range(quota)
    ]
    return [label for _, label in sorted(places)]
