"""Codes: tokenises a data set once, into shards that generators read, and counts what it wrote.

RUN/codes/ holds `train-00000.npy`, .. (uint16 or uint32 [images, crops, L]), `val-00000.npy`
[images, 1, L] and the labels; each shard is durable on its own, so a killed run goes on at the next
one. Shape suffixes: B crops, L tokens of an image, D latent width, K codebook size.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...results_db.durable import (
    sha256_file,
    sweep_temporaries,
    sync_folder,
    write_bytes,
    write_json,
)
from ...results_db.record import RunDir
from ...results_db.recorded_files import CODES, CODES_MANIFEST
from ...results_db.strict_json import DamagedError, read_json
from .. import kernels
from ..accounting import flops
from ..accounting.code_statistics import code_statistics
from ..accounting.config import CodesConfig
from ..fast_start import startup
from ..loop import data
from ..loop.code_sets import train_subset
from ..loop.data import CROPS
from ..metrics import Value
from ..models.build import load_tokenizer
from ..run import Preempted, Result, Run

if TYPE_CHECKING:
    from ..quantizers import Quantizer
    from ..tokenizers import Tokenizer

SHARD_IMAGES = 4096
BETTER = {
    "code_usage_train": "higher",
    "code_entropy_pooled": "higher",
    "code_entropy_mean": "higher",
}


class Coder:
    """Codes of uint8 images by a frozen tokenizer, in eval mode.

    On a GPU it turns the tokenizer to channels last. When compiled, or run by kernels instead,
    incomplete batches are filled up, as another shape would be compiled or tuned anew; images do
    not depend on their neighbours.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        quantizer: Quantizer,
        device: torch.device,
        *,
        bf16: bool,
        batch_size: int,
        compiled: bool,
    ) -> None:
        self.device, self.batch_size = device, batch_size
        self._tokenizer, self._quantizer = tokenizer, quantizer
        self._bf16, self._compiled = bf16, compiled
        self._layout = torch.contiguous_format
        if device.type == "cuda":
            self._layout = torch.channels_last
            tokenizer.to(memory_format=self._layout)
        self._latents = self._plain_latents
        if compiled and not kernels.adopted_by(tokenizer, device):
            self._latents = startup.compiled(self._plain_latents)

    def _plain_latents(self, pixels_BCHW: Tensor) -> Tensor:
        # Laid out anew while a pixel is a byte.
        x_BCHW = data.to_float(pixels_BCHW.contiguous(memory_format=self._layout))
        return self._tokenizer.encode(x_BCHW)

    @torch.inference_mode()
    def codes(self, pixels_BCHW: Tensor) -> Tensor:
        """Return codes [B, L] of images on any device, on the coder's device, without waiting."""
        pieces = []
        for chunk in pixels_BCHW.split(self.batch_size):
            chunk, images = data.send(chunk, self.device), len(chunk)
            if self._compiled and images < self.batch_size:
                more = chunk[-1:].expand(self.batch_size - images, *chunk.shape[1:])
                chunk = torch.cat([chunk, more])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
                code_BL = self._quantizer(self._latents(chunk), 0).code_BN
            pieces.append(code_BL[:images])
        return torch.cat(pieces)

    def of_each(self, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Yield codes [B, L] of each batch of images.

        The device works on the next batch meanwhile.
        """
        waiting: tuple[Tensor, torch.cuda.Event | None] | None = None
        for pixels_BCHW in batches:
            begun = self._begin(pixels_BCHW)
            if waiting is not None:
                yield _arrived(*waiting)
            waiting = begun
        if waiting is not None:
            yield _arrived(*waiting)

    def _begin(self, pixels_BCHW: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Return codes in the host's memory, and the event to wait for before they are read."""
        code_BL = self.codes(pixels_BCHW)
        if self.device.type != "cuda":
            return code_BL, None
        code_BL = code_BL.int()
        host_BL = torch.empty(code_BL.shape, dtype=code_BL.dtype, pin_memory=True)
        host_BL.copy_(code_BL, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self.device))
        return host_BL, copied


def _arrived(code_BL: Tensor, copied: torch.cuda.Event | None) -> np.ndarray:
    if copied is not None:
        copied.synchronize()
    return code_BL.numpy()


