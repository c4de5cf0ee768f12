"""Frechet classifier distance: the Frechet distance on features of a classifier of this data set.

`rfcd` for reconstructions, `gfcd` for samples. It is not FID and comparable only between values of
one extractor, whose name, with the hash of its weights, stands beside every value.

Shape suffixes: B images, N images of a set, C = 3, H, W pixels, D features.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..accounting.caution import caution, few_samples, near_chance
from ..accounting.config import STRICT
from . import Batch, Context, Distance, Value
from ._frechet import Statistics, distance, given, library, statistics
from ._paired import check_uint8, pair

if TYPE_CHECKING:
    from ..kinds.extractor import Extractor

VERSION = 1
STAGES = ("tokenizer", "generator")
NEEDS_EXTRACTOR = True  # its evaluations have the run of the classifier as a parent
BETTER = {
    "rfcd": "lower",
    "gfcd": "lower",
    "fcd_precision": "higher",
    "fcd_recall": "higher",
    "classifier_score": "higher",
}

NEIGHBOURS = 3  # precision and recall: radius of a point is the distance to its third neighbour
PRECISION_IMAGES = 10_000  # real images at most, as in ADM's protocol
SCORE_SPLITS = 10  # classifier score: mean over so many parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The real images that samples are compared with, and the values beside the distance."""

    __pydantic_config__ = STRICT

    reference: Literal["train", "val"] = "train"  # gfcd only; rfcd takes the same images' originals
    precision_recall: bool = False  # generator: fcd_precision, fcd_recall (k = 3) against val
    classifier_score: bool = False  # generator: as the Inception score, from the classifier

    def features(self, extractor_width: int) -> int:
        """Return the dimension of the features: that of the study's classifier."""
        return extractor_width

    def reference_images(self) -> tuple[str, int | None]:
        """Return the split that samples are compared with, and how many of its images."""
        return self.reference, None


