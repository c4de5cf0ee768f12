"""Encode results as strict JSON: arrays as lists, numbers that do not exist as null."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def number(value: float | np.floating) -> float | None:
    """Return `value` as a Python float, or None when it is NaN or infinite."""
    value = float(value)
    return value if math.isfinite(value) else None


def dumps(data: Any, indent: int | None = None) -> str:
    """Strict JSON (no NaN), keys sorted, ASCII."""
    return json.dumps(data, sort_keys=True, allow_nan=False, indent=indent)


def encode(value: Any) -> Any:
    """Convert dataclasses, arrays and numpy numbers for `json`; non-finite floats become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: encode(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return encode(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): encode(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one) for one in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return number(value)
    return value
