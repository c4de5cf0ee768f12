"""Frechet Inception distance, with the Inception network of 2015, by torch-fidelity.

`rfid` for reconstructions; `gfid`, `inception_score`, `precision` and `recall` for samples. The
network's file must be at hand; it is never downloaded, and its sha256 is checked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..accounting.config import STRICT, PositiveInt
from ..models import pretrained
from . import Context, Value
from ._frechet import given
from ._network_distance import (
    NEIGHBOURS,
    PRECISION_IMAGES,
    Network,
    NetworkDistance,
    Real,
    selection_reference,
)

VERSION = 1
STAGES = ("tokenizer", "generator")
BETTER = {
    "rfid": "lower",
    "gfid": "lower",
    "inception_score": "higher",
    "precision": "higher",
    "recall": "higher",
}

ADM_IMAGES = 10_000  # behind the statistics of a reference file, at least
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # TensorFlow's 2015 graph, ported
WIDTH = 2048  # features
SPLITS = 10  # of the Inception score
_INSTEAD = (
    "the metric fcd works without a file, on a classifier that is trained on the data set itself"
)

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The real images that samples are compared with.

    Reconstructions are always compared with the very images that they reconstruct, so rfid knows no
    reference.
    """

    __pydantic_config__ = STRICT

    reference: Literal["val_images", "train_subset", "adm_npz"] = "val_images"
    train_images: PositiveInt = 50_000  # train_subset: first n of a fixed random order
    adm_file: str = "VIRTUAL_imagenet256_labeled.npz"  # adm_npz: ADM's statistics and images
    adm_sha256: Sha256 | None = None  # adm_npz: first digits of that file's sha256; required
    inception_sha256: Sha256 = "6726825d"  # first digits of the network file's sha256
    inception_score: bool = True  # generator: 10 splits, shuffled under a fixed seed
    precision_recall: bool = True  # generator: k = 3 on the same features, 10,000 real images

    def __post_init__(self) -> None:
        if (self.reference == "adm_npz") != (self.adm_sha256 is not None):
            raise ValueError(
                f"adm_sha256: {self.adm_sha256!r} is not allowed with reference "
                f"{self.reference!r}; adm_npz needs it, the others have no such file"
            )

    def features(self, extractor_width: int) -> int:
        """Return the dimension of the features: the Inception network's."""
        return WIDTH

    def reference_images(self) -> tuple[str, int | None] | None:
        """Return the split that samples are compared with, and how many; None: a file of others."""
        if self.reference == "adm_npz":
            return None
        return ("train", self.train_images) if self.reference == "train_subset" else ("val", None)

    def weights(self) -> dict[str, str]:
        """Return the files to load, with the first digits of their sha256."""
        files = {INCEPTION: self.inception_sha256}
        if self.adm_sha256 is not None:
            files[self.adm_file] = self.adm_sha256
        return files