class Metric(Distance):
    """Features are collected and turned into statistics at the end, as torch-fidelity does."""

    def __init__(self, config: Config, context: Context) -> None:
        if context.extractor is None:
            raise ValueError(
                "metrics.fcd: the evaluation has no extractor run; allowed: an evaluation with the "
                "parent 'extractor' (psnr and ssim work without)"
            )
        self._config = config
        self._context = context
        from ..kinds.extractor import load_extractor

        key = f"extractor {context.extractor}"
        if key not in context.cache:
            context.cache[key] = load_extractor(context.extractor, context.device)
        self._extractor: Extractor = context.cache[key]
        self._network = registered(self._extractor)
        self._features: list[Tensor] = []
        self._references: list[Tensor] = []

    @staticmethod
    def for_selection(config: Config, mode: str) -> Config:
        if mode == "oracle":
            return dataclasses.replace(config, precision_recall=False, classifier_score=False)
        if config.reference == "train":
            raise ValueError(
                "cfg_selection: 'train_subset' would choose on the images that gfcd is scored "
                "against; allowed with metrics.fcd.reference 'train': fixed, oracle"
            )
        return Config(reference="train")

    def update(self, batch: Batch) -> None:
        if self._context.stage == "tokenizer":
            image_BCHW, reference_BCHW = pair(batch, "fcd")
            self._references.append(self._features_of(reference_BCHW))
        else:
            image_BCHW = batch.image_BCHW
            check_uint8(image_BCHW, "fcd")
        self._features.append(self._features_of(image_BCHW))

    def _features_of(self, image_BCHW: Tensor) -> Tensor:
        features_BD: Tensor
        (features_BD,) = self._network(image_BCHW)
        return features_BD

    def state(self) -> dict[str, Tensor]:
        return {
            "features": self._stack(self._features),
            "references": self._stack(self._references),
        }

    def merge(self, state: dict[str, Tensor]) -> None:
        self._features.append(state["features"])
        self._references.append(state["references"])

    def compute(self) -> list[Value]:
        features_ND = self._stack(self._features)
        num = len(features_ND)
        tokenizer = self._context.stage == "tokenizer"
        name = "rfcd" if tokenizer else "gfcd"
        reference = "same images" if tokenizer else f"{self._config.reference} images"
        common = {
            "extractor": self._extractor.name,
            "reference": reference,
            "num_samples": num,
            "library": library(),
            "extractor_accuracy": self._extractor.accuracy,
            **self._caution(num),
        }
        if num < 2:
            why = {"undefined": f"a covariance needs 2 images, there is {num}"}
            return [Value(metric=name, value=None, unit="1", provenance=common | why)]
        if tokenizer:
            real = statistics(self._stack(self._references))
        else:
            real = self._real(self._config.reference)
        value = distance(statistics(features_ND), real)
        values = [Value(metric=name, value=value, unit="1", provenance=common | self._floor(num))]
        if not tokenizer and self._config.precision_recall:
            values += self._precision_recall(features_ND, common)
        if not tokenizer and self._config.classifier_score:
            values.append(self._score(features_ND, common))
        return values

    def _caution(self, num: int) -> dict[str, str]:
        extractor, reasons = self._extractor, []
        if self._context.stage == "generator":
            train = self._config.reference == "train"
            real = extractor.config.data.num_train if train else len(extractor.val_ND)
            reasons.append(few_samples(real, extractor.config.width, "reference images"))
        return caution(
            near_chance(extractor.accuracy, extractor.chance, len(extractor.val_ND)),
            few_samples(num, extractor.config.width),
            *reasons,
        )

    def _stack(self, pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces) if pieces else torch.zeros(0, self._extractor.config.width)

    def _real(self, split: str) -> Statistics:
        """Return the statistics of all real images of a split, which the extractor's run has
        stored.
        """
        if split == "train":
            return given(self._extractor.train_mu_D, self._extractor.train_sigma_DD)
        return statistics(self._extractor.val_ND)

    def _floor(self, num: int) -> dict[str, Any]:
        """Distance of real validation images to the training images: what a perfect model of the
        data would score at this many samples (or at all validation images, where fewer exist).
        """
        val_ND = self._extractor.val_ND
        count = min(num, len(val_ND))
        key = f"fcd floor {self._extractor.name} {count}"
        if key not in self._context.cache:
            floor = distance(statistics(_spread(val_ND, count)), self._real("train"))
            self._context.cache[key] = {"floor": floor, "floor_num_samples": count}
        return dict(self._context.cache[key])

    def _precision_recall(self, features_ND: Tensor, common: dict[str, Any]) -> list[Value]:
        from torch_fidelity.metric_prc import prc_features_to_metric

        val_ND = self._extractor.val_ND
        val_ND = _spread(val_ND, min(len(val_ND), PRECISION_IMAGES))
        common = common | {"reference": "val images", "reference_num": len(val_ND)}
        if min(len(features_ND), len(val_ND)) <= NEIGHBOURS:
            why = {"undefined": f"needs more than {NEIGHBOURS} images in each set"}
            found: dict[str, float | None] = {"precision": None, "recall": None}
            common |= why
        else:
            found = prc_features_to_metric(
                features_ND, val_ND, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False
            )
        return [
            Value(metric=f"fcd_{name}", value=found[name], unit="share", provenance=common)
            for name in ("precision", "recall")
        ]

    def _score(self, features_ND: Tensor, common: dict[str, Any]) -> Value:
        """Compute exp(E KL(p(y|x)

        p(y))) with the classifier's classes.
        """
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        splits = min(SCORE_SPLITS, max(1, len(features_ND) // 50))
        logits = self._extractor.logits(features_ND)
        value = isc_features_to_metric(logits, splits=splits)[KEY_METRIC_ISC_MEAN]
        provenance = {**common, "reference": None, "splits": splits}
        return Value(metric="classifier_score", value=value, unit="1", provenance=provenance)


def _spread(features_ND: Tensor, count: int) -> Tensor:
    """Take `count` rows at equal distances: a set that is sorted by class keeps all classes."""
    return features_ND[torch.arange(count) * len(features_ND) // count]


_extractors: dict[str, Extractor] = {}  # by name, for the class that torch-fidelity constructs


def registered(extractor: Extractor) -> Any:
    """Register the extractor with torch-fidelity under its own name.

    The name holds the hash of the weights, so that nothing the library stores under it can be
    mistaken for another network's. Called with uint8 images it gives (features,).
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    name = extractor.name
    _extractors[name] = extractor
    if name not in FEATURE_EXTRACTORS_REGISTRY:

        class Registered(FeatureExtractorBase):  # type: ignore[misc]  # it has no types
            def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
                super().__init__(name, features_list)

            @staticmethod
            def get_provided_features_list() -> tuple[str, ...]:
                return ("features",)

            @staticmethod
            def get_default_feature_layer_for_metric(metric: str) -> str:
                return "features"

            @staticmethod
            def can_be_compiled() -> bool:
                return False

            def forward(self, image_BCHW: Tensor) -> tuple[Tensor]:
                return (_extractors[self.name].features(image_BCHW),)

        register_feature_extractor(name, Registered)
    return FEATURE_EXTRACTORS_REGISTRY[name](name, ["features"])
