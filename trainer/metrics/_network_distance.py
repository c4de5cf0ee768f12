"""Frechet distance on features of a pretrained network: what fid and clip_fid share.

Shape suffixes: B images, N images of a set, C = 3, H, W pixels, D features, K logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...results_db.durable import remove_folder, stage_folder, verify_folder
from ...results_db.strict_json import DamagedError, canonical_json
from ..accounting.caution import caution, few_samples
from . import Batch, Context, Distance, Value
from ._frechet import Statistics, distance, given, library, statistics
from ._paired import check_uint8, pair

NEIGHBOURS = 3  # precision and recall: k-th neighbour, as ADM's evaluator
PRECISION_IMAGES = 10_000  # real images that precision and recall are measured with, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A frozen network and the name that its distances carry."""

    name: str  # holds the first digits of the weights' sha256
    outputs: Callable[[Tensor], tuple[Tensor, ...]]  # uint8 images -> features [B, D], ..
    width: int  # D
    logits: int = 0  # K; 0: the network gives features only


@dataclass(frozen=True, kw_only=True, slots=True)
class Real:
    """Real images as the network sees them."""

    statistics: Statistics
    features_ND: Tensor  # of at most PRECISION_IMAGES of them
    num: int
    name: str  # as in provenance
    of: int | None = None  # images behind the statistics, where these are more than `num`

    @property
    def size(self) -> int:
        """Number of images behind the statistics."""
        return self.num if self.of is None else self.of


class NetworkDistance(Distance):
    """Abstract: a subclass names its values, and may give more of them beside the distance."""

    RECONSTRUCTIONS: ClassVar[str]  # name of the value for a tokenizer
    SAMPLES: ClassVar[str]  # and for a generator

    def __init__(self, config: Any, context: Context, network: Network) -> None:
        self.config, self.context, self.network = config, context, network
        self._features: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._references: list[Tensor] = []

    def real(self) -> Real:
        """Return the real images that `config.reference` names."""
        split = "train" if self.config.reference == "train_subset" else "val"
        wanted = self.config.train_images if split == "train" else None
        key = f"real {self.network.name} {split} {wanted}"
        if key not in self.context.cache:
            self.context.cache[key] = self._stored(split, wanted)
        found: Real = self.context.cache[key]
        return found

    def update(self, batch: Batch) -> None:
        if self.context.stage == "tokenizer":
            image_BCHW, reference_BCHW = pair(batch, self.RECONSTRUCTIONS)
            self._references.append(self._outputs(reference_BCHW)[0])
        else:
            image_BCHW = batch.image_BCHW
            check_uint8(image_BCHW, self.SAMPLES)
        features_BD, *logits = self._outputs(image_BCHW)
        self._features.append(features_BD)
        self._logits += logits

    def state(self) -> dict[str, Tensor]:
        return {
            "features": _stack(self._features, self.network.width),
            "logits": _stack(self._logits, self.network.logits),
            "references": _stack(self._references, self.network.width),
        }

    def merge(self, state: dict[str, Tensor]) -> None:
        self._features.append(state["features"])
        self._logits.append(state["logits"])
        self._references.append(state["references"])

    def compute(self) -> list[Value]:
        collected = self.state()
        features_ND = collected["features"]
        common = {
            "extractor": self.network.name,
            "library": library(),
            "num_samples": len(features_ND),
        }
        tokenizer = self.context.stage == "tokenizer"
        name = self.RECONSTRUCTIONS if tokenizer else self.SAMPLES
        if len(features_ND) < 2:
            why = f"a covariance needs 2 images, there is {len(features_ND)}"
            return [Value(metric=name, value=None, unit="1", provenance={"undefined": why})]
        if tokenizer:
            value = distance(statistics(features_ND), statistics(collected["references"]))
            same = common | {"reference": "same images", "reference_num": len(features_ND)}
            same |= caution(few_samples(len(features_ND), self.network.width))
            return [Value(metric=name, value=value, unit="1", provenance=same)]
        real = self.real()
        against = common | {"reference": real.name, "reference_num": real.num}
        against |= caution(
            few_samples(len(features_ND), self.network.width),
            few_samples(real.size, self.network.width, "reference images"),
        )
        value = distance(statistics(features_ND), real.statistics)
        values = [Value(metric=name, value=value, unit="1", provenance=against)]
        return values + self.beside(features_ND, collected["logits"], real, common)

    def beside(
        self, features_ND: Tensor, logits_NK: Tensor, real: Real, common: dict[str, Any]
    ) -> list[Value]:
        """Compute more values of samples, from the same pass."""
        return []

    def _outputs(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return tuple(out.float().cpu() for out in self.network.outputs(image_BCHW))

    def _stored(self, split: str, wanted: int | None) -> Real:
        """Computed once per set, network and way of computing; kept beside the runs."""
        name = f"{split} images" if wanted is None else f"{wanted} {split} images"
        identity = [self.context.reference_id, self.network.name, split, wanted, library()]
        key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]
        folder = None if self.context.store is None else self.context.store / key
        if folder is not None and folder.exists():
            try:
                num = int(verify_folder(folder)["meta"]["num"])
            except DamagedError:
                remove_folder(folder)
            else:
                parts = {n: np.load(folder / f"{n}.npy") for n in ("mu", "sigma", "features")}
                return Real(
                    statistics=given(parts["mu"], parts["sigma"]),
                    features_ND=torch.from_numpy(parts["features"]),
                    num=num,
                    name=name,
                )
        pieces = [self._outputs(batch)[0] for batch in self.context.reference(split, wanted)]
        features_ND = torch.cat(pieces)
        kept = min(len(features_ND), PRECISION_IMAGES)
        chosen = torch.arange(kept) * len(features_ND) // kept
        real = Real(
            statistics=statistics(features_ND),
            features_ND=features_ND[chosen],
            num=len(features_ND),
            name=name,
        )
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                with stage_folder(folder, meta={"num": real.num, "of": identity}) as staging:
                    np.save(staging.file("mu.npy"), real.statistics["mu"])
                    np.save(staging.file("sigma.npy"), real.statistics["sigma"])
                    np.save(staging.file("features.npy"), real.features_ND.numpy())
            except FileExistsError:
                pass  # another process computed the same at the same time
        return real


def _stack(pieces: list[Tensor], width: int) -> Tensor:
    return torch.cat(pieces) if pieces else torch.zeros(0, width)


def selection_reference(reference: str, mode: str) -> Any:
    """Return the reference with which guidance scales are compared.

    ValueError where the score of cfg_selection train_subset would use it too.
    """
    if mode == "oracle":
        return reference
    if reference == "train_subset":
        raise ValueError(
            "cfg_selection: 'train_subset' would choose on the images that the distance is scored "
            "against; allowed with reference 'train_subset': fixed, oracle"
        )
    return "train_subset"
