"""Metrics of evaluation runs, one file each.

A part exposes `VERSION`, `STAGES` (subset of ("tokenizer", "generator")), `BETTER` ("lower" or
"higher"; a dict by metric name when a part gives several; a literal, since tables are read without
importing parts), a frozen `Config` and a final `Metric`:

    Metric(config, context: Context)          ValueError when it cannot run: what is missing, where
    update(batch: Batch)                      any number of times; batch sizes do not matter
    state() -> dict, merge(state)             tensors of this process; adds another process's
    compute() -> list[Value]                  finite numbers, or None where the metric is undefined,
                                              with provenance["undefined"] saying why

A `Metric` that measures a distance to real images inherits `Distance`, and can then choose a
guidance scale. A `Config` that needs downloaded files names them in `weights()` (`NeedsWeights`).

Images are 8-bit, so a metric cannot meet NaN pixels; features that are not finite (a damaged
network) are a ValueError. Undefined values (too few images) are refused by the evaluation, never
recorded as zero or NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One batch of images in [0, 255]."""

    image_BCHW: Tensor  # uint8: reconstructions or samples
    reference_BCHW: Tensor | None  # uint8: the originals of reconstructions
    code_BN: Tensor | None  # int64
    label_B: Tensor | None  # int64


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Resources that a metric may need beside the batches."""

    stage: str  # "tokenizer" or "generator"
    device: torch.device
    num_codes: int
    tokens_per_image: int
    resolution: int
    reference: Callable[
        [str, int | None], Iterator[Tensor]
    ]  # split "train" or "val", how many of it (None: all) -> uint8 batches, centre crop
    reference_id: str  # names data set, digest and resolution of the reference images
    extractor: Path | None  # folder of the extractor run, for classifier distances
    extractor_id: str | None
    codebook_sizes: tuple[int, ...] | None = None  # codes of each position, where they vary (vcq)
    weights: Mapping[str, str] = field(default_factory=dict)  # paths of downloaded files by name
    store: Path | None = None  # folder in which statistics of reference images are kept
    cache: dict[str, Any] = field(
        default_factory=dict
    )  # shared by all metrics and sample seeds of one run


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One number with its provenance."""

    metric: str
    value: float | None
    unit: str
    provenance: dict[str, Any] = field(default_factory=dict)
    better: str | None = None  # set by the evaluation from the part's BETTER; None: by the name

    def entry(self, better_by_name: str | None) -> dict[str, Any]:
        """Return the value as endpoint.json holds it, with its direction where it has one."""
        better = self.better or better_by_name
        content = {"metric": self.metric, "value": self.value, "unit": self.unit}
        content |= {"better": better} if better else {}
        return content | {"provenance": self.provenance}


class Metric(Protocol):
    """A metric as evaluations call it."""

    def update(self, batch: Batch) -> None: ...
    def state(self) -> dict[str, Tensor]: ...
    def merge(self, state: dict[str, Tensor]) -> None: ...
    def compute(self) -> list[Value]: ...


@runtime_checkable
class NeedsWeights(Protocol):
    """A Config whose metric loads downloaded files."""

    def weights(self) -> dict[str, str]:
        """First digits of the sha256 of each file, by its name in torch hub's cache."""


class Distance(ABC):
    """A metric whose first value is a distance of samples to real images; lower is better."""

    @staticmethod
    @abstractmethod
    def for_selection(config: Any, mode: str) -> Any:
        """Return the Config that compares guidance scales in cfg_selection `mode`.

        train_subset: its reference is training images that do not serve for the score as well;
        ValueError where there are none. oracle: its reference is that of the score itself.
        """
