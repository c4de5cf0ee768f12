"""`python launch_toy.py HOME [GENERATORS]` launches the toy plan: a command that tests can kill."""

import sys
from pathlib import Path

from toy import FAKE_TRAINER, two_stage_plan

from slurm import base, launch


def main() -> int:
    base.trainer_command = lambda *arguments, python=sys.executable: [
        python,
        str(FAKE_TRAINER),
        *arguments,
    ]
    launch.ingest = lambda home: None  # the database is another matter
    home = Path(sys.argv[1])
    generators = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    plan = two_stage_plan(generators)
    summary = launch.launch(plan, home=home, settings={"device": "cpu"}, workers=2)
    print(summary.text())
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
