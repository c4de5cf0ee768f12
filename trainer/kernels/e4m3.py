"""Constants of the 8-bit format e4m3."""

from __future__ import annotations

LARGEST = 448.0  # of e4m3


SMALLEST_UNIT = 1e-30  # of a row of zeros
