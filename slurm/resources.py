"""Resources that a job asks for from a cluster, checked before anything is submitted."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from ..results_db.masking import mask_secrets

_DIRECTIVE = re.compile(r"[a-z][a-z0-9-]{0,63}")
# A value stands on an #SBATCH line of a shell script: no blanks, quotes or shell characters.
_VALUE = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_.,:=/@%*+\[\]()&|!-]{0,255}")


# Options of sbatch that a launch sets itself, and the field that asks for the same.
_TAKEN = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint",
    "nodes": "nodes", "gpus": "gpus", "gres": "gpu_type and gpus", "gpus-per-node": "gpus",
    "cpus-per-task": "cpus", "mem": "memory_gb", "time": "minutes", "ntasks": "processes",
    "ntasks-per-node": "processes", "hold": "launch --hold",
} | dict.fromkeys(
    ("array", "dependency", "job-name", "output", "error", "input", "open-mode", "chdir", "requeue",
     "no-requeue", "signal", "wrap", "wckey", "parsable", "wait", "test-only",
     "get-user-env",
     "kill-on-invalid-dep", "comment")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources of one job. None leaves the choice to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None  # node features
    nodes: int = 1  # of a run; several only on SLURM
    gpus: float = 0  # of each node; a share only on Ray
    gpu_type: str | None = None  # as the cluster calls it, for example "h100"
    cpus: int = 1  # of each node, for a run's processes there together
    processes: int | None = None  # of a tokenizer or generator, in all; None: one for each GPU
    memory_gb: float | None = None  # of each node
    minutes: int | None = None  # time limit; None: from the plan's estimate
    # More sbatch options: (("reservation", "night"), ("exclusive", True)); True: without a value.
    extra: tuple[tuple[str, str | bool], ...] = ()

    def __post_init__(self) -> None:
        for field in ("partition", "account", "qos", "constraint", "gpu_type"):
            value = getattr(self, field)
            if value is not None:
                check_value(field, value)
        for field in ("nodes", "cpus", "processes", "minutes"):
            value = getattr(self, field)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{field}: {value!r} is not allowed; must be a whole number >= 1")
        for field in ("gpus", "memory_gb"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < 1e6):
                raise ValueError(f"{field}: {value!r} is not allowed; must be a number >= 0")
        if self.group_size % self.nodes:
            raise ValueError(
                f"processes: {self.processes} is not allowed with {self.nodes} nodes; "
                f"must be a multiple of {self.nodes}"
            )
        if 0 < self.nodes * self.gpus < self.group_size > 1:
            raise ValueError(
                f"processes: {self.processes} is not allowed with {self.nodes * self.gpus:g} GPUs; "
                "each needs one of its own"
            )
        for name, value in self.extra:
            if not _DIRECTIVE.fullmatch(name):
                raise ValueError(f"extra: {name!r} is not allowed; must be an sbatch option's name")
            if name in _TAKEN:
                instead = _TAKEN[name]
                use = f"use {instead}" if instead else "the launch sets it"
                raise ValueError(f"extra.{name}: is not allowed; {use}")
            if value is True:
                continue
            value = check_value(f"extra.{name}", value)
            if mask_secrets(value) != value:
                raise ValueError(
                    f"extra.{name}: the value holds a secret (not shown), and others may read a "
                    "batch script; jobs inherit the environment of the launch"
                )

    @property
    def group_size(self) -> int:
        """Return the number of processes that do a run together."""
        return self.processes or self.nodes * max(1, int(self.gpus))

    def sbatch_options(self) -> dict[str, object]:
        """Return the options of sbatch, with `_` for `-`.

        `extra` and all that is left to the cluster are not among them.
        """
        asked: dict[str, object] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "time": self.minutes,
            "nodes": self.nodes,
            "cpus_per_task": self.cpus,
        }
        if self.memory_gb is not None:
            asked["mem"] = f"{math.ceil(self.memory_gb * 1024)}M"
        if self.gpus and self.gpu_type:
            asked["gres"] = f"gpu:{self.gpu_type}:{int(self.gpus)}"
        elif self.gpus:
            asked["gpus_per_node"] = int(self.gpus)
        return {name: value for name, value in asked.items() if value is not None}


def check_value(field: str, value: object) -> str:
    """Return `value` if it may stand in a batch script.

    Raises ValueError for anything but letters, digits and the few signs that SLURM's own values
    use.
    """
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ValueError(
            f"{field}: {_shown(value)} is not allowed; must be letters, digits and "
            "_.,:=/@%*+[]()&|!- (at most 256, no blanks)"
        )
    return value


def _shown(value: object) -> str:
    # Control and direction marks are spelled out, so that an error cannot disguise what it reports.
    text = repr(value)[:80]
    return "".join(c if unicodedata.category(c)[0] != "C" else f"\\u{ord(c):04x}" for c in text)


def on_one_node(options: Mapping[str, object] | None) -> dict[str, object]:
    """Drop `nodes` from `options`, for places where a run has one. ValueError if it is more."""
    kept = dict(options or {})
    for name in [name for name in kept if name.rpartition(".")[2] == "nodes"]:
        value = kept.pop(name)
        if value != 1:
            raise ValueError(
                f"{name}: {value!r} is not allowed here, where all processes of a run are on one "
                "node; several take --on slurm"
            )
    return kept


def from_options(options: Mapping[str, object], base: Resources = Resources()) -> Resources:
    """Replace the fields of `base` that `options` names. ValueError names an unknown one."""
    known = {field.name for field in dataclasses.fields(Resources)}
    for name in options:
        if name not in known:
            raise ValueError(f"resources: {name!r} is unknown; allowed: {', '.join(sorted(known))}")
    return dataclasses.replace(base, **options)  # type: ignore[arg-type]
