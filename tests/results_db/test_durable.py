"""The durable writer: whole or not at all, at every point where it can be stopped."""

import errno
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from crash_points import failing_at, killed_at, ticks

from tokenlaw.results_db import durable, processes, strict_json

OLD, NEW = b"old content" * 50, b"the new content" * 50


def temporaries(folder):
    return [name for name in os.listdir(folder) if name.startswith(".tmp-")]


class Replace:
    """write_bytes over an old file."""

    def prepare(self, folder):
        (folder / "file").write_bytes(OLD)

    def work(self, folder):
        durable.write_bytes(folder / "file", NEW)

    def check(self, folder):
        assert (folder / "file").read_bytes() in (OLD, NEW)

    def is_done(self, folder):
        return (folder / "file").read_bytes() == NEW


class Fast(Replace):
    """replace_fast over an old file."""

    def work(self, folder):
        durable.replace_fast(folder / "file", NEW)


class Exclusive:
    """create_exclusive of a new file."""

    def prepare(self, folder):
        pass

    def work(self, folder):
        durable.create_exclusive(folder / "file", NEW)

    def check(self, folder):
        assert not (folder / "file").exists() or (folder / "file").read_bytes() == NEW

    def is_done(self, folder):
        return (folder / "file").exists()


class Stage:
    """stage_folder with two files, one of them in a folder of its own."""

    def prepare(self, folder):
        pass

    def work(self, folder):
        if (folder / "step-7").exists():
            return
        with durable.stage_folder(folder / "step-7", 1, {"step": 7}) as staging:
            with durable.open(staging.file("a.bin"), "wb") as file:
                file.write(NEW)
            os.mkdir(staging.path / "rank0")
            with durable.open(staging.file("rank0/b.bin"), "wb") as file:
                file.write(OLD)

    def check(self, folder):
        if (folder / "step-7").exists():
            manifest = durable.verify_folder(folder / "step-7")
            assert set(manifest["files"]) == {"a.bin", "rank0/b.bin"}
            assert manifest["meta"] == {"step": 7}

    def is_done(self, folder):
        return (folder / "step-7").exists()


class Remove:
    """remove_folder of a staged folder."""

    def prepare(self, folder):
        with durable.stage_folder(folder / "step-7", 1) as staging:
            staging.file("a.bin").write_bytes(NEW)
            staging.file("b.bin").write_bytes(OLD)

    def work(self, folder):
        durable.remove_folder(folder / "step-7")

    def check(self, folder):
        if (folder / "step-7").exists():
            durable.verify_folder(folder / "step-7")

    def is_done(self, folder):
        return not (folder / "step-7").exists()


class InPlace(Replace):
    """A deliberately bad writer, to show that the harness bites."""

    def work(self, folder):
        with durable.open(folder / "file", "wb") as file:
            file.write(NEW)


GOOD = [Replace(), Fast(), Exclusive(), Stage(), Remove()]
names = [type(case).__name__ for case in GOOD]


def crash_everywhere(case, base):
    """Kills the case at each of its points, checks, and finishes it; returns the points."""
    number = 0
    while True:
        number += 1
        folder = base / str(number)
        folder.mkdir()
        case.prepare(folder)
        died = killed_at(lambda folder=folder: case.work(folder), number)
        case.check(folder)
        if not died:
            assert case.is_done(folder)
            return number - 1
        durable.sweep_temporaries(folder)
        assert temporaries(folder) == []
        with_open(case.work, folder)
        case.check(folder)
        assert case.is_done(folder)


def with_open(work, folder):
    """Runs `work` with durable.open being plain open, as the harness leaves it out."""
    durable.open = open
    try:
        work(folder)
    finally:
        del durable.open


@pytest.mark.parametrize("case", GOOD, ids=names)
def test_killed_at_every_call_leaves_old_or_new(case, tmp_path):
    assert crash_everywhere(case, tmp_path) >= 5


