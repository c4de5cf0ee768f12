"""LPIPS of reconstructions (v0.1 heads), by the `lpips` package.

The heads come with the package, the ImageNet backbone from a file that must be at hand.
Shape suffixes: B images, C = 3, H, W pixels.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..accounting.config import STRICT
from ..models import pretrained
from . import Batch, Context, Value
from ._paired import ImageMean, pair

VERSION = 1
STAGES = ("tokenizer",)
BETTER = "lower"

# torchvision's ImageNet weights, under torch hub's own names, which end in the sha256's start.
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
HEADS_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
SMALLEST = {"alex": 32, "vgg": 16}  # pixels
_INSTEAD = "the metrics psnr, ssim and ms_ssim work without a file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Papers report either network; the value's provenance names the one taken."""

    __pydantic_config__ = STRICT

    net: Literal["alex", "vgg"] = "vgg"
    backbone_sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None = (
        None  # first digits of the backbone file's sha256; None: the published file's
    )

    def weights(self) -> dict[str, str]:
        """Return the files to load, with the first digits of their sha256."""
        file = BACKBONES[self.net]
        return {file: self.backbone_sha256 or file.removesuffix(".pth").rsplit("-", 1)[1]}


class Metric:
    """Mean over images; the network is frozen, in eval mode, and sees images in [-1, 1]."""

    def __init__(self, config: Config, context: Context) -> None:
        smallest = SMALLEST[config.net]
        if context.resolution < smallest:
            raise ValueError(
                f"metrics.lpips: {context.resolution} px is too small for {config.net}; allowed: "
                f"at least {smallest} px"
            )
        key = f"lpips {config.weights()}"
        if key not in context.cache:
            context.cache[key] = load(config, context.weights).to(context.device)
        self._config = config
        self._model = context.cache[key]
        self._device = context.device
        self._mean = ImageMean()

    @torch.inference_mode()
    def update(self, batch: Batch) -> None:
        image_BCHW, reference_BCHW = (
            x.to(self._device).float() / 127.5 - 1 for x in pair(batch, "lpips")
        )
        self._mean.add(self._model(image_BCHW, reference_BCHW).flatten())

    def state(self) -> dict[str, Tensor]:
        return self._mean.state()

    def merge(self, state: dict[str, Tensor]) -> None:
        self._mean.merge(state)

    def compute(self) -> list[Value]:
        ((_, sha256),) = self._config.weights().items()
        provenance = {
            "reference": "same images",
            "num_samples": self._mean.count,
            "extractor": f"lpips-v0.1-{self._config.net}-{sha256[:8]}",
            "library": f"lpips {importlib.metadata.version('lpips')}",
        }
        return [Value(metric="lpips", value=self._mean.mean(), unit="1", provenance=provenance)]


def load(config: Config, locations: Mapping[str, str]) -> Any:
    """Load the package's model with the verified backbone file. ValueError names a missing file."""
    import lpips

    ((file, sha256),) = config.weights().items()
    path = pretrained.find(file, sha256, locations, _INSTEAD)
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{config.net}.pth"
    if (found := pretrained.file_sha256(heads)) != HEADS_SHA256[config.net]:
        raise ValueError(f"weights {heads}: sha256 is {found}, not that of lpips 0.1.4; {_INSTEAD}")
    with warnings.catch_warnings(), torch.device("meta"):
        # lpips 0.1.4 calls torchvision by a keyword that torchvision 0.13 renamed; same meaning.
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        model = lpips.LPIPS(net=config.net, pnet_rand=True, pretrained=False, verbose=False)
    model.to_empty(device="cpu")
    model.scaling_layer = lpips.ScalingLayer()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # lpips cuts torchvision's `features` into slices and keeps their numbers: slice2.5.weight.
    names = {name: "features." + name.split(".", 1)[1] for name in model.net.state_dict()}
    shapes = {name: value.shape for name, value in model.net.state_dict().items()}
    for name, key in names.items():
        if key not in stored or stored[key].shape != shapes[name]:
            raise ValueError(
                f"weights {file}: {path} is not torchvision's file: {key} is missing or of another "
                f"shape; {_INSTEAD}"
            )
    model.net.load_state_dict({name: stored[key] for name, key in names.items()})
    trained = torch.load(heads, map_location="cpu", weights_only=True)
    unexpected = model.load_state_dict(trained, strict=False).unexpected_keys
    assert not unexpected, unexpected
    return model.requires_grad_(False).eval()
