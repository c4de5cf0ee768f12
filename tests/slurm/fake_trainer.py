"""Stands in for `python -m tokenlaw.trainer -` in tests of launching: real claims and endpoints, no
training.

What a run does comes from `behaviour.json` in its folder: one object for each attempt, the last one
for all further ones. {"steps": 3, "seconds": 0.0 for each step, "fail_at": step, "error": "Class:
text", "die_at": step (SIGKILL), "exit_at": step (exit code 3), "status": "diverged", "print": text}
A step survives in `progress`, as a checkpoint would. Usage: fake_trainer.py -
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tokenlaw.results_db import report_to_postgres
from tokenlaw.results_db.durable import write_json
from tokenlaw.results_db.record import Fenced, RunDir, claim, read_endpoint

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


def main() -> int:
    if os.environ.get("FAKE_TRAINER_BROKEN"):
        print("no module named torch", file=sys.stderr)
        return 1
    if not os.environ.get("FAKE_TRAINER_DEAF"):
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGUSR2, stop)
    parent = os.getppid()
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()
    code = 0
    for line in sys.stdin:
        path, _, after = line.strip().partition("\t")
        answer = execute(RunDir(path), int(after) if after else None)
        print(json.dumps(answer), flush=True)
        if answer["outcome"] == "failed":
            code = 1
        if stopping:
            return 75
    return code


def die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.05)
    os._exit(75)


def execute(run: RunDir, after: int | None) -> dict[str, object]:
    answer = {"run_dir": str(run.path), "run_id": run.id, "error_class": None, "error": None}
    ended = read_endpoint(run)
    if ended is not None:
        return answer | {"outcome": ended["status"]}
    executor = json.loads(run.settings_path.read_text()).get("executor", "local")
    try:
        job, gpus = os.environ.get("TOKENLAW_JOB"), os.environ.get("CUDA_VISIBLE_DEVICES")
        attempt = claim(run, executor=executor, job=job, info={"gpus": gpus}, after=after)
    except Fenced as error:
        return answer | {"outcome": "fenced", "error": str(error)}
    behaviour = behaviour_of(run, attempt.number)
    if text := behaviour.get("print"):
        print(text, flush=True)
    steps = behaviour.get("steps", 3)
    progress = run.path / "progress"
    # A kill may leave the file empty: no step survived.
    first = int(progress.read_text() or 0) if progress.exists() else 0
    with open(run.path / "first_steps", "a") as file:
        file.write(f"{first}\n")
    for step in range(first, steps):
        attempt.heartbeat.beat(
            step=step, steps=steps, phase="train", unit_per_second=1.0, force=True
        )
        if step == behaviour.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == behaviour.get("exit_at"):
            print("cannot go on", file=sys.stderr, flush=True)
            os._exit(3)
        if step == behaviour.get("fail_at"):
            name, _, error = behaviour.get("error", "RuntimeError: boom").partition(": ")
            attempt.finish("failed", name, error, step)
            return answer | {"outcome": "failed", "error_class": name, "error": error}
        if stopping:
            attempt.finish("preempted", "Preempted", None, step)
            return answer | {"outcome": "preempted"}
        time.sleep(behaviour.get("seconds", 0.0))
        progress.write_text(str(step + 1))
    status = behaviour.get("status", "done")
    try:
        attempt.write_endpoint(endpoint(run, status))
        report_to_postgres.record_remote(run.home, run)
    except Fenced as error:
        attempt.finish("fenced", "Fenced", str(error))
        return answer | {"outcome": "fenced"}
    attempt.finish(status, step=steps)
    return answer | {"outcome": status}


def behaviour_of(run: RunDir, attempt: int) -> dict:
    try:
        listed = json.loads((run.path / "behaviour.json").read_text())
    except FileNotFoundError:
        return {}
    return listed[min(attempt, len(listed)) - 1]


def endpoint(run: RunDir, status: str) -> dict:
    values = [{"metric": "val_loss", "value": 1.0, "unit": "nats/token", "provenance": {}}]
    return {
        "status": status,
        "reason": None if status == "done" else "loss is not finite",
        "values": values if status == "done" else [],
        "columns": {"gpu_hours": 0.001},
    }


def behave(run: Path, *attempts: dict) -> None:
    """Sets what the attempts at a run do."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "behaviour.json", list(attempts))


if __name__ == "__main__":
    sys.exit(main())