def test_the_harness_catches_a_writer_in_place(tmp_path):
    with pytest.raises(AssertionError):
        crash_everywhere(InPlace(), tmp_path)


@pytest.mark.parametrize(
    ("error", "forever"), [(errno.ENOSPC, True), (errno.EIO, False)], ids=["full", "once"]
)
@pytest.mark.parametrize("case", GOOD, ids=names)
def test_an_error_at_every_call_is_raised_and_leaves_old_or_new(case, error, forever, tmp_path):
    probe = tmp_path / "probe"
    probe.mkdir()
    case.prepare(probe)
    points = ticks(lambda: case.work(probe))
    for number in range(1, points + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        case.prepare(folder)
        caught = failing_at(lambda folder=folder: case.work(folder), number, error, forever=forever)
        case.check(folder)
        assert caught is not None and caught.errno == error
        durable.sweep_temporaries(folder)
        assert temporaries(folder) == []
        with_open(case.work, folder)
        assert case.is_done(folder)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "case", [Replace(), Exclusive(), Stage(), Remove()], ids=lambda c: type(c).__name__
)
def test_content_is_synced_before_its_name_and_the_name_after(case, tmp_path, monkeypatch):
    """What a power cut needs, which no kill can show."""
    case.prepare(tmp_path)
    events = []

    def note(name):
        real = getattr(os, name)

        def call(*arguments):
            if name == "fsync":
                events.append(("fsync", os.readlink(f"/proc/self/fd/{arguments[0]}")))
            else:
                events.append(("name", str(arguments[1])))
            return real(*arguments)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "rename", "replace", "link"):
        note(name)
    with_open(case.work, tmp_path)
    named = [number for number, (what, _) in enumerate(events) if what == "name"]
    assert len(named) == 1
    before = [path for _, path in events[: named[0]]]
    after = [path for _, path in events[named[0] + 1 :]]
    assert after == [str(tmp_path)]
    if isinstance(case, Stage):
        made = {os.path.basename(path) for path in before}
        assert {"a.bin", "b.bin", "manifest.json", "rank0"} <= made and len(before) == 5
        assert os.path.basename(before[-1]).startswith(".tmp-")
    elif not isinstance(case, Remove):
        assert len(before) == 1 and ".tmp-" in before[0]


def test_a_failed_sync_is_not_tried_again(tmp_path, monkeypatch):
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="injected"):
        durable.write_bytes(tmp_path / "file", NEW)
    assert len(calls) == 1
    assert os.listdir(tmp_path) == []


def _create(path, text, barrier, results):
    barrier.wait()
    results.put(durable.create_exclusive(path, text))


def test_of_eight_processes_one_creates_and_no_reader_sees_a_part(tmp_path):
    context = multiprocessing.get_context("fork")
    for round_number in range(5):
        path = tmp_path / f"claim-{round_number}"
        texts = [str(n).encode() * 5000 for n in range(8)]
        barrier, results = context.Barrier(9), context.Queue()
        workers = [
            context.Process(target=_create, args=(path, text, barrier, results)) for text in texts
        ]
        for worker in workers:
            worker.start()
        barrier.wait()
        while not path.exists():
            time.sleep(0)
        seen = path.read_bytes()
        outcomes = [results.get(timeout=30) for _ in workers]
        for worker in workers:
            worker.join()
        assert sorted(outcomes) == [False] * 7 + [True]
        assert seen in texts and path.read_bytes() == seen
    assert temporaries(tmp_path) == []


def test_a_lost_reply_to_a_link_that_worked_counts_as_made(tmp_path, monkeypatch):
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, "repeated request")

    monkeypatch.setattr(os, "link", link)
    assert durable.create_exclusive(tmp_path / "claim", NEW) is True


def test_no_hard_links_is_an_error_and_not_a_weaker_file(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="no hard links"):
        durable.create_exclusive(tmp_path / "claim", NEW)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def staged(tmp_path):
    for step in (1, 2):
        with durable.stage_folder(tmp_path / f"step-{step}", 1, {"step": step}) as staging:
            staging.file("weights").write_bytes(NEW + bytes([step]))
            staging.file("state.json").write_bytes(b"{}")
    return tmp_path


