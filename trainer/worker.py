"""Execute runs: claim a run, do it by its kind, record how it ended."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..results_db import report_to_postgres
from ..results_db.durable import sweep_temporaries
from ..results_db.masking import mask_secrets
from ..results_db.processes import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_TRY_AGAIN
from ..results_db.record import Attempt, Conflict, Fenced, RunDir, claim, may_follow, read_endpoint
from ..results_db.rundir import find_run
from ..results_db.strict_json import DamagedError, canonical_json, read_json
from . import parts
from .accounting import directions, flops, stored_config, trunks
from .accounting.config import TRAINED_KINDS, decode
from .fast_start import startup
from .loop import distributed
from .loop.optim import Diverged
from .run import (
    Preempted,
    Result,
    Run,
    Settings,
    hardware_name,
    own_endpoint,
)
from .stop import Stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended in this process."""

    run_dir: Path
    outcome: str  # done, failed, preempted, diverged, fenced
    error_class: str | None = None
    error: str | None = None

    @property
    def exit_code(self) -> int:
        if self.outcome in ("done", "diverged"):
            return EXIT_DONE
        if self.outcome in ("preempted", "fenced"):
            return EXIT_TRY_AGAIN
        return EXIT_BAD_INPUT if self.error_class == "ValueError" else EXIT_FAILED


def stage_function(kind: str) -> Callable[[Run], Result]:
    """The function that does runs of `kind`."""
    function: Callable[[Run], Result] = parts.load("kinds", kind).main
    return function


def execute(path: str | os.PathLike[str], stop: Stop, after: int | None = None) -> Outcome:
    """Does one run, whatever state its folder is in; never raises for what a run can do wrong.

    With `after`, only if that is the newest attempt; else the outcome is `fenced`.
    """
    try:
        run_dir = RunDir(path)
        # Caches of data sets lie in the home of the run, whatever the shell that started us says.
        os.environ["TOKENLAW_HOME"] = str(run_dir.home)
        config, ids = stored_config.read(run_dir)
        settings = read_settings(run_dir)
        parents = {role: parent_folder(run_dir.home, parent) for role, parent in ids.items()}
        check_trunk(run_dir.kind, config, parents)
        endpoint = own_endpoint(run_dir)
        above = () if endpoint is not None else parents.items()
        ends = [(role, parent, read_endpoint(parent)) for role, parent in above]
        wrong = distributed.wrong_size()
    except (ValueError, DamagedError, FileNotFoundError) as error:
        return Outcome(Path(path), "failed", type(error).__name__, _first_line(error))
    if endpoint is not None:
        # A writer may have died between the endpoint and the end of its own tidying up.
        for folder in (run_dir.path, run_dir.attempts_path):
            sweep_temporaries(folder)
        return Outcome(run_dir.path, endpoint["status"])
    for role, parent, ended in ends:
        if ended is None or not may_follow(role, ended["status"]):
            state = "unfinished" if ended is None else ended["status"]
            return Outcome(
                run_dir.path, "failed", "ParentNotDone", f"{role} {parent.id} is {state}"
            )
    if wrong is not None and distributed.requested_rank() > 0:
        return Outcome(run_dir.path, "failed", "ValueError", wrong)
    if run_dir.kind not in TRAINED_KINDS and distributed.requested_rank() > 0:
        return wait_for_first(run_dir, stop)
    try:
        device = pick_device(settings.device)
        # Processes of a wrong number would wait for one another for ever.
        distributed.start(device, together=wrong is None and run_dir.kind in TRAINED_KINDS)
        attempt = claim_for_all_ranks(run_dir, settings, device, after)
        if wrong is not None:
            attempt.finish("failed", "ValueError", wrong, 0)
            return Outcome(run_dir.path, "failed", "ValueError", wrong)
    except Fenced as error:
        return Outcome(run_dir.path, "fenced", "Fenced", _first_line(error))
    except (ValueError, OSError) as error:
        return Outcome(run_dir.path, "failed", _class_of(error), _first_line(error))
    return _attempt(Run(run_dir, config, parents, settings, attempt, device, stop))