def main(run: Run) -> Result:
    """Write all shards and the statistics of the training codes."""
    config: CodesConfig = run.config
    device = run.device

    # --------------------------------------------------------------------------------- setup
    tokenizer, quantizer, tokenizer_config = load_tokenizer(run.parents["tokenizer"], device)
    part = tokenizer_config.tokenizer.config
    length = part.tokens_per_image(config.data.resolution)
    num_codes = tokenizer_config.quantizer.config.num_codes
    dtype = np.uint16 if num_codes <= 1 << 16 else np.uint32
    coder = Coder(
        tokenizer,
        quantizer,
        device,
        bf16=config.numerics.precision == "bf16",
        batch_size=_batch_size(config, run.compile),
        compiled=run.compile,
    )
    folder = run.dir.path / CODES
    folder.mkdir(exist_ok=True)
    sync_folder(run.dir.path)
    sweep_temporaries(folder, all_writers=True)  # of attempts that died

    # --------------------------------------------------------------------------------- shards
    shards: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    labels: dict[str, np.ndarray] = {}
    clock, done = time.monotonic(), 0
    for split in ("train", "val"):
        images = data.open_images(config.data, run.settings, split)
        policy = config.crops if split == "train" else "center"
        chosen = train_subset(len(images), config.num_train if split == "train" else None)
        labels[split] = images.labels[chosen].numpy().astype(np.int32)
        total = len(chosen)
        for number, first in enumerate(range(0, total, SHARD_IMAGES)):
            indices = chosen[first : first + SHARD_IMAGES]
            name = f"{split}-{number:05d}.npy"
            shape = (len(indices), CROPS[policy], length)
            if (kept := _finished_shard(run.dir, name, shape)) is None:
                codes = np.empty(shape, dtype)
                at = 0
                batches = _crops(images, indices, policy, config.crop_ratio, coder)
                for found in coder.of_each(batches):
                    if run.stopping():
                        raise Preempted(f"stopped in shard {name}")
                    found = found.reshape(-1, *shape[1:])
                    codes[at : at + len(found)] = found
                    at += len(found)
                    done += len(found)
                    rate = done / max(1e-9, time.monotonic() - clock)
                    run.progress(first + at, total, f"codes {split}", rate)
                kept = _write_array(run, folder, name, codes)
                # The note comes after the shard: a shard without one is written again.
                run.attempt.check()
                write_json(folder / f"{name}.json", kept | {"run": run.dir.owner})
            shards[split].append(kept)

    # --------------------------------------------------------------------------------- statistics
    all_train = np.concatenate(
        [np.load(folder / s["file"], mmap_mode="r") for s in shards["train"]]
    )
    statistics = code_statistics(all_train.reshape(-1, length), num_codes)
    unconditional = statistics.pop("pooled_counts")
    run.artifact("entropy.npz", {k: np.asarray(v) for k, v in statistics.items()})
    run.artifact("code_counts.npz", {"pooled": unconditional})
    rows, columns = part.grid_shape(config.data.resolution)
    manifest = {
        "tokenizer": run.parents["tokenizer"].id,
        "crops": config.crops,
        "crop_ratio": config.crop_ratio,
        "codebook_size": num_codes,
        "tokens_per_image": length,
        "grid": [rows, columns],
        "num_classes": config.data.num_classes,
        "num_images": {split: len(values) for split, values in labels.items()},
        "dtype": np.dtype(dtype).name,
        "shards": shards,
        "labels": {
            split: _write_array(run, folder, f"labels-{split}.npy", values)
            for split, values in labels.items()
        },
        "run": run.dir.owner,
    }
    run.attempt.check()
    write_json(folder / "manifest.json", manifest)
    run.list_artifact(
        CODES_MANIFEST,
        f"{CODES}/manifest.json",
        sha256_file(folder / "manifest.json"),
        (folder / "manifest.json").stat().st_size,
    )
    usage = np.count_nonzero(unconditional) / num_codes
    return Result(
        values=[
            Value(metric="code_usage_train", value=float(usage), unit="share"),
            Value(
                metric="code_entropy_pooled",
                value=float(statistics["entropy_pooled_bits"]),
                unit="bits/token",
            ),
            Value(
                metric="code_entropy_mean",
                value=float(np.mean(statistics["entropy_bits"])),
                unit="bits/token",
            ),
        ],
        columns={
            "flops_train": float(flops.codes_flops_train(config, tokenizer_config)),
            "tokens_per_image": length,
            "codebook_size": num_codes,
        },
    )


def _batch_size(config: CodesConfig, compiled: bool) -> int:
    """Return the number of crops that go through the encoder at once.

    Compiled code wants one shape and fills incomplete batches up, so a batch is all crops of a
    number of images there.
    """
    crops = CROPS[config.crops]
    return (
        config.batch_size // crops * crops or config.batch_size if compiled else config.batch_size
    )


def _crops(
    images: data.Images, indices: Tensor, policy: str, ratio: float, coder: Coder
) -> Iterator[Tensor]:
    """Yield uint8 [crops, 3, R, R] of `indices`, about a batch at a time.

    The next images are decoded while the device encodes these.
    """
    pieces = indices.split(max(1, coder.batch_size // CROPS[policy]))

    def make(number: int) -> Tensor:
        crops = images.crops_of(pieces[number].tolist(), policy, ratio).flatten(0, 1)
        return crops.pin_memory() if coder.device.type == "cuda" else crops

    return data.ahead(make, 0, len(pieces))


def _npy_bytes(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _finished_shard(run_dir: RunDir, name: str, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the manifest entry of an earlier attempt's shard that still verifies.

    A shard without a good note is made again, also one whose note names no run; MisplacedError for
    another run's.
    """
    path = run_dir.path / CODES / name
    note = path.with_name(f"{name}.json")
    try:
        entry = read_json(note)
    except (FileNotFoundError, DamagedError):
        return None
    if not isinstance(entry, dict) or (owner := entry.pop("run", None)) is None:
        return None
    run_dir.check_owner(note, owner, "or remove both: the shard is made again")
    if entry.get("file") != name or entry.get("shape") != list(shape) or not path.exists():
        return None
    return entry if sha256_file(path) == entry.get("sha256") else None


def _write_array(run: Run, folder: Path, name: str, values: np.ndarray) -> dict[str, Any]:
    """Write an array durably; return its entry in the manifest."""
    content = _npy_bytes(values)
    run.attempt.check()
    write_bytes(folder / name, content)
    return {
        "file": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "shape": list(values.shape),
    }
