"""This process and others of this host: who lives, since when, and who dies with whom."""

import atexit
import ctypes
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Exit codes of every process of ours; the last: preempted or fenced off, the same goes on.
EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_TRY_AGAIN = 0, 1, 2, 75


def process_is_alive(pid: int) -> bool:
    """Tell if a process of this host runs. One that has ended but was not reaped counts as dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name, in brackets, may hold any byte: the state is what follows the last
            # bracket.
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def host_name() -> str:
    """Return this host's name, as claims and temporary names carry it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64]


def process_start(pid: int) -> int | None:
    """Return the start of a process of this host in clock ticks after boot; None when unknown.

    It tells a re-used pid.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector for a block.

    Importing torch and its compiler makes a million objects that stay. Each collection would walk
    through all of them for nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def leave_without_collection() -> None:
    """Keep Python, at its end, from a look at all that was imported: most of a second."""
    atexit.register(gc.freeze)


def die_with_parent(always: bool = False, number: int = signal.SIGKILL) -> None:
    """Ask Linux to send this process a signal when its parent dies, however it dies."""
    if os.environ.get("TOKENLAW_KEEP_ALIVE") and not always:
        return
    if sys.platform == "linux":
        parent = os.getppid()
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXIT_TRY_AGAIN)
