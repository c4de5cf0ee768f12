"""Does runs in children of one process that kill themselves; prints how each child ended.

Run by test_kill.py as `python killed_runs.py RUN_DIR POLLS RUN_DIR POLLS ..`. One process, because
importing torch takes longer than a tiny run.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import tiny  # noqa: E402
import torch  # noqa: E402

from tokenlaw.results_db.record import RunDir  # noqa: E402
from tokenlaw.trainer.kinds import codes  # noqa: E402, F401
from tokenlaw.trainer.metrics import fcd  # noqa: E402, F401


@contextmanager
def small_sets() -> Iterator[None]:
    """Inside, few digits, and several shards of codes."""
    real = codes.SHARD_IMAGES
    codes.SHARD_IMAGES = 8
    try:
        with tiny.fewer_digits(train=24, val=12):
            yield
    finally:
        codes.SHARD_IMAGES = real


def killed(path: str, polls: int) -> int:
    """Exit code of a child that does the run, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = tiny.do(RunDir(path), tiny.KillAfter(polls)).exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with small_sets():
        # What a first run loads is loaded once, for all children.
        with tempfile.TemporaryDirectory() as folder:
            tiny.done(Path(folder), "extractor", tiny.extractor(iterations=1, data=tiny.data(8)))
        for path, polls in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            print(killed(path, int(polls)), flush=True)
