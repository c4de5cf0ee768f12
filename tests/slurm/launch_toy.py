"""`python launch_toy.py HOME [GENERATORS [EXECUTOR]]`: a launch that tests can kill."""

import sys
from pathlib import Path

from toy import FAKE_TRAINER, two_stage_plan

from tokenlaw.slurm import base, launch, snapshot


def main() -> int:
    base.trainer_command = lambda *arguments, python=sys.executable: [
        python,
        str(FAKE_TRAINER),
        *arguments,
    ]
    launch.ingest = lambda home: None  # the database is another matter
    code = snapshot.Snapshot(path=Path("/code"), commit=None, dirty=None, warning=None)
    snapshot.take = lambda home, **_: code
    home = Path(sys.argv[1])
    generators = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    plan = two_stage_plan(generators)
    executor = sys.argv[3] if len(sys.argv) > 3 else "local"
    summary = launch.launch(
        plan,
        executor=executor,
        home=home,
        settings={"device": "cpu"},
        workers=2,
        wait=executor == "local",
    )
    print(summary.text())
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
