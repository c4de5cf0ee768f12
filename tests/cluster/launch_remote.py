"""`python launch_remote.py JSON` launches a toy study; the last line printed is the summary."""

import dataclasses
import json
import sys
from pathlib import Path

from toy import two_stage_plan

from tokenlaw.slurm import launch


def main() -> int:
    request = json.loads(sys.argv[1])
    plan = two_stage_plan(request.pop("generators"), request.pop("tokenizers", 1))
    if not request.pop("database", False):
        launch.ingest = lambda home: None
    summary = launch.launch(
        plan,
        home=Path(request.pop("home")),
        settings={"device": "cpu"},
        progress=False,
        **request,
    )
    print(summary.text(), flush=True)
    print(json.dumps(dataclasses.asdict(summary)))
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