def _attempt(run: Run) -> Outcome:
    outcome, error_class, message, step = "failed", None, None, None
    lost = False  # another process of the group has gone: no fault of the run
    try:
        prepare_numerics(run)
        startup.get_ready(run.kind, run.device, run.compile, run.settings.activation_memory)
        status, reason = "done", diverged_trunk(run)
        try:
            if reason is None:
                result = stage_function(run.kind)(run)
            else:
                result, status = Result(values=[]), "diverged"
        except Diverged as error:
            result, status, reason = Result(values=[]), "diverged", mask_secrets(str(error))
            run.warn(reason)
            step = error.step
        if distributed.rank() == 0:
            record(run, result, status, reason)
        distributed.barrier()  # nobody goes on to a run that needs this one before it is recorded
        outcome = status
    except (Preempted, InterruptedError) as error:
        outcome, error_class, message = "preempted", "Preempted", _first_line(error)
    except Fenced as error:
        outcome, error_class, message = "fenced", "Fenced", _first_line(error)
    except torch.OutOfMemoryError as error:
        error_class, message = "OutOfMemory", _first_line(error)
    except OSError as error:
        error_class, message = _class_of(error), _first_line(error)
        _print_trace(run)
    except (ValueError, DamagedError, Conflict) as error:
        error_class, message = type(error).__name__, _first_line(error)
        _print_trace(run)
    except Exception as error:  # the border of a run: recorded, reported, and the next run goes on
        error_class, message = type(error).__name__, _first_line(error)
        lost = distributed.is_lost_process(error)
        _print_trace(run)
    finally:
        # It waits for the device, which may wait for the lost process.
        if run.device.type == "cuda" and not lost:
            torch.cuda.empty_cache()
    if distributed.rank() == 0:
        try:
            at = run.last_step if step is None else step
            if lost:
                run.attempt.finish("fenced", "WorkerLost", message, at)
            else:
                run.attempt.finish(outcome, error_class, message, at)
        except OSError as error:
            print(f"{run.dir.path}: could not record how it ended: {error}", file=sys.stderr)
    return Outcome(run.dir.path, outcome, error_class, message)


def check_trunk(kind: str, config: Any, parents: Mapping[str, RunDir]) -> None:
    """ValueError unless the run fits the segment whose state it takes over."""
    if kind not in TRAINED_KINDS:
        return
    found = stored_config.read(parents[trunks.ROLE]) if trunks.ROLE in parents else None
    trunks.check_parent(kind, config, {role: p.id for role, p in parents.items()}, found)


def diverged_trunk(run: Run) -> str | None:
    """Why the trunk that the run would take over diverged; None when it did not."""
    if trunks.ROLE not in run.parents:
        return None
    endpoint = run.parent_endpoint(trunks.ROLE)
    return str(endpoint["reason"]) if endpoint["status"] == "diverged" else None


def wait_for_first(run_dir: RunDir, stop: Stop) -> Outcome:
    """What the other processes of a group do while the first does a run that is not shared.

    Should it fail, it ends with an error, and the launcher of the group ends the others.
    """
    while (endpoint := own_endpoint(run_dir)) is None:
        if stop.requested:
            return Outcome(run_dir.path, "preempted", "Preempted", "stopped while waiting")
        time.sleep(0.2)
    return Outcome(run_dir.path, endpoint["status"])


def _print_trace(run: Run) -> None:
    print(f"--- {run.kind} {run.id}, attempt {run.attempt.number}", file=sys.stderr)
    print(mask_secrets(traceback.format_exc()), end="", file=sys.stderr, flush=True)


