"""Weight files of the right shapes with random contents, for the loading paths. Their sha256 is
declared by the test that makes them; no number measured with them means anything."""

from __future__ import annotations

import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from tokenlaw.trainer.models import pretrained


def save(content: object, path: Path) -> tuple[str, str]:
    """(path, first digits of its sha256)."""
    torch.save(content, path)
    return str(path), pretrained.file_sha256(path)[:12]


def inception(path: Path) -> tuple[str, str]:
    """The state of torch-fidelity's Inception network."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    torch.manual_seed(0)
    with (
        mock.patch.object(module, "load_state_dict_from_url", lambda *args, **kwargs: {}),
        mock.patch.object(nn.Module, "load_state_dict", lambda *args, **kwargs: None),
    ):
        network = module.FeatureExtractorInceptionV3("shapes", ["2048"])
    state = network.state_dict()
    for name, value in state.items():
        # As left by the constructor, activations vanish over so many layers.
        if value.ndim == 4:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape) * (2 / fan_in) ** 0.5)
        elif name == "fc.weight":
            value.copy_(torch.randn(value.shape) * 0.05)
    return save(state, path)


def clip(path: Path, width: int = 64, layers: int = 1, embedding: int = 16) -> tuple[str, str]:
    """A small vision transformer under CLIP's names, as the TorchScript archive that CLIP is."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    torch.manual_seed(0)
    # 7 x 7 patches of 32 px: CLIP's own grid.
    network = CLIPVisual(embedding, 224, layers, width, 32)
    holder = nn.Module()
    state = network.state_dict() | {"text_projection": torch.zeros(8, embedding)}
    for name, value in state.items():
        *folders, leaf = name.split(".")
        place: nn.Module = holder
        for folder in folders:
            if folder not in dict(place.named_children()):
                place.add_module(folder, nn.Module())
            place = dict(place.named_children())[folder]
        content = torch.randn(value.shape) * 0.1 if value.is_floating_point() else value
        place.register_parameter(leaf, nn.Parameter(content, requires_grad=False))
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        torch.jit.save(torch.jit.script(holder), str(path))
    return str(path), pretrained.file_sha256(path)[:12]


def backbone(path: Path, net: str) -> tuple[str, str]:
    """torchvision's AlexNet or VGG16, convolutions only."""
    import torchvision

    layout = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[net]
    with torch.device("meta"):
        state = layout().features.state_dict()
    torch.manual_seed(0)
    content = {
        f"features.{name}": torch.randn(value.shape) * (2 / max(1, value[0].numel())) ** 0.5
        for name, value in state.items()
    }
    return save(content, path)


def adm(path: Path, images: int, side: int, width: int) -> tuple[str, str]:
    """A reference file with ADM's arrays."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(2 * width, width))
    np.savez(
        path,
        mu=features.mean(0),
        sigma=np.cov(features, rowvar=False),
        arr_0=draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8),
    )
    return str(path), pretrained.file_sha256(path)[:12]