def damage_truncate(folder):
    os.truncate(folder / "weights", 10)


def damage_empty(folder):
    os.truncate(folder / "weights", 0)


def damage_flip(folder):
    data = bytearray((folder / "weights").read_bytes())
    data[5] ^= 1
    (folder / "weights").write_bytes(data)


def damage_delete(folder):
    (folder / "weights").unlink()


def damage_manifest(folder):
    (folder / "manifest.json").unlink()


def damage_torn_manifest(folder):
    os.truncate(folder / "manifest.json", 30)


def damage_swap(folder):
    other = folder.parent / "step-2"
    folder.rename(folder.parent / "x")
    other.rename(folder)


def damage_link(folder):
    (folder / "weights").rename(folder.parent / "outside")
    (folder / "weights").symlink_to(folder.parent / "outside")


def damage_escape(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder.parent / "outside").write_bytes(NEW)
    manifest["files"]["../outside"] = manifest["files"].pop("weights")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (damage_truncate, "weights"),
        (damage_empty, "weights"),
        (damage_flip, "weights"),
        (damage_delete, "weights"),
        (damage_manifest, "manifest.json"),
        (damage_torn_manifest, "manifest.json"),
        (damage_swap, "step-2"),
        (damage_link, "weights"),
        (damage_escape, "outside"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(damage, names, staged):
    durable.verify_folder(staged / "step-1")
    damage(staged / "step-1")
    with pytest.raises(strict_json.DamagedError, match=names):
        durable.verify_folder(staged / "step-1")


def test_a_staged_folder_needs_its_name_free_and_takes_no_links(tmp_path, staged):
    with pytest.raises(FileExistsError), durable.stage_folder(staged / "step-1", 2):
        pass
    with pytest.raises(ValueError, match="link"), durable.stage_folder(staged / "step-3") as made:
        os.symlink("/etc/passwd", made.path / "passwd")
    assert not (staged / "step-3").exists()
    assert temporaries(staged) == []


def test_an_exception_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), durable.stage_folder(tmp_path / "step-1") as staging:
        staging.file("a").write_bytes(b"x")
        raise KeyError("out")
    assert os.listdir(tmp_path) == []


def test_sweeping_takes_the_dead_and_leaves_the_living(tmp_path):
    host = processes.host_name()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    made = {
        "dead": f".tmp-{host}@{dead.pid}@0123456789ab@file",
        "living": f".tmp-{host}@{living.pid}@0123456789ab@file",
        "own leftover": f".tmp-{host}@{os.getpid()}@0123456789ab@file",
        "far, now": ".tmp-other.host@1@0123456789ab@file",
        "far, old": ".tmp-other.host@2@0123456789ab@file",
        "no temporary": ".tmp-something",
        "a file": "weights",
    }
    for name in made.values():
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / f".tmp-{host}@{dead.pid}@ffffffffffff@step-1").mkdir()
    long_ago = time.time() - 3 * 24 * 3600
    os.utime(tmp_path / made["far, old"], (long_ago, long_ago))
    try:
        durable.sweep_temporaries(tmp_path)
        left = {"living", "far, now", "no temporary", "a file"}
        assert set(os.listdir(tmp_path)) == {made[name] for name in left}
        durable.sweep_temporaries(tmp_path, all_writers=True)
        assert set(os.listdir(tmp_path)) == {made["no temporary"], made["a file"]}
    finally:
        living.communicate(b"\n")
    assert durable.sweep_temporaries(tmp_path / "no such folder") == []


def test_a_zombie_process_is_not_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 20
    while processes.process_is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.process_is_alive(child)
    os.waitpid(child, 0)
    assert processes.process_is_alive(os.getpid())


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\u0000"}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b"",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_strict_json_is_damaged(text, tmp_path):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(strict_json.DamagedError, match=r"x\.json"):
        strict_json.read_json(tmp_path / "x.json")