class Metric(NetworkDistance):
    """All values come from one pass of the network over the images, resized as TensorFlow 1 did."""

    RECONSTRUCTIONS = "rfid"
    SAMPLES = "gfid"

    def __init__(self, config: Config, context: Context) -> None:
        key = f"inception {config.inception_sha256}"
        if key not in context.cache:
            context.cache[key] = _load(config, context)
        super().__init__(config, context, context.cache[key])
        if config.adm_sha256 is not None:
            # Asked for now: a missing file must not be noticed after hours of sampling.
            self._adm = pretrained.find(
                config.adm_file, config.adm_sha256, context.weights, _INSTEAD
            )

    @staticmethod
    def for_selection(config: Config, mode: str) -> Config:
        reference = selection_reference(config.reference, mode)
        return dataclasses.replace(
            config,
            reference=reference,
            adm_sha256=config.adm_sha256 if reference == "adm_npz" else None,
            inception_score=False,
            precision_recall=False,
        )

    def real(self) -> Real:
        if self.config.reference != "adm_npz":
            return super().real()
        key = f"adm {self._adm}"
        if key not in self.context.cache:
            self.context.cache[key] = self._read_adm()
        found: Real = self.context.cache[key]
        return found

    def beside(
        self, features_ND: Tensor, logits_NK: Tensor, real: Real, common: dict[str, Any]
    ) -> list[Value]:
        values = []
        if self.config.inception_score:
            values.append(_inception_score(logits_NK, common))
        if self.config.precision_recall:
            values += _precision_recall(features_ND, real, common)
        return values

    def _read_adm(self) -> Real:
        """Read mu, sigma and 10,000 images of ADM's reference file, at its resolution only."""
        with np.load(self._adm, allow_pickle=False) as stored:
            if missing := sorted({"mu", "sigma", "arr_0"} - set(stored.files)):
                raise ValueError(f"weights {self._adm}: holds no {', '.join(missing)}")
            real = given(stored["mu"], stored["sigma"])
            images_NHWC = stored["arr_0"] if self.config.precision_recall else None
        if len(real["mu"]) != self.network.width:
            raise ValueError(
                f"weights {self._adm}: statistics of {len(real['mu'])} features; allowed: "
                f"{self.network.width}"
            )
        features_ND = torch.zeros(0, self.network.width)
        if images_NHWC is not None:
            side = self.context.resolution
            if images_NHWC.shape[1:] != (side, side, 3) or images_NHWC.dtype != np.uint8:
                raise ValueError(
                    f"weights {self._adm}: images {images_NHWC.shape[1:]} of "
                    f"{images_NHWC.dtype}; the evaluation's are uint8 ({side}, {side}, 3)"
                )
            images_NCHW = torch.from_numpy(images_NHWC[:PRECISION_IMAGES]).permute(0, 3, 1, 2)
            pieces = [self._outputs(batch)[0] for batch in images_NCHW.contiguous().split(64)]
            features_ND = torch.cat(pieces)
        name = f"{self._adm.name} {self.config.adm_sha256[:8]}"
        # The file does not say how many images its statistics are of; ADM's have at least 10,000.
        num = len(features_ND)
        return Real(statistics=real, features_ND=features_ND, num=num, name=name, of=ADM_IMAGES)


def _load(config: Config, context: Context) -> Network:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = pretrained.find(INCEPTION, config.inception_sha256, context.weights, _INSTEAD)
    name = f"inception-v3-compat-{config.inception_sha256[:8]}"
    try:
        network = FeatureExtractorInceptionV3(
            name, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except (RuntimeError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"weights {INCEPTION}: {path} is no Inception file: {line}") from error
    network = network.to(context.device).eval()
    return Network(
        name=name,
        outputs=lambda image_BCHW: network(image_BCHW.to(context.device)),
        width=WIDTH,
        logits=1008,
    )


def _inception_score(logits_NK: Tensor, common: dict[str, Any]) -> Value:
    """Compute exp(E KL(p(y|x)

    p(y))), mean over the splits.
    """
    from torch_fidelity.metric_isc import (
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_ISC_STD,
        isc_features_to_metric,
    )

    provenance = common | {"splits": SPLITS}
    if len(logits_NK) < SPLITS:
        why = {"undefined": f"needs {SPLITS} images, there are {len(logits_NK)}"}
        return Value(metric="inception_score", value=None, unit="1", provenance=provenance | why)
    found = isc_features_to_metric(logits_NK, splits=SPLITS)
    provenance |= {"split_std": found[KEY_METRIC_ISC_STD]}
    value = found[KEY_METRIC_ISC_MEAN]
    return Value(metric="inception_score", value=value, unit="1", provenance=provenance)


def _precision_recall(features_ND: Tensor, real: Real, common: dict[str, Any]) -> list[Value]:
    """Share of samples inside the real manifold, and of real images inside the samples'."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    provenance = common | {"reference": real.name, "reference_num": len(real.features_ND)}
    found: dict[str, float | None] = {"precision": None, "recall": None}
    if min(len(features_ND), len(real.features_ND)) > NEIGHBOURS:
        found = prc_features_to_metric(
            features_ND,
            real.features_ND,
            prc_neighborhood=NEIGHBOURS,
            save_cpu_ram=True,
            verbose=False,
        )
    else:
        provenance["undefined"] = f"needs more than {NEIGHBOURS} images in each set"
    return [
        Value(metric=name, value=found[name], unit="share", provenance=provenance)
        for name in ("precision", "recall")
    ]
