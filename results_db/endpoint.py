"""Schema of endpoint.json, and the comparison of two endpoints by their results."""

import math
import re
from typing import Any

from .strict_json import canonical_json

SCHEME = 1
KINDS = ("extractor", "tokenizer", "codes", "generator", "evaluation")
STATUSES = ("done", "diverged")
DIRECTIONS = ("lower", "higher")  # which value of a metric is better

# name -> (type, meaning). Missing values are null. The same columns stand in the database and in
# the tables for pandas.
COLUMNS: dict[str, tuple[type, str]] = {
    "params": (int, "trainable parameters of the run's model"),
    "params_non_embedding": (int, "parameters without embeddings"),
    "params_head": (int, "parameters of the output head"),
    "params_matmul": (int, "parameters used in matrix products, with the head"),
    "flops_train": (
        float,
        "train FLOPs of the run and its trunk, rule 6ND_tokens_matmul+attention for generators",
    ),
    "flops_marginal": (
        float,
        "train FLOPs that the run added: of a branch its decay alone, else flops_train",
    ),
    "flops_ancestors": (float, "train FLOPs of all runs that it builds on"),
    "flops_total": (float, "flops_train + flops_ancestors"),
    "flops_paper": (float, "rule 6N_images, the axis of the CRT paper"),
    "flops_sample": (float, "FLOPs to make one image (KV cache, CFG, decoder)"),
    "tokens_train": (int, "tokens seen in training"),
    "images_train": (int, "images seen in training"),
    "iterations": (int, "optimiser steps"),
    "tokens_per_image": (int, "length of an image's code sequence"),
    "codebook_size": (int, "entries of the codebook"),
    "train_seed": (int, "seed of the training"),
    "trunk_id": (str, "shared constant-rate trunk: the same for all its segments and branches"),
    "seconds_train": (float, "wall-clock seconds of training, over all attempts"),
    "gpu_hours": (float, "device hours, over all attempts"),
    "hardware": (str, "device name"),
}
# Keys of a value's provenance that tables show in columns of their own; others may be added.
PROVENANCE: dict[str, type] = {
    "extractor": str,
    "reference": str,
    "num_samples": int,
    "seed": int,
    "library": str,
    "floor": float,
}
# What a run took differs between two honest ways to the same result.
_SPENT_COLUMNS = frozenset({"seconds_train", "gpu_hours", "hardware", "flops_marginal"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_KEYS = {
    "scheme", "run_id", "kind", "attempt", "status", "reason", "values", "columns", "artifacts",
    "commit", "dirty", "versions", "finished_at",
}  # fmt: skip
_VALUE_KEYS = {"metric", "value", "unit", "provenance"}
_VALUE_OPTIONAL = {"better"}  # left out where neither direction is better, and by older runs
_ARTIFACT_KEYS = {"name", "file", "sha256", "bytes"}


def is_name(text: object) -> bool:
    """Tell if `text` may name a run, a metric or a file: [A-Za-z0-9][A-Za-z0-9_.-]{0,63}."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def check_name(field: str, text: object) -> str:
    """Return `text` if it is a name, else raise ValueError."""
    if not isinstance(text, str) or not is_name(text):
        raise ValueError(f"{field}: {text!r}, allowed are names like {_NAME.pattern}")
    return text


def check_endpoint(endpoint: Any) -> dict[str, Any]:
    """Check the fields of an endpoint and return it.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    _check_keys("endpoint", endpoint, _KEYS)
    _check("scheme", endpoint["scheme"], endpoint["scheme"] == SCHEME, f"{SCHEME}")
    check_name("run_id", endpoint["run_id"])
    _check("kind", endpoint["kind"], endpoint["kind"] in KINDS, ", ".join(KINDS))
    attempt = endpoint["attempt"]
    _check("attempt", attempt, _is_int(attempt) and attempt >= 1, "a number from 1")
    _check("status", endpoint["status"], endpoint["status"] in STATUSES, ", ".join(STATUSES))
    for field in ("reason", "commit"):
        _check(field, endpoint[field], isinstance(endpoint[field], str | None), "text or null")
    _check(
        "dirty",
        endpoint["dirty"],
        isinstance(endpoint["dirty"], bool | None),
        "true, false or null",
    )
    _check("versions", endpoint["versions"], isinstance(endpoint["versions"], dict), "an object")
    _check(
        "finished_at",
        endpoint["finished_at"],
        isinstance(endpoint["finished_at"], str),
        "text (ISO 8601)",
    )
    _check_values(endpoint)
    _check_columns(endpoint["columns"])
    _check_artifacts(endpoint["artifacts"])
    canonical_json(endpoint)  # refuses what is left: NaN in versions, odd keys
    return dict(endpoint)


def artifact_path(file: object) -> str:
    """Return the path, relative to its run folder, of an artifact whose "file" is `file`.

    A bare name lies in artifacts/. ValueError for what would leave the run folder.
    """
    parts = file.split("/") if isinstance(file, str) else []
    if not parts or not all(is_name(part) for part in parts):
        raise ValueError(f"artifact file: {file!r}, allowed is a path inside the run folder")
    return "/".join(parts if len(parts) > 1 else ["artifacts", *parts])


def same_result(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Tell if two valid endpoints of a run hold the same result.

    Their writers, times, places and speeds may differ.
    """
    return canonical_json(_result(first)) == canonical_json(_result(second))


def value_key(value: dict[str, Any]) -> tuple[str, str]:
    """Return the key of a value, unique within its run: metric and canonical provenance."""
    return value["metric"], canonical_json(value["provenance"])


def _result(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": endpoint["run_id"],
        "kind": endpoint["kind"],
        "status": endpoint["status"],
        "values": sorted(
            (
                [*value_key(v), None if v["value"] is None else float(v["value"]), v["unit"]]
                for v in endpoint["values"]
            ),
            key=lambda v: v[:2],
        ),
        "columns": {
            name: COLUMNS[name][0](value)
            for name, value in endpoint["columns"].items()
            if value is not None and name not in _SPENT_COLUMNS
        },
        "artifacts": {artifact["name"]: artifact["sha256"] for artifact in endpoint["artifacts"]},
    }


def _check_values(endpoint: dict[str, Any]) -> None:
    values = endpoint["values"]
    _check("values", values, isinstance(values, list), "a list")
    seen = set()
    for index, value in enumerate(values):
        place = f"values[{index}]"
        _check_keys(place, value, _VALUE_KEYS, _VALUE_OPTIONAL)
        check_name(f"{place}.metric", value["metric"])
        number = value["value"]
        if number is None:
            # A run that is done has its numbers; null is for what a diverged run could not give.
            allowed = 'a finite number (null only with status "diverged")'
            _check(f"{place}.value", number, endpoint["status"] == "diverged", allowed)
        else:
            _check(f"{place}.value", number, _is_number(number), "a finite number or null")
        _check(
            f"{place}.unit", value["unit"], isinstance(value["unit"], str | None), "text or null"
        )
        if "better" in value:
            better = value["better"]
            _check(f"{place}.better", better, better in DIRECTIONS, "lower, higher or no such key")
        provenance = value["provenance"]
        _check(f"{place}.provenance", provenance, isinstance(provenance, dict), "an object")
        for key, item in provenance.items():
            check_name(f"{place}.provenance key", key)
            _check_provenance(f"{place}.provenance.{key}", PROVENANCE.get(key), item)
        key = value_key(value)
        _check(place, key, key not in seen, "one value for a metric and provenance")
        seen.add(key)


def _check_provenance(place: str, kind: type | None, item: object) -> None:
    if item is None:
        return
    if kind is None:
        simple = isinstance(item, str | bool) or _is_number(item)
        _check(place, item, simple, "text, a finite number, true, false or null")
    elif kind is str:
        _check(place, item, isinstance(item, str), "text or null")
    elif kind is int:
        _check(place, item, _is_column_int(item), "a whole number or null")
    else:
        _check(place, item, _is_number(item), "a finite number or null")


def _check_columns(columns: Any) -> None:
    _check("columns", columns, isinstance(columns, dict), "an object")
    for name, value in columns.items():
        if name not in COLUMNS:
            raise ValueError(f"columns: unknown {name!r}, allowed are {', '.join(COLUMNS)}")
        if value is None:
            continue
        kind = COLUMNS[name][0]
        if kind is str:
            _check(f"columns.{name}", value, isinstance(value, str), "text or null")
        elif kind is int:
            _check(
                f"columns.{name}",
                value,
                _is_int(value) and abs(value) < 2**63,
                "a whole number or null",
            )
        else:
            _check(f"columns.{name}", value, _is_number(value), "a finite number or null")


def _check_artifacts(artifacts: Any) -> None:
    _check("artifacts", artifacts, isinstance(artifacts, list), "a list")
    names = set()
    for index, artifact in enumerate(artifacts):
        place = f"artifacts[{index}]"
        _check_keys(place, artifact, _ARTIFACT_KEYS)
        name = check_name(f"{place}.name", artifact["name"])
        _check(f"{place}.name", name, name not in names, "each name once")
        names.add(name)
        artifact_path(artifact["file"])
        digest = artifact["sha256"]
        _check(
            f"{place}.sha256",
            digest,
            isinstance(digest, str) and bool(_HASH.fullmatch(digest)),
            "64 hex digits",
        )
        size = artifact["bytes"]
        _check(f"{place}.bytes", size, _is_int(size) and size >= 0, "a size in bytes")


def _check_keys(
    place: str, obj: Any, keys: set[str], optional: set[str] | frozenset[str] = frozenset()
) -> None:
    if not isinstance(obj, dict):
        raise ValueError(
            f"{place}: {str(obj)[:80]!r}, allowed is an object with {', '.join(sorted(keys))}"
        )
    for key in obj:
        if key not in keys | optional:
            allowed = ", ".join(sorted(keys | optional))
            raise ValueError(f"{place}: unknown key {str(key)[:80]!r}, allowed are {allowed}")
    for key in sorted(keys):
        if key not in obj:
            raise ValueError(f"{place}: {key!r} is missing, needed are {', '.join(sorted(keys))}")


def _check(field: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{field}: {str(value)[:80]!r}, allowed: {allowed}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_column_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: object) -> bool:
    try:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    except OverflowError:  # an integer beyond what a float holds
        return False
