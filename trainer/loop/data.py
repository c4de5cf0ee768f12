"""Images for the loops: verified, cropped and augmented as functions of (seed, step).

Shape suffixes: B images, C = 3, H, W pixels. uint8 in [0, 255]; models see [-1, 1].
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...results_db.durable import remove_folder, stage_folder, verify_folder
from ...results_db.rundir import default_home
from ...results_db.strict_json import DamagedError
from .. import parts
from ..accounting.config import DataConfig
from ..accounting.flops import CROPS as CROPS
from ..datasets._decode import RULES
from .optim import derive_seed

if TYPE_CHECKING:
    from ..datasets import Split
    from ..run import Settings

DENSE_BYTES = 2 << 30  # sets that fit are decoded once and kept as one tensor
KEEP_FROM = 5_000  # images from which on that tensor is kept on disk for the next process


def to_float(x_BCHW: Tensor) -> Tensor:
    """Convert uint8 to float in [-1, 1]."""
    return x_BCHW.float() / 127.5 - 1.0


def to_uint8(x_BCHW: Tensor) -> Tensor:
    """Float in [-1, 1] (clamped) to uint8, rounded to nearest."""
    return (x_BCHW.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)


@lru_cache(maxsize=4)
def _permutation(num: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return torch.randperm(num, generator=generator)


def batch_indices(num: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Return indices [B] of the images of iteration `step`.

    Epochs are seeded permutations, back to back.
    """
    first = step * batch_size
    pieces = []
    while batch_size > 0:
        epoch, offset = divmod(first, num)
        piece = _permutation(num, seed, epoch)[offset : offset + batch_size]
        pieces.append(piece)
        first += len(piece)
        batch_size -= len(piece)
    return torch.cat(pieces)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Crop as ADM: box-halve while twice too large, bicubic to the short side, cut the middle."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    picture = Image.fromarray(image)
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    shape = (max(size, round(picture.width * scale)), max(size, round(picture.height * scale)))
    picture = picture.resize(shape, Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def many_crops(image: np.ndarray, size: int, policy: str, ratio: float) -> np.ndarray:
    """Return the crops of a policy, uint8 [n, 3, size, size].

    `center`: 1. `five_crop`: corners and centre of the image at `ratio` x size, rounded down.
    `ten_crop`: those and those of its mirror image (LlamaGen).
    """
    large = center_crop(image, size if policy == "center" else int(size * ratio))
    # Channels first before the crops multiply it: a tenth of the bytes to turn around.
    large = np.ascontiguousarray(large.transpose(2, 0, 1))
    if policy == "center":
        return large[None]
    edge = large.shape[1] - size
    middle = round(edge / 2)  # half an odd edge goes to the even side, as in torchvision
    corners = [(0, 0), (0, edge), (edge, 0), (edge, edge), (middle, middle)]
    sides = [large]
    if policy == "ten_crop":
        sides.append(np.ascontiguousarray(large[:, :, ::-1]))
    return np.stack([side[:, y : y + size, x : x + size] for side in sides for y, x in corners])


class Images:
    """One split of a data set at one resolution."""

    def __init__(self, data: DataConfig, split: Split, half: str = "") -> None:
        self.resolution = data.resolution
        self.split = split
        self.labels = torch.tensor([split.label(i) for i in range(len(split))])
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        self._dense: Tensor | None = None
        self._fits = len(split) * 3 * data.resolution**2 <= DENSE_BYTES
        self._kept: Path | None = None
        if half and self._fits and len(split) >= KEEP_FROM and data.digest is not None:
            name = f"{data.digest[:16]}-{data.resolution}-{half}-{RULES}"
            self._kept = default_home() / "cache" / "pixels" / name

    def __len__(self) -> int:
        return len(self.split)

    def dense(self) -> Tensor | None:
        """Return all centre crops, uint8 [N, 3, R, R], if they fit in memory."""
        if self._dense is None and self._fits:
            self._dense = torch.from_numpy(self._all_centers())
        return self._dense

    def _all_centers(self) -> np.ndarray:
        """Return uint8 [N, 3, R, R]; keep a verified copy of larger sets for the next process."""
        folder = self._kept
        if folder is not None and folder.exists():
            try:
                verify_folder(folder)
                image_NHWC: np.ndarray = np.load(folder / "pixels.npy", allow_pickle=False)
                return image_NHWC
            except DamagedError:
                remove_folder(folder)
        pixels = np.stack(list(self._pool.map(self._center, range(len(self)))))
        if folder is not None and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                with stage_folder(folder) as staged, open(staged.file("pixels.npy"), "xb") as file:
                    np.save(file, pixels, allow_pickle=False)
            except OSError as error:
                # Another process was first (or the disk is full): the copy only saves time.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOSPC, errno.EDQUOT):
                    raise
        return pixels

    def _center(self, index: int) -> np.ndarray:
        return np.asarray(many_crops(self.split.image(index), self.resolution, "center", 1.0)[0])

    def center(self, indices: Tensor) -> Tensor:
        """Centre crops, uint8 [B, 3, R, R], on the device of the dense tensor."""
        dense = self.dense()
        if dense is not None:
            return dense[indices.to(dense.device)]
        return torch.from_numpy(np.stack(list(self._pool.map(self._center, indices.tolist()))))

    def to(self, device: torch.device) -> Images:
        """Move the dense tensor, if there is one."""
        dense = self.dense()
        if dense is not None:
            self._dense = dense.to(device)
        return self

    def crops(self, index: int, policy: str, ratio: float) -> Tensor:
        """Return all crops of one image, uint8 [n, 3, R, R], from one decode."""
        return torch.from_numpy(many_crops(self.split.image(index), self.resolution, policy, ratio))

    def crops_of(self, indices: list[int], policy: str, ratio: float) -> Tensor:
        """Return uint8 [len(indices), n, 3, R, R]; several threads decode the images."""
        found = self._pool.map(lambda index: self.crops(index, policy, ratio), indices)
        return torch.stack(list(found))

    def augmented(self, indices: Tensor, seed: int, augment: str, crop_scale_min: float) -> Tensor:
        """Random square crops (and mirror images) at the resolution, uint8 [B, 3, R, R].

        Sets held in memory are cropped from their centre crops by bicubic interpolation, all at
        once; others from the original files, image by image. `seed` decides all draws.
        """
        if augment == "none":
            return self.center(indices)
        generator = torch.Generator().manual_seed(seed)
        draws_B4 = torch.rand(len(indices), 4, generator=generator)
        flip_B = (
            draws_B4[:, 3] < 0.5 if augment == "crop_flip" else torch.zeros(len(indices)).bool()
        )
        scale_B = crop_scale_min + (1 - crop_scale_min) * draws_B4[:, 0]
        dense = self.dense()
        if dense is not None:
            return _crop_tensor(self.center(indices), scale_B, draws_B4[:, 1:3], flip_B)
        jobs = zip(
            indices.tolist(), scale_B.tolist(), draws_B4.tolist(), flip_B.tolist(), strict=True
        )
        crops = list(self._pool.map(lambda job: self._crop_file(*job), jobs))
        return torch.from_numpy(np.stack(crops))

    def _crop_file(self, index: int, scale: float, draws: list[float], flip: bool) -> np.ndarray:
        image = self.split.image(index)
        height, width = image.shape[:2]
        side = scale * min(height, width)
        left, top = draws[1] * (width - side), draws[2] * (height - side)
        picture = Image.fromarray(image).resize(
            (self.resolution, self.resolution),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        pixels = np.asarray(picture)
        # Turned around here, by the threads that decode, not for the whole batch at its end.
        return np.ascontiguousarray((pixels[:, ::-1] if flip else pixels).transpose(2, 0, 1))


def _crop_tensor(x_BCHW: Tensor, scale_B: Tensor, offset_B2: Tensor, flip_B: Tensor) -> Tensor:
    device = x_BCHW.device
    free_B1 = (1 - scale_B)[:, None]
    center_B2 = (2 * offset_B2 - 1) * free_B1  # in [-1, 1] coordinates
    sign_B = torch.where(flip_B, -1.0, 1.0)
    theta = torch.zeros(len(scale_B), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale_B * sign_B, scale_B
    theta[:, :, 2] = center_B2
    grid = F.affine_grid(theta.to(device), list(x_BCHW.shape), align_corners=False)
    out = F.grid_sample(
        x_BCHW.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return out.round().clamp(0, 255).to(torch.uint8)


def open_images(data: DataConfig, settings: Settings, split: str) -> Images:
    """Open the split "train" or "val" of the run's data, checked against the config.

    Raises ValueError naming what differs: the content digest, the counts, or a missing folder.
    """
    module = parts.load("datasets", data.dataset.name)
    location = settings.locations.get("data")
    folder = Path(location) if location else None
    facts = module.describe(data.dataset.config, folder)
    for name in ("digest", "num_classes", "num_train", "num_val", "labels"):
        declared, found = getattr(data, name), getattr(facts, name)
        if declared != found:
            raise ValueError(
                f"data.{name}: the run was planned with {declared!r}, the data at "
                f"{folder or data.dataset.name} have {found!r}"
            )
    return Images(data, module.open_split(data.dataset.config, folder, split), split)


def send(x: Tensor, device: torch.device) -> Tensor:
    """Send `x` to the device, without waiting for it.

    From ordinary memory a GPU's driver copies only when all earlier work is done, and the device
    idles while the host launches what follows.
    """
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


T = TypeVar("T")


def ahead(make: Callable[[int], T], first: int, last: int, depth: int = 2) -> Iterator[T]:
    """Yield make(first), .., make(last - 1), each begun `depth` steps before its turn.

    Batches are functions of the step, so preparing them early cannot change them.
    """
    pool = ThreadPoolExecutor(1)
    try:
        waiting: list[Future[T]] = []
        for step in range(first, last):
            while len(waiting) < depth and step + len(waiting) < last:
                waiting.append(pool.submit(make, step + len(waiting)))
            yield waiting.pop(0).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
