"""Several processes for one run, where a single worker would stand.

`python -m tokenlaw.slurm.worker.group N [NODES]` reads run folders from its standard input and
answers like `python -m tokenlaw.trainer -`. For each run it starts processes, N for a kind that is
trained together and one for the others, which find one another by the variables that
torch.distributed reads. They end together: when one is lost, the others save nothing more and go,
and the run is tried again from its last checkpoint. On several nodes they are tasks of one step
(`step.py`).
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

from ...results_db.masking import mask_tracebacks
from ...results_db.processes import EXIT_TRY_AGAIN, die_with_parent
from ...trainer.accounting.config import TRAINED_KINDS
from .. import base
from . import step

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
    apart: bool = False  # on several nodes; the one process here is their `srun`

    def start(self, line: str, size: int, nodes: int = 1) -> None:
        port = str(_free_port())
        asked = {base.PROCESSES: str(size)}
        if nodes > 1:
            self.apart = True
            command = step.command(size // nodes, int(_GRACE_SECONDS))
            self._add(line, command, step.environment(port) | asked)
            return
        for rank in range(size):
            place = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            mine = asked | (place if size > 1 else {})
            self._add(line, base.trainer_command("-"), os.environ | mine)

    def _add(self, line: str, command: list[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            # Only the first one answers; what the others print is not an answer.
            stdout=sys.stderr.fileno() if self.processes else subprocess.PIPE,
            # SIGTERM, which our process group gets, would have srun kill the processes at once.
            start_new_session=self.apart,
            preexec_fn=_die_with_group if self.apart else None,
        )
        self.processes.append(process)
        assert process.stdin is not None
        try:
            process.stdin.write(line.encode())
            process.stdin.close()  # one run, then they leave
        except BrokenPipeError:
            pass  # it has ended: its exit code says so

    def wait(self, asked: Asked) -> None:
        """Returns when all have ended; those that outlive another by too much are killed."""
        listener = threading.Thread(target=self._pass_on)
        listener.start()
        ends: float | None = None
        told = False
        while any(process.poll() is None for process in self.processes):
            if self.apart and asked.stop and not told:
                self.processes[0].send_signal(signal.SIGUSR2)  # srun passes it on to all
                told = True
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
        """Exit codes, of all or those that have ended; srun's is the highest of its tasks'."""
        codes = [p.returncode for p in self.processes if p.returncode is not None]
        return [128 - code if code > 128 else code for code in codes]


def do_line(line: str, size: int, nodes: int, asked: Asked) -> Members:
    """Does the run that a line names, to its end."""
    kind = Path(line.partition("\t")[0].strip()).parent.name
    members = Members()
    if kind not in TRAINED_KINDS:
        size = nodes = 1
    members.start(line, size, nodes)
    members.wait(asked)
    return members


def _die_with_group() -> None:
    die_with_parent(always=True, number=signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def main(arguments: list[str]) -> int:
    """Exit code: 0 no run left, 75 told to stop, 1 a run's processes ended without a word; ends by
    SIGKILL when one of them did.
    """
    size, nodes = map(int, [*arguments, "1"][:2])
    die_with_parent(always=True)
    asked = Asked()
    asked.listen()
    for line in sys.stdin:
        members = do_line(line, size, nodes, asked)
        if not members.answered:
            codes = ", ".join(map(str, members.codes))
            print(
                f"processes of the run ended with exit codes {codes}", file=sys.stderr, flush=True
            )
            if -signal.SIGKILL in members.codes:
                os.kill(os.getpid(), signal.SIGKILL)
            return EXIT_TRY_AGAIN if asked.stop else 1
        if asked.stop:
            return EXIT_TRY_AGAIN
    return 0


if __name__ == "__main__":
    mask_tracebacks()
    sys.exit(main(sys.argv[1:]))
