"""The small classifier behind Frechet classifier distances, where Inception does not apply.

It is trained once per data set, on real training images only, and frozen: a distance means
something for one set of weights alone, so an extractor's name holds the hash of its weights. At the
end of its run it stores the statistics of the real images, which no evaluation computes again.

Shape suffixes: B images, N images of a set, C = 3, H, W pixels, D features.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...results_db.durable import sha256_file
from ...results_db.record import RunDir, read_endpoint
from ...results_db.recorded_files import FINAL, artifact_file
from ...results_db.strict_json import DamagedError
from ..accounting import stored_config
from ..accounting.config import ExtractorConfig
from ..accounting.flops import EXTRACTOR_SIDE_MAX as SIDE_MAX
from ..loop import checkpoints, data
from ..loop.optim import Diverged, clip_gradients, derive_seed, make_optimizer, set_learning_rate
from ..metrics import Value
from ..run import Preempted, Result, Run

BETTER = {"extractor_accuracy": "higher"}
FEATURE_BATCH = 256  # images per pass when features are collected
BLUR_RADIUS = 2  # pixels; covers 2.8 standard deviations of the widest default blur


class Classifier(nn.Module):
    """Three convolutions and a penultimate layer whose L2-normalised output are the features."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        narrow = max(1, width // 4)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, narrow, 5, stride=2, padding=2),
                nn.Conv2d(narrow, 2 * narrow, 3, stride=2, padding=1),
                nn.Conv2d(2 * narrow, 4 * narrow, 3, stride=2, padding=1),
            ]
        )
        self.penultimate = nn.Linear(4 * narrow * 4 * 4, width)
        # Unit features times a learned factor: without it the logits could not exceed the norm of
        # the last layer's rows and the classifier would stay unsure.
        self.factor = nn.Parameter(torch.tensor(16.0))
        self.head = nn.Linear(width, num_classes)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Unit vectors [B, D] of images in [-1, 1]."""
        if x_BCHW.shape[-1] > SIDE_MAX:
            x_BCHW = F.interpolate(
                x_BCHW, (SIDE_MAX, SIDE_MAX), mode="bilinear", antialias=True, align_corners=False
            )
        for conv in self.convs:
            x_BCHW = F.relu(conv(x_BCHW))
        pooled = F.adaptive_avg_pool2d(x_BCHW, 4).flatten(1)
        return F.normalize(self.penultimate(pooled), dim=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        logits: Tensor = self.head(self.features(x_BCHW) * self.factor)
        return logits


def main(run: Run) -> Result:
    """Train the classifier and return its accuracy on the validation images.

    Artifacts: mean and covariance of the features of all training images, the features of all
    validation images, in the order of the data set.
    """
    config: ExtractorConfig = run.config
    images = data.open_images(config.data, run.settings, "train").to(run.device)
    torch.manual_seed(derive_seed("extractor", config.seed))
    model = Classifier(config.width, config.data.num_classes).to(run.device)
    optimizer = make_optimizer(model, config.optim)
    labels_N = images.labels.to(run.device)
    start = 0
    if (found := checkpoints.load(run, {"extractor": model}, {"extractor": optimizer})) is not None:
        start, kept = found
        run.seconds_before = float(kept["seconds"])
    checkpoints.truncate_log(run, start)

    clock, clock_step = time.monotonic(), start
    for step in range(start, config.iterations):
        stopping = run.stopping()
        if stopping or (step > start and run.save_due(step)):
            kept = {"seconds": run.seconds()}
            checkpoints.save(run, step, {"extractor": model}, {"extractor": optimizer}, kept)
        if stopping:
            raise Preempted(f"stopped before iteration {step}")
        lr = set_learning_rate(optimizer, config.optim, step, config.iterations)
        index_B = data.batch_indices(len(images), config.batch_size, config.seed, step)
        x_BCHW = data.to_float(images.center(index_B).to(run.device))
        x_BCHW = _augment(x_BCHW, config, derive_seed("extractor step", config.seed, step))
        loss = F.cross_entropy(model(x_BCHW), labels_N[index_B])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model.parameters(), config.optim.clip)
        optimizer.step()
        if (step + 1) % run.settings.log_every == 0 or step + 1 == config.iterations:
            if not math.isfinite(loss.item()):
                raise Diverged(step, "classifier loss")
            rate = (step + 1 - clock_step) / max(1e-9, time.monotonic() - clock)
            clock, clock_step = time.monotonic(), step + 1
            run.log({"step": step, "lr": lr, "loss": loss.item()})
            run.progress(step + 1, config.iterations, "extractor", rate)
    # From here on a new attempt repeats only the pass over the images.
    kept = {"seconds": run.seconds()}
    checkpoints.save(run, config.iterations, {"extractor": model}, {"extractor": optimizer}, kept)

    model.eval()
    checkpoints.save_final(run, {"extractor": model}, config.iterations)
    name = extractor_name(run.dir, config)
    train_ND = _collect(model, images, run)
    val = data.open_images(config.data, run.settings, "val").to(run.device)
    val_ND = _collect(model, val, run)
    with torch.inference_mode():
        logits = model.head(val_ND.to(run.device) * model.factor).cpu()
    accuracy = (logits.argmax(1) == val.labels).double().mean().item()
    train_ND = train_ND.double()
    run.artifact("train_mu.npy", train_ND.mean(0).numpy())
    sigma_DD = torch.cov(train_ND.T).reshape(config.width, config.width)
    run.artifact("train_sigma.npy", sigma_DD.numpy())
    run.artifact("val_features.npy", val_ND.numpy())
    value = Value(
        metric="extractor_accuracy",
        value=accuracy,
        unit="share",
        provenance={
            "extractor": name,
            "reference": "val images",
            "num_samples": len(val),
            "chance": val.labels.bincount().max().item() / len(val),  # always the largest class
        },
    )
    return Result(values=[value])


def extractor_name(run_dir: RunDir, config: ExtractorConfig) -> str:
    """Return `<dataset>-clf-<hash8>`: first digits of the sha256 of the weights file."""
    digest = sha256_file(run_dir.path / FINAL / "extractor.safetensors")
    return f"{config.data.dataset.name}-clf-{digest[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """A finished extractor with what it knows of the real images."""

    name: str
    config: ExtractorConfig
    model: Classifier
    train_mu_D: np.ndarray  # float64, of all training images
    train_sigma_DD: np.ndarray
    val_ND: Tensor  # float32, on the CPU
    accuracy: float  # on the validation images
    chance: float  # that of always saying their largest class

    @torch.inference_mode()
    def features(self, image_BCHW: Tensor) -> Tensor:
        """Return features [B, D] of uint8 images, on the CPU."""
        device = self.model.factor.device
        return self.model.features(data.to_float(image_BCHW.to(device))).cpu()

    @torch.inference_mode()
    def logits(self, features_ND: Tensor) -> Tensor:
        """Class logits [N, classes] on the CPU of features."""
        device = self.model.factor.device
        logits_NC: Tensor = self.model.head(features_ND.to(device) * self.model.factor).cpu()
        return logits_NC


def load_extractor(path: Path, device: torch.device) -> Extractor:
    """Load the extractor of a finished run. DamagedError names a file that is not the run's."""
    run_dir = RunDir(path)
    config: ExtractorConfig = stored_config.read(run_dir).config
    model = Classifier(config.width, config.data.num_classes)
    measured = _endpoint(run_dir)["values"][0]
    checkpoints.load_weights(run_dir, {"extractor": model})
    return Extractor(
        name=extractor_name(run_dir, config),
        config=config,
        model=model.to(device).eval().requires_grad_(False),
        train_mu_D=_artifact(run_dir, "train_mu.npy"),
        train_sigma_DD=_artifact(run_dir, "train_sigma.npy"),
        val_ND=torch.from_numpy(_artifact(run_dir, "val_features.npy")),
        accuracy=measured["value"],
        # Runs of before it was recorded: classes of one size.
        chance=measured["provenance"].get("chance", 1 / config.data.num_classes),
    )


