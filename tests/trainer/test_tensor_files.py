import errno
import hashlib
import os

import pytest
import safetensors.torch
import torch

from tokenlaw.results_db import durable
from tokenlaw.trainer.loop import tensor_files

TENSORS = {
    "layer.weight": torch.randn(64, 3, 3, 3).to(memory_format=torch.channels_last),
    "layer.bias": torch.randn(5)[::2],
    "scalar": torch.tensor(3.0),
    "count": torch.tensor([7], dtype=torch.long),
    "half": torch.randn(3).bfloat16(),
    "f16": torch.randn(2).half(),
    "double": torch.randn(3, dtype=torch.float64),
    "ints": torch.arange(3, dtype=torch.int32),
    "short": torch.arange(3, dtype=torch.int16),
    "tiny": torch.arange(3, dtype=torch.int8),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
    "a parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("direct_bytes", [1, 100, 1 << 20])
def test_files_are_those_of_the_library_to_the_byte(tmp_path, monkeypatch, direct_bytes):
    monkeypatch.setattr(tensor_files, "_DIRECT_BYTES", direct_bytes)
    monkeypatch.setattr(tensor_files, "_SYNC_BYTES", direct_bytes)
    monkeypatch.setattr(durable, "_REMEMBERED_BYTES", 0)
    monkeypatch.setattr(durable, "_hashed", {})
    path = tmp_path / "x.safetensors"
    tensor_files.write(path, TENSORS)
    plain = {name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}
    assert path.read_bytes() == safetensors.torch.save(plain)
    assert [found["sha256"] for found in durable._hashed.values()] == [
        hashlib.sha256(path.read_bytes()).hexdigest()
    ]
    assert durable.sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in safetensors.torch.load_file(path).items():
        assert torch.equal(tensor, TENSORS[name]) and tensor.dtype == TENSORS[name].dtype


def test_an_existing_file_is_left_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        tensor_files.write(path, TENSORS)
    assert path.read_bytes() == b"kept"


def test_a_disk_that_fails_meanwhile_is_an_error(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(tensor_files, "_DIRECT_BYTES", 1)
    monkeypatch.setattr(tensor_files, "_SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no"):
        tensor_files.write(tmp_path / "x.safetensors", TENSORS)
