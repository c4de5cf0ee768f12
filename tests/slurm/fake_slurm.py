#!/usr/bin/env python3
"""SLURM's commands over one JSON file, with switches for what they get wrong. Nothing is executed.

Linked under the names sbatch, squeue, scancel, scontrol, sacctmgr and srun on the PATH; the file is
$FAKE_SLURM: {"next": id, "jobs": {id: {..}}, "calls": {command: [arguments]}, "switches": {..}}.
Switches: sbatch_lies (exit 1 after submitting, perhaps with a text), sbatch_fails (the jobs have
failed at once), sbatch_refuses (text), sbatch_hangs, sbatch_mumbles (prints no
id), sbatch_kills (SIGKILL to the caller after submitting), queue_down (squeue fails),
no_accounting, max_array, max_submit.
"""

import fcntl
import json
import os
import re
import signal
import sys
from pathlib import Path

FILE = Path(os.environ["FAKE_SLURM"])


def main() -> int:
    command, arguments = Path(sys.argv[0]).stem, sys.argv[1:]
    with open(FILE, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        state["calls"].setdefault(command, []).append(arguments)
        code = COMMANDS[command](state, arguments)
        file.seek(0)
        file.truncate()
        json.dump(state, file)
    if command == "sbatch" and state["switches"].get("sbatch_kills"):
        os.kill(os.getppid(), signal.SIGKILL)
    return code


def sbatch(state: dict, arguments: list[str]) -> int:
    switches = state["switches"]
    if switches.get("sbatch_hangs"):
        os.execlp("sleep", "sleep", "60")  # nothing is written, the lock goes with this file
    text = Path(arguments[-1]).read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))
    match = re.match(r"0-(\d+)", options.get("array", ""))
    tasks = int(match[1]) + 1 if match else 1
    if switches.get("sbatch_refuses"):
        print(f"sbatch: error: {switches['sbatch_refuses']}", file=sys.stderr)
        return 1
    if tasks > switches.get("max_array", 1001):
        print("sbatch: error: Invalid job array specification", file=sys.stderr)
        return 1
    number = str(state["next"])
    state["next"] += 1
    state["environment"] = dict(os.environ)
    dependency = options.get("dependency", "")
    reason = "JobHeldUser" if "hold" in options else "Dependency" if dependency else "Priority"
    for index in range(tasks):
        state["jobs"][f"{number}_{index}" if match else number] = {
            "name": options["job-name"],
            "state": "FAILED" if switches.get("sbatch_fails") else "PENDING",
            "reason": "BadConstraints" if switches.get("sbatch_fails") else reason,
            "dependency": dependency,
            "script": text,
        }
    if switches.get("sbatch_mumbles"):
        print("the cluster is in a strange mood")
        return 0
    if switches.get("sbatch_lies"):
        lie = switches["sbatch_lies"]
        words = lie if isinstance(lie, str) else "Socket timed out on send/recv operation"
        print(f"sbatch: error: {words}", file=sys.stderr)
        return 1
    print(number if "--parsable" in arguments else f"Submitted batch job {number}")
    return 0


def squeue(state: dict, arguments: list[str]) -> int:
    if state["switches"].get("queue_down"):
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    for job_id, job in state["jobs"].items():
        print(f"{job_id}|{job['state']}|{job['reason']}|{job['name']}")
    return 0


def scancel(state: dict, arguments: list[str]) -> int:
    for job_id in arguments:
        job = state["jobs"].get(job_id)
        if job is None:
            continue
        if job["state"] == "PENDING" and "_" in job_id:
            del state["jobs"][job_id]  # vanishes, as in the real one
        else:
            job["state"] = "CANCELLED"
    return 0


def scontrol(state: dict, arguments: list[str]) -> int:
    if "config" in arguments:
        print(f"MaxArraySize            = {state['switches'].get('max_array', 1001)}")
    elif "hostnames" in arguments:
        first, last = map(int, re.findall(r"\d+", arguments[-1]))  # of name[first-last]
        print(*(f"{arguments[-1].partition('[')[0]}{n}" for n in range(first, last + 1)), sep="\n")
    elif "partition" in arguments:
        print("PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=2-00:00:00 State=UP")
    return 0


def sacctmgr(state: dict, arguments: list[str]) -> int:
    if state["switches"].get("no_accounting"):
        print("You are not running a supported accounting_storage plugin", file=sys.stderr)
        return 1
    if "association" in arguments and state["switches"].get("max_submit"):
        print(state["switches"]["max_submit"])
    return 0


COMMANDS = {
    "sbatch": sbatch,
    "squeue": squeue,
    "scancel": scancel,
    "scontrol": scontrol,
    "sacctmgr": sacctmgr,
    "srun": lambda state, arguments: 0,
}

if __name__ == "__main__":
    sys.exit(main())
