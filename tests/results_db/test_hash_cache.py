"""Remembered hashes: a second read costs nothing, and a change is seen whatever hides it."""

import builtins
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokenlaw import results_db
from tokenlaw.results_db import durable, hash_cache, processes

ROOT = Path(results_db.__file__).parent.parent


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """The file of an empty memory; small files count and no file is too young."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "LEAST_BYTES", 1)
    monkeypatch.setattr(hash_cache, "_SETTLED_SECONDS", -1.0)
    return tmp_path / "cache" / "tokenlaw" / f"hashes-{processes.host_name()}"


@pytest.fixture
def reads(monkeypatch):
    """Bytes that were read of files since it was emptied."""
    taken = []
    real = builtins.open

    def counting(path, mode="r", *arguments, **options):
        file = real(path, mode, *arguments, **options)
        if mode == "rb" and isinstance(path, Path):
            return Counted(file, taken)
        return file

    class Counted:
        def __init__(self, file, taken):
            self._file, self._taken = file, taken

        def read(self, size):
            self._taken.append(content := self._file.read(size))
            return content

        def fileno(self):
            return self._file.fileno()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

    monkeypatch.setattr(builtins, "open", counting)
    return taken


def another_process():
    hash_cache._memories.clear()
    durable._hashed.clear()


def file_of(folder, content=b"12345"):
    path = folder / "shard.npy"
    path.write_bytes(content)
    time.sleep(0.02)  # a tick of the file system's clock
    return path


def test_a_second_process_does_not_read_the_file(tmp_path, memory, reads):
    path = file_of(tmp_path)
    first = durable.sha256_file(path)
    assert b"".join(reads) == b"12345"
    reads.clear()
    another_process()
    assert durable.sha256_file(path) == first
    assert reads == []
    assert durable.sha256_file(path, fresh=True) == first
    assert b"".join(reads) == b"12345"
    assert len(memory.read_bytes().splitlines()) == 1  # said once
    assert oct(memory.stat().st_mode & 0o777) == "0o600"


def test_an_edit_of_equal_size_and_time_is_seen(tmp_path, memory):
    path = file_of(tmp_path)
    first = durable.sha256_file(path)
    times = os.stat(path)
    path.write_bytes(b"12346")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == times.st_mtime_ns
    another_process()
    assert durable.sha256_file(path) != first


def test_a_fresh_read_corrects_what_was_remembered(tmp_path, memory):
    path = file_of(tmp_path)
    hash_cache.remember(processes.host_name(), os.stat(path), "0" * 64)
    another_process()
    assert durable.sha256_file(path) == "0" * 64  # as when a disk loses a bit after it was read
    true = durable.sha256_file(path, fresh=True)
    another_process()
    assert durable.sha256_file(path) == true != "0" * 64


def test_young_and_small_files_are_read_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    durable.sha256_file(
        file_of(tmp_path, bytes(hash_cache.LEAST_BYTES))
    )  # its clock may still stand
    durable.sha256_file(file_of(tmp_path))
    assert not (tmp_path / "cache").exists()


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-30],
    "another hash": lambda content: re.sub(rb"=(.)(.{63})", rb"=\2\1", content),
    "noise": lambda content: bytes(range(256)) * 20,
    "a line before": lambda content: b"not a line\n" + content,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_memory_is_passed_over_and_goes_on(damage, tmp_path, memory):
    path = file_of(tmp_path)
    true = durable.sha256_file(path)
    memory.write_bytes(DAMAGES[damage](memory.read_bytes()))
    for _ in range(2):
        another_process()
        assert durable.sha256_file(path) == true
    assert memory.read_bytes().splitlines()[-1].decode().split("=")[1][:64] == true


@pytest.mark.parametrize("how", ["others may write", "a link", "a folder", "another user's"])
def test_a_memory_that_another_user_may_have_made_is_not_used(how, tmp_path, memory, monkeypatch):
    path = file_of(tmp_path)
    hash_cache.remember(processes.host_name(), os.stat(path), "0" * 64)
    another_process()
    if how == "others may write":
        memory.chmod(0o622)
    elif how == "a link":
        memory.rename(tmp_path / "planted")
        memory.symlink_to(tmp_path / "planted")
    elif how == "a folder":
        memory.unlink()
        memory.mkdir()
    else:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    before = memory.read_bytes() if memory.is_file() else b""
    assert durable.sha256_file(path) != "0" * 64
    assert (memory.read_bytes() if memory.is_file() else b"") == before


def test_the_memory_stays_small(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(hash_cache, "LIMIT_BYTES", 2000)
    for number in range(100):
        durable.sha256_file(file := file_of(tmp_path, b"%d" % number))
        assert memory.stat().st_size < 2500
    another_process()
    assert hash_cache.known(processes.host_name(), os.stat(file)) == durable.sha256_file(file)
    assert [path.name for path in memory.parent.iterdir()] == [memory.name]


def test_writers_at_once(tmp_path, memory):
    code = (
        "import os, sys; from tokenlaw.results_db import hash_cache\n"
        "hash_cache.LEAST_BYTES = 0; hash_cache._SETTLED_SECONDS = -1.0\n"
        "for size in range(300):\n"
        "    info = os.stat_result((0, int(sys.argv[1]), 1, 1, 0, 0, size, 0, 0, 0))\n"
        "    hash_cache.remember('there', info, '%064x' % size)\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], cwd=ROOT) for number in range(4)
    ]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert len(hash_cache._memory(hash_cache._path("there"))) == 1200
    info = os.stat_result((0, 3, 1, 1, 0, 0, 299, 0, 0, 0))
    assert hash_cache.known("there", info) == f"{299:064x}"


def test_where_nothing_can_be_kept_files_are_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(hash_cache, "LEAST_BYTES", 1)
    monkeypatch.setattr(hash_cache, "_SETTLED_SECONDS", -1.0)
    path = file_of(tmp_path)
    assert durable.sha256_file(path) == durable.sha256_file(path, fresh=True)
