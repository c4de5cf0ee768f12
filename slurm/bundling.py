"""How runs are put together into jobs: settings of `bundles.py`."""

from __future__ import annotations
