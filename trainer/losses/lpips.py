"""LPIPS on VGG16, by the `lpips` package: the perceptual loss of the VQGAN papers.

The heads (v0.1) come with the package, the ImageNet backbone from a file that must be at hand.
Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from .. import kernels
from ..accounting.config import STRICT, NonNegativeFloat
from ..accounting.flops import Cost
from ..models import pretrained
from . import _vgg

VERSION = 1
ROLE = "perceptual"

BACKBONE = "vgg16-397923af.pth"  # torchvision's ImageNet weights, under torch hub's own name
_HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"
_INSTEAD = (
    "the perceptual loss random_vgg works without a file, "
    "and perceptual: null does without the loss"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One network only: VGG16, as in all the papers; it is the loss, not a metric."""

    __pydantic_config__ = STRICT

    weight: NonNegativeFloat = 1.0
    backbone_sha256: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] = (
        "397923af"  # first digits of the backbone file's sha256
    )
    lpips_dropout_compat: bool = (
        False  # keep the heads' dropout of 0.5 on, as taming, LlamaGen and GigaTok do unawares
    )

    def cost(self, resolution: int) -> Cost:
        """Count one image through the backbone and heads once."""
        trunk, side = _vgg.trunk_cost(resolution), resolution
        heads = Cost()
        for channels in _vgg.CHANNELS:
            heads += Cost(channels[-1], channels[-1] * side**2)
            side //= 2
        # A pair of images goes through the heads together.
        return trunk + Cost(heads.params, heads.macs // 2)

    def weights(self) -> dict[str, str]:
        """Return the files to load, with the first digits of their sha256."""
        return {BACKBONE: self.backbone_sha256}


class Loss(nn.Module):
    """Mean LPIPS distance of two batches of images in [-1, 1].

    Frozen and in eval mode whatever the loop does; with `lpips_dropout_compat` the dropout is on
    until `.eval()`. ValueError when the backbone file is not at hand.
    """

    def __init__(self, config: Config, weights: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.config = config
        self._by_kernels = False
        backbone = pretrained.find(BACKBONE, config.backbone_sha256, weights, _INSTEAD)
        self.model = _vgg.empty_lpips(with_heads=True)
        _load_backbone(self.model.net, backbone)
        _load_heads(self.model)
        self.train(True)

    def train(self, mode: bool = True) -> Loss:
        """Leave all in eval mode, but for the dropout of the compatibility switch."""
        super().train(False)
        if mode and self.config.lpips_dropout_compat:
            for layer in self.modules():
                if isinstance(layer, nn.Dropout):
                    layer.train(True)
        return self

    def forward(self, x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
        _vgg.check_images(x_BCHW)
        _vgg.check_images(y_BCHW)
        if self._by_kernels and kernels.usable(y_BCHW) and not x_BCHW.requires_grad:
            return _vgg.by_kernels(self.model, x_BCHW, y_BCHW)
        distance: Tensor = self.model(x_BCHW, y_BCHW).mean()
        return distance

    def use_kernels(self, recompute: bool) -> None:
        """Run by kernels of our own where there is a GPU.

        The dropout of the compatibility switch rules that out.
        """
        self._by_kernels = not self.config.lpips_dropout_compat


def _load_backbone(trunk: nn.Module, path: Path) -> None:
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = trunk.state_dict()
    # lpips cuts torchvision's `features` into slices and keeps their numbers: slice2.5.weight.
    features = {name: "features." + name.split(".", 1)[1] for name in wanted}
    wrong = [
        key
        for name, key in features.items()
        if key not in stored or stored[key].shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(
            f"weights {BACKBONE}: {path} is not torchvision's VGG16; missing or of another shape: "
            f"{', '.join(wrong[:3])}; {_INSTEAD}"
        )
    trunk.load_state_dict({name: stored[key] for name, key in features.items()})


def _load_heads(model: nn.Module) -> None:
    import lpips

    path = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    found = pretrained.file_sha256(path)
    if found != _HEADS_SHA256:
        raise ValueError(
            f"weights {path}: sha256 is {found}, not that of lpips 0.1.4; "
            f"reinstall lpips; {_INSTEAD}"
        )
    heads = torch.load(path, map_location="cpu", weights_only=True)
    # Only the heads: the trunk was loaded before, the input scaling is part of the code.
    unexpected = model.load_state_dict(heads, strict=False).unexpected_keys
    assert not unexpected, unexpected
