"""Several processes for one run, where a single worker would stand: `python -m slurm.group N`.

It reads run folders from its standard input and answers like `python -m trainer -`. For each run it
starts processes of their own, N for a kind that is trained together and one for the others, which
find one another by the variables that torch.distributed reads. They end together: when one is lost,
the others save nothing more and go, and the run is tried again from its last checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config import SHARED_KINDS

from . import base, payload

_GRACE_SECONDS = 20.0  # for the others to end after one has; what waits for a lost one never does
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Asked:
    """Set by a signal. The processes get it too: they are of the same process group."""

    stop: bool = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, *_: object) -> None:
        self.stop = True


@dataclass(slots=True)
class Members:
    """The processes of one run."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    answered: bool = False  # whether the first one said what came of the run

    def start(self, line: str, size: int) -> None:
        port = str(_free_port())
        for rank in range(size):
            environment = dict(os.environ)
            if size > 1:
                environment |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
            process = subprocess.Popen(
                base.trainer_command("-"),
                env=environment,
                stdin=subprocess.PIPE,
                # Only the first one answers; what the others print is not an answer.
                stdout=subprocess.PIPE if rank == 0 else sys.stderr.fileno(),
            )
            self.processes.append(process)
            assert process.stdin is not None
            try:
                process.stdin.write(line.encode())
                process.stdin.close()  # one run, then they leave
            except BrokenPipeError:
                pass  # it has ended: its exit code says so

    def wait(self) -> None:
        """Returns when all have ended; those that outlive another by too much are killed."""
        listener = threading.Thread(target=self._pass_on)
        listener.start()
        ends: float | None = None
        while any(process.poll() is None for process in self.processes):
            if ends is None and any(process.poll() is not None for process in self.processes):
                ends = time.monotonic() + _GRACE_SECONDS
            if ends is not None and time.monotonic() > ends:
                for process in self.processes:
                    process.kill()
            time.sleep(_LOOK_SECONDS)
        listener.join()

    def _pass_on(self) -> None:
        """What the first process prints, as our own."""
        stream = self.processes[0].stdout
        assert stream is not None
        for line in stream:
            self.answered |= line.startswith(b"{") and b'"run_dir"' in line
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        stream.close()

    @property
    def codes(self) -> list[int]:
        """Exit codes, of all or those that have ended."""
        return [p.returncode for p in self.processes if p.returncode is not None]


def do_line(line: str, size: int) -> Members:
    """Does the run that a line names, to its end."""
    kind = Path(line.partition("\t")[0].strip()).parent.name
    members = Members()
    members.start(line, size if kind in SHARED_KINDS else 1)
    members.wait()
    return members


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(arguments: list[str]) -> int:
    """Exit code: 0 no run left, 75 told to stop, 1 a run's processes ended without a word; ends by
    SIGKILL when one of them did.
    """
    (size,) = map(int, arguments)
    payload.die_with_parent()
    asked = Asked()
    asked.listen()
    for line in sys.stdin:
        members = do_line(line, size)
        if not members.answered:
            codes = ", ".join(map(str, members.codes))
            print(
                f"processes of the run ended with exit codes {codes}", file=sys.stderr, flush=True
            )
            if -signal.SIGKILL in members.codes:
                os.kill(os.getpid(), signal.SIGKILL)
            return 75 if asked.stop else 1
        if asked.stop:
            return 75
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
