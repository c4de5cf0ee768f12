"""Frechet distance on CLIP image features, by torch-fidelity: `rfid_clip`, `gfid_clip`.

Another scale than FID, never on one axis with it. The images are resized by torch-fidelity's rule
(TensorFlow 1 bilinear), where clean-fid takes CLIP's own; the numbers of the two differ.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..accounting.config import STRICT, PositiveInt
from ..models import pretrained
from . import Context
from ._network_distance import Network, NetworkDistance, selection_reference

VERSION = 1
STAGES = ("tokenizer", "generator")
BETTER = {"rfid_clip": "lower", "gfid_clip": "lower"}

# Full digests, which the names of the files in torch hub's cache hold.
SHA256 = {
    "clip-vit-b-32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "clip-vit-b-16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "clip-vit-l-14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
}
WIDTH = {"clip-vit-b-32": 512, "clip-vit-b-16": 512, "clip-vit-l-14": 768}  # features
_INSTEAD = (
    "the metric fcd works without a file, on a classifier that is trained on the data set itself"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The CLIP network, and the real images that samples are compared with."""

    __pydantic_config__ = STRICT

    network: Literal["clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14"] = "clip-vit-b-32"
    reference: Literal["val_images", "train_subset"] = "val_images"
    train_images: PositiveInt = 50_000  # train_subset: first n of a fixed random order
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = (
        None  # first digits of the network file's sha256; None: the published file's
    )

    def features(self, extractor_width: int) -> int:
        """Return the dimension of the features: the network's image embeddings."""
        return WIDTH[self.network]

    def reference_images(self) -> tuple[str, int | None]:
        """Return the split that samples are compared with, and how many of its images."""
        return ("train", self.train_images) if self.reference == "train_subset" else ("val", None)

    def weights(self) -> dict[str, str]:
        """Return the files to load, with the first digits of their sha256."""
        published = SHA256[self.network]
        return {f"{self.network}-{published}.pt": self.sha256 or published}


class Metric(NetworkDistance):
    """Features are the image embeddings before any normalisation."""

    RECONSTRUCTIONS = "rfid_clip"
    SAMPLES = "gfid_clip"

    def __init__(self, config: Config, context: Context) -> None:
        key = f"clip {config.weights()}"
        if key not in context.cache:
            context.cache[key] = _load(config, context)
        super().__init__(config, context, context.cache[key])

    @staticmethod
    def for_selection(config: Config, mode: str) -> Config:
        reference = selection_reference(config.reference, mode)
        return dataclasses.replace(config, reference=reference)


def _load(config: Config, context: Context) -> Network:
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    ((file, sha256),) = config.weights().items()
    path = pretrained.find(file, sha256, context.weights, _INSTEAD)
    try:
        with warnings.catch_warnings():
            # CLIP is published as a TorchScript archive, and torch is giving TorchScript up.
            warnings.filterwarnings("ignore", ".torch.jit", FutureWarning)
            network = FeatureExtractorCLIP(
                config.network, ["clip"], feature_extractor_weights_path=str(path)
            )
    except (RuntimeError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"weights {file}: {path} is no CLIP file: {line}") from error
    network = network.to(context.device).eval()
    return Network(
        name=f"{config.network}-{sha256[:8]}",
        outputs=lambda image_BCHW: network(image_BCHW.to(context.device)),
        width=network.model.visual.output_dim,
    )
