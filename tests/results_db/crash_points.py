"""Makes the N-th durable call of a piece of code fail, by death or by an error, for every N."""

import builtins
import os
import shutil
import signal
from contextlib import contextmanager

from tokenlaw.results_db import durable

_OS_CALLS = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "open")


class _SlowFile:
    """A file whose writes are three, so that a torn one can happen."""

    def __init__(self, file, tick):
        self._file = file
        self._tick = tick

    def write(self, data):
        third = len(data) // 3 + 1
        for start in range(0, len(data), third):
            self._tick()
            self._file.write(data[start : start + third])
            self._file.flush()
        return len(data)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


@contextmanager
def watched(tick):
    """Calls `tick` before and after every call that changes a file system."""
    saved = [(module, name, getattr(module, name)) for module, name in _targets()]

    def wrap(real):
        def call(*arguments, **options):
            tick()
            result = real(*arguments, **options)
            tick()
            return result

        return call

    def slow_open(path, mode="r", *arguments, **options):
        if "r" in mode:
            return builtins.open(path, mode, *arguments, **options)
        tick()
        return _SlowFile(builtins.open(path, mode, *arguments, **options), tick)

    for module, name, real in saved:
        # A killed process loses nothing that it wrote, so the syncs themselves only cost time.
        setattr(module, name, wrap(_no_sync if name == "fsync" else real))
    durable.open = slow_open
    try:
        yield
    finally:
        for module, name, real in saved:
            setattr(module, name, real)
        del durable.open


def _no_sync(descriptor):
    pass


def _targets():
    return [(os, name) for name in _OS_CALLS] + [(shutil, "rmtree")]


def killed_at(work, number):
    """Runs `work` in a child that dies at its number-th tick; returns whether it died."""
    child = os.fork()
    if child == 0:
        try:
            with watched(_counter(number, lambda: os.kill(os.getpid(), signal.SIGKILL))):
                work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work itself failed"
    return False


def failing_at(work, number, error, *, forever):
    """Runs `work` with its number-th tick (and all after it) failing; returns the OSError or None.

    None also when the work has fewer ticks, which `ticks` tells.
    """

    def fail():
        raise OSError(error, os.strerror(error))

    try:
        with watched(_counter(number, fail, forever=forever)):
            work()
    except OSError as caught:
        return caught
    return None


def ticks(work):
    """How many ticks `work` has."""
    count = 0

    def tick():
        nonlocal count
        count += 1

    with watched(tick):
        work()
    return count


def _counter(number, action, *, forever=False):
    count = 0

    def tick():
        nonlocal count
        count += 1
        if count == number or (forever and count > number):
            action()

    return tick