def _class_of(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "DiskFull"
    return type(error).__name__


def _first_line(error: BaseException) -> str:
    text = mask_secrets(str(error)).strip() or type(error).__name__
    return text.splitlines()[0][:500]


def read_settings(run_dir: RunDir) -> Settings:
    """settings.json of a run; defaults where there is none."""
    try:
        tree = read_json(run_dir.settings_path)
    except FileNotFoundError:
        return Settings()
    except DamagedError as error:
        raise DamagedError(f"{error}; launch the study again, which writes it anew") from error
    settings: Settings = decode(Settings, tree, where="settings")
    return settings


def parent_folder(home: Path, run_id: str) -> RunDir:
    """The folder of a parent. ValueError when it is not there."""
    if (folder := find_run(home, run_id)) is None:
        raise ValueError(f"parents: run {run_id!r} is not in {home}; launch the study there first")
    return folder


def pick_device(name: str) -> torch.device:
    """The device that `settings.device` names; auto takes a GPU when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: {name!r} is unknown; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: {name!r} is not supported; allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device: {name!r} is not there; allowed on this machine: auto, cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(
                f"device: {name!r} is not there; this process sees {torch.cuda.device_count()} GPUs"
            )
    return device


def claim_for_all_ranks(
    run_dir: RunDir, settings: Settings, device: torch.device, after: int | None = None
) -> Attempt:
    """Rank 0 claims the run; the others share its attempt."""
    if distributed.rank() == 0:
        info: dict[str, Any] = {
            "hardware": hardware_name(device),
            "world_size": distributed.world_size(),
        }
        job = os.environ.get("TOKENLAW_JOB") or os.environ.get("SLURM_JOB_ID")
        attempt = claim(run_dir, executor=settings.executor, job=job, info=info, after=after)
        distributed.broadcast_int(attempt.number)
        return attempt
    return Attempt(run_dir, distributed.broadcast_int(0))


def prepare_numerics(run: Run) -> None:
    """Sets what arithmetic depends on, from the run's config and nothing else."""
    numerics = run.config.numerics if hasattr(run.config, "numerics") else None
    assert numerics is not None
    torch.set_num_threads(numerics.cpu_threads)
    torch.manual_seed(0)
    # TF32 only where bf16 was asked for: "fp32" means fp32.
    # Set through this one function everywhere: torch refuses to tell the precision once it was
    # also set by backend.
    tf32 = numerics.precision != "fp32" and run.device.type == "cuda"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = run.device.type == "cuda"


def record(run: Run, result: Result, status: str, reason: str | None) -> None:
    """Writes the endpoint, then the spool marker, then the database if jobs may write to it."""
    seconds = run.seconds()
    columns: dict[str, Any] = {**own_columns(run), **result.columns}
    own = columns.get("flops_train") or 0.0
    columns.setdefault("flops_marginal", columns.get("flops_train"))
    if run.kind in TRAINED_KINDS:
        others = {role: parent.id for role, parent in run.parents.items()}
        columns["trunk_id"] = trunks.trunk_id(run.kind, run.config, others)
    above = sum(ancestor_flops(run.dir).values())
    devices = distributed.world_size()
    columns |= {
        "flops_ancestors": float(above),
        "flops_total": float(own + above),
        "seconds_train": round(seconds, 3),
        "gpu_hours": round(seconds * devices / 3600, 6),
        "hardware": hardware_name(run.device),
    }
    better = directions.directions()
    endpoint = {
        "status": status,
        "reason": reason,
        "values": [v.entry(better.get(v.metric)) for v in result.values],
        "columns": columns,
        "artifacts": run.artifacts,
    }
    run.attempt.write_endpoint(endpoint)
    report_to_postgres.record_remote(run.dir.home, run.dir)


def own_columns(run: Run) -> dict[str, Any]:
    """Counts and FLOPs of the run itself, from its config and its parents'."""
    config = run.config
    if run.kind == "tokenizer":
        cost = flops.tokenizer_cost(config)
        train = flops.tokenizer_flops_train(config)
        return {
            "params": cost.params,
            "flops_train": float(train),
            "flops_marginal": float(train - flops.tokenizer_flops_shared(config)),
            "images_train": config.iterations * config.batch_size,
            "iterations": config.iterations,
            "tokens_per_image": config.tokenizer.config.tokens_per_image(config.data.resolution),
            "codebook_size": config.quantizer.config.num_codes,
            "train_seed": config.seed,
        }
    if run.kind == "extractor":
        return {
            "params": flops.extractor_cost(config).params,
            "flops_train": float(flops.extractor_flops_train(config)),
            "images_train": config.iterations * config.batch_size,
            "iterations": config.iterations,
            "train_seed": config.seed,
        }
    return {}


def ancestor_flops(run_dir: RunDir) -> dict[str, float]:
    """Own train FLOPs of every ancestor by id: each is counted once, however it is reached.

    The trunk that a run took over is no ancestor here: `flops_train` has it already.
    """
    found: dict[str, float] = {}
    for role, parent in stored_config.read(run_dir).parents.items():
        if role != trunks.ROLE and parent not in found:
            folder = parent_folder(run_dir.home, parent)
            endpoint = read_endpoint(folder)
            own = endpoint["columns"].get("flops_train") if endpoint else None
            found[parent] = float(own or 0.0)
            found |= ancestor_flops(folder)
    return found


def outcome_line(outcome: Outcome) -> str:
    """The line that a worker prints for each run."""
    return canonical_json(
        {
            "run_dir": str(outcome.run_dir),
            "run_id": outcome.run_dir.name,
            "outcome": outcome.outcome,
            "error_class": outcome.error_class,
            "error": outcome.error,
        }
    )
