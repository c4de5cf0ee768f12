"""Read a finished code set through memory maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...results_db.record import RunDir
from ...results_db.recorded_files import CODES, code_files, codes_manifest
from .optim import derive_seed


def train_subset(num_images: int, wanted: int | None) -> Tensor:
    """Return indices of the first `wanted` images of a fixed random order; all of them for None.

    The subsets are nested, so a data-set-size axis adds images and never swaps them.
    """
    if wanted is None:
        return torch.arange(num_images)
    if wanted > num_images:
        raise ValueError(f"num_train: {wanted} is not allowed; the data have {num_images} images")
    generator = torch.Generator().manual_seed(derive_seed("train subset"))
    return torch.randperm(num_images, generator=generator)[:wanted].sort().values


class Codes:
    """A finished code set, read through memory maps after it was compared with its hashes."""

    def __init__(self, run_dir: RunDir) -> None:
        self.manifest = codes_manifest(run_dir)
        self.codebook_size = int(self.manifest["codebook_size"])
        self.tokens_per_image = int(self.manifest["tokens_per_image"])
        self.num_classes = int(self.manifest["num_classes"])
        rows, columns = self.manifest["grid"]
        self.grid = (int(rows), int(columns))
        self._run_dir = run_dir

    def verify(self, warn: Callable[[str], None]) -> Codes:
        """Return the set itself after checking that its files are those that were recorded.

        DamagedError names the first that is not. `warn` is told of labels for which no hash was
        recorded.
        """
        nameless = code_files(self._run_dir, self.manifest, sorted(self.manifest["shards"]))
        if nameless and len(nameless) <= len(self.manifest["shards"]):  # random codes have none
            warn(
                f"codes {self._run_dir.id}: {', '.join(nameless)} cannot be verified, because the "
                "manifest was made before labels were listed in it"
            )
        return self

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return codes [images, crops, L] and labels [images] of "train" or "val"."""
        code_files(self._run_dir, self.manifest, [name])
        folder = self._run_dir.path / CODES
        shards = [
            np.load(folder / entry["file"], mmap_mode="r", allow_pickle=False)
            for entry in self.manifest["shards"][name]
        ]
        codes = shards[0] if len(shards) == 1 else np.concatenate(shards)
        labels = np.load(folder / f"labels-{name}.npy", allow_pickle=False)
        return codes, labels
