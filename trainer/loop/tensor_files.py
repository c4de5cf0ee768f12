"""Writes safetensors files without building them in memory first; the library reads them.

Its `save` copies everything twice before the first byte is written, and its `save_file` writes
where the durable writer's fault tests cannot see (and break) it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ...results_db.durable import remember_hash

# In the library's order, so that files are its own to the byte.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DIRECT_BYTES = 1 << 20  # tensors from this size on are written by themselves, without a copy
_SYNC_BYTES = 32 << 20  # written before the disk is asked to take them


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a new file of tensors, which may be on any device.

    Meanwhile its sha256 is taken and the disk gets to work, so that making it durable has little
    left to do.
    """
    order = list(_DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    digest = hashlib.sha256()
    with open(path, "xb") as file, ThreadPoolExecutor(1) as hashing, ThreadPoolExecutor(1) as disk:
        hashed: Future[None] | None = None
        synced: Future[None] | None = None
        unsynced = 0
        for piece in _pieces({name: tensors[name].detach() for name in names}):
            if hashed is not None:
                hashed.result()  # no more than two pieces are held at once
            hashed = hashing.submit(digest.update, piece)
            unsynced += file.write(piece)
            if unsynced >= _SYNC_BYTES and (synced is None or synced.done()):
                if synced is not None:
                    synced.result()
                synced = disk.submit(os.fsync, file.fileno())
                unsynced = 0
        if synced is not None:
            synced.result()
    remember_hash(path, digest.hexdigest())


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the content of a file: its head, and the tensors in this order; small ones together."""
    entries, at = {}, 0
    for name, tensor in tensors.items():
        place = [at, at + tensor.nbytes]
        shape = list(tensor.shape)
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": place}
        at = place[1]
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    small: list[bytes | memoryview] = [len(head).to_bytes(8, "little"), head]
    for tensor in tensors.values():
        data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        if len(data) < _DIRECT_BYTES:
            small.append(data)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield data
    if small:
        yield b"".join(small)
