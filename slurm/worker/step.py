"""The processes of one run on several nodes: a step of the SLURM job, by `srun`.

`python -m tokenlaw.slurm.worker.step` is one task of it. It takes its place from what SLURM says
and becomes the process that trains.
"""

from __future__ import annotations

import os
import sys

from .. import base, scheduler

_PLACES = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}


def command(per_node: int, grace_seconds: int) -> list[str]:
    """`srun` of `per_node` tasks on each node of this job, the first of them on this node.

    When one task has ended the others have `grace_seconds`.
    """
    # All nodes there are: if they are not those that were asked for, the trainer refuses to begin.
    nodes = os.environ["SLURM_JOB_NUM_NODES"]
    cpus = int(os.environ["SLURM_CPUS_PER_TASK"]) // per_node
    return [
        "srun",
        "--overlap",  # the payload waits in a step of its own, which holds the first node
        f"--nodes={nodes}",
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={cpus}",
        f"--wait={grace_seconds}",
        "--kill-on-bad-exit=0",  # whatever the cluster's default: the first process records the end
        *(sys.executable, "-P", "-m", "tokenlaw.slurm.worker.step"),
    ]


def environment(port: str) -> dict[str, str]:
    """Of `srun`: none of what SLURM told this step, and where the processes meet.

    Raises SchedulerError when the names of the nodes cannot be had.
    """
    hosts = scheduler.ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"])
    return scheduler.clean_environment() | {
        "SLURM_JOB_ID": os.environ["SLURM_JOB_ID"],
        "MASTER_ADDR": hosts.split()[0],
        "MASTER_PORT": port,
    }


def main() -> None:
    place = {name: os.environ[source] for name, source in _PLACES.items()}
    if place["RANK"] != "0":
        os.dup2(2, 1)  # only the first one answers
    trainer = base.trainer_command("-")
    os.execve(trainer[0], trainer, os.environ | place)


if __name__ == "__main__":
    main()
