"""Warnings of a plan: distances that will mislead, told before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..trainer.accounting.caution import few_samples
from ..trainer.accounting.label_prior import UNEVEN
from .data_facts import DataFacts

if TYPE_CHECKING:
    from .graph import Draft


def cautions(drafts: Mapping[str, Draft], facts: DataFacts) -> list[str]:
    """Return the reasons to distrust the distances of a plan's evaluations, each once."""
    found: dict[str, None] = {}
    for draft in drafts.values():
        if draft.kind == "evaluation":
            name = draft.members[0].evaluation
            for metric in draft.config.metrics:
                for text in (
                    *_few_images(draft, metric, drafts),
                    *_uneven_classes(draft, metric, drafts, facts),
                ):
                    found[f"evaluation {name}: {metric.name}: {text}"] = None
    return list(found)


def _few_images(draft: Draft, metric: Any, drafts: Mapping[str, Draft]) -> Iterator[str]:
    """Compare the images of a distance with the dimension of its features."""
    config, features = draft.config, getattr(metric.config, "features", None)
    if features is None:
        return
    extractor = draft.parents.get("extractor")
    width = features(drafts[extractor].config.width if extractor else 0)
    sizes = {"samples": config.num_samples or config.data.num_val}
    if config.subject == "generator" and (reference := metric.config.reference_images()):
        split, wanted = reference
        every = config.data.num_train if split == "train" else config.data.num_val
        sizes["reference images"] = min(every, wanted or every)
    for of, number in sizes.items():
        if text := few_samples(number, width, of):
            yield text


def _uneven_classes(
    draft: Draft, metric: Any, drafts: Mapping[str, Draft], facts: DataFacts
) -> Iterator[str]:
    """Compare equal class counts of samples with the classes of the images that score them."""
    config, images = draft.config, getattr(metric.config, "reference_images", None)
    if config.subject != "generator" or config.label_prior != "balanced" or images is None:
        return
    unlabelled = drafts[draft.parents["generator"]].config.label_mode == "none"
    reference = images()
    if unlabelled or reference is None or config.data.num_classes == 1:
        return
    counts = facts.label_counts(config.data, reference[0])
    if counts is not None and max(counts) > UNEVEN * min(counts):
        yield (
            f"samples have equal class counts, the {reference[0]} images from {min(counts)} to "
            f"{max(counts)}: the distance measures that too; label_prior=as_reference draws as they"
        )
