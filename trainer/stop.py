"""Ask a process to stop, by a signal that it may get before anything heavy is imported."""

from __future__ import annotations

import signal
from typing import Any


class Stop:
    """A flag that a signal handler sets; loops poll it."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: Any) -> None:
        self.requested = True

    def listen(self) -> None:
        """Take the signals by which schedulers and people ask for an end."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self.request)