def _artifact(run_dir: RunDir, name: str) -> np.ndarray:
    """Load an artifact that the run's endpoint lists, after its hash was compared."""
    path = artifact_file(run_dir, _endpoint(run_dir), name)
    vector: np.ndarray = np.load(path, allow_pickle=False)
    return vector


def _endpoint(run_dir: RunDir) -> dict[str, Any]:
    endpoint = read_endpoint(run_dir)
    if endpoint is None:
        raise DamagedError(f"{run_dir.path}: the extractor run has no endpoint")
    return endpoint


def _augment(x_BCHW: Tensor, config: ExtractorConfig, seed: int) -> Tensor:
    """Blur a batch by one random width, then add noise of a random strength to each image.

    Both are light: the slight noise and blur of every generator shall not dominate the distance.
    """
    generator = torch.Generator().manual_seed(seed)
    sigma = config.blur_sigma_max * torch.rand((), generator=generator).item()
    strength_B111 = config.noise_std * torch.rand(len(x_BCHW), 1, 1, 1, generator=generator)
    noise_BCHW = strength_B111 * torch.randn(x_BCHW.shape, generator=generator)
    return _blur(x_BCHW, sigma) + noise_BCHW.to(x_BCHW.device)


def _blur(x_BCHW: Tensor, sigma: float) -> Tensor:
    if sigma < 0.1:  # the kernel is a single 1 in single precision
        return x_BCHW
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=x_BCHW.device)
    kernel = torch.exp(-(offsets.float() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(x_BCHW, (BLUR_RADIUS,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1).repeat(3, 1, 1, 1), groups=3)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).repeat(3, 1, 1, 1), groups=3)


def _collect(model: Classifier, images: data.Images, run: Run) -> Tensor:
    """Collect features [N, D] of every image of a split, on the CPU."""
    pieces = []
    for index_B in _batches(len(images)):
        if run.stopping():
            raise Preempted("stopped while collecting features")
        with torch.inference_mode():
            x_BCHW = data.to_float(images.center(index_B).to(run.device))
            pieces.append(model.features(x_BCHW).cpu())
    return torch.cat(pieces)


def _batches(num: int) -> Iterator[Tensor]:
    return iter(torch.arange(num).split(FEATURE_BATCH))