def test_large_files_and_links_are_not_read(tmp_path):
    durable.write_json(tmp_path / "x.json", {"a": 1})
    assert strict_json.read_json(tmp_path / "x.json") == {"a": 1}
    with pytest.raises(strict_json.DamagedError, match="at most 3"):
        strict_json.read_json(tmp_path / "x.json", limit_bytes=3)
    (tmp_path / "y.json").symlink_to(tmp_path / "x.json")
    with pytest.raises(strict_json.DamagedError, match="not a plain file"):
        strict_json.read_json(tmp_path / "y.json")


def test_numbers_that_are_not_finite_are_refused_by_place(tmp_path):
    with pytest.raises(ValueError, match=r"a\.b\[1\]: nan"):
        durable.write_json(tmp_path / "x.json", {"a": {"b": [1.0, float("nan")]}})
    with pytest.raises(ValueError, match="key 1"):
        strict_json.canonical_json({"a": {1: 2}})
    assert os.listdir(tmp_path) == []
    assert strict_json.canonical_json({"b": 1, "a": [0.1, None, "\u00e9"]}) == (
        '{"a":[0.1,null,"\\u00e9"],"b":1}'
    )


def test_a_line_after_a_torn_one_stands_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    durable.append_line(path, '{"step":1}')
    with open(path, "ab") as file:
        file.write(b'{"step"')
    durable.append_line(path, '{"step":2}')
    assert path.read_text().splitlines() == ['{"step":1}', '{"step"', '{"step":2}']
    with pytest.raises(ValueError, match="line break"):
        durable.append_line(path, "a\nb")


def test_host_names_fit_file_names(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu 1/a@b")
    assert processes.host_name() == "gpu-1-a-b"


def test_a_large_file_is_read_for_its_hash_again_only_once_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "_REMEMBERED_BYTES", 4)
    monkeypatch.setattr(durable, "_hashed", {})
    made = []
    real = durable.hashlib.sha256
    monkeypatch.setattr(durable.hashlib, "sha256", lambda: made.append(1) or real())
    with durable.stage_folder(tmp_path / "folder") as folder:
        folder.file("large").write_bytes(b"12345")
        folder.file("small").write_bytes(b"123")
    assert len(made) == 2
    for _ in range(2):
        assert set(durable.verify_folder(tmp_path / "folder")["files"]) == {"large", "small"}
    assert len(made) == 4  # the small one each time
    time.sleep(0.05)  # as a large file takes: longer than a tick of the file system's clock
    large = tmp_path / "folder" / "large"
    before = os.stat(large)
    large.write_bytes(b"12346")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))  # its own time does not hide it
    with pytest.raises(strict_json.DamagedError, match="large"):
        durable.verify_folder(tmp_path / "folder")


def test_a_sync_that_fails_is_an_error_although_the_hash_is_known(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(durable, "sync_folder", lambda path: None)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no"), durable.stage_folder(tmp_path / "folder") as folder:
        folder.file("content").write_bytes(b"12345")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [durable.write_bytes, durable.replace_fast])
def test_a_folder_in_the_place_of_a_file_is_put_aside(write, tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_bytes(OLD)
    write(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW
    (aside,) = tmp_path.glob("file.damaged-*/inside")
    assert aside.read_bytes() == OLD and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("name", ["empty", "filled", "nowhere"])
def test_a_line_is_added_to_a_file_and_not_through_a_link(name, tmp_path):
    contents = {"empty": b"", "filled": OLD}
    if name in contents:
        (tmp_path / name).write_bytes(contents[name])
    (tmp_path / "log.jsonl").symlink_to(name)
    with pytest.raises(OSError) as caught:
        durable.append_line(tmp_path / "log.jsonl", "{}")
    assert caught.value.errno == errno.ELOOP
    if name in contents:
        assert (tmp_path / name).read_bytes() == contents[name]
    else:
        assert not (tmp_path / name).exists()
